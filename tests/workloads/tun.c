/* Descriptors of /dev/net/tun: one queue, several, switched off, none yet; and what lives without.
 * needs: privileged, needs: container */
#include "workload.h"
#include <arpa/inet.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>

static int opened(void)
{
    mkdir("/dev/net", 0755);
    if (access("/dev/net/tun", F_OK))
        MUST(mknod("/dev/net/tun", S_IFCHR | 0600, makedev(10, 200)));
    return (int)MUST(open("/dev/net/tun", O_RDWR | O_NONBLOCK));
}

static int attached(const char *name, int flags)
{
    struct ifreq request = {.ifr_flags = (short)flags};
    int fd = opened();
    snprintf(request.ifr_name, IFNAMSIZ, "%s", name);
    MUST(ioctl(fd, TUNSETIFF, &request));
    return fd;
}

static void expect(int fd, const char *name, int flags)
{
    struct ifreq request = {0};
    MUST(ioctl(fd, TUNGETIFF, &request));
    CHECK(!strcmp(request.ifr_name, name), "%s instead of %s", request.ifr_name, name);
    /* The kernel shows "no filter" with the bit of "no packet information". */
    CHECK((request.ifr_flags & ~IFF_NO_PI) == flags, "%s: flags %#x", name, request.ifr_flags);
}

static int number(int fd, unsigned long request)
{
    int value = -1;
    MUST(ioctl(fd, request, &value));
    return value;
}

static void configure(const char *name, const char *address)
{
    int fd = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0));
    struct ifreq request = {0};
    struct sockaddr_in *in = (struct sockaddr_in *)&request.ifr_addr;
    snprintf(request.ifr_name, IFNAMSIZ, "%s", name);
    in->sin_family = AF_INET;
    inet_pton(AF_INET, address, &in->sin_addr);
    MUST(ioctl(fd, SIOCSIFADDR, &request));
    inet_pton(AF_INET, "255.255.255.0", &in->sin_addr);
    MUST(ioctl(fd, SIOCSIFNETMASK, &request));
    request.ifr_flags = IFF_UP | IFF_RUNNING;
    MUST(ioctl(fd, SIOCSIFFLAGS, &request));
    close(fd);
}

static int interface_number(const char *name)
{
    int fd = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0));
    struct ifreq request = {0};
    snprintf(request.ifr_name, IFNAMSIZ, "%s", name);
    MUST(ioctl(fd, SIOCGIFINDEX, &request));
    close(fd);
    return request.ifr_ifindex;
}

/* A datagram to *address* has to come out of the descriptor of the interface on the way. */
static void expect_packet(int fd, const char *address, int offset)
{
    unsigned char packet[2048];
    int sender = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0));
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(9)};
    inet_pton(AF_INET, address, &to.sin_addr);
    MUST(sendto(sender, "ahoy", 4, 0, (struct sockaddr *)&to, sizeof to));
    for (int i = 0; i < 400; i++) {
        ssize_t got = read(fd, packet, sizeof packet);
        if (got < 0 && errno == EAGAIN) {
            nap();
            continue;
        }
        MUST(got);
        unsigned char *ip = packet + offset;
        if (got == offset + 20 + 8 + 4 && ip[0] == 0x45 && !memcmp(ip + 16, &to.sin_addr, 4)) {
            CHECK(!memcmp(ip + 28, "ahoy", 4), "another content");
            close(sender);
            return;
        }
    }
    CHECK(0, "nothing for %s came out", address);
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    int single = attached("single", IFF_TUN | IFF_NO_PI);
    int copy = (int)MUST(dup(single));
    int queues[3];
    for (int i = 0; i < 3; i++)
        queues[i] = attached("several", IFF_TAP | IFF_MULTI_QUEUE | IFF_VNET_HDR);
    struct ifreq off = {.ifr_flags = IFF_DETACH_QUEUE};
    MUST(ioctl(queues[1], TUNSETQUEUE, &off));
    int size = 12, room = 70000;
    MUST(ioctl(queues[0], TUNSETVNETHDRSZ, &size));
    MUST(ioctl(single, TUNSETSNDBUF, &room));
    int nothing = opened();
    int kept = attached("kept", IFF_TUN);
    MUST(ioctl(kept, TUNSETPERSIST, 1));
    MUST(ioctl(kept, TUNSETOWNER, 1234));
    MUST(close(kept));
    configure("single", "10.77.0.1");
    configure("several", "10.78.0.1");
    int numbers[] = {interface_number("single"), interface_number("several"), interface_number("kept")};
    expect_packet(single, "10.77.0.2", 0);
    ready_then_go();

    expect(single, "single", IFF_TUN);
    expect(copy, "single", IFF_TUN);
    int several = IFF_TAP | IFF_MULTI_QUEUE | IFF_VNET_HDR;
    expect(queues[0], "several", several);
    expect(queues[1], "several", several | IFF_DETACH_QUEUE);
    expect(queues[2], "several", several);
    CHECK(number(queues[2], TUNGETVNETHDRSZ) == 12, "header of %d bytes", number(queues[2], TUNGETVNETHDRSZ));
    CHECK(number(single, TUNGETSNDBUF) == 70000, "send buffer of %d", number(single, TUNGETSNDBUF));
    struct ifreq none = {0};
    CHECK(ioctl(nothing, TUNGETIFF, &none) == -1 && errno == EBADFD, "it is attached");
    CHECK(fcntl(single, F_GETFL) & O_NONBLOCK, "flags %#x", fcntl(single, F_GETFL));
    CHECK(interface_number("single") == numbers[0] && interface_number("several") == numbers[1] &&
              interface_number("kept") == numbers[2],
          "other numbers");
    expect_packet(single, "10.77.0.3", 0);
    expect_packet(copy, "10.77.0.4", 0);
    snprintf(none.ifr_name, IFNAMSIZ, "fresh");
    none.ifr_flags = IFF_TUN;
    MUST(ioctl(nothing, TUNSETIFF, &none));
    kept = attached("kept", IFF_TUN);
    expect(kept, "kept", IFF_TUN | IFF_PERSIST);
    /* The one that was not kept ends with its last descriptor. */
    MUST(close(single));
    MUST(close(copy));
    struct ifreq gone = {0};
    int asked = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0));
    snprintf(gone.ifr_name, IFNAMSIZ, "single");
    CHECK(ioctl(asked, SIOCGIFINDEX, &gone) == -1 && errno == ENODEV, "it is still there");
    pass();
}
