/* refused: tcp-orphan
 * A connection whose closed end has bytes left to deliver, which nobody can look at any more. */
#include "../inet.h"

int main(int argc, char **argv)
{
    int ends[2];
    static char block[1 << 16];
    size_t sent = 0, got = 0;
    begin(argc, argv);
    connected("127.0.0.1", ends);
    for (ssize_t now; (now = send(ends[0], block, sizeof block, MSG_DONTWAIT)) > 0;)
        sent += (size_t)now;
    close(ends[0]);
    ready_then_go();
    for (ssize_t now; (now = MUST(recv(ends[1], block, sizeof block, 0)));)
        got += (size_t)now;
    CHECK(got == sent, "%zu of %zu bytes", got, sent);
    pass();
}
