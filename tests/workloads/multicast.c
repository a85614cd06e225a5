/* Sockets are still members of their multicast groups, with the senders that they wanted. */
#include "inet.h"

static int receiver(const char *host)
{
    address_t address = address_of(host, 0);
    int fd = (int)MUST(socket(address.any.sa_family, SOCK_DGRAM, 0));
    set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    MUST(bind(fd, &address.any, size_of(&address)));
    return fd;
}

static struct group_source_req request_for(const char *group, const char *source)
{
    struct group_source_req request = {.gsr_interface = if_nametoindex("lo")};
    address_t of_group = address_of(group, 0), of_source = address_of(source, 0);
    memcpy(&request.gsr_group, &of_group, sizeof of_group);
    memcpy(&request.gsr_source, &of_source, sizeof of_source);
    return request;
}

static void change(int fd, int what, const char *group, const char *source)
{
    struct group_source_req request = request_for(group, source);
    bool whole = what == MCAST_JOIN_GROUP || what == MCAST_LEAVE_GROUP;
    MUST(setsockopt(fd, strchr(group, ':') ? IPPROTO_IPV6 : IPPROTO_IP, what, &request,
                    whole ? sizeof(struct group_req) : sizeof request));
}

static void check_sources(int fd, const char *group, uint32_t mode, const char *one, const char *two)
{
    struct {
        struct group_filter filter;
        struct sockaddr_storage more[8];
    } asked = {.filter = {.gf_interface = if_nametoindex("lo"), .gf_numsrc = 8}};
    address_t of_group = address_of(group, 0), sources[2] = {{{0}}};
    socklen_t size = sizeof asked;
    uint32_t count = 0;
    memcpy(&asked.filter.gf_group, &of_group, sizeof of_group);
    for (const char *source = one; source; source = count == 1 ? two : NULL)
        sources[count++] = address_of(source, 0);
    MUST(getsockopt(fd, strchr(group, ':') ? IPPROTO_IPV6 : IPPROTO_IP, MCAST_MSFILTER, &asked, &size));
    CHECK(asked.filter.gf_fmode == mode && asked.filter.gf_numsrc == count, "%s: mode %u, %u sources",
          group, asked.filter.gf_fmode, asked.filter.gf_numsrc);
    for (uint32_t i = 0; i < count; i++)
        CHECK(!memcmp(&asked.filter.gf_slist[i], &sources[i], size_of(&sources[i])), "%s", group);
}

static void check_hears(int fd, const char *group, const char *from, bool hears)
{
    address_t own = local_of(fd), to = address_of(group, port_of(&own)), source = address_of(from, 0);
    int sender = (int)MUST(socket(to.any.sa_family, SOCK_DGRAM, 0)), loopback = (int)if_nametoindex("lo");
    char found[8];
    MUST(bind(sender, &source.any, size_of(&source)));
    if (to.any.sa_family == AF_INET6) {
        to.six.sin6_scope_id = (uint32_t)loopback;
        set_option(sender, IPPROTO_IPV6, IPV6_MULTICAST_IF, loopback);
    } else {
        struct ip_mreqn interface = {.imr_ifindex = loopback};
        MUST(setsockopt(sender, IPPROTO_IP, IP_MULTICAST_IF, &interface, sizeof interface));
    }
    MUST(sendto(sender, "hello", 5, 0, &to.any, size_of(&to)));
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    CHECK((poll(&wait, 1, hears ? 5000 : 0) == 1) == hears, "%s from %s", group, from);
    if (hears)
        MUST(recv(fd, found, 8, 0));
    close(sender);
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    int some = receiver("0.0.0.0"), not_all = receiver("0.0.0.0"), only = receiver("0.0.0.0");
    int six = receiver("::"), only_six = receiver("::"), none = receiver("0.0.0.0");
    change(some, MCAST_JOIN_GROUP, "239.1.1.1", "0.0.0.0");
    change(some, MCAST_JOIN_GROUP, "239.1.1.2", "0.0.0.0");
    change(not_all, MCAST_JOIN_GROUP, "239.1.1.1", "0.0.0.0");
    change(not_all, MCAST_BLOCK_SOURCE, "239.1.1.1", "127.0.0.3");
    change(not_all, MCAST_BLOCK_SOURCE, "239.1.1.1", "127.0.0.9");
    change(only, MCAST_JOIN_SOURCE_GROUP, "239.1.1.3", "127.0.0.4");
    change(only, MCAST_JOIN_SOURCE_GROUP, "239.1.1.3", "127.0.0.5");
    change(six, MCAST_JOIN_GROUP, "ff02::77", "::");
    change(only_six, MCAST_JOIN_SOURCE_GROUP, "ff02::78", "::1");
    set_option(none, IPPROTO_IP, IP_MULTICAST_ALL, 0);
    set_option(some, IPPROTO_IP, IP_MULTICAST_ALL, 0);
    set_option(some, IPPROTO_IP, IP_MULTICAST_TTL, 5);
    set_option(some, IPPROTO_IP, IP_MULTICAST_LOOP, 0);
    set_option(six, IPPROTO_IPV6, IPV6_MULTICAST_HOPS, 6);
    set_option(six, IPPROTO_IPV6, IPV6_MULTICAST_IF, (int)if_nametoindex("lo"));
    struct in_addr out = {htonl(INADDR_LOOPBACK)};
    MUST(setsockopt(some, IPPROTO_IP, IP_MULTICAST_IF, &out, sizeof out));
    ready_then_go();

    check_sources(some, "239.1.1.1", MCAST_EXCLUDE, NULL, NULL);
    check_sources(not_all, "239.1.1.1", MCAST_EXCLUDE, "127.0.0.3", "127.0.0.9");
    check_sources(only, "239.1.1.3", MCAST_INCLUDE, "127.0.0.4", "127.0.0.5");
    check_sources(six, "ff02::77", MCAST_EXCLUDE, NULL, NULL);
    check_sources(only_six, "ff02::78", MCAST_INCLUDE, "::1", NULL);
    check_hears(some, "239.1.1.2", "127.0.0.1", true);
    check_hears(not_all, "239.1.1.1", "127.0.0.2", true);
    check_hears(not_all, "239.1.1.1", "127.0.0.3", false);
    check_hears(only, "239.1.1.3", "127.0.0.5", true);
    check_hears(only, "239.1.1.3", "127.0.0.6", false);
    check_hears(none, "239.1.1.1", "127.0.0.1", false);
    CHECK(option(some, IPPROTO_IP, IP_MULTICAST_TTL) == 5, "IP_MULTICAST_TTL");
    CHECK(!option(some, IPPROTO_IP, IP_MULTICAST_LOOP), "IP_MULTICAST_LOOP");
    CHECK(!option(some, IPPROTO_IP, IP_MULTICAST_ALL), "IP_MULTICAST_ALL");
    CHECK(option(six, IPPROTO_IPV6, IPV6_MULTICAST_HOPS) == 6, "IPV6_MULTICAST_HOPS");
    CHECK(option(six, IPPROTO_IPV6, IPV6_MULTICAST_IF) == (int)if_nametoindex("lo"), "IPV6_MULTICAST_IF");
    CHECK(option(some, IPPROTO_IP, IP_MULTICAST_IF) == (int)htonl(INADDR_LOOPBACK), "IP_MULTICAST_IF");
    pass();
}
