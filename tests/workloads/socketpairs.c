/* UNIX socket pairs: all types, data queued both ways, message borders, half-closed, options. */
#include "workload.h"
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

static void say(int fd, const char *text)
{
    CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text), "write %s", text);
}

static void hear(int fd, const char *text)
{
    char found[256] = "";
    ssize_t length = read(fd, found, sizeof found - 1);
    CHECK(length == (ssize_t)strlen(text) && !strcmp(found, text), "read %zd bytes '%s', not '%s'",
          length, found, text);
}

int main(int argc, char **argv)
{
    int stream[2], datagram[2], packets[2], half[2], orphan[2], between[2], large[2], flag;
    static char block[100000], found[100000];
    begin(argc, argv);
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, stream));
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, datagram));
    MUST(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, packets));
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, half));
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, orphan));
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, between));
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, large));
    say(stream[0], "to the second");
    say(stream[1], "to the first");
    say(datagram[0], "one");
    say(datagram[0], "two two");
    say(datagram[1], "three");
    say(packets[0], "packet one");
    say(packets[0], "packet two");
    say(half[0], "before the end");
    MUST(shutdown(half[0], SHUT_WR));
    say(half[1], "still this way");
    say(orphan[1], "last words");
    close(orphan[1]);
    fill(block, sizeof block, 1);
    CHECK(write(large[0], block, sizeof block) == sizeof block, "large write");
    flag = 1;
    MUST(setsockopt(stream[0], SOL_SOCKET, SO_PASSCRED, &flag, sizeof flag));
    struct timeval limit = {.tv_sec = 5};
    MUST(setsockopt(stream[1], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
    flag = 100000;
    MUST(setsockopt(packets[1], SOL_SOCKET, SO_RCVBUF, &flag, sizeof flag));
    pid_t child = (pid_t)MUST(fork());
    if (child == 0) {
        close(between[0]);
        mark("child");
        hear(between[1], "are you there?"); /* blocks over the freeze */
        say(between[1], "yes");
        _exit(0);
    }
    close(between[1]);
    await("child");
    ready_then_go();

    say(between[0], "are you there?");
    hear(between[0], "yes");
    reap(child);
    socklen_t size = sizeof flag;
    MUST(getsockopt(stream[0], SOL_SOCKET, SO_PASSCRED, &flag, &size));
    CHECK(flag == 1, "SO_PASSCRED is %d", flag);
    flag = 0;
    MUST(setsockopt(stream[0], SOL_SOCKET, SO_PASSCRED, &flag, sizeof flag));
    limit.tv_sec = 0;
    size = sizeof limit;
    MUST(getsockopt(stream[1], SOL_SOCKET, SO_RCVTIMEO, &limit, &size));
    CHECK(limit.tv_sec == 5, "SO_RCVTIMEO is %ld s", (long)limit.tv_sec);
    size = sizeof flag;
    MUST(getsockopt(packets[1], SOL_SOCKET, SO_RCVBUF, &flag, &size));
    CHECK(flag == 200000, "SO_RCVBUF is %d", flag);
    MUST(getsockopt(packets[0], SOL_SOCKET, SO_TYPE, &flag, &size));
    CHECK(flag == SOCK_SEQPACKET, "SO_TYPE is %d", flag);
    hear(stream[1], "to the second");
    hear(stream[0], "to the first");
    hear(datagram[1], "one");
    hear(datagram[1], "two two");
    hear(datagram[0], "three");
    hear(packets[1], "packet one");
    hear(packets[1], "packet two");
    CHECK(read(packets[1], found, 10) == -1 && errno == EAGAIN, "a third packet");
    hear(half[1], "before the end");
    CHECK(read(half[1], found, 10) == 0, "no end of file after shutdown");
    signal(SIGPIPE, SIG_IGN);
    CHECK(write(half[0], "x", 1) == -1 && errno == EPIPE, "the half-closed end can write");
    hear(half[0], "still this way");
    hear(orphan[0], "last words");
    CHECK(read(orphan[0], found, 10) == 0, "no end of file from the closed end");
    CHECK(write(orphan[0], "x", 1) == -1 && errno == EPIPE, "no EPIPE to the closed end");
    for (size_t got = 0; got < sizeof found;) {
        ssize_t step = read(large[1], found + got, sizeof found - got);
        CHECK(step > 0, "large read after %zu: %zd", got, step);
        got += (size_t)step;
    }
    CHECK(!memcmp(block, found, sizeof block), "large content");
    say(stream[0], "and further");
    hear(stream[1], "and further");
    CHECK(fcntl(stream[0], F_GETFD) & FD_CLOEXEC && fcntl(packets[0], F_GETFL) & O_NONBLOCK, "flags");
    pass();
}
