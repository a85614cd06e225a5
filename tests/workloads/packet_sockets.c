/* Packet sockets: protocols, interfaces, options, memberships, filters, fan-out and mapped rings.
 * needs: privileged, needs: container */
#include "workload.h"
#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#define PROTOCOL 0x88b5 /* for experiments */

static int lo;

static int opened(int type, int protocol, int interface)
{
    int fd = (int)MUST(socket(AF_PACKET, type, 0));
    struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_protocol = htons((uint16_t)protocol),
                                  .sll_ifindex = interface};
    MUST(bind(fd, (struct sockaddr *)&address, sizeof address));
    return fd;
}

static int option(int fd, int name)
{
    int value = 0;
    socklen_t size = sizeof value;
    MUST(getsockopt(fd, SOL_PACKET, name, &value, &size));
    return value;
}

static void set(int fd, int name, int value)
{
    MUST(setsockopt(fd, SOL_PACKET, name, &value, sizeof value));
}

static void send_frame(const char *text)
{
    int fd = (int)MUST(socket(AF_PACKET, SOCK_DGRAM, 0));
    struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_protocol = htons(PROTOCOL),
                             .sll_ifindex = lo, .sll_halen = 6};
    MUST(sendto(fd, text, strlen(text) + 1, 0, (struct sockaddr *)&to, sizeof to));
    close(fd);
}

static void expect_frame(int fd, size_t header, const char *text)
{
    char frame[2048] = "";
    long got = MUST(recv(fd, frame, sizeof frame, 0));
    CHECK((size_t)got == header + strlen(text) + 1, "%ld bytes for %s", got, text);
    CHECK(!strcmp(frame + header, text), "%s instead of %s", frame + header, text);
}

static void expect_address(int fd, int protocol, int interface)
{
    struct sockaddr_ll address = {0};
    socklen_t size = sizeof address;
    MUST(getsockname(fd, (struct sockaddr *)&address, &size));
    CHECK(ntohs(address.sll_protocol) == protocol && address.sll_ifindex == interface,
          "protocol %#x on %d", ntohs(address.sll_protocol), address.sll_ifindex);
}

