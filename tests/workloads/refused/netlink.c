/* refused: fd-socket
 * A netlink socket. */
#include "../workload.h"
#include <linux/netlink.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
    begin(argc, argv);
    MUST(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
    ready_then_go();
    pass();
}
