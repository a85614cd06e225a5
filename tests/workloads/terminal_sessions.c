/* Controlling terminals: sessions that have one, foreground groups (one of them without processes),
 * descriptors of /dev/tty, a terminal that only its session holds, and processes that let go. */
#include "terminal.h"

static volatile sig_atomic_t hangups, interrupts;

static void on_signal(int number)
{
    if (number == SIGHUP)
        hangups++;
    else
        interrupts++;
}

static void catch(int number)
{
    struct sigaction action = {.sa_handler = on_signal};
    MUST(sigaction(number, &action, NULL));
}

/* A session leader with a job in the foreground and one that has let go of the terminal. */
static void lead(int master, int slave)
{
    MUST(setsid());
    MUST(ioctl(slave, TIOCSCTTY, 0));
    int current = (int)MUST(open("/dev/tty", O_RDWR | O_NONBLOCK));
    pid_t job = (pid_t)MUST(fork());
    if (job == 0) {
        MUST(setpgid(0, 0));
        catch(SIGINT);
        mark("job");
        await("go");
        while (!interrupts)
            nap();
        CHECK(tcgetpgrp(slave) == getpid(), "not in the foreground");
        _exit(0);
    }
    await("job");
    signal(SIGTTOU, SIG_IGN);
    MUST(tcsetpgrp(slave, job));
    pid_t stranger = (pid_t)MUST(fork());
    if (stranger == 0) {
        MUST(ioctl(slave, TIOCNOTTY, 0));
        mark("stranger");
        await("go");
        CHECK(open("/dev/tty", O_RDWR) == -1 && errno == ENXIO, "it has a terminal");
        CHECK(tcgetpgrp(slave) == -1 && errno == ENOTTY, "it has this terminal");
        _exit(0);
    }
    close(master);
    await("stranger");
    mark("leader");
    await("go");
    char name[64] = "", data[64];
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", current);
    MUST(readlink(link, name, sizeof name - 1));
    CHECK(!strcmp(name, "/dev/tty"), "%s", name);
    CHECK(fcntl(current, F_GETFL) & O_NONBLOCK && !(fcntl(slave, F_GETFL) & O_NONBLOCK), "flags");
    CHECK(tcgetpgrp(current) == job && tcgetsid(current) == getpid(), "session");
    CHECK(write(current, "here\n", 5) == 5, "write");
    mark("wrote");
    reap(job);
    reap(stranger);
    MUST(tcsetpgrp(current, getpgrp()));
    do
        nap();
    while (!(events_of(current) & POLLIN));
    CHECK(read(current, data, sizeof data) == 7 && !memcmp(data, "answer\n", 7), "read");
    _exit(0);
}

/* A session that has its terminal without any descriptor for it, and a foreground group that is
 * gone. */
static void hold(int master, int slave)
{
    MUST(setsid());
    MUST(ioctl(master, TIOCSCTTY, 0));
    signal(SIGTTOU, SIG_IGN);
    catch(SIGHUP);
    pid_t job = (pid_t)MUST(fork());
    if (job == 0) {
        MUST(setpgid(0, 0));
        MUST(tcsetpgrp(slave, getpid()));
        _exit(0);
    }
    reap(job);
    char text[32];
    snprintf(text, sizeof text, "%d", (int)job);
    put("gone", text);
    close(slave);
    close(master);
    mark("holder");
    await("go");
    int current = (int)MUST(open("/dev/tty", O_RDWR));
    CHECK(tcgetpgrp(current) == job, "foreground group %d, not %d", tcgetpgrp(current), job);
    CHECK(write(current, "held\n", 5) == 5, "write");
    mark("held");
    while (!hangups)
        nap();
    CHECK(open("/dev/tty", O_RDWR) == -1 && errno == ENXIO, "there is a terminal still");
    CHECK(read(current, text, 1) == 0 && write(current, "x", 1) == -1 && errno == EIO, "alive");
    _exit(0);
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    int master = new_master(0), slave = open_slave(master, 0);
    pid_t leader = (pid_t)MUST(fork());
    if (leader == 0)
        lead(master, slave);
    int other = new_master(0), other_slave = open_slave(other, 0);
    pid_t holder = (pid_t)MUST(fork());
    if (holder == 0)
        hold(other, other_slave);
    close(slave);
    close(other_slave);
    /* /dev/tty of a session that is no more. */
    int pair[2];
    int left = new_master(0);
    MUST(pipe(pair));
    pid_t opener = (pid_t)MUST(fork());
    int orphan = open_slave(left, 0);
    if (opener == 0) {
        MUST(setsid());
        MUST(ioctl(orphan, TIOCSCTTY, 0));
        int current = (int)MUST(open("/dev/tty", O_RDWR));
        pid_t heir = (pid_t)MUST(fork());
        if (heir == 0) {
            MUST(setsid());
            close(orphan);
            mark("heir");
            await("go");
            CHECK(tcgetsid(current) == -1, "it has a session");
            CHECK(write(current, "inherited\n", 10) == 10, "write");
            _exit(0);
        }
        await("heir"); /* or it would be hung up with us */
        _exit(0);
    }
    reap(opener);
    close(orphan);
    await("leader");
    await("holder");
    await("heir");
    catch(SIGHUP);
    ready_then_go();

    CHECK(tcgetsid(master) == leader && tcgetsid(other) == holder, "sessions");
    await("wrote");
    READS(master, "here\r\n");
    WRITES(master, "\x03" "answer\n");
    reap(leader);
    READS(master, "^Canswer\r\n");
    await("held");
    READS(other, "held\r\n");
    close(other);
    reap(holder);
    CHECK(tcgetsid(left) == -1 && errno == ENOTTY, "there is a session");
    while (!(events_of(left) & POLLHUP))
        nap();
    READS(left, "inherited\r\n");
    CHECK(!hangups, "a signal from nowhere");
    pass();
}
