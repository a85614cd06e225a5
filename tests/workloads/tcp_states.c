/* TCP connections that are half closed, dead, or not yet made, with and without bytes to read. */
#include "inet.h"

static void reset(int fd)
{
    struct linger now = {.l_onoff = 1};
    MUST(setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now));
    close(fd);
}

static short events_of(int fd)
{
    struct pollfd wait = {.fd = fd, .events = POLLIN | POLLRDHUP | POLLOUT};
    MUST(poll(&wait, 1, 0));
    return wait.revents;
}

static void check_end(int fd, const char *what)
{
    char found[8];
    CHECK(recv(fd, found, 8, 0) == 0, "%s", what);
}

static void check_broken_pipe(int fd, const char *what)
{
    CHECK(send(fd, "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE, "%s", what);
}

int main(int argc, char **argv)
{
    int half[2], other[2], both[2], gone[2], gone_six[2], late[2], torn[2], read_torn[2], unread[2];
    int deaf[2], unsent[2];
    char found[64] = "";
    begin(argc, argv);

    connected("127.0.0.1", half); /* the client has closed its side */
    MUST(send(half[0], "last words", 10, 0));
    MUST(shutdown(half[0], SHUT_WR));
    connected("::1", other); /* the server has */
    MUST(shutdown(other[1], SHUT_WR));
    MUST(send(other[0], "still here", 10, 0));
    await_state(half[0], TCP_FIN_WAIT2);
    await_state(other[1], TCP_FIN_WAIT2);

    connected("127.0.0.1", both); /* both have, in turn: one ends, the other waits its time out */
    MUST(send(both[0], "unread", 6, 0));
    MUST(shutdown(both[0], SHUT_WR));
    await_state(both[1], TCP_CLOSE_WAIT);
    MUST(send(both[1], "to read", 7, 0));
    MUST(shutdown(both[1], SHUT_WR));
    await_state(both[1], TCP_CLOSE);
    await_state(both[0], TCP_CLOSE);

    connected("127.0.0.1", gone); /* the other end is closed altogether */
    MUST(send(gone[0], "bye", 3, 0));
    close(gone[0]);
    connected("::1", gone_six);
    close(gone_six[1]);
    await_state(gone[1], TCP_CLOSE_WAIT);
    await_state(gone_six[0], TCP_CLOSE_WAIT);
    connected("127.0.0.1", late); /* its last bytes come after its maker closed it */
    MUST(shutdown(late[1], SHUT_WR));
    close(late[0]);
    await_state(late[1], TCP_CLOSE);

    connected("127.0.0.1", torn);
    reset(torn[0]);
    connected("127.0.0.1", read_torn);
    reset(read_torn[1]);
    CHECK(recv(read_torn[0], found, 8, 0) == -1 && errno == ECONNRESET, "reset");
    connected("127.0.0.1", unread);
    MUST(send(unread[0], "before the end", 14, 0));
    reset(unread[0]);

    int refused = (int)MUST(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
    int closed = listening("127.0.0.1", 0, 1);
    address_t nobody = local_of(closed);
    close(closed);
    CHECK(connect(refused, &nobody.any, size_of(&nobody)) == -1 && errno == EINPROGRESS, "refused");
    await_state(refused, TCP_CLOSE);

    connected("127.0.0.1", deaf); /* does not want to read any more */
    MUST(shutdown(deaf[1], SHUT_RD));

    connected("127.0.0.1", unsent); /* a closing that has to wait for room at the other end */
    size_t stuffed = 0;
    static char block[65536];
    for (ssize_t now; (now = send(unsent[0], block, sizeof block, MSG_DONTWAIT)) > 0;)
        stuffed += (size_t)now;
    MUST(shutdown(unsent[0], SHUT_WR));
    CHECK(tcp_state(unsent[0]) == TCP_FIN_WAIT1, "FIN_WAIT1");

    /* A listener that takes no more: who asks now is told nothing. */
    int full = listening("127.0.0.1", 0, 1), asking[3];
    address_t busy = local_of(full);
    for (int i = 0; i < 3; i++) {
        asking[i] = (int)MUST(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
        CHECK(connect(asking[i], &busy.any, size_of(&busy)) == -1 && errno == EINPROGRESS, "ask");
    }
    await_state(asking[0], TCP_ESTABLISHED);
    await_state(asking[1], TCP_ESTABLISHED);
    CHECK(tcp_state(asking[2]) == TCP_SYN_SENT, "a listener with room");
    address_t asking_from = local_of(asking[2]), torn_at = local_of(torn[1]);
    ready_then_go();

    CHECK(tcp_state(half[0]) == TCP_FIN_WAIT2 && tcp_state(half[1]) == TCP_CLOSE_WAIT, "half: %d %d",
          tcp_state(half[0]), tcp_state(half[1]));
    CHECK(recv(half[1], found, 10, 0) == 10 && !memcmp(found, "last words", 10), "half");
    check_end(half[1], "half");
    CHECK(send(half[1], "answer", 6, 0) == 6, "half");
    CHECK(recv(half[0], found, 6, MSG_WAITALL) == 6 && !memcmp(found, "answer", 6), "half");
    check_broken_pipe(half[0], "half");
    close(half[1]);
    check_end(half[0], "half");
    CHECK(tcp_state(other[1]) == TCP_FIN_WAIT2 && tcp_state(other[0]) == TCP_CLOSE_WAIT, "other");
    CHECK(recv(other[1], found, 10, 0) == 10 && !memcmp(found, "still here", 10), "other");
    check_end(other[0], "other");

    CHECK(tcp_state(both[0]) == TCP_CLOSE && tcp_state(both[1]) == TCP_CLOSE, "both");
    CHECK(recv(both[0], found, 64, 0) == 7 && !memcmp(found, "to read", 7), "both, 0");
    CHECK(recv(both[1], found, 64, 0) == 6 && !memcmp(found, "unread", 6), "both, 1");
    check_end(both[0], "both");
    check_broken_pipe(both[1], "both");

    CHECK(tcp_state(gone[1]) == TCP_CLOSE_WAIT && tcp_state(gone_six[0]) == TCP_CLOSE_WAIT, "gone");
    CHECK(recv(gone[1], found, 64, 0) == 3 && !memcmp(found, "bye", 3), "gone");
    check_end(gone[1], "gone");
    check_end(gone_six[0], "gone, six");
    CHECK(tcp_state(late[1]) == TCP_CLOSE, "late");
    check_end(late[1], "late");

    address_t at = local_of(torn[1]);
    CHECK(!memcmp(&at, &torn_at, sizeof at), "the name of a dead socket");
    CHECK((events_of(torn[1]) & (POLLERR | POLLHUP)) == (POLLERR | POLLHUP), "torn");
    CHECK(send(torn[1], "x", 1, MSG_NOSIGNAL) == -1 && errno == ECONNRESET, "torn");
    check_broken_pipe(torn[1], "torn, again");
    CHECK(!(events_of(read_torn[0]) & POLLERR), "the error was taken already");
    check_end(read_torn[0], "read_torn");
    CHECK(recv(unread[1], found, 64, 0) == 14 && !memcmp(found, "before the end", 14), "unread");
    CHECK(recv(unread[1], found, 64, 0) == -1 && errno == ECONNRESET, "unread");
    check_end(unread[1], "unread");
    CHECK(option(refused, SOL_SOCKET, SO_ERROR) == ECONNREFUSED, "refused");

    CHECK(tcp_state(deaf[1]) == TCP_ESTABLISHED && events_of(deaf[1]) & POLLRDHUP, "deaf");
    check_end(deaf[1], "deaf");
    CHECK(send(deaf[1], "but not mute", 12, 0) == 12, "deaf");
    CHECK(recv(deaf[0], found, 12, MSG_WAITALL) == 12, "deaf");

    CHECK(tcp_state(unsent[0]) == TCP_FIN_WAIT1, "unsent");
    size_t got = 0;
    for (ssize_t now; (now = MUST(recv(unsent[1], block, sizeof block, 0)));)
        got += (size_t)now;
    CHECK(got == stuffed, "%zu of %zu bytes", got, stuffed);
    await_state(unsent[0], TCP_FIN_WAIT2);

    address_t from = local_of(asking[2]);
    CHECK(!memcmp(&from, &asking_from, sizeof from), "a connecting socket's name");
    for (int i = 0; i < 3; i++) {
        int end = accepting(full);
        MUST(send(end, "you", 3, 0));
        close(end);
    }
    for (int i = 0; i < 3; i++) {
        struct pollfd wait = {.fd = asking[i], .events = POLLIN};
        CHECK(poll(&wait, 1, 20000) == 1 && recv(asking[i], found, 3, 0) == 3, "asking %d", i);
    }
    pass();
}
