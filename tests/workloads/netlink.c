/* Netlink sockets: bound and not, connected, groups, options; they go on to hear and to be heard.
 * needs: privileged, needs: container */
#include "workload.h"
#include <linux/filter.h>
#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

static struct sockaddr_nl address_of(int fd, bool peer)
{
    struct sockaddr_nl address = {0};
    socklen_t size = sizeof address;
    if (peer)
        MUST(getpeername(fd, (struct sockaddr *)&address, &size));
    else
        MUST(getsockname(fd, (struct sockaddr *)&address, &size));
    return address;
}

static int bound(int type, int protocol, unsigned int port, unsigned int groups)
{
    int fd = (int)MUST(socket(AF_NETLINK, type, protocol));
    struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_pid = port, .nl_groups = groups};
    MUST(bind(fd, (struct sockaddr *)&address, sizeof address));
    return fd;
}

static void send_to(int fd, unsigned int port, unsigned int groups, const char *text)
{
    struct {
        struct nlmsghdr header;
        char text[64];
    } message = {.header = {.nlmsg_len = sizeof message, .nlmsg_type = NLMSG_MIN_TYPE}};
    struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_pid = port, .nl_groups = groups};
    snprintf(message.text, sizeof message.text, "%s", text);
    bool connected = !port && !groups;
    long sent = sendto(fd, &message, sizeof message, 0, connected ? NULL : (struct sockaddr *)&address,
                       connected ? 0 : sizeof address);
    /* What goes to a group goes to the kernel as well, which does not listen on this protocol. */
    CHECK(sent > 0 || (groups && errno == ECONNREFUSED), "%s", text);
}

static void expect_from(int fd, unsigned int port, const char *text)
{
    char message[512] = "";
    struct sockaddr_nl address = {0};
    socklen_t size = sizeof address;
    MUST(recvfrom(fd, message, sizeof message, 0, (struct sockaddr *)&address, &size));
    CHECK(address.nl_pid == port, "from %u instead of %u", address.nl_pid, port);
    CHECK(!strcmp(message + sizeof(struct nlmsghdr), text), "%s", message + sizeof(struct nlmsghdr));
}

static void set_loopback(bool up)
{
    struct ifreq request = {.ifr_name = "lo"};
    int fd = (int)MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
    MUST(ioctl(fd, SIOCGIFFLAGS, &request));
    request.ifr_flags = (short)(up ? request.ifr_flags | IFF_UP : request.ifr_flags & ~IFF_UP);
    MUST(ioctl(fd, SIOCSIFFLAGS, &request));
    close(fd);
}

int main(int argc, char **argv)
{
    char data[4096];
    int one = 1, value = 0;
    socklen_t size = sizeof value;
    begin(argc, argv);
    set_loopback(true);
    int idle = (int)MUST(socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK, NETLINK_ROUTE));
    int route = bound(SOCK_RAW, NETLINK_ROUTE, 0, RTMGRP_LINK | RTMGRP_IPV4_IFADDR);
    unsigned int route_port = address_of(route, false).nl_pid;
    int nsid_group = RTNLGRP_NSID;
    MUST(setsockopt(route, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &nsid_group, sizeof nsid_group));
    MUST(setsockopt(route, SOL_NETLINK, NETLINK_PKTINFO, &one, sizeof one));
    MUST(setsockopt(route, SOL_NETLINK, NETLINK_EXT_ACK, &one, sizeof one));
    MUST(setsockopt(route, SOL_NETLINK, NETLINK_NO_ENOBUFS, &one, sizeof one));
    int receiver = bound(SOCK_DGRAM, NETLINK_USERSOCK, 777, 0);
    int listener = bound(SOCK_DGRAM, NETLINK_USERSOCK, 778, 1 << 3);
    int sender = bound(SOCK_DGRAM, NETLINK_USERSOCK, 779, 0);
    struct sockaddr_nl to = {.nl_family = AF_NETLINK, .nl_pid = 777};
    MUST(connect(sender, (struct sockaddr *)&to, sizeof to));
    struct sock_filter all[] = {{BPF_RET | BPF_K, 0, 0, 0xffff}}, none[] = {{BPF_RET | BPF_K, 0, 0, 0}};
    struct sock_fprog pass_all = {1, all}, pass_none = {1, none};
    MUST(setsockopt(listener, SOL_SOCKET, SO_ATTACH_FILTER, &pass_all, sizeof pass_all));
    int deaf = bound(SOCK_DGRAM, NETLINK_USERSOCK, 780, 0);
    MUST(setsockopt(deaf, SOL_SOCKET, SO_ATTACH_FILTER, &pass_none, sizeof pass_none));
    MUST(fcntl(deaf, F_SETFL, O_NONBLOCK));
    /* What happens to devices of the host is told to every namespace: nobody reads that here. */
    int events = (int)MUST(socket(AF_NETLINK, SOCK_RAW, NETLINK_KOBJECT_UEVENT));
    MUST(setsockopt(events, SOL_SOCKET, SO_ATTACH_FILTER, &pass_none, sizeof pass_none));
    struct sockaddr_nl group = {.nl_family = AF_NETLINK, .nl_groups = 1};
    MUST(bind(events, (struct sockaddr *)&group, sizeof group));
    ready_then_go();

    CHECK(address_of(idle, false).nl_pid == 0, "an address: %u", address_of(idle, false).nl_pid);
    CHECK(fcntl(idle, F_GETFL) & O_NONBLOCK, "no longer non-blocking");
    struct sockaddr_nl now = address_of(route, false);
    CHECK(now.nl_pid == route_port, "port %u, not %u", now.nl_pid, route_port);
    CHECK(now.nl_groups & RTMGRP_LINK && now.nl_groups & RTMGRP_IPV4_IFADDR &&
              now.nl_groups & 1u << (RTNLGRP_NSID - 1), "groups %#x", now.nl_groups);
    MUST(getsockopt(route, SOL_NETLINK, NETLINK_PKTINFO, &value, &size));
    CHECK(value == 1, "NETLINK_PKTINFO");
    MUST(getsockopt(route, SOL_NETLINK, NETLINK_NO_ENOBUFS, &value, &size));
    CHECK(value == 1, "NETLINK_NO_ENOBUFS");
    CHECK(address_of(sender, true).nl_pid == 777, "peer %u", address_of(sender, true).nl_pid);
    CHECK(address_of(events, false).nl_groups == 1, "uevents");

    send_to(sender, 0, 0, "by connection");
    expect_from(receiver, 779, "by connection");
    send_to(receiver, 0, 1 << 3, "to a group");
    expect_from(listener, 777, "to a group");
    send_to(sender, 780, 0, "to the deaf");
    CHECK(recv(deaf, data, sizeof data, 0) == -1 && errno == EAGAIN, "the filter is gone");

    struct {
        struct nlmsghdr header;
        struct ifinfomsg link;
    } ask = {{sizeof ask, RTM_GETLINK, NLM_F_REQUEST, 5, 0}, {.ifi_index = 1}};
    MUST(send(route, &ask, sizeof ask, 0));
    MUST(recv(route, data, sizeof data, 0));
    struct nlmsghdr *answer = (struct nlmsghdr *)data;
    CHECK(answer->nlmsg_type == RTM_NEWLINK && answer->nlmsg_seq == 5, "type %d", answer->nlmsg_type);
    set_loopback(false);
    MUST(recv(route, data, sizeof data, 0)); /* the news of that */
    pass();
}
