/* What the workloads about Internet sockets share. */
#ifndef INET_H
#define INET_H
#include "workload.h"
#include <arpa/inet.h>
#include <linux/filter.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

typedef union {
    struct sockaddr any;
    struct sockaddr_in four;
    struct sockaddr_in6 six;
} address_t;

static inline address_t address_of(const char *host, int port)
{
    address_t address = {0};
    if (strchr(host, ':')) {
        address.six.sin6_family = AF_INET6;
        address.six.sin6_port = htons((uint16_t)port);
        CHECK(inet_pton(AF_INET6, host, &address.six.sin6_addr) == 1, "%s", host);
    } else {
        address.four.sin_family = AF_INET;
        address.four.sin_port = htons((uint16_t)port);
        CHECK(inet_pton(AF_INET, host, &address.four.sin_addr) == 1, "%s", host);
    }
    return address;
}

static inline socklen_t size_of(const address_t *address)
{
    return address->any.sa_family == AF_INET6 ? sizeof address->six : sizeof address->four;
}

static inline address_t local_of(int fd)
{
    address_t address = {0};
    socklen_t size = sizeof address;
    MUST(getsockname(fd, &address.any, &size));
    return address;
}

static inline address_t remote_of(int fd)
{
    address_t address = {0};
    socklen_t size = sizeof address;
    MUST(getpeername(fd, &address.any, &size));
    return address;
}

static inline int port_of(const address_t *address)
{
    return ntohs(address->any.sa_family == AF_INET6 ? address->six.sin6_port
                                                    : address->four.sin_port);
}

static inline int option(int fd, int level, int name)
{
    int value = 0;
    socklen_t size = sizeof value;
    MUST(getsockopt(fd, level, name, &value, &size));
    return value;
}

static inline void set_option(int fd, int level, int name, int value)
{
    MUST(setsockopt(fd, level, name, &value, sizeof value));
}

static inline int tcp_state(int fd)
{
    struct tcp_info info = {0};
    socklen_t size = sizeof info;
    MUST(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size));
    return info.tcpi_state;
}

static inline void await_state(int fd, int state)
{
    while (tcp_state(fd) != state)
        nap();
}

static inline int listening(const char *host, int port, int backlog)
{
    address_t address = address_of(host, port);
    int fd = (int)MUST(socket(address.any.sa_family, SOCK_STREAM, 0));
    MUST(bind(fd, &address.any, size_of(&address)));
    MUST(listen(fd, backlog));
    return fd;
}

static inline int connecting(const address_t *address)
{
    int fd = (int)MUST(socket(address->any.sa_family, SOCK_STREAM, 0));
    MUST(connect(fd, &address->any, size_of(address)));
    return fd;
}

/* A connection over loopback: ends[0] connected, ends[1] accepted. */
static inline void connected(const char *host, int ends[2])
{
    int listener = listening(host, 0, 1);
    address_t address = local_of(listener);
    ends[0] = connecting(&address);
    ends[1] = (int)MUST(accept(listener, NULL, NULL));
    close(listener);
}

/* The two ends of a connection still talk, both ways. */
static inline void check_talk(int one, int other, const char *what)
{
    char found[8] = "";
    CHECK(send(one, "ping", 4, MSG_NOSIGNAL) == 4, "%s", what);
    CHECK(recv(other, found, 4, MSG_WAITALL) == 4 && !memcmp(found, "ping", 4), "%s", what);
    CHECK(send(other, "pong", 4, MSG_NOSIGNAL) == 4, "%s", what);
    CHECK(recv(one, found, 4, MSG_WAITALL) == 4 && !memcmp(found, "pong", 4), "%s", what);
}

static inline int accepting(int listener)
{
    struct pollfd wait = {.fd = listener, .events = POLLIN};
    CHECK(poll(&wait, 1, 10000) == 1, "nothing to accept");
    return (int)MUST(accept(listener, NULL, NULL));
}

static inline void check_accepts(int listener, const address_t *address, const char *what)
{
    int one = connecting(address), other = accepting(listener);
    check_talk(one, other, what);
    close(one);
    close(other);
}

static inline int queued(int fd, unsigned long request)
{
    int size = 0;
    MUST(ioctl(fd, request, &size));
    return size;
}
#endif
