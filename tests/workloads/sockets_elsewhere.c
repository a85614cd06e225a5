/* Sockets of several network namespaces in one process: each has names and ports of its own.
 * needs: privileged, needs: container */
#include "workload.h"
#include <arpa/inet.h>
#include <linux/if.h>
#include <netinet/in.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

struct place {
    ino_t id;
    int pair[2], listener, client, server, mailbox;
    int tcp_listener, tcp_client, tcp_server, udp;
};

static struct sockaddr_in port = {.sin_family = AF_INET};

static ino_t home_of(int fd)
{
    struct stat status;
    int namespace = (int)MUST(ioctl(fd, 0x894c /* SIOCGSKNS */));
    MUST(fstat(namespace, &status));
    close(namespace);
    return status.st_ino;
}

static struct sockaddr_un named(const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path + 1, name);
    return address;
}

#define SIZE(name) (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + sizeof(name) - 1)

/* Sockets in the current namespace, with the same names in each. */
static struct place furnish(void)
{
    struct place place;
    struct sockaddr_un door = named("door"), box = named("box");
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, place.pair));
    place.listener = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    MUST(bind(place.listener, (struct sockaddr *)&door, SIZE("door")));
    MUST(listen(place.listener, 4));
    place.client = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    MUST(connect(place.client, (struct sockaddr *)&door, SIZE("door")));
    place.server = (int)MUST(accept(place.listener, NULL, NULL));
    place.mailbox = (int)MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
    MUST(bind(place.mailbox, (struct sockaddr *)&box, SIZE("box")));
    place.id = home_of(place.mailbox);
    CHECK(write(place.client, "queued", 6) == 6, "write");
    place.udp = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0));
    struct ifreq loopback = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    MUST(ioctl(place.udp, SIOCSIFFLAGS, &loopback));
    port.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    port.sin_port = htons(7777);
    MUST(bind(place.udp, (struct sockaddr *)&port, sizeof port));
    MUST(sendto(place.udp, "datagram", 8, 0, (struct sockaddr *)&port, sizeof port));
    place.tcp_listener = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(bind(place.tcp_listener, (struct sockaddr *)&port, sizeof port));
    MUST(listen(place.tcp_listener, 4));
    place.tcp_client = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(connect(place.tcp_client, (struct sockaddr *)&port, sizeof port));
    place.tcp_server = (int)MUST(accept(place.tcp_listener, NULL, NULL));
    CHECK(write(place.tcp_client, "segment", 7) == 7, "write");
    return place;
}

static void try_out(struct place *place, ino_t home)
{
    char text[16] = "";
    int fds[] = {place->pair[0], place->pair[1], place->listener, place->client, place->server, place->mailbox,
                 place->tcp_listener, place->tcp_client, place->tcp_server, place->udp};
    for (size_t i = 0; i < sizeof fds / sizeof *fds; i++)
        CHECK(home_of(fds[i]) == home, "socket %zu is in another namespace", i);
    CHECK(write(place->pair[0], "pair", 4) == 4 && read(place->pair[1], text, 16) == 4, "pair");
    CHECK(read(place->server, text, 16) == 6 && !memcmp(text, "queued", 6), "queued: %s", text);
    CHECK(recv(place->udp, text, 16, 0) == 8 && !memcmp(text, "datagram", 8), "datagram: %s", text);
    CHECK(read(place->tcp_server, text, 16) == 7 && !memcmp(text, "segment", 7), "segment: %s", text);
    CHECK(write(place->tcp_server, "back", 4) == 4 && read(place->tcp_client, text, 16) == 4, "back");
    struct ucred who;
    socklen_t size = sizeof who;
    MUST(getsockopt(place->server, SOL_SOCKET, SO_PEERCRED, &who, &size));
    CHECK(who.pid == getpid(), "the peer is pid %d", who.pid);
}

/* Whoever is in the namespace finds the names of that namespace. */
static void call_at(struct place *place)
{
    char text[16] = "";
    struct sockaddr_un door = named("door"), box = named("box");
    int caller = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    MUST(connect(caller, (struct sockaddr *)&door, SIZE("door")));
    int answered = (int)MUST(accept4(place->listener, NULL, NULL, SOCK_NONBLOCK));
    CHECK(write(caller, "hello", 5) == 5 && read(answered, text, 16) == 5, "connection");
    int sender = (int)MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
    MUST(sendto(sender, "letter", 6, 0, (struct sockaddr *)&box, SIZE("box")));
    CHECK(recv(place->mailbox, text, 16, MSG_DONTWAIT) == 6, "letter");
    close(caller), close(answered), close(sender);
    caller = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(connect(caller, (struct sockaddr *)&port, sizeof port));
    answered = (int)MUST(accept(place->tcp_listener, NULL, NULL));
    CHECK(write(caller, "hello", 5) == 5 && read(answered, text, 16) == 5, "connection");
    close(caller), close(answered);
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    int first = (int)MUST(open("/proc/self/ns/net", O_RDONLY));
    struct place here = furnish();
    MUST(unshare(CLONE_NEWNET));
    struct place there = furnish();
    CHECK(here.id != there.id, "one namespace");
    ready_then_go();

    struct stat one, two;
    MUST(fstat(first, &one));
    MUST(stat("/proc/self/ns/net", &two));
    CHECK(one.st_ino != two.st_ino, "one namespace");
    try_out(&here, one.st_ino);
    try_out(&there, two.st_ino);
    call_at(&there);
    MUST(setns(first, CLONE_NEWNET));
    call_at(&here);
    pass();
}
