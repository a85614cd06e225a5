/* Character devices that every container has. */
#include "workload.h"
#include <sys/sysmacros.h>

int main(int argc, char **argv)
{
    static const struct {
        const char *path;
        int flags;
        unsigned int minor;
    } devices[] = {{"/dev/null", O_RDWR, 3}, {"/dev/zero", O_RDONLY, 5}, {"/dev/full", O_WRONLY, 7},
                   {"/dev/random", O_RDONLY, 8}, {"/dev/urandom", O_RDONLY | O_CLOEXEC, 9}};
    int fds[5];
    char bytes[16] = "................", zeros[16] = {0};
    begin(argc, argv);
    for (int i = 0; i < 5; i++)
        fds[i] = (int)MUST(open(devices[i].path, devices[i].flags));
    ready_then_go();
    for (int i = 0; i < 5; i++) {
        struct stat found;
        MUST(fstat(fds[i], &found));
        CHECK(S_ISCHR(found.st_mode) && major(found.st_rdev) == 1 &&
                  minor(found.st_rdev) == devices[i].minor,
              "%s is %u:%u", devices[i].path, major(found.st_rdev), minor(found.st_rdev));
    }
    CHECK(write(fds[0], "x", 1) == 1 && read(fds[0], bytes, 1) == 0, "/dev/null");
    CHECK(read(fds[1], bytes, 16) == 16 && !memcmp(bytes, zeros, 16), "/dev/zero");
    CHECK(write(fds[2], "x", 1) == -1 && errno == ENOSPC, "/dev/full");
    CHECK(read(fds[4], bytes, 16) == 16 && memcmp(bytes, zeros, 16), "/dev/urandom");
    CHECK(fcntl(fds[4], F_GETFD) & FD_CLOEXEC, "close-on-exec");
    pass();
}
