/* Pseudo-terminals: both ends, their numbers, modes, sizes, flags, and ends that are closed. */
#include "terminal.h"

static int count_slaves(int master)
{
    struct stat status;
    char name[64];
    snprintf(name, sizeof name, "/dev/pts/%u", index_of(master));
    return stat(name, &status) == 0;
}

int main(int argc, char **argv)
{
    int gaps[3];
    begin(argc, argv);
    for (int i = 0; i < 3; i++)
        gaps[i] = new_master(0);
    int master = new_master(O_CLOEXEC), slave = open_slave(master, O_NONBLOCK);
    int again = open_slave(master, 0), copy = dup(slave);
    int peer = (int)MUST(ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY));
    int passed = (int)MUST(ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
    MUST(fcntl(passed, F_SETFD, 0));
    int never = new_master(O_NONBLOCK), gone = new_master(0), locked, exclusive = new_master(0);
    close(gaps[0]);
    close(gaps[2]);
    close(open_slave(gone, 0));
    locked = (int)MUST(posix_openpt(O_RDWR | O_NOCTTY));
    int one = open_slave(exclusive, 0);
    MUST(ioctl(one, TIOCEXCL));

    struct termios modes = modes_of(slave);
    modes.c_lflag &= ~(tcflag_t)(ECHO | ISIG);
    modes.c_oflag &= ~(tcflag_t)ONLCR;
    modes.c_cc[VERASE] = 'x';
    modes.c_cc[VTIME] = 7;
    cfsetspeed(&modes, B115200);
    set_modes(slave, modes);
    modes = modes_of(slave);
    struct winsize size = {33, 77, 5, 6}, found;
    MUST(ioctl(master, TIOCSWINSZ, &size));
    MUST(fchown(slave, 7, 8));
    MUST(fchmod(slave, 0604));
    unsigned int numbers[] = {index_of(gaps[1]), index_of(master), index_of(never), index_of(gone),
                              index_of(locked), index_of(exclusive)};
    struct stat before, after;
    MUST(fstat(slave, &before));
    ready_then_go();

    int masters[] = {gaps[1], master, never, gone, locked, exclusive};
    for (int i = 0; i < 6; i++) {
        CHECK(index_of(masters[i]) == numbers[i], "master %d has number %u", i, index_of(masters[i]));
        CHECK(count_slaves(masters[i]), "no node");
    }
    struct termios now = modes_of(slave);
    CHECK(!memcmp(&now, &modes, sizeof now), "modes");
    MUST(ioctl(slave, TIOCGWINSZ, &found));
    CHECK(!memcmp(&size, &found, sizeof size), "%d %d", found.ws_row, found.ws_col);
    MUST(fstat(slave, &after));
    CHECK(after.st_uid == 7 && after.st_gid == 8 && after.st_mode == before.st_mode, "owner");
    CHECK(after.st_rdev == before.st_rdev, "device");
    CHECK(fcntl(slave, F_GETFL) & O_NONBLOCK && fcntl(copy, F_GETFL) & O_NONBLOCK, "flags");
    CHECK(!(fcntl(again, F_GETFL) & O_NONBLOCK) && !(fcntl(peer, F_GETFL) & O_NONBLOCK), "flags");
    CHECK(fcntl(master, F_GETFD) & FD_CLOEXEC && fcntl(never, F_GETFL) & O_NONBLOCK, "flags");
    CHECK(!(fcntl(passed, F_GETFD) & FD_CLOEXEC), "close-on-exec");
    close(passed);
    WRITES(again, "from the slave\n");
    READS(master, "from the slave\n");
    WRITES(master, "from the master\n");
    READS(peer, "from the master\n");
    NOTHING_IN(copy);
    NOTHING_IN(master);
    close(slave);
    close(again);
    close(copy);
    CHECK(!(events_of(master) & POLLHUP), "hung up too early");
    close(peer);
    CHECK(events_of(master) & POLLHUP, "not hung up");

    char byte;
    CHECK(!(events_of(never) & POLLHUP), "hung up");
    CHECK(read(never, &byte, 1) == -1 && errno == EAGAIN, "read");
    CHECK(read(gone, &byte, 1) == -1 && errno == EIO, "read");
    int reopened = open_slave(gone, 0);
    CHECK(!(events_of(gone) & POLLHUP), "hung up");
    close(reopened);
    CHECK(open(ptsname(locked), O_RDWR | O_NOCTTY) == -1 && errno == EIO, "it is not locked");
    MUST(unlockpt(locked));
    close(open_slave(locked, 0));
    int exclusively = 0;
    MUST(ioctl(one, TIOCGEXCL, &exclusively));
    CHECK(exclusively, "not exclusive");
    MUST(ioctl(exclusive, TIOCGEXCL, &exclusively));
    CHECK(!exclusively, "exclusive");
    close(gaps[1]);
    /* The lowest free number comes next, as ever. */
    CHECK(index_of(new_master(0)) <= numbers[0], "the number is not free");
    pass();
}
