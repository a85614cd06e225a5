/* UDP and UDP-Lite sockets: bound, connected, shut down, with datagrams not yet read. */
#include "inet.h"
#ifndef IPV6_FLOWINFO
#define IPV6_FLOWINFO 11 /* linux/in6.h */
#endif
#include <netinet/udp.h>

#ifndef IPPROTO_UDPLITE
#define IPPROTO_UDPLITE 136
#endif
enum { UDPLITE_SEND_CSCOV = 10, UDPLITE_RECV_CSCOV = 11 };

static int bound(const char *host, int port, int protocol)
{
    address_t address = address_of(host, port);
    int fd = (int)MUST(socket(address.any.sa_family, SOCK_DGRAM, protocol));
    MUST(bind(fd, &address.any, size_of(&address)));
    return fd;
}

static void send_to(int from, int to, const char *text)
{
    address_t address = local_of(to);
    MUST(sendto(from, text, strlen(text), 0, &address.any, size_of(&address)));
}

static void check_next(int fd, int from, const char *text)
{
    char found[64] = "";
    address_t sender, expected = local_of(from);
    socklen_t size = sizeof sender;
    ssize_t got = recvfrom(fd, found, sizeof found, MSG_DONTWAIT, &sender.any, &size);
    CHECK(got == (ssize_t)strlen(text) && !memcmp(found, text, (size_t)got), "%s: %s", text, found);
    CHECK(port_of(&sender) == port_of(&expected), "%s: port %d", text, port_of(&sender));
    CHECK(sender.any.sa_family == expected.any.sa_family, "%s: family", text);
}

static void check_empty(int fd, const char *what)
{
    char found[8];
    CHECK(recv(fd, found, 8, MSG_DONTWAIT) == -1 && errno == EAGAIN, "%s", what);
}

