/* TCP states that last only because packets are dropped: closing, last-ack and their like.
 * needs: privileged (to drop a TCP socket's packets) */
#include "inet.h"

/* Drop whatever comes for a socket, or no longer. */
static void block(int fd, bool on)
{
    struct sock_filter nothing[] = {{BPF_RET | BPF_K, 0, 0, 0}};
    struct sock_fprog program = {1, nothing};
    MUST(on ? setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program)
            : setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &(int){0}, sizeof(int)));
}

static void check_states(const int ends[2], int one, int other, const char *what)
{
    CHECK(tcp_state(ends[0]) == one && tcp_state(ends[1]) == other, "%s: states %d and %d", what,
          tcp_state(ends[0]), tcp_state(ends[1]));
}

static void check_hears(int fd, const char *text, const char *what)
{
    char found[32] = "";
    CHECK(recv(fd, found, strlen(text), MSG_WAITALL) == (ssize_t)strlen(text), "%s: %s", what, found);
    CHECK(!memcmp(found, text, strlen(text)), "%s: %s", what, found);
    CHECK(recv(fd, found, 1, 0) == 0, "%s: no end", what);
}

int main(int argc, char **argv)
{
    int unheard[2], last[2], crossed[2], plain[2], waiting[2];
    begin(argc, argv);

    connected("127.0.0.1", unheard); /* the FIN did not arrive, nor the word before it */
    block(unheard[1], true);
    MUST(send(unheard[0], "word", 4, 0));
    MUST(shutdown(unheard[0], SHUT_WR));

    connected("::1", last); /* one has heard the other's FIN, but not the other way round */
    MUST(shutdown(last[0], SHUT_WR));
    await_state(last[0], TCP_FIN_WAIT2);
    block(last[0], true);
    MUST(send(last[1], "the last", 8, 0));
    MUST(shutdown(last[1], SHUT_WR));

    connected("127.0.0.1", crossed); /* both have sent theirs, one has heard it */
    block(crossed[1], true);
    MUST(shutdown(crossed[0], SHUT_WR));
    MUST(send(crossed[1], "crossing", 8, 0));
    MUST(shutdown(crossed[1], SHUT_WR));
    await_state(crossed[0], TCP_CLOSING);

    connected("127.0.0.1", plain); /* open on both sides, with words on their way */
    block(plain[0], true);
    block(plain[1], true);
    MUST(send(plain[0], "there", 5, 0));
    MUST(send(plain[1], "back", 4, 0));

    int listener = listening("127.0.0.1", 0, 5); /* its answers are lost, or its questions */
    address_t to = local_of(listener);
    for (int i = 0; i < 2; i++) {
        waiting[i] = (int)MUST(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
        block(i ? listener : waiting[i], true);
        CHECK(connect(waiting[i], &to.any, size_of(&to)) == -1 && errno == EINPROGRESS, "connect");
    }
    check_states(unheard, TCP_FIN_WAIT1, TCP_ESTABLISHED, "unheard, before");
    check_states(last, TCP_FIN_WAIT2, TCP_LAST_ACK, "last, before");
    check_states(crossed, TCP_CLOSING, TCP_FIN_WAIT1, "crossed, before");
    check_states(waiting, TCP_SYN_SENT, TCP_SYN_SENT, "waiting, before");
    ready_then_go();

    check_states(unheard, TCP_FIN_WAIT1, TCP_ESTABLISHED, "unheard");
    check_states(last, TCP_FIN_WAIT2, TCP_LAST_ACK, "last");
    check_states(crossed, TCP_CLOSING, TCP_FIN_WAIT1, "crossed");
    check_states(plain, TCP_ESTABLISHED, TCP_ESTABLISHED, "plain");
    check_states(waiting, TCP_SYN_SENT, TCP_SYN_SENT, "waiting");
    block(unheard[1], false);
    block(last[0], false);
    block(crossed[1], false);
    block(plain[0], false);
    block(plain[1], false);
    block(waiting[0], false);
    block(listener, false);
    check_hears(unheard[1], "word", "unheard");
    check_hears(last[0], "the last", "last");
    check_hears(crossed[0], "crossing", "crossed");
    char found[8];
    CHECK(recv(plain[1], found, 5, MSG_WAITALL) == 5 && !memcmp(found, "there", 5), "plain");
    CHECK(recv(plain[0], found, 4, MSG_WAITALL) == 4 && !memcmp(found, "back", 4), "plain");
    await_state(last[1], TCP_CLOSE);
    await_state(crossed[0], TCP_CLOSE);
    for (int i = 0; i < 2; i++) {
        struct pollfd wait = {.fd = listener, .events = POLLIN};
        CHECK(poll(&wait, 1, 30000) == 1, "nobody came");
        MUST(accept(listener, NULL, NULL));
        await_state(waiting[i], TCP_ESTABLISHED);
    }
    pass();
}
