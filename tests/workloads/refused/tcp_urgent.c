/* refused: tcp-urgent
 * An urgent byte that is not yet read. */
#include "../inet.h"

int main(int argc, char **argv)
{
    int ends[2];
    char found[16] = "";
    begin(argc, argv);
    connected("127.0.0.1", ends);
    MUST(send(ends[0], "plain", 5, 0));
    MUST(send(ends[0], "!", 1, MSG_OOB));
    struct pollfd wait = {.fd = ends[1], .events = POLLPRI};
    CHECK(poll(&wait, 1, 5000) == 1, "no urgent byte");
    ready_then_go();
    CHECK(recv(ends[1], found, 1, MSG_OOB) == 1 && found[0] == '!', "the urgent byte");
    CHECK(recv(ends[1], found, 16, 0) == 5 && !memcmp(found, "plain", 5), "the others");
    pass();
}
