/* TCP sockets that listen, with connections in their queues; that are bound; that are nothing yet. */
#include "inet.h"
#include <pthread.h>

static void *accept_one(void *argument)
{
    int fd = (int)MUST(accept(*(int *)argument, NULL, NULL));
    MUST(send(fd, "welcome", 7, 0));
    close(fd);
    return NULL;
}

int main(int argc, char **argv)
{
    char found[32] = "";
    pthread_t thread;
    begin(argc, argv);

    int blocked = listening("127.0.0.1", 0, 3);
    pthread_create(&thread, NULL, accept_one, &blocked);

    /* Both versions on one port. */
    int only = (int)MUST(socket(AF_INET6, SOCK_STREAM, 0));
    address_t any = address_of("::", 0);
    set_option(only, IPPROTO_IPV6, IPV6_V6ONLY, 1);
    MUST(bind(only, &any.any, size_of(&any)));
    MUST(listen(only, 17));
    any = local_of(only);
    int shared_port = port_of(&any), beside = listening("0.0.0.0", shared_port, 4);
    int dual = listening("::", 0, 6);

    /* A group that shares a port. */
    int group[3];
    address_t place = address_of("127.0.0.1", 0);
    for (int i = 0; i < 3; i++) {
        group[i] = (int)MUST(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
        set_option(group[i], SOL_SOCKET, SO_REUSEPORT, 1);
        MUST(bind(group[i], &place.any, size_of(&place)));
        MUST(listen(group[i], 9));
        place = local_of(group[0]);
    }

    /* Connections not yet accepted, one of them closed again by its maker. */
    int queue = listening("127.0.0.1", 0, 8), six = listening("::1", 0, 8);
    address_t to = local_of(queue), to_six = local_of(six);
    int waiting = connecting(&to), waiting_six = connecting(&to_six);
    close(connecting(&to));

    /* An accepted connection holds the port of a listener that is gone. */
    int old = listening("127.0.0.1", 0, 2);
    address_t old_place = local_of(old);
    int client = connecting(&old_place), server = accepting(old);
    int again = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));

    /* Bound, and with a port that a second socket may have too. */
    int bound = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    int twice[2];
    address_t first = address_of("127.0.0.1", 0), second = first;
    MUST(bind(bound, &first.any, size_of(&first)));
    first = local_of(bound);
    for (int i = 0; i < 2; i++) {
        twice[i] = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
        set_option(twice[i], SOL_SOCKET, SO_REUSEADDR, 1);
        MUST(bind(twice[i], &second.any, size_of(&second)));
        second = local_of(twice[0]);
    }
    int fresh = (int)MUST(socket(AF_INET6, SOCK_STREAM, 0));
    close(old);
    ready_then_go();

    address_t target = local_of(blocked);
    int late = connecting(&target);
    CHECK(recv(late, found, 32, MSG_WAITALL) == 7 && !memcmp(found, "welcome", 7), "blocked");
    pthread_join(thread, NULL);

    struct tcp_info info = {0};
    socklen_t size = sizeof info;
    MUST(getsockopt(only, IPPROTO_TCP, TCP_INFO, &info, &size));
    CHECK(info.tcpi_sacked == 17, "a backlog of %u", info.tcpi_sacked);
    CHECK(option(only, IPPROTO_IPV6, IPV6_V6ONLY) && !option(dual, IPPROTO_IPV6, IPV6_V6ONLY),
          "IPV6_V6ONLY");
    address_t in_four = address_of("127.0.0.1", shared_port), in_six = address_of("::1", shared_port);
    check_accepts(beside, &in_four, "beside");
    check_accepts(only, &in_six, "only six");
    any = local_of(dual);
    in_four = address_of("127.0.0.1", port_of(&any));
    check_accepts(dual, &in_four, "dual");

    int hits = 0;
    for (int i = 0; i < 30; i++) {
        int end = connecting(&place);
        for (int k = 0; k < 3; k++) {
            int got = accept(group[k], NULL, NULL);
            if (got >= 0) {
                hits |= 1 << k;
                check_talk(end, got, "group");
                close(got);
                k = -1;
                close(end);
                break;
            }
        }
    }
    CHECK(hits & (hits - 1), "only one of the group gets connections: %d", hits);

    int one = accepting(queue), two = accepting(queue);
    address_t name = local_of(waiting), peer = remote_of(one);
    bool in_order = port_of(&name) == port_of(&peer);
    check_talk(waiting, in_order ? one : two, "waiting");
    CHECK(recv(in_order ? two : one, found, 32, 0) == 0, "the closed one");
    check_talk(waiting_six, accepting(six), "waiting, six");
    check_talk(client, server, "a connection without its listener");
    CHECK(bind(again, &old_place.any, size_of(&old_place)) == -1 && errno == EADDRINUSE, "again");

    CHECK(bind(again, &first.any, size_of(&first)) == -1 && errno == EADDRINUSE, "bound");
    MUST(listen(bound, 1));
    check_accepts(bound, &first, "bound");
    address_t of_two = local_of(twice[1]);
    CHECK(port_of(&of_two) == port_of(&second), "a shared port");
    MUST(listen(twice[1], 1));
    CHECK(listen(twice[0], 1) == -1 && errno == EADDRINUSE, "both listen");
    MUST(connect(fresh, &in_six.any, size_of(&in_six)));
    check_talk(fresh, accepting(only), "fresh");
    pass();
}
