/* refused: fd-socket
 * An established TCP connection. */
#include "../workload.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    char found[8] = "";
    begin(argc, argv);
    int listener = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(bind(listener, (struct sockaddr *)&address, sizeof address));
    MUST(listen(listener, 1));
    MUST(getsockname(listener, (struct sockaddr *)&address, &size));
    int client = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(connect(client, (struct sockaddr *)&address, sizeof address));
    int server = (int)MUST(accept(listener, NULL, NULL));
    ready_then_go();
    CHECK(write(client, "hello", 5) == 5 && read(server, found, 8) == 5, "the connection broke");
    pass();
}
