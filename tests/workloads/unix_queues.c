/* Messages that wait: with descriptors, that live nowhere else; borders, credentials, OOB bytes. */
#include "unix_workload.h"

static int atmark(int fd)
{
    int flag = 0;
    MUST(ioctl(fd, 0x8905, &flag)); /* SIOCATMARK */
    return flag;
}

int main(int argc, char **argv)
{
    int pair[2], ends[2], inner[2], cycle[2], mixed[2], packets[2], oob[2], head[2], creds[2], got[16];
    int one = 1, deep[2], peek[2];
    struct ucred who = {0};
    char byte;
    begin(argc, argv);
    /* a pipe and a removed file, both closed here */
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    MUST(pipe(ends));
    CHECK(write(ends[1], "in the pipe", 11) == 11, "write");
    int file = (int)MUST(open(in_control("file"), O_RDWR | O_CREAT, 0600));
    CHECK(write(file, "content", 7) == 7, "write");
    MUST(unlink(in_control("file")));
    pass_on(pair[0], "two", (int[]){ends[0], file}, 2, NULL);
    tell(pair[0], " more");
    close(ends[0]);
    close(file);
    /* a socket with a message that holds a socket with a message */
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, inner));
    MUST(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, deep));
    tell(deep[0], "deepest");
    pass_on(inner[0], "inner", (int[]){deep[1]}, 1, NULL);
    pass_on(pair[1], "outer", (int[]){inner[1]}, 1, NULL);
    close(inner[1]);
    close(deep[1]);
    close(inner[0]);
    /* each end's queue holds the other end */
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, cycle));
    pass_on(cycle[0], "a", (int[]){cycle[0]}, 1, NULL);
    pass_on(cycle[0], "b", (int[]){cycle[1]}, 1, NULL);
    /* descriptors in the middle of a stream */
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, mixed));
    tell(mixed[0], "before");
    pass_on(mixed[0], "with", (int[]){1}, 1, NULL);
    tell(mixed[0], "after");
    MUST(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, packets));
    tell(packets[0], "p1");
    pass_on(packets[0], "p2", (int[]){1, 2, 0}, 3, NULL);
    tell(packets[0], "p3");
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, oob));
    tell(oob[0], "normal");
    CHECK(send(oob[0], "!", 1, MSG_OOB) == 1, "MSG_OOB");
    tell(oob[0], "rest");
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, head));
    CHECK(send(head[0], "?", 1, MSG_OOB) == 1, "MSG_OOB");
    /* credentials, ours and somebody's */
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, creds));
    MUST(setsockopt(creds[1], SOL_SOCKET, SO_PASSCRED, &one, sizeof one));
    tell(creds[0], "mine");
    pass_on(creds[0], "yours", NULL, 0, &(struct ucred){getpid(), 12, 13});
    pid_t child = (pid_t)MUST(fork());
    if (child == 0) {
        tell(creds[0], "child's");
        mark("told");
        await("heard");
        _exit(0);
    }
    await("told");
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, peek));
    tell(peek[0], "abcdef");
    int offset = 2;
    MUST(setsockopt(peek[1], SOL_SOCKET, 42 /* SO_PEEK_OFF */, &offset, sizeof offset));
    ready_then_go();

    CHECK(take(pair[1], "two", 100, got, NULL) == 2, "two descriptors");
    char found[64] = "";
    CHECK(read(got[0], found, 64) == 11 && !strcmp(found, "in the pipe"), "pipe: %s", found);
    CHECK(write(ends[1], "again", 5) == 5 && read(got[0], found, 64) == 5, "the pipe is another");
    CHECK(pread(got[1], found, 64, 0) == 7 && !memcmp(found, "content", 7), "file: %s", found);
    CHECK(lseek(got[1], 0, SEEK_CUR) == 7, "position");
    hear(pair[1], " more");
    CHECK(take(pair[0], "outer", 100, got, NULL) == 1, "a socket");
    int outer = got[0];
    CHECK(take(outer, "inner", 100, got, NULL) == 1, "a socket in a socket");
    hear(got[0], "deepest");
    tell(deep[0], "still");
    hear(got[0], "still");
    CHECK(take(cycle[1], "a", 100, got, NULL) == 1, "cycle");
    tell(cycle[1], "to the first");
    hear(got[0], "to the first");
    CHECK(take(cycle[1], "b", 100, got, NULL) == 1, "cycle");
    tell(cycle[0], "x");
    hear(got[0], "x");
    CHECK(take(mixed[1], "bef", 3, got, NULL) == 0, "too early");
    CHECK(take(mixed[1], "orewi", 5, got, NULL) == 1, "with its first byte");
    CHECK(take(mixed[1], "th", 2, got, NULL) == 0, "too late");
    CHECK(take(mixed[1], "after", 100, got, NULL) == 0, "much too late");
    CHECK(take(packets[1], "p1", 100, got, NULL) == 0 && take(packets[1], "p2", 100, got, NULL) == 3 &&
              take(packets[1], "p3", 100, got, NULL) == 0,
          "packets");
    hear(oob[1], "normal");
    CHECK(atmark(oob[1]), "not at the mark");
    CHECK(recv(oob[1], &byte, 1, MSG_OOB) == 1 && byte == '!', "OOB byte");
    hear(oob[1], "rest");
    CHECK(recv(head[1], &byte, 1, MSG_OOB) == 1 && byte == '?', "OOB byte at the head");
    silent(head[1]);
    take(creds[1], "mine", 100, got, &who);
    CHECK(who.pid == getpid() && who.uid == geteuid(), "pid %d uid %u", who.pid, who.uid);
    take(creds[1], "yours", 100, got, &who);
    CHECK(who.pid == getpid() && who.uid == 12 && who.gid == 13, "uid %u gid %u", who.uid, who.gid);
    take(creds[1], "child's", 100, got, &who);
    CHECK(who.pid == child, "pid %d, not %d", who.pid, child);
    mark("heard");
    reap(child);
    CHECK(recv(peek[1], found, 2, MSG_PEEK) == 2 && !memcmp(found, "cd", 2), "peek: %.2s", found);
    socklen_t size = sizeof offset;
    MUST(getsockopt(peek[1], SOL_SOCKET, 42, &offset, &size));
    CHECK(offset == 4, "offset %d", offset);
    hear(peek[1], "abcdef");
    pass();
}
