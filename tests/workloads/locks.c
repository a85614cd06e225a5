/* File locks of all three kinds: held over the freeze, seen by others, released afterwards. */
#include "workload.h"
#include <sys/file.h>

static void set_lock(int fd, int command, short type, off_t start, off_t length)
{
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
    CHECK(fcntl(fd, command, &lock) == 0, "lock %ld+%ld", (long)start, (long)length);
}

static short conflicting(int fd, int command, off_t start, off_t length)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
    MUST(fcntl(fd, command, &lock));
    return lock.l_type;
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    int posix = (int)MUST(open(in_control("posix"), O_RDWR | O_CREAT, 0600));
    int open_file = (int)MUST(open(in_control("ofd"), O_RDWR | O_CREAT, 0600));
    int whole = (int)MUST(open(in_control("flock"), O_RDWR | O_CREAT, 0600));
    int shared = (int)MUST(open(in_control("shared"), O_RDWR | O_CREAT, 0600));
    set_lock(posix, F_SETLK, F_WRLCK, 100, 50);
    set_lock(posix, F_SETLK, F_RDLCK, 1000, 0);
    set_lock(open_file, F_OFD_SETLK, F_WRLCK, 5, 10);
    MUST(flock(whole, LOCK_EX));
    MUST(flock(shared, LOCK_SH));
    pid_t child = (pid_t)MUST(fork());
    if (child == 0) {
        mark("child");
        await("go");
        int other = (int)MUST(open(in_control("posix"), O_RDWR));
        CHECK(conflicting(other, F_GETLK, 100, 1) == F_WRLCK, "the write lock is gone");
        CHECK(conflicting(other, F_GETLK, 99, 1) == F_UNLCK, "the write lock grew");
        CHECK(conflicting(other, F_GETLK, 150, 1) == F_UNLCK, "the write lock grew");
        CHECK(conflicting(other, F_GETLK, 1 << 20, 1) == F_RDLCK, "the read lock is gone");
        other = (int)MUST(open(in_control("ofd"), O_RDWR));
        CHECK(conflicting(other, F_OFD_GETLK, 5, 1) == F_WRLCK, "the open file's lock is gone");
        /* the inherited descriptor is the same open file, and so has the lock itself */
        CHECK(conflicting(open_file, F_OFD_GETLK, 5, 1) == F_UNLCK, "the lock is another's");
        other = (int)MUST(open(in_control("flock"), O_RDWR));
        CHECK(flock(other, LOCK_EX | LOCK_NB) == -1 && errno == EWOULDBLOCK, "flock is gone");
        other = (int)MUST(open(in_control("shared"), O_RDWR));
        CHECK(flock(other, LOCK_EX | LOCK_NB) == -1 && errno == EWOULDBLOCK, "flock is gone");
        CHECK(flock(other, LOCK_SH | LOCK_NB) == 0, "the shared flock became exclusive");
        _exit(0);
    }
    await("child");
    ready_then_go();
    reap(child);
    set_lock(posix, F_SETLK, F_UNLCK, 0, 0);
    MUST(flock(whole, LOCK_UN));
    pass();
}
