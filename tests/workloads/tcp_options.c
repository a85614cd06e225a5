/* Every option of a TCP socket that can be asked for is as it was, and so is what was agreed on. */
#include "inet.h"

static struct {
    int level, name, value;
} settings[] = {
    {SOL_SOCKET, SO_REUSEADDR, 1},
    {SOL_SOCKET, SO_KEEPALIVE, 1},
    {SOL_SOCKET, SO_OOBINLINE, 1},
    {SOL_SOCKET, SO_PRIORITY, 4},
    {SOL_SOCKET, SO_RCVLOWAT, 3},
    {SOL_SOCKET, SO_RCVBUF, 50000},
    {SOL_SOCKET, SO_SNDBUF, 60000},
    {SOL_SOCKET, SO_TIMESTAMP, 1},
    {SOL_SOCKET, SO_DONTROUTE, 1},
    {SOL_SOCKET, SO_BUSY_POLL, 0},
    {IPPROTO_TCP, TCP_NODELAY, 1},
    {IPPROTO_TCP, TCP_KEEPIDLE, 77},
    {IPPROTO_TCP, TCP_KEEPINTVL, 7},
    {IPPROTO_TCP, TCP_KEEPCNT, 5},
    {IPPROTO_TCP, TCP_SYNCNT, 3},
    {IPPROTO_TCP, TCP_LINGER2, 9},
    {IPPROTO_TCP, TCP_DEFER_ACCEPT, 3},
    {IPPROTO_TCP, TCP_WINDOW_CLAMP, 40000},
    {IPPROTO_TCP, TCP_USER_TIMEOUT, 12345},
    {IPPROTO_TCP, TCP_QUICKACK, 0},
    {IPPROTO_TCP, TCP_NOTSENT_LOWAT, 4321},
    {IPPROTO_IP, IP_TOS, 0x10},
    {IPPROTO_IP, IP_TTL, 33},
    {IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE},
    {IPPROTO_IP, IP_RECVERR, 1},
    {IPPROTO_IP, IP_PKTINFO, 1},
    {IPPROTO_IP, IP_MINTTL, 2},
    {IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1},
    {IPPROTO_IP, IP_FREEBIND, 1},
};
static struct {
    int name, value;
} settings_six[] = {
    {IPV6_UNICAST_HOPS, 44}, {IPV6_RECVPKTINFO, 1}, {IPV6_RECVHOPLIMIT, 1}, {IPV6_TCLASS, 0x20},
    {IPV6_RECVTCLASS, 1},    {IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO}, {IPV6_RECVERR, 1},
    {IPV6_DONTFRAG, 1},
};

enum { COUNT = sizeof settings / sizeof settings[0], SIX = sizeof settings_six / sizeof settings_six[0] };

static void apply(int fd, bool six, bool connected_already)
{
    struct linger linger = {1, 5};
    struct timeval wait = {3, 250000};
    for (int i = 0; i < COUNT; i++) {
        bool early = settings[i].name == TCP_DEFER_ACCEPT && settings[i].level == IPPROTO_TCP;
        if (!early || !connected_already)
            set_option(fd, settings[i].level, settings[i].name, settings[i].value);
    }
    for (int i = 0; six && i < SIX; i++)
        set_option(fd, IPPROTO_IPV6, settings_six[i].name, settings_six[i].value);
    MUST(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
    MUST(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait));
    wait.tv_sec = 4;
    MUST(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait));
    MUST(setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4));
}

typedef struct {
    int values[COUNT + SIX], cork;
    struct linger linger;
    struct timeval receive, send;
    char congestion[16];
    unsigned char agreed[8];
    unsigned int mss, buffer_lock;
} asked_t;

static asked_t ask(int fd, bool six)
{
    asked_t asked;
    struct tcp_info info = {0};
    socklen_t size = sizeof asked.linger;
    memset(&asked, 0, sizeof asked);
    for (int i = 0; i < COUNT; i++)
        asked.values[i] = option(fd, settings[i].level, settings[i].name);
    for (int i = 0; six && i < SIX; i++)
        asked.values[COUNT + i] = option(fd, IPPROTO_IPV6, settings_six[i].name);
    asked.cork = option(fd, IPPROTO_TCP, TCP_CORK);
    MUST(getsockopt(fd, SOL_SOCKET, SO_LINGER, &asked.linger, &size));
    size = sizeof asked.receive;
    MUST(getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &asked.receive, &size));
    MUST(getsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &asked.send, &size));
    size = sizeof asked.congestion;
    MUST(getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, asked.congestion, &size));
    size = sizeof info;
    MUST(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size));
    asked.agreed[0] = info.tcpi_options;
    asked.agreed[1] = info.tcpi_snd_wscale;
    asked.agreed[2] = info.tcpi_rcv_wscale;
    asked.mss = tcp_state(fd) == TCP_ESTABLISHED ? info.tcpi_snd_mss : 0;
    asked.buffer_lock = (unsigned int)option(fd, SOL_SOCKET, 72 /* SO_BUF_LOCK */);
    return asked;
}

