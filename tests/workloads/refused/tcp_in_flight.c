/* refused: tcp-in-flight
 * Bytes in a connection that is not yet accepted, which nobody can look at. */
#include "../inet.h"

int main(int argc, char **argv)
{
    char found[8];
    begin(argc, argv);
    int listener = listening("127.0.0.1", 0, 2);
    address_t address = local_of(listener);
    int client = connecting(&address);
    MUST(send(client, "hello", 5, 0));
    ready_then_go();
    int server = accepting(listener);
    CHECK(recv(server, found, 5, MSG_WAITALL) == 5 && !memcmp(found, "hello", 5), "hello");
    pass();
}
