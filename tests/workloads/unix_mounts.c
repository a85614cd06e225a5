/* needs: container, needs: privileged
 * UNIX sockets on mounts that only another namespace sees, below what is mounted over them, and shown
 * by mounts of their own. */
#include "workload.h"
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/un.h>

static struct sockaddr_un address(const char *name)
{
    struct sockaddr_un where = {.sun_family = AF_UNIX};
    snprintf(where.sun_path, sizeof where.sun_path, "%s", name);
    return where;
}

static int bound(const char *name, int type)
{
    int fd = (int)MUST(socket(AF_UNIX, type, 0));
    struct sockaddr_un where = address(name);
    MUST(bind(fd, (struct sockaddr *)&where, sizeof where));
    if (type != SOCK_DGRAM)
        MUST(listen(fd, 4));
    return fd;
}

static int to(const char *name, int type)
{
    int fd = (int)MUST(socket(AF_UNIX, type, 0));
    struct sockaddr_un where = address(name);
    MUST(connect(fd, (struct sockaddr *)&where, sizeof where));
    return fd;
}

static void reached(const char *name, int fd)
{
    int sender = to(name, SOCK_DGRAM);
    MUST(write(sender, "here", 4));
    char got[8];
    CHECK(recv(fd, got, sizeof got, MSG_DONTWAIT) == 4, "%s leads elsewhere", name);
    close(sender);
}

static void apart(void)
{
    MUST(unshare(CLONE_NEWNS));
    MUST(mount(NULL, "/", NULL, MS_PRIVATE | MS_REC, NULL));
    MUST(mount("ours", "own", "tmpfs", 0, NULL));
    MUST(mkdir("own/deep", 0700));
    int datagrams = bound("own/deep/datagrams", SOCK_DGRAM);
    int listener = bound("own/listener", SOCK_STREAM);
    int client = to("own/listener", SOCK_STREAM), server = (int)MUST(accept(listener, NULL, NULL));
    MUST(write(client, "bytes", 5));
    MUST(chmod("own/listener", 0711));
    int gone = bound("own/gone", SOCK_DGRAM), knows = to("own/gone", SOCK_DGRAM);
    MUST(unlink("own/gone"));
    mark("apart");
    await("go");
    reached("own/deep/datagrams", datagrams);
    close(to("own/listener", SOCK_STREAM));
    struct stat status;
    MUST(stat("own/listener", &status));
    CHECK((status.st_mode & 0777) == 0711, "mode %o", status.st_mode);
    char got[8];
    CHECK(read(server, got, sizeof got) == 5, "bytes");
    MUST(write(knows, "x", 1));
    CHECK(read(gone, got, sizeof got) == 1, "a removed one");
    _exit(0);
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    MUST(chdir(control));
    MUST(mkdir("own", 0700));
    MUST(mkdir("covered", 0700));
    pid_t child = (pid_t)MUST(fork());
    if (child == 0)
        apart();
    await("apart");
    int below = bound("covered/one", SOCK_DGRAM);
    MUST(mount("over", "covered", "tmpfs", 0, NULL));
    int above = bound("covered/one", SOCK_DGRAM);
    int shown = bound("shown", SOCK_DGRAM);
    close((int)MUST(open("showing", O_CREAT | O_WRONLY, 0600)));
    MUST(mount("shown", "showing", NULL, MS_BIND, NULL));
    ready_then_go();

    CHECK(access("own/listener", F_OK) == -1 && errno == ENOENT, "another namespace's file");
    reached("covered/one", above);
    MUST(umount2("covered", MNT_DETACH));
    reached("covered/one", below);
    reached("shown", shown);
    reached("showing", shown);
    MUST(umount("showing"));
    reap(child);
    pass();
}
