/* A TCP connection from one network namespace of the container into another.
 * needs: container
 * needs: privileged */
#include "inet.h"

static void run(const char *command)
{
    int status = system(command);
    CHECK(status == 0, "%s: %#x", command, status);
}

int main(int argc, char **argv)
{
    char found[16] = "";
    begin(argc, argv);
    int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    MUST(unshare(CLONE_NEWNET));
    pid_t child = (pid_t)MUST(fork()); /* who keeps the second namespace */
    if (!child) {
        await("over");
        _exit(0);
    }
    char command[128];
    MUST(setns(home, CLONE_NEWNET));
    close(home);
    sprintf(command, "ip link add near type veth peer name far netns %d", (int)child);
    run(command);
    run("ip addr add 10.9.8.1/24 dev near && ip link set near up");
    char path[64];
    home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    sprintf(path, "/proc/%d/ns/net", (int)child);
    int there = open(path, O_RDONLY | O_CLOEXEC);
    MUST(setns(there, CLONE_NEWNET));
    close(there);
    run("ip addr add 10.9.8.2/24 dev far && ip link set far up");
    int listener = listening("10.9.8.2", 4000, 3);
    MUST(setns(home, CLONE_NEWNET));
    close(home);
    address_t place = address_of("10.9.8.2", 4000);
    int client = connecting(&place), server = accepting(listener);
    MUST(send(client, "forth", 5, 0));
    MUST(send(server, "back", 4, 0));
    struct pollfd wait = {.fd = client, .events = POLLIN};
    CHECK(poll(&wait, 1, 5000) == 1, "nothing came back");
    ready_then_go();

    CHECK(recv(client, found, 4, MSG_WAITALL) == 4 && !memcmp(found, "back", 4), "back");
    CHECK(recv(server, found, 5, MSG_WAITALL) == 5 && !memcmp(found, "forth", 5), "forth");
    check_talk(client, server, "across");
    check_accepts(listener, &place, "anew");
    mark("over");
    reap(child);
    pass();
}
