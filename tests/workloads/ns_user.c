/* User namespaces: id maps, groups that cannot be set, namespaces owned by them, in each other. */
#include "workload.h"
#include <grp.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#define NS_GET_USERNS 0xb701
#define NS_GET_PARENT 0xb702
#define NS_GET_OWNER_UID 0xb704

/* For who may not look into the control directory any more. */
static int ready_pipe[2], go_pipe[2];

static void write_to(const char *path, const char *text)
{
    int fd = (int)MUST(open(path, O_WRONLY | O_CLOEXEC));
    CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text), "%s", path);
    close(fd);
}

static void expect(const char *path, const char *text)
{
    char buffer[512] = "", squeezed[512];
    int fd = (int)MUST(open(path, O_RDONLY | O_CLOEXEC)), out = 0;
    MUST(read(fd, buffer, sizeof buffer - 1));
    close(fd);
    for (char *c = buffer; *c; c++)
        if (*c != ' ' || (out && squeezed[out - 1] != ' ' && squeezed[out - 1] != '\n'))
            squeezed[out++] = *c;
    squeezed[out] = 0;
    CHECK(strcmp(squeezed, text) == 0, "%s is \"%s\"", path, squeezed);
}

static ino_t inode(int fd)
{
    struct stat status;
    MUST(fstat(fd, &status));
    return status.st_ino;
}

/* The namespace *name* of ours belongs to our own user namespace. */
static void owned_by_ours(const char *name)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/ns/%s", name);
    int ns = (int)MUST(open(path, O_RDONLY | O_CLOEXEC));
    int owner = (int)MUST(ioctl(ns, NS_GET_USERNS));
    int ours = (int)MUST(open("/proc/self/ns/user", O_RDONLY | O_CLOEXEC));
    CHECK(inode(owner) == inode(ours), "%s belongs to another user namespace", name);
    close(ns);
    close(owner);
    close(ours);
}

static void unprivileged(const char *name)
{
    MUST(unshare(CLONE_NEWUSER));
    write_to("/proc/self/setgroups", "deny");
    write_to("/proc/self/uid_map", "1000 0 1\n");
    write_to("/proc/self/gid_map", "1000 0 1\n");
    MUST(unshare(CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNS | CLONE_NEWCGROUP));
    MUST(sethostname("nested", 6));
    mark(name);
    await("go");
    char host[65];
    CHECK(getuid() == 1000 && getgid() == 1000, "uid %d, gid %d", getuid(), getgid());
    expect("/proc/self/uid_map", "1000 0 1\n");
    expect("/proc/self/gid_map", "1000 0 1\n");
    expect("/proc/self/setgroups", "deny\n");
    CHECK(setgroups(0, NULL) == -1 && errno == EPERM, "setgroups works");
    for (int i = 0; i < 5; i++)
        owned_by_ours(((const char *[]){"net", "uts", "ipc", "mnt", "cgroup"})[i]);
    MUST(gethostname(host, sizeof host));
    CHECK(strcmp(host, "nested") == 0, "host name %s", host);
    MUST(sethostname("again", 5));
    MUST(socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, 1)); /* CAP_NET_RAW over our own network */
    _exit(0);
}

/* Without any map: an id that the namespace has no name for. */
static void unmapped(void)
{
    MUST(unshare(CLONE_NEWUSER));
    CHECK(getuid() == 65534, "uid %d", getuid());
    mark("unmapped");
    await("go");
    CHECK(getuid() == 65534 && getgid() == 65534, "uid %d, gid %d", getuid(), getgid());
    expect("/proc/self/uid_map", "");
    write_to("/proc/self/uid_map", "0 0 1\n");
    CHECK(getuid() == 0, "uid %d", getuid());
    _exit(0);
}

/* One in another, the outer one without any process, with a pid namespace inside. */
static void nested(void)
{
    int sync[2];
    char byte, path[64];
    MUST(pipe(sync));
    pid_t self = getpid(), writer = (pid_t)MUST(fork());
    if (writer == 0) {
        MUST(read(sync[0], &byte, 1));
        snprintf(path, sizeof path, "/proc/%d/uid_map", self);
        write_to(path, "0 100 10\n20 300 5\n");
        snprintf(path, sizeof path, "/proc/%d/gid_map", self);
        write_to(path, "0 200 10\n");
        _exit(0);
    }
    MUST(unshare(CLONE_NEWUSER));
    MUST(write(sync[1], "", 1));
    reap(writer);
    MUST(setgroups(0, NULL));
    MUST(setresgid(0, 0, 0));
    MUST(setresuid(0, 0, 0));
    close(sync[0]);
    close(sync[1]);
    MUST(setresuid(22, 22, 22));
    MUST(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)); /* so that /proc/self is ours */
    MUST(unshare(CLONE_NEWUSER | CLONE_NEWPID));
    write_to("/proc/self/uid_map", "7 22 1\n");
    pid_t init = (pid_t)MUST(fork());
    if (init == 0) {
        pid_t child = (pid_t)MUST(fork());
        if (child == 0) {
            char byte;
            MUST(write(ready_pipe[1], "", 1));
            MUST(read(go_pipe[0], &byte, 1));
            CHECK(getpid() == 2 && getuid() == 7, "pid %d, uid %d", getpid(), getuid());
            _exit(0);
        }
        MUST(read(go_pipe[0], &byte, 1));
        owned_by_ours("pid");
        reap(child);
        _exit(0);
    }
    MUST(read(go_pipe[0], &byte, 1));
    uid_t owner = 0;
    int inner = (int)MUST(open("/proc/self/ns/user", O_RDONLY | O_CLOEXEC));
    CHECK(getuid() == 7, "uid %d", getuid());
    MUST(ioctl(inner, NS_GET_OWNER_UID, &owner));
    CHECK(owner == 7, "owner %d", owner);
    expect("/proc/self/uid_map", "7 22 1\n");
    CHECK(ioctl(inner, NS_GET_PARENT) == -1 && errno == EPERM, "the parent can be seen");
    reap(init);
    _exit(0);
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    pid_t children[3];
    char byte;
    MUST(pipe(ready_pipe));
    MUST(pipe(go_pipe));
    for (int i = 0; i < 3; i++) {
        children[i] = (pid_t)MUST(fork());
        if (children[i] == 0) {
            if (i == 0)
                unprivileged("unprivileged");
            if (i == 1)
                unmapped();
            nested();
        }
    }
    await("unprivileged");
    await("unmapped");
    MUST(read(ready_pipe[0], &byte, 1));
    ready_then_go();
    MUST(write(go_pipe[1], "123", 3));
    for (int i = 0; i < 3; i++)
        reap(children[i]);
    pass();
}
