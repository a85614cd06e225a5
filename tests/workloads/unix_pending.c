/* Connections that are not accepted yet, of streams and packets, half-closed ones; limits. */
#include "unix_workload.h"

int main(int argc, char **argv)
{
    begin(argc, argv);
    int stream = bound(SOCK_STREAM, in_control("stream")), packets = bound(SOCK_SEQPACKET, "@wp-packets");
    MUST(listen(stream, 2));
    MUST(listen(packets, 7));
    int first = connected(SOCK_STREAM, in_control("stream")), second = bound(SOCK_STREAM, "@wp-client");
    MUST(connects(second, in_control("stream")));
    MUST(shutdown(second, SHUT_WR));
    int third = connected(SOCK_SEQPACKET, "@wp-packets");
    char path[108];
    snprintf(path, sizeof path, "%s", in_control("stream"));
    /* clients that have sent something, and some that are gone by now */
    int busy = bound(SOCK_STREAM, "@wp-busy"), busy_packets = bound(SOCK_SEQPACKET, "@wp-busy");
    static char large[30000], found[30000];
    struct ucred who = {0};
    MUST(listen(busy, 10));
    MUST(listen(busy_packets, 10));
    fill(large, sizeof large, 7);
    int sender = connected(SOCK_STREAM, "@wp-busy");
    tell(sender, "request");
    CHECK(write(sender, large, sizeof large) == sizeof large, "write");
    int gone = bound(SOCK_STREAM, "@wp-gone");
    MUST(connects(gone, "@wp-busy"));
    tell(gone, "last words");
    close(gone);
    pid_t child = (pid_t)MUST(fork());
    if (child == 0) {
        MUST(setresuid(-1, 33, -1));
        int own = connected(SOCK_STREAM, "@wp-busy");
        tell(own, "of a child");
        _exit(0);
    }
    reap(child);
    int packet = connected(SOCK_SEQPACKET, "@wp-busy");
    tell(packet, "one");
    tell(packet, "two");
    ready_then_go();
    int accepted = (int)MUST(accept(busy, NULL, NULL)), one = 1;
    CHECK(recv(accepted, found, 7, 0) == 7 && !memcmp(found, "request", 7), "request");
    for (size_t got = 0; got < sizeof found;)
        got += (size_t)MUST(recv(accepted, found + got, sizeof found - got, 0));
    CHECK(!memcmp(large, found, sizeof large), "large");
    tell(accepted, "answer");
    hear(sender, "answer");
    struct sockaddr_un from = {0};
    socklen_t from_size = sizeof from;
    accepted = (int)MUST(accept(busy, (struct sockaddr *)&from, &from_size));
    is_name(&from, from_size, "@wp-gone");
    hear(accepted, "last words");
    CHECK(recv(accepted, found, 1, 0) == 0, "the client is not gone");
    accepted = (int)MUST(accept(busy, NULL, NULL));
    who = peer_of(accepted);
    CHECK(who.pid == child && who.uid == 33, "pid %d uid %u", who.pid, who.uid);
    MUST(setsockopt(accepted, SOL_SOCKET, SO_PASSCRED, &one, sizeof one));
    int none[16];
    take(accepted, "of a child", 100, none, &who);
    CHECK(who.pid == child && who.uid == 0, "message: pid %d uid %u", who.pid, who.uid);
    accepted = (int)MUST(accept(busy_packets, NULL, NULL));
    hear(accepted, "one");
    hear(accepted, "two");
    peer_name(first, path);
    tell(first, "first");
    int server = (int)MUST(accept(stream, NULL, NULL));
    own_name(server, path);
    hear(server, "first");
    CHECK(peer_of(server).pid == getpid() && peer_of(first).pid == getpid(), "credentials");
    struct sockaddr_un address = {0};
    socklen_t size = sizeof address;
    server = (int)MUST(accept(stream, (struct sockaddr *)&address, &size));
    is_name(&address, size, "@wp-client");
    char byte;
    CHECK(recv(server, &byte, 1, 0) == 0, "not half-closed");
    tell(server, "back");
    hear(second, "back");
    CHECK(fcntl(stream, F_SETFL, O_NONBLOCK) == 0 && accept(stream, NULL, NULL) == -1 && errno == EAGAIN,
          "a third connection");
    tell(third, "third");
    server = (int)MUST(accept(packets, NULL, NULL));
    hear(server, "third");
    int last = 0, clients[4];
    for (int i = 0; i < 4; i++) {
        clients[i] = (int)MUST(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0));
        last = connects(clients[i], path);
    }
    CHECK(last == -1 && errno == EAGAIN, "the backlog is larger than 2");
    pass();
}