int main(int argc, char **argv)
{
    char found[64] = "";
    begin(argc, argv);
    int a = bound("127.0.0.1", 0, 0), b = bound("127.0.0.2", 0, 0);
    int six = bound("::1", 0, 0), six_b = bound("::1", 0, 0), any = bound("0.0.0.0", 0, 0);
    int lite = bound("127.0.0.1", 0, IPPROTO_UDPLITE), lite_six = bound("::1", 0, IPPROTO_UDPLITE);
    int fresh = (int)MUST(socket(AF_INET6, SOCK_DGRAM, 0));
    address_t at_b = local_of(b), at_a = local_of(a);

    /* Connected: takes datagrams of its peer only; its peer has some waiting. */
    int pair = bound("127.0.0.1", 0, 0);
    MUST(connect(pair, &at_b.any, size_of(&at_b)));
    send_to(b, pair, "to the pair");
    send_to(pair, b, "one");
    send_to(a, b, "two");
    send_to(pair, b, "three, which is longer");
    send_to(six, six_b, "six");
    address_t through = local_of(any);
    through.four.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    MUST(sendto(a, "any", 3, 0, &through.any, size_of(&through)));
    send_to(lite, lite, "lite");
    send_to(lite_six, lite_six, "lite six");

    static char big[60000], big_found[60000];
    fill(big, sizeof big, 3);
    int large = bound("127.0.0.1", 0, 0);
    set_option(large, SOL_SOCKET, SO_RCVBUF, 200000);
    address_t at_large = local_of(large);
    MUST(sendto(a, big, sizeof big, 0, &at_large.any, size_of(&at_large)));

    /* Two sockets on one port, each with its own datagrams; the second is connected. */
    int twin[2];
    address_t shared = address_of("127.0.0.1", 0);
    for (int i = 0; i < 2; i++) {
        twin[i] = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0));
        set_option(twin[i], SOL_SOCKET, SO_REUSEADDR, 1);
        MUST(bind(twin[i], &shared.any, size_of(&shared)));
        shared = local_of(twin[0]);
        if (i == 0)
            MUST(sendto(b, "first", 5, 0, &shared.any, size_of(&shared)));
    }
    MUST(connect(twin[1], &at_a.any, size_of(&at_a)));
    MUST(sendto(a, "second", 6, 0, &shared.any, size_of(&shared)));

    /* Shut down, in one direction each. */
    int deaf = bound("127.0.0.1", 0, 0), mute = bound("127.0.0.1", 0, 0), both = bound("::1", 0, 0);
    address_t at_six = local_of(six);
    MUST(connect(deaf, &at_a.any, size_of(&at_a)));
    MUST(connect(mute, &at_a.any, size_of(&at_a)));
    MUST(connect(both, &at_six.any, size_of(&at_six)));
    MUST(shutdown(deaf, SHUT_RD));
    MUST(shutdown(mute, SHUT_WR));
    MUST(shutdown(both, SHUT_RDWR));

    /* Options of their own. */
    set_option(lite, IPPROTO_UDPLITE, UDPLITE_SEND_CSCOV, 8);
    set_option(lite, IPPROTO_UDPLITE, UDPLITE_RECV_CSCOV, 10);
    set_option(a, SOL_SOCKET, SO_BROADCAST, 1);
    set_option(a, SOL_SOCKET, SO_NO_CHECK, 1);
    set_option(a, IPPROTO_IP, IP_RECVTTL, 1);
    set_option(large, IPPROTO_UDP, UDP_SEGMENT, 1000);
    set_option(six, IPPROTO_UDP, 101 /* UDP_NO_CHECK6_TX */, 1);
    set_option(fresh, IPPROTO_UDP, UDP_CORK, 1);
    set_option(fresh, IPPROTO_IPV6, IPV6_V6ONLY, 1);
    set_option(fresh, IPPROTO_IPV6, IPV6_FLOWINFO, 1);
    set_option(fresh, SOL_SOCKET, SO_INCOMING_CPU, 1);
    int cast = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0));
    address_t everybody = address_of("255.255.255.255", 9);
    address_t place = address_of("127.0.0.1", 0);
    set_option(cast, SOL_SOCKET, SO_BROADCAST, 1);
    MUST(bind(cast, &place.any, size_of(&place)));
    bool broadcasting = !connect(cast, &everybody.any, size_of(&everybody));
    address_t free_place = address_of("203.0.113.5", 4711);
    int nowhere = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0));
    set_option(nowhere, IPPROTO_IP, IP_FREEBIND, 1);
    MUST(bind(nowhere, &free_place.any, size_of(&free_place)));
    set_option(nowhere, IPPROTO_IP, IP_FREEBIND, 0);
    ready_then_go();

    check_next(b, pair, "one");
    check_next(b, a, "two");
    check_next(b, pair, "three, which is longer");
    check_empty(b, "b");
    check_next(pair, b, "to the pair");
    check_next(six_b, six, "six");
    check_next(any, a, "any");
    check_next(lite, lite, "lite");
    check_next(lite_six, lite_six, "lite six");
    CHECK(recv(large, big_found, sizeof big_found, MSG_DONTWAIT) == sizeof big, "large");
    CHECK(!memcmp(big, big_found, sizeof big), "the large datagram differs");
    check_next(twin[0], b, "first");
    check_next(twin[1], a, "second");
    check_empty(twin[0], "twin");
    check_empty(twin[1], "twin");

    address_t peer = remote_of(pair);
    CHECK(!memcmp(&peer, &at_b, sizeof peer), "the peer");
    send_to(a, pair, "a stranger's");
    check_empty(pair, "the connected socket takes everything");
    send_to(b, pair, "again");
    check_next(pair, b, "again");
    MUST(sendto(b, "later", 5, 0, &shared.any, size_of(&shared)));
    check_next(twin[0], b, "later");

    CHECK(recv(deaf, found, 8, 0) == 0, "deaf");
    CHECK(send(deaf, "x", 1, 0) == 1, "deaf");
    CHECK(send(mute, "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE, "mute");
    struct pollfd wait = {.fd = both, .events = POLLIN};
    CHECK(poll(&wait, 1, 0) == 1 && wait.revents & POLLHUP, "both");
    check_next(a, deaf, "x");

    CHECK(option(lite, IPPROTO_UDPLITE, UDPLITE_SEND_CSCOV) == 8, "UDPLITE_SEND_CSCOV");
    CHECK(option(lite, IPPROTO_UDPLITE, UDPLITE_RECV_CSCOV) == 10, "UDPLITE_RECV_CSCOV");
    CHECK(option(a, SOL_SOCKET, SO_BROADCAST) && option(a, SOL_SOCKET, SO_NO_CHECK), "a");
    CHECK(option(a, IPPROTO_IP, IP_RECVTTL) && option(large, IPPROTO_UDP, UDP_SEGMENT) == 1000, "a");
    CHECK(!option(b, SOL_SOCKET, SO_BROADCAST) && !option(b, SOL_SOCKET, SO_REUSEADDR), "b");
    CHECK(option(six, IPPROTO_UDP, 101) == 1, "UDP_NO_CHECK6_TX");
    CHECK(option(fresh, IPPROTO_IPV6, IPV6_FLOWINFO) == 1, "flow information");
    CHECK(option(fresh, SOL_SOCKET, SO_INCOMING_CPU) == 1, "processor");
    CHECK(option(fresh, IPPROTO_UDP, UDP_CORK) && option(fresh, IPPROTO_IPV6, IPV6_V6ONLY), "fresh");
    address_t nothing = local_of(fresh);
    CHECK(port_of(&nothing) == 0, "fresh is bound");
    if (broadcasting) {
        peer = remote_of(cast);
        CHECK(!memcmp(&peer, &everybody, sizeof peer), "broadcast");
    }
    address_t now = local_of(nowhere);
    CHECK(!memcmp(&now, &free_place, sizeof now), "IP_FREEBIND");
    CHECK(!option(nowhere, IPPROTO_IP, IP_FREEBIND), "IP_FREEBIND stays");
    pass();
}