static void check_same(const asked_t *before, int fd, bool six, const char *what)
{
    asked_t now = ask(fd, six);
    for (int i = 0; i < COUNT + SIX; i++)
        CHECK(now.values[i] == before->values[i], "%s: option %d was %d, is %d", what, i,
              before->values[i], now.values[i]);
    CHECK(!memcmp(&now.linger, &before->linger, sizeof now.linger), "%s: SO_LINGER", what);
    CHECK(!memcmp(&now.receive, &before->receive, sizeof now.receive), "%s: SO_RCVTIMEO", what);
    CHECK(!memcmp(&now.send, &before->send, sizeof now.send), "%s: SO_SNDTIMEO", what);
    CHECK(!strcmp(now.congestion, before->congestion), "%s: %s", what, now.congestion);
    CHECK(!memcmp(now.agreed, before->agreed, sizeof now.agreed), "%s: handshake %x %x %x", what,
          now.agreed[0], now.agreed[1], now.agreed[2]);
    CHECK(now.mss == before->mss, "%s: MSS %u, was %u", what, now.mss, before->mss);
    CHECK(now.cork == before->cork, "%s: TCP_CORK", what);
    CHECK(now.buffer_lock == before->buffer_lock, "%s: SO_BUF_LOCK %u", what, now.buffer_lock);
}

int main(int argc, char **argv)
{
    int four[2], six[2], plain[2], corked[2];
    char found[16];
    begin(argc, argv);
    int listener = (int)MUST(socket(AF_INET6, SOCK_STREAM, 0));
    int fresh = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    address_t any = address_of("::1", 0);
    apply(listener, true, false);
    set_option(listener, IPPROTO_TCP, TCP_FASTOPEN, 6);
    set_option(listener, IPPROTO_TCP, TCP_MAXSEG, 1000);
    MUST(bind(listener, &any.any, size_of(&any)));
    MUST(listen(listener, 5));
    apply(fresh, false, false);
    connected("127.0.0.1", four);
    connected("::1", six);
    connected("127.0.0.1", plain);
    connected("127.0.0.1", corked);
    apply(four[0], false, true);
    apply(six[1], true, true);
    set_option(corked[0], IPPROTO_TCP, TCP_CORK, 1);
    MUST(send(corked[0], "held", 4, 0));

    /* Drops everything from now on; a second one that lets everything through cannot be replaced. */
    struct sock_filter nothing[] = {{BPF_RET | BPF_K, 0, 0, 0}};
    struct sock_filter all[] = {{BPF_LD | BPF_W | BPF_LEN, 0, 0, 0}, {BPF_RET | BPF_A, 0, 0, 0}};
    struct sock_fprog none = {1, nothing}, every = {2, all};
    int deaf = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0)), talking;
    address_t at = address_of("127.0.0.1", 0);
    MUST(bind(deaf, &at.any, size_of(&at)));
    at = local_of(deaf);
    MUST(setsockopt(deaf, SOL_SOCKET, SO_ATTACH_FILTER, &none, sizeof none));
    talking = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0));
    MUST(setsockopt(talking, SOL_SOCKET, SO_ATTACH_FILTER, &every, sizeof every));
    set_option(talking, SOL_SOCKET, SO_LOCK_FILTER, 1);
    asked_t before[] = {ask(listener, true), ask(fresh, false), ask(four[0], false),
                        ask(six[1], true),   ask(plain[0], false), ask(plain[1], false)};
    int fast = option(listener, IPPROTO_TCP, TCP_FASTOPEN);
    ready_then_go();

    check_same(&before[0], listener, true, "listener");
    check_same(&before[1], fresh, false, "fresh");
    check_same(&before[2], four[0], false, "four");
    check_same(&before[3], six[1], true, "six");
    check_same(&before[4], plain[0], false, "plain, client");
    check_same(&before[5], plain[1], false, "plain, server");
    CHECK(option(listener, IPPROTO_TCP, TCP_FASTOPEN) == fast, "TCP_FASTOPEN");
    CHECK(option(listener, IPPROTO_TCP, TCP_MAXSEG) == 1000, "TCP_MAXSEG");
    CHECK(option(corked[0], IPPROTO_TCP, TCP_CORK) == 1, "TCP_CORK");
    set_option(corked[0], IPPROTO_TCP, TCP_CORK, 0);
    CHECK(recv(corked[1], found, 4, MSG_WAITALL) == 4 && !memcmp(found, "held", 4), "corked");
    check_talk(plain[0], plain[1], "plain");
    check_talk(six[0], six[1], "six");
    MUST(sendto(deaf, "x", 1, 0, &at.any, size_of(&at)));
    CHECK(recv(deaf, found, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN, "the filter is gone");
    struct sock_filter read_back[4];
    socklen_t count = 4;
    MUST(getsockopt(talking, SOL_SOCKET, SO_ATTACH_FILTER, read_back, &count));
    CHECK(count == 2 && !memcmp(read_back, all, sizeof all), "the other filter, of %u", count);
    CHECK(setsockopt(talking, SOL_SOCKET, SO_ATTACH_FILTER, &none, sizeof none) == -1 && errno == EPERM,
          "the filter is not locked");
    pass();
}
