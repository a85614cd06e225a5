/* Stopped output, packet mode with news that nobody has read, locked modes, signal-driven input. */
#include "terminal.h"

static volatile sig_atomic_t signals;

static void on_io(int number)
{
    (void)number;
    signals++;
}

static char status_of(int master)
{
    char data[100] = "";
    CHECK(events_of(master) & POLLPRI, "no news");
    CHECK(read(master, data, sizeof data) == 1, "more than a status");
    return data[0];
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    int byte = new_master(0), by_byte = open_slave(byte, O_NONBLOCK);
    WRITES(by_byte, "before\n");
    WRITES(byte, "\x13");
    while (write(by_byte, ".", 1) == 1)
        nap();
    int call = new_master(0), by_call = open_slave(call, O_NONBLOCK);
    MUST(tcflow(by_call, TCOOFF));
    int held = new_master(O_NONBLOCK), holder = open_slave(held, 0);
    MUST(tcflow(held, TCOOFF));
    int news[4], of[4], on = 1;
    for (int i = 0; i < 4; i++) {
        news[i] = new_master(0);
        of[i] = open_slave(news[i], 0);
        MUST(ioctl(news[i], TIOCPKT, &on));
    }
    MUST(tcflow(of[0], TCOOFF));
    MUST(tcflush(of[1], TCIOFLUSH));
    WRITES(of[1], "data\n");
    WRITES(news[1], "lines\nand");
    struct termios modes = modes_of(of[2]);
    modes.c_iflag &= ~(tcflag_t)IXON;
    set_modes(of[2], modes);
    int locked = new_master(0), mask = open_slave(locked, 0);
    struct termios locks;
    memset(&locks, 0, sizeof locks);
    locks.c_lflag = ECHO;
    bool could = !ioctl(mask, TIOCSLCKTRMIOS, &locks); /* needs a capability */
    WRITES(locked, "typed");
    int driven = new_master(0), driver = open_slave(driven, 0);
    WRITES(driven, "line\nrest");
    while (!(events_of(driver) & POLLIN))
        nap();
    signal(SIGIO, on_io);
    MUST(fcntl(driver, F_SETOWN, getpid()));
    MUST(fcntl(driver, F_SETFL, fcntl(driver, F_GETFL) | O_ASYNC));
    ready_then_go();

    CHECK(!signals, "%d signals from nowhere", signals);
    WRITES(driven, "\n");
    READS(driver, "line\n");
    READS(driver, "rest\n");
    while (!signals)
        nap(); /* the bytes may be there before it */
    CHECK(signals == 1, "%d signals", signals);

    CHECK(write(by_byte, "x", 1) == -1 && errno == EAGAIN, "not stopped");
    MUST(tcflow(by_byte, TCOON));
    CHECK(write(by_byte, "x", 1) == -1 && errno == EAGAIN, "stopped by a call");
    char data[100];
    ssize_t got = read(byte, data, sizeof data);
    CHECK(got >= 8 && !memcmp(data, "before\r\n", 8), "%zd bytes", got);
    WRITES(byte, "\x11");
    while (!(events_of(by_byte) & POLLOUT))
        nap();
    WRITES(by_byte, "after\n");
    while (!(events_of(byte) & POLLIN))
        nap();
    CHECK(write(by_call, "x", 1) == -1 && errno == EAGAIN, "not stopped");
    WRITES(call, "\x11");
    CHECK(write(by_call, "x", 1) == -1 && errno == EAGAIN, "stopped by a byte");
    MUST(tcflow(by_call, TCOON));
    WRITES(by_call, "now\n");
    READS(call, "now\r\n");
    CHECK(write(held, "x", 1) == -1 && errno == EAGAIN, "not stopped");
    MUST(tcflow(held, TCOON));
    WRITES(held, "x\n");
    READS(holder, "x\n");

    CHECK(status_of(news[0]) == TIOCPKT_STOP, "stop");
    MUST(tcflow(of[0], TCOON));
    CHECK(status_of(news[0]) == TIOCPKT_START, "start");
    CHECK(status_of(news[1]) == (TIOCPKT_FLUSHREAD | TIOCPKT_FLUSHWRITE), "flush");
    READS(news[1], "\0data\r\nlines\r\nand");
    READS(of[1], "lines\n");
    WRITES(news[1], "\n");
    READS(of[1], "and\n");
    CHECK(status_of(news[2]) == TIOCPKT_NOSTOP, "no stop");
    CHECK(!events_of(news[3]) || events_of(news[3]) == POLLOUT, "news");
    WRITES(of[3], "x");
    READS(news[3], "\0x");
    if (could) {
        modes = modes_of(mask);
        CHECK(modes.c_lflag & ECHO, "no echo");
        modes.c_lflag &= ~(tcflag_t)ECHO;
        set_modes(mask, modes);
        CHECK(modes_of(mask).c_lflag & ECHO, "the lock is gone");
    }
    WRITES(locked, "\n");
    READS(mask, "typed\n");
    pass();
}