static int flags_of_loopback(int flags)
{
    struct ifreq request = {.ifr_name = "lo"};
    int fd = (int)MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
    MUST(ioctl(fd, SIOCGIFFLAGS, &request));
    if (flags) {
        request.ifr_flags = (short)(request.ifr_flags | flags);
        MUST(ioctl(fd, SIOCSIFFLAGS, &request));
    }
    MUST(ioctl(fd, SIOCGIFINDEX, &request));
    close(fd);
    return request.ifr_ifindex;
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    lo = flags_of_loopback(IFF_UP);
    int raw = opened(SOCK_RAW, PROTOCOL, lo), cooked = opened(SOCK_DGRAM, PROTOCOL, 0);
    int idle = (int)MUST(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0));
    set(raw, PACKET_AUXDATA, 1);
    set(raw, PACKET_ORIGDEV, 1);
    set(cooked, PACKET_LOSS, 1);
    set(cooked, PACKET_TIMESTAMP, 4);
    int room = 100000;
    MUST(setsockopt(raw, SOL_SOCKET, SO_RCVBUF, &room, sizeof room));
    struct packet_mreq everything = {.mr_ifindex = lo, .mr_type = PACKET_MR_PROMISC};
    MUST(setsockopt(raw, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &everything, sizeof everything));
    struct packet_mreq group = {.mr_ifindex = lo, .mr_type = PACKET_MR_MULTICAST, .mr_alen = 6,
                                .mr_address = {0x33, 0x33, 0, 0, 0, 0x77}};
    MUST(setsockopt(raw, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &group, sizeof group));
    struct sock_filter nothing[] = {{BPF_RET | BPF_K, 0, 0, 0}};
    struct sock_fprog program = {1, nothing};
    int deaf = opened(SOCK_RAW, PROTOCOL, lo);
    MUST(setsockopt(deaf, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program));
    int shared[2];
    for (int i = 0; i < 2; i++) {
        shared[i] = opened(SOCK_RAW, PROTOCOL, lo);
        set(shared[i], PACKET_FANOUT, 77 | PACKET_FANOUT_LB << 16);
    }
    int ring = (int)MUST(socket(AF_PACKET, SOCK_RAW, 0));
    set(ring, PACKET_VERSION, TPACKET_V2);
    struct tpacket_req sizes = {4096, 4, 2048, 8};
    MUST(setsockopt(ring, SOL_PACKET, PACKET_RX_RING, &sizes, sizeof sizes));
    MUST(setsockopt(ring, SOL_PACKET, PACKET_TX_RING, &sizes, sizeof sizes));
    char *frames = mmap(NULL, 2 * 4 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, ring, 0);
    CHECK(frames != MAP_FAILED, "the rings");
    struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_protocol = htons(PROTOCOL), .sll_ifindex = lo};
    MUST(bind(ring, (struct sockaddr *)&address, sizeof address));
    int old = (int)MUST(socket(AF_PACKET, SOCK_PACKET, htons(PROTOCOL)));
    struct sockaddr by_name = {.sa_family = AF_PACKET, .sa_data = "lo"};
    MUST(bind(old, &by_name, sizeof by_name));
    int oldest = (int)MUST(socket(AF_INET, SOCK_PACKET, htons(PROTOCOL))); /* of all interfaces */
    ready_then_go();

    expect_address(raw, PROTOCOL, lo);
    expect_address(cooked, PROTOCOL, 0);
    expect_address(idle, 0, 0);
    CHECK(option(raw, PACKET_AUXDATA) && option(raw, PACKET_ORIGDEV), "options");
    CHECK(option(cooked, PACKET_LOSS) == 1 && option(cooked, PACKET_TIMESTAMP) == 4, "options");
    CHECK(option(shared[1], PACKET_FANOUT) == (77 | PACKET_FANOUT_LB << 16), "fan-out");
    CHECK(option(ring, PACKET_VERSION) == TPACKET_V2, "version");
    MUST(setsockopt(raw, SOL_PACKET, PACKET_DROP_MEMBERSHIP, &everything, sizeof everything));
    MUST(setsockopt(raw, SOL_PACKET, PACKET_DROP_MEMBERSHIP, &group, sizeof group));
    send_frame("ahoy");
    expect_frame(raw, ETH_HLEN, "ahoy");
    expect_frame(cooked, 0, "ahoy");
    expect_frame(old, ETH_HLEN, "ahoy");
    expect_frame(oldest, ETH_HLEN, "ahoy");
    struct tpacket2_hdr *first = (struct tpacket2_hdr *)frames;
    while (!(*(volatile uint32_t *)&first->tp_status & TP_STATUS_USER))
        nap();
    CHECK(!strcmp(frames + first->tp_net, "ahoy"), "in the ring: %s", frames + first->tp_net);
    char byte;
    CHECK(recv(deaf, &byte, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN, "the filter is gone");
    int heard = 0;
    for (int i = 0; i < 2; i++)
        heard += recv(shared[i], &byte, 1, MSG_DONTWAIT) > 0;
    CHECK(heard == 1, "%d of a group have heard it", heard);
    struct tpacket2_hdr *out = (struct tpacket2_hdr *)(frames + 4 * 4096);
    char *data = (char *)out + TPACKET2_HDRLEN - sizeof(struct sockaddr_ll);
    memset(data, 0, ETH_HLEN);
    data[12] = (char)(PROTOCOL >> 8), data[13] = (char)(PROTOCOL & 0xff);
    strcpy(data + ETH_HLEN, "sent by ring");
    out->tp_len = ETH_HLEN + 13;
    out->tp_status = TP_STATUS_SEND_REQUEST;
    MUST(send(ring, NULL, 0, 0));
    expect_frame(raw, ETH_HLEN, "sent by ring");
    pass();
}
