/* Network and UTS namespaces that only descriptors, sockets and pairs of interfaces lead to.
 * needs: privileged, needs: container */
#include "workload.h"
#include <arpa/inet.h>
#include <linux/if.h>
#include <linux/netlink.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

static int here;

static void enter(int fd)
{
    MUST(setns(fd, 0));
}

static int made(const char *kind, int flag)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/ns/%s", kind);
    int before = (int)MUST(open(path, O_RDONLY | O_CLOEXEC));
    MUST(unshare(flag));
    int fd = (int)MUST(open(path, O_RDONLY | O_CLOEXEC));
    enter(before);
    close(before);
    return fd;
}

static void run(const char *format, ...)
{
    char command[300];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(command, sizeof command, format, arguments);
    va_end(arguments);
    CHECK(!system(command), "%s", command);
}

static void copy_output(const char *command, char *text, size_t size)
{
    FILE *pipe = popen(command, "r");
    CHECK(pipe, "popen");
    size_t got = fread(text, 1, size - 1, pipe);
    text[got] = 0;
    CHECK(pclose(pipe) == 0, "%s", command);
}

static void seen(int first, int second, char *text, size_t size)
{
    const char *commands[] = {"ip -o link show | sed -E 's/<[^>]*>|qdisc.*//g'", "ip -o -4 address show", "ip netns list-id",
                              "cat /proc/sys/net/ipv4/ip_forward", "ip -4 route"};
    *text = 0;
    for (int place = 0; place < 3; place++) {
        enter(place == 0 ? here : place == 1 ? first : second);
        for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
            copy_output(commands[i], text + strlen(text), size - strlen(text));
    }
    enter(here);
}

int main(int argc, char **argv)
{
    static char before[20000], after[20000];
    struct stat status, other;
    begin(argc, argv);
    here = (int)MUST(open("/proc/self/ns/net", O_RDONLY));
    int user = (int)MUST(open("/proc/self/ns/user", O_RDONLY)), mnt = (int)MUST(open("/proc/self/ns/mnt", O_RDONLY));
    int names = made("uts", CLONE_NEWUTS), uts = (int)MUST(open("/proc/self/ns/uts", O_RDONLY));
    enter(names);
    MUST(sethostname("far-away", 8));
    enter(uts);
    int first = made("net", CLONE_NEWNET), second = made("net", CLONE_NEWNET);
    run("ip link set lo up");
    run("ip link add near type veth peer name far index 33 netns /proc/%d/fd/%d", getpid(), first);
    run("ip address add 10.9.0.1/24 dev near && ip link set near up");
    enter(first);
    run("ip link set lo up; ip address add 10.9.0.2/24 dev far && ip link set far up");
    run("echo 1 >/proc/sys/net/ipv4/ip_forward");
    run("ip link add bridge type bridge && ip link set bridge up");
    run("ip link add inner type veth peer name outer netns /proc/%d/fd/%d", getpid(), second);
    run("ip link set inner master bridge && ip link set inner up");
    enter(second);
    run("ip link set lo up; ip address add 10.10.0.2/24 dev outer && ip link set outer up");
    run("ip route add 10.9.0.0/24 dev outer");
    enter(here);
    /* One that only a socket is left of. */
    MUST(unshare(CLONE_NEWNET));
    run("ip link set lo up; ip address add 127.0.0.99/8 dev lo");
    int alone = (int)MUST(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
    enter(here);
    seen(first, second, before, sizeof before);
    ready_then_go();

    MUST(fstat(here, &status));
    MUST(stat("/proc/self/ns/net", &other));
    CHECK(status.st_ino == other.st_ino, "another namespace than our own");
    MUST(fstat(user, &status));
    MUST(stat("/proc/self/ns/user", &other));
    CHECK(status.st_ino == other.st_ino, "another user namespace than our own");
    MUST(fstat(mnt, &status));
    MUST(stat("/proc/self/ns/mnt", &other));
    CHECK(status.st_ino == other.st_ino, "another mount namespace than our own");
    seen(first, second, after, sizeof after);
    CHECK(!strcmp(before, after), "%s\nbecame\n%s", before, after);
    char name[32] = "";
    enter(names);
    MUST(gethostname(name, sizeof name));
    CHECK(!strcmp(name, "far-away"), "host name %s", name);
    enter(uts);
    struct ifreq request = {.ifr_name = "lo"};
    int fd = (int)MUST(ioctl(alone, 0x894c /* SIOCGSKNS */));
    enter(fd);
    copy_output("ip -o -4 address show", after, sizeof after);
    CHECK(strstr(after, "127.0.0.99/8"), "%s", after);
    enter(here);
    (void)request;
    pass();
}
