/* A directory that is half read: the rest comes, each name once. */
#include "workload.h"
#include <dirent.h>

int main(int argc, char **argv)
{
    enum { FILES = 500 };
    static int seen[FILES];
    char name[64];
    struct linux_dirent64 {
        uint64_t ino;
        int64_t off;
        unsigned short reclen;
        unsigned char type;
        char name[];
    } *entry;
    char buffer[2048];
    begin(argc, argv);
    MUST(mkdir(in_control("many"), 0755));
    for (int i = 0; i < FILES; i++) {
        snprintf(name, sizeof name, "many/entry-%d", i);
        close((int)MUST(open(in_control(name), O_CREAT | O_WRONLY, 0600)));
    }
    int fd = (int)MUST(open(in_control("many"), O_RDONLY | O_DIRECTORY));
    int untouched = (int)MUST(open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    bool waited = false;
    long length;
    for (int round = 0; (length = MUST(syscall(SYS_getdents64, fd, buffer, sizeof buffer))) > 0; round++) {
        for (long at = 0; at < length; at += entry->reclen) {
            entry = (struct linux_dirent64 *)(void *)(buffer + at);
            int number;
            if (sscanf(entry->name, "entry-%d", &number) == 1)
                seen[number]++;
        }
        if (round == 1) {
            ready_then_go();
            waited = true;
        }
    }
    CHECK(waited, "the directory was read at once");
    for (int i = 0; i < FILES; i++)
        CHECK(seen[i] == 1, "entry-%d was seen %d times", i, seen[i]);
    CHECK(openat(untouched, "proc", O_PATH) >= 0, "openat from the root descriptor");
    CHECK(fcntl(untouched, F_GETFD) & FD_CLOEXEC, "close-on-exec");
    pass();
}
