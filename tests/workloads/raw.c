/* Raw and ping sockets keep their protocol, their filter, their peer and their options.
 * needs: container
 * needs: privileged */
#include "inet.h"
#include <linux/icmp.h>
#include <linux/icmpv6.h>
#include <netinet/ip.h>

static void put_range(const char *text)
{
    int fd = open("/proc/sys/net/ipv4/ping_group_range", O_WRONLY);
    if (fd >= 0) {
        (void)!write(fd, text, strlen(text));
        close(fd);
    }
}

static void raise_loopback(void)
{
    struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    int fd = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0));
    ioctl(fd, SIOCSIFFLAGS, &request);
    close(fd);
}

static void check_reply(int fd, const char *what)
{
    struct icmphdr request = {.type = ICMP_ECHO}, reply = {0};
    address_t to = address_of("127.0.0.1", 0);
    CHECK(sendto(fd, &request, sizeof request, 0, &to.any, size_of(&to)) == 8, "%s", what);
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    CHECK(poll(&wait, 1, 5000) == 1, "%s: no answer", what);
    CHECK(recv(fd, &reply, sizeof reply, 0) == 8 && reply.type == ICMP_ECHOREPLY, "%s", what);
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    raise_loopback();
    struct icmp_filter only_replies = {~(1u << ICMP_ECHOREPLY)}, filter = {0};
    struct icmp6_filter six_filter = {.data = {1, 2, 3, 4, 5, 6, 7, 8}}, six_found = {0};
    socklen_t size = sizeof filter;

    int icmp = (int)MUST(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
    MUST(setsockopt(icmp, SOL_RAW, ICMP_FILTER, &only_replies, sizeof only_replies));
    int six = (int)MUST(socket(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6));
    MUST(setsockopt(six, IPPROTO_ICMPV6, ICMPV6_FILTER, &six_filter, sizeof six_filter));
    int own = (int)MUST(socket(AF_INET, SOCK_RAW, IPPROTO_RAW));
    int header = (int)MUST(socket(AF_INET, SOCK_RAW, 254)), sum = (int)MUST(socket(AF_INET6, SOCK_RAW, 253));
    set_option(header, IPPROTO_IP, IP_HDRINCL, 1);
    set_option(header, IPPROTO_IP, IP_TTL, 7);
    set_option(header, IPPROTO_IP, IP_RECVTTL, 1);
    set_option(sum, IPPROTO_IPV6, IPV6_CHECKSUM, 4);
    set_option(sum, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1);
    address_t here = address_of("127.0.0.1", 0), peer = address_of("127.0.0.7", 0);
    address_t six_peer = address_of("::1", 0);
    int tied = (int)MUST(socket(AF_INET, SOCK_RAW, 252));
    MUST(bind(tied, &here.any, size_of(&here)));
    MUST(connect(tied, &peer.any, size_of(&peer)));
    int tied_six = (int)MUST(socket(AF_INET6, SOCK_RAW, 252));
    MUST(connect(tied_six, &six_peer.any, size_of(&six_peer)));

    put_range("0 100");
    int ping = socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP), identifier = 0;
    if (ping >= 0) { /* else /proc/sys is not ours to change */
        check_reply(ping, "before");
        char reply[64]; /* which the raw socket has seen too */
        CHECK(recv(icmp, reply, sizeof reply, 0) == 28, "icmp");
        address_t name = local_of(ping);
        identifier = port_of(&name);
    }
    put_range("1 0"); /* and nobody may make another */
    /* Padding, as a header that goes along with every packet. */
    const unsigned char padding[8] = {0, 0, 1, 4};
    int with_headers = (int)MUST(socket(AF_INET6, SOCK_DGRAM, 0));
    MUST(setsockopt(with_headers, IPPROTO_IPV6, IPV6_HOPOPTS, padding, sizeof padding));
    MUST(setsockopt(with_headers, IPPROTO_IPV6, IPV6_DSTOPTS, padding, sizeof padding));
    ready_then_go();
    const int headers[] = {IPV6_HOPOPTS, IPV6_DSTOPTS};
    for (int i = 0; i < 2; i++) {
        unsigned char found[16];
        socklen_t size = sizeof found;
        MUST(getsockopt(with_headers, IPPROTO_IPV6, headers[i], found, &size));
        CHECK(size == sizeof padding && !memcmp(found, padding, size), "%d bytes", (int)size);
    }

    MUST(getsockopt(icmp, SOL_RAW, ICMP_FILTER, &filter, &size));
    CHECK(filter.data == only_replies.data, "ICMP_FILTER %#x", filter.data);
    size = sizeof six_found;
    MUST(getsockopt(six, IPPROTO_ICMPV6, ICMPV6_FILTER, &six_found, &size));
    CHECK(!memcmp(&six_found, &six_filter, sizeof six_filter), "ICMPV6_FILTER");
    CHECK(option(own, IPPROTO_IP, IP_HDRINCL) && option(header, IPPROTO_IP, IP_HDRINCL), "IP_HDRINCL");
    CHECK(option(header, SOL_SOCKET, SO_PROTOCOL) == 254, "the protocol");
    CHECK(option(header, IPPROTO_IP, IP_TTL) == 7 && option(header, IPPROTO_IP, IP_RECVTTL), "header");
    CHECK(option(sum, IPPROTO_IPV6, IPV6_CHECKSUM) == 4, "IPV6_CHECKSUM");
    CHECK(option(sum, IPPROTO_IPV6, IPV6_RECVHOPLIMIT) == 1, "IPV6_RECVHOPLIMIT");

    char found[64];
    address_t from, now = local_of(tied);
    CHECK(now.four.sin_addr.s_addr == here.four.sin_addr.s_addr, "bound");
    MUST(send(tied, "over", 4, 0)); /* connected, or there would be no destination */
    MUST(send(tied_six, "over", 4, 0));
    size = sizeof from;
    int catcher = (int)MUST(socket(AF_INET, SOCK_RAW, 252));
    MUST(send(tied, "there", 5, 0));
    CHECK(recvfrom(catcher, found, 64, 0, &from.any, &size) == 25, "caught");
    CHECK(((struct iphdr *)found)->daddr == peer.four.sin_addr.s_addr, "connected elsewhere");
    CHECK(!memcmp(found + 20, "there", 5), "caught something else");

    struct icmphdr request = {.type = ICMP_ECHO, .checksum = htons(0xf7ff)};
    MUST(sendto(icmp, &request, sizeof request, 0, &here.any, size_of(&here)));
    CHECK(recv(icmp, found, 64, 0) == 28, "icmp");
    CHECK(((struct icmphdr *)(found + 20))->type == ICMP_ECHOREPLY, "the filter lets all through");
    if (ping >= 0) {
        address_t name = local_of(ping);
        CHECK(port_of(&name) == identifier, "a ping socket's identifier");
        check_reply(ping, "after");
    }
    CHECK(socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP) == -1 && errno == EACCES, "ping_group_range");
    pass();
}
