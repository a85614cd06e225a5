/* refused: unix-pending
 * A connection that nobody has accepted yet. */
#include "../workload.h"
#include <sys/socket.h>
#include <sys/un.h>

int main(int argc, char **argv)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char found[8] = "";
    begin(argc, argv);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", in_control("socket"));
    int listener = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    MUST(bind(listener, (struct sockaddr *)&address, sizeof address));
    MUST(listen(listener, 5));
    int client = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    MUST(connect(client, (struct sockaddr *)&address, sizeof address));
    CHECK(write(client, "early", 5) == 5, "write");
    ready_then_go();
    int server = (int)MUST(accept(listener, NULL, NULL));
    CHECK(read(server, found, 8) == 5, "read");
    pass();
}
