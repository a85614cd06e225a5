/* Record locks through a description that several processes have, and a lock whose taker is gone but
 * whose descriptor table is not; a process that waits for a lock; a lock on a removed file. */
#include "workload.h"

static int lock(int fd, int type, off_t start)
{
    struct flock wanted = {.l_type = (short)type, .l_whence = SEEK_SET, .l_start = start, .l_len = 1};
    return fcntl(fd, F_SETLK, &wanted);
}

static pid_t holder(int fd, off_t start)
{
    struct flock asked = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = start, .l_len = 1};
    MUST(fcntl(fd, F_GETLK, &asked));
    return asked.l_type == F_UNLCK ? 0 : asked.l_pid;
}

static int in_same_table(void *argument)
{
    _exit(lock(*(int *)argument, F_WRLCK, 2) ? 1 : 0);
}

int main(int argc, char **argv)
{
    static char stack[65536];
    int status;
    begin(argc, argv);
    int fd = (int)MUST(open(in_control("file"), O_RDWR | O_CREAT, 0600));
    int removed = (int)MUST(open(in_control("removed"), O_RDWR | O_CREAT, 0600));
    MUST(unlink(in_control("removed")));
    MUST(lock(fd, F_WRLCK, 0));
    pid_t child = (pid_t)MUST(fork());
    if (child == 0) {
        MUST(lock(fd, F_WRLCK, 1));
        MUST(lock(removed, F_WRLCK, 0));
        mark("locked");
        await("go");
        CHECK(holder(fd, 0) == getppid(), "%d has byte 0", (int)holder(fd, 0));
        CHECK(lock(fd, F_WRLCK, 2) < 0, "nobody has byte 2");
        await("looked");
        _exit(0);
    }
    pid_t waiter = (pid_t)MUST(fork());
    if (waiter == 0) {
        struct flock wanted = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1};
        MUST(fcntl(fd, F_SETLKW, &wanted));
        _exit(0);
    }
    pid_t gone = (pid_t)MUST(clone(in_same_table, stack + sizeof stack, CLONE_FILES | SIGCHLD, &fd));
    CHECK(waitpid(gone, &status, 0) == gone && status == 0, "status %d", status);
    await("locked");

    ready_then_go();

    CHECK(holder(fd, 1) == child, "%d has byte 1", (int)holder(fd, 1));
    CHECK(holder(removed, 0) == child, "%d has the removed file", (int)holder(removed, 0));
    MUST(lock(fd, F_WRLCK, 2)); /* ours, whoever took it */
    mark("looked");
    reap(child);
    CHECK(holder(fd, 1) == 0, "still locked");
    MUST(lock(fd, F_UNLCK, 0));
    reap(waiter);
    pass();
}
