/* refused: *
 * A file on a file system that the program mounted itself. */
#include "../workload.h"
#include <sys/mount.h>

static void tell(const char *path, const char *text)
{
    int fd = (int)MUST(open(path, O_WRONLY | O_CLOEXEC));
    MUST(write(fd, text, strlen(text)));
    close(fd);
}

int main(int argc, char **argv)
{
    char found[8] = "";
    begin(argc, argv);
    pid_t child = (pid_t)MUST(fork());
    if (child == 0) {
        MUST(unshare(CLONE_NEWUSER | CLONE_NEWNS));
        tell("/proc/self/uid_map", "0 0 1");
        tell("/proc/self/setgroups", "deny");
        tell("/proc/self/gid_map", "0 0 1");
        MUST(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL));
        MUST(mkdir(in_control("mounted"), 0755));
        MUST(mount("tmpfs", in_control("mounted"), "tmpfs", 0, NULL));
        int fd = (int)MUST(open(in_control("mounted/file"), O_RDWR | O_CREAT, 0600));
        CHECK(write(fd, "hello", 5) == 5, "write");
        mark("mounted-it");
        await("go");
        CHECK(pread(fd, found, 8, 0) == 5 && !memcmp(found, "hello", 5), "content");
        _exit(0);
    }
    await("mounted-it");
    ready_then_go();
    reap(child);
    pass();
}
