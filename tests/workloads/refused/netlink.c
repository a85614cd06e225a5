/* refused: netlink-queue
 * A netlink socket with an answer that is not yet read. needs: privileged */
#include "../workload.h"
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
    char data[65536];
    begin(argc, argv);
    int fd = (int)MUST(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
    struct {
        struct nlmsghdr header;
        struct ifinfomsg link;
    } ask = {{sizeof ask, RTM_GETLINK, NLM_F_REQUEST, 5, 0}, {.ifi_index = 1}};
    MUST(send(fd, &ask, sizeof ask, 0));
    ready_then_go();
    MUST(recv(fd, data, sizeof data, 0));
    struct nlmsghdr *answer = (struct nlmsghdr *)data;
    CHECK(answer->nlmsg_type == RTM_NEWLINK && answer->nlmsg_seq == 5, "type %d", answer->nlmsg_type);
    pass();
}
