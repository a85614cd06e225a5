/* refused: udp-corked
 * A datagram under construction. */
#include "../inet.h"
#include <netinet/udp.h>

int main(int argc, char **argv)
{
    char found[16] = "";
    begin(argc, argv);
    int from = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0)), to = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0));
    address_t place = address_of("127.0.0.1", 0);
    MUST(bind(to, &place.any, size_of(&place)));
    place = local_of(to);
    MUST(connect(from, &place.any, size_of(&place)));
    set_option(from, IPPROTO_UDP, UDP_CORK, 1);
    MUST(send(from, "half ", 5, 0));
    ready_then_go();
    MUST(send(from, "a word", 6, 0));
    set_option(from, IPPROTO_UDP, UDP_CORK, 0);
    CHECK(recv(to, found, 16, 0) == 11 && !memcmp(found, "half a word", 11), "%s", found);
    pass();
}
