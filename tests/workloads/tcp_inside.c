/* TCP connections with both ends inside go on: both versions, with bytes on their way. */
#include "inet.h"
#include <linux/sockios.h>

enum { BIG = 3 << 20 };

static char *content(uint64_t seed)
{
    char *bytes = malloc(BIG);
    fill(bytes, BIG, seed);
    return bytes;
}

/* Send until nothing more fits: the receiver's buffer is full, and so is the sender's. */
static size_t stuff(int fd, const char *bytes)
{
    size_t sent = 0;
    while (sent < BIG) {
        ssize_t now = send(fd, bytes + sent, BIG - sent, MSG_DONTWAIT);
        if (now < 0) {
            CHECK(errno == EAGAIN, "send");
            break;
        }
        sent += (size_t)now;
    }
    return sent;
}

static void check_stuffed(int from, int to, const char *bytes, size_t size)
{
    char *found = malloc(BIG);
    pid_t child = (pid_t)MUST(fork());
    if (!child) { /* the rest, while the other side reads */
        for (size_t sent = size; sent < BIG;)
            sent += (size_t)MUST(send(from, bytes + sent, BIG - sent, 0));
        _exit(0);
    }
    for (size_t got = 0; got < BIG;) {
        ssize_t now = MUST(recv(to, found + got, BIG - got, 0));
        CHECK(now > 0, "the connection ended after %zu bytes", got);
        got += (size_t)now;
    }
    CHECK(!memcmp(found, bytes, BIG), "the bytes differ");
    reap(child);
    free(found);
}

int main(int argc, char **argv)
{
    int four[2], six[2], mapped[2], full[2], both[2], self;
    char found[32] = "";
    begin(argc, argv);
    connected("127.0.0.1", four);
    connected("::1", six);
    connected("::ffff:127.0.0.1", mapped);
    connected("127.0.0.1", full);
    connected("::1", both);
    /* A socket that is connected to itself. */
    address_t own = address_of("127.0.0.1", 0);
    self = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(bind(self, &own.any, sizeof own.four));
    own = local_of(self);
    MUST(connect(self, &own.any, sizeof own.four));

    char *bytes = content(7), *back = content(9);
    size_t stuffed = stuff(full[0], bytes);
    size_t forth = stuff(both[0], bytes), again = stuff(both[1], back);
    MUST(send(four[0], "client", 6, 0));
    MUST(send(four[1], "server!", 7, 0));
    MUST(send(six[1], "six", 3, 0));
    MUST(send(self, "myself", 6, 0));
    address_t names[2] = {local_of(six[0]), remote_of(six[0])};
    ready_then_go();

    CHECK(tcp_state(four[0]) == TCP_ESTABLISHED && tcp_state(six[1]) == TCP_ESTABLISHED, "states");
    CHECK(queued(four[1], SIOCINQ) == 6 && queued(four[0], SIOCINQ) == 7, "queues");
    CHECK(recv(four[1], found, 32, 0) == 6 && !memcmp(found, "client", 6), "four");
    CHECK(recv(four[0], found, 32, 0) == 7 && !memcmp(found, "server!", 7), "four");
    CHECK(recv(six[0], found, 32, 0) == 3 && !memcmp(found, "six", 3), "six");
    CHECK(recv(self, found, 32, 0) == 6 && !memcmp(found, "myself", 6), "self");
    CHECK(recv(mapped[1], found, 32, MSG_DONTWAIT) == -1 && errno == EAGAIN, "mapped");
    address_t now[2] = {local_of(six[0]), remote_of(six[0])};
    CHECK(!memcmp(now, names, sizeof now), "the names have changed");
    check_talk(four[0], four[1], "four");
    check_talk(six[0], six[1], "six");
    check_talk(mapped[0], mapped[1], "mapped");
    check_talk(self, self, "self");
    check_stuffed(full[0], full[1], bytes, stuffed);
    check_stuffed(both[0], both[1], bytes, forth);
    check_stuffed(both[1], both[0], back, again);
    close(four[0]);
    CHECK(recv(four[1], found, 32, 0) == 0, "the end of the connection");
    pass();
}
