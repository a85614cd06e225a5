/* Terminals that were hung up: the master is gone, or vhangup(2) has cut the slave off. */
#include "terminal.h"
#include <sys/sysmacros.h>

int main(int argc, char **argv)
{
    char byte;
    begin(argc, argv);
    int lowest = new_master(0), orphans[2], master = new_master(0), current = -1, report[2];
    orphans[0] = open_slave(master, 0);
    orphans[1] = open_slave(master, O_NONBLOCK);
    unsigned int taken = index_of(master);
    close(master);
    int cut = new_master(0), old = open_slave(cut, 0);
    bool could = !ioctl(old, TIOCVHANGUP); /* needs a capability */
    int fresh = open_slave(cut, 0);
    MUST(pipe(report));
    int lost = new_master(0), session = open_slave(lost, 0);
    pid_t child = (pid_t)MUST(fork());
    if (child == 0) {
        MUST(setsid());
        signal(SIGHUP, SIG_IGN);
        MUST(ioctl(session, TIOCSCTTY, 0));
        current = (int)MUST(open("/dev/tty", O_RDWR));
        close(lost);
        mark("has");
        while (ioctl(session, TIOCGPTN, &byte) == -1 && errno != EIO)
            nap();
        close(session);
        mark("lost");
        await("go");
        CHECK(read(current, &byte, 1) == 0, "read");
        CHECK(write(current, "x", 1) == -1 && errno == EIO, "write");
        CHECK(open("/dev/tty", O_RDWR) == -1 && errno == ENXIO, "it has a terminal");
        _exit(0);
    }
    close(session);
    await("has");
    close(lost);
    await("lost");
    ready_then_go();

    for (int i = 0; i < 2; i++) {
        CHECK(read(orphans[i], &byte, 1) == 0, "read");
        CHECK(write(orphans[i], "x", 1) == -1 && errno == EIO, "write");
        CHECK((events_of(orphans[i]) & (POLLHUP | POLLERR)) == (POLLHUP | POLLERR), "events");
        struct stat status;
        MUST(fstat(orphans[i], &status));
        CHECK(minor(status.st_rdev) == taken && status.st_nlink == 0, "file");
    }
    CHECK(fcntl(orphans[1], F_GETFL) & O_NONBLOCK, "flags");
    CHECK(index_of(new_master(0)) != taken, "number %u is in use", taken);
    close(orphans[0]);
    close(orphans[1]);
    if (could) {
        CHECK(write(old, "x", 1) == -1 && errno == EIO, "write");
        close(old);
    }
    WRITES(fresh, "new\n");
    READS(cut, "new\r\n");
    CHECK(index_of(lowest) < taken, "number");
    reap(child);
    pass();
}
