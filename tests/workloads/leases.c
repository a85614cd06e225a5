/* Leases: of both kinds, and one that somebody waits for to end. */
#include "workload.h"

static volatile sig_atomic_t signals;

static void count(int number)
{
    (void)number;
    signals++;
}

static int make(const char *name, int flags)
{
    close((int)MUST(open(in_control(name), O_WRONLY | O_CREAT | O_EXCL, 0600)));
    return (int)MUST(open(in_control(name), flags | O_CLOEXEC));
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    MUST(signal(SIGIO, count) == SIG_ERR ? -1 : 0);
    int reads = make("reads", O_RDONLY), writes = make("writes", O_RDWR);
    int breaking = make("breaking", O_RDWR), down = make("down", O_RDONLY);
    MUST(fcntl(reads, F_SETLEASE, F_RDLCK));
    MUST(fcntl(writes, F_SETLEASE, F_WRLCK));
    MUST(fcntl(breaking, F_SETLEASE, F_WRLCK));
    MUST(fcntl(down, F_SETLEASE, F_WRLCK));
    CHECK(open(in_control("breaking"), O_WRONLY | O_NONBLOCK) < 0 && errno == EWOULDBLOCK, "no lease");
    CHECK(open(in_control("down"), O_RDONLY | O_NONBLOCK) < 0 && errno == EWOULDBLOCK, "no lease");
    while (signals < 2)
        nap();
    CHECK(fcntl(breaking, F_GETLEASE) == F_UNLCK, "not breaking");
    CHECK(fcntl(down, F_GETLEASE) == F_RDLCK, "not breaking");

    ready_then_go();

    CHECK(signals == 2, "%d signals", (int)signals);
    CHECK(fcntl(reads, F_GETLEASE) == F_RDLCK, "lease %d", fcntl(reads, F_GETLEASE));
    CHECK(fcntl(writes, F_GETLEASE) == F_WRLCK, "lease %d", fcntl(writes, F_GETLEASE));
    CHECK(fcntl(breaking, F_GETLEASE) == F_UNLCK, "lease %d", fcntl(breaking, F_GETLEASE));
    CHECK(fcntl(down, F_GETLEASE) == F_RDLCK, "lease %d", fcntl(down, F_GETLEASE));
    CHECK(open(in_control("reads"), O_WRONLY | O_NONBLOCK) < 0 && errno == EWOULDBLOCK, "no lease");
    while (signals < 3)
        nap();
    CHECK(open(in_control("breaking"), O_RDONLY | O_NONBLOCK) < 0 && errno == EWOULDBLOCK, "broken");
    MUST(fcntl(breaking, F_SETLEASE, F_UNLCK));
    close((int)MUST(open(in_control("breaking"), O_RDONLY | O_NONBLOCK)));
    MUST(fcntl(down, F_SETLEASE, F_RDLCK));
    close((int)MUST(open(in_control("down"), O_RDONLY | O_NONBLOCK)));
    pass();
}
