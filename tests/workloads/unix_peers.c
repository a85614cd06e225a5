/* SO_PEERCRED as the kernel noted it: other ids, other processes, some of them gone; failed peers. */
#include "unix_workload.h"
#include <grp.h>

static void is_peer(int fd, pid_t pid, uid_t uid, gid_t gid)
{
    struct ucred who = peer_of(fd);
    CHECK(who.pid == pid && who.uid == uid && who.gid == gid, "pid %d uid %u gid %u, not %d %u %u",
          who.pid, who.uid, who.gid, pid, uid, gid);
}

int main(int argc, char **argv)
{
    int own[2], other[2], dead[2], failed[2], closed[2], status;
    gid_t groups[] = {70, 71}, found[8];
    begin(argc, argv);
    MUST(chmod(control, 0777));
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, own));
    MUST(setgroups(2, groups));
    MUST(setresgid(-1, 21, -1));
    MUST(setresuid(-1, 20, -1));
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, other));
    int listener = bound(SOCK_STREAM, "@wpe-listener");
    MUST(listen(listener, 5));
    MUST(setresuid(-1, 0, -1));
    MUST(setresgid(-1, 0, -1));
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, dead));
    pid_t gone = (pid_t)MUST(fork());
    if (gone == 0) {
        int pair[2];
        MUST(setresgid(31, 31, 31));
        MUST(setresuid(30, 30, 30));
        MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
        pass_on(dead[0], "x", pair, 2, NULL);
        _exit(0);
    }
    MUST(waitpid(gone, &status, 0));
    int pair[2];
    CHECK(take(dead[1], "x", 10, pair, NULL) == 2, "pair");
    pid_t child = (pid_t)MUST(fork());
    if (child == 0) {
        MUST(setresuid(-1, 40, -1));
        int client = connected(SOCK_STREAM, "@wpe-listener");
        mark("connected");
        await("checked");
        is_peer(client, getppid(), 20, 21);
        _exit(0);
    }
    await("connected");
    int server = (int)MUST(accept(listener, NULL, NULL));
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, failed));
    tell(failed[0], "unread");
    close(failed[1]);
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, closed));
    close(closed[1]);
    ready_then_go();
    is_peer(own[0], getpid(), 0, 0);
    is_peer(other[1], getpid(), 20, 21);
    is_peer(listener, getpid(), 20, 21);
    is_peer(pair[0], gone, 30, 31);
    is_peer(server, child, 40, 0);
    socklen_t size = sizeof found;
    MUST(getsockopt(listener, SOL_SOCKET, SO_PEERGROUPS, found, &size));
    CHECK(size == 8 && found[0] == 70 && found[1] == 71, "%u bytes of groups", size);
    mark("checked");
    reap(child);
    char byte;
    CHECK(recv(failed[0], &byte, 1, 0) == -1 && errno == ECONNRESET, "no ECONNRESET");
    CHECK(recv(closed[0], &byte, 1, 0) == 0, "no end of file");
    pass();
}
