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
    ready_then_go();
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
