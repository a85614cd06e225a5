/* needs: container, needs: privileged
 * Mount namespaces of processes: one alone, one shared by two, one of a user namespace, one whose
 * root was changed, and changes that travel from one to another, or not. */
#include "workload.h"
#include <sys/inotify.h>
#include <sys/mount.h>
#include <sys/statfs.h>

static void make(const char *name, const char *text)
{
    int fd = (int)MUST(open(in_control(name), O_RDWR | O_CREAT | O_EXCL, 0640));
    MUST(write(fd, text, strlen(text)));
    close(fd);
}

static void holds(int fd, const char *text)
{
    char found[64] = "";
    CHECK(pread(fd, found, sizeof found - 1, 0) == (ssize_t)strlen(text) && !strcmp(found, text),
          "content %s, not %s", found, text);
}

static void is(const char *path, const char *text)
{
    int fd = (int)MUST(open(path, O_RDONLY));
    holds(fd, text);
    close(fd);
}

static void tell(const char *path, const char *text)
{
    int fd = (int)MUST(open(path, O_WRONLY | O_CLOEXEC));
    MUST(write(fd, text, strlen(text)));
    close(fd);
}

static void own_root_private(void)
{
    MUST(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
}

static pid_t start(void (*play)(void), const char *name)
{
    pid_t child = (pid_t)MUST(fork());
    if (child == 0) {
        play();
        _exit(0);
    }
    await(name);
    return child;
}

/* A tmpfs that others do not see, over a directory that they do; a sibling in the same namespace. */
static void alone(void)
{
    char events[512];
    MUST(unshare(CLONE_NEWNS));
    own_root_private();
    MUST(mount("mine", in_control("place"), "tmpfs", 0, NULL));
    make("place/mine", "only here");
    int hidden_cwd = (int)MUST(open(in_control("other"), O_RDONLY | O_DIRECTORY));
    MUST(mount("two", in_control("other"), "tmpfs", 0, NULL));
    make("other/there", "on top");
    MUST(fchdir(hidden_cwd));
    int deleted = (int)MUST(open(in_control("place/deleted"), O_RDWR | O_CREAT, 0600));
    MUST(write(deleted, "gone", 4));
    MUST(unlink(in_control("place/deleted")));
    int watcher = (int)MUST(inotify_init1(IN_NONBLOCK));
    MUST(inotify_add_watch(watcher, in_control("place"), IN_CREATE));
    MUST(inotify_add_watch(watcher, in_control("place/mine"), IN_ATTRIB));
    pid_t sibling = (pid_t)MUST(fork());
    if (sibling == 0) {
        MUST(chdir(in_control("place")));
        mark("alone");
        await("go");
        is("mine", "only here");
        is(in_control("other/there"), "on top");
        await("added");
        is(in_control("place/late"), "added later");
        _exit(0);
    }
    await("go");
    is(in_control("place/mine"), "only here");
    is("below", "beneath");
    is(in_control("other/there"), "on top");
    holds(deleted, "gone");
    CHECK(read(watcher, events, sizeof events) < 0 && errno == EAGAIN, "events of nobody");
    make("place/late", "added later");
    MUST(chmod(in_control("place/mine"), 0600));
    CHECK(read(watcher, events, sizeof events) > 32, "no events");
    mark("added");
    reap(sibling);
}

/* What the first mounts below "shared" is seen by us, and nothing of ours by it. */
static void slave(void)
{
    MUST(unshare(CLONE_NEWNS));
    MUST(mount(NULL, in_control("shared"), NULL, MS_SLAVE, NULL));
    mark("slave");
    await("mounted");
    is(in_control("shared/dir/first"), "propagated");
    MUST(mount("ours", in_control("shared/ours"), "tmpfs", 0, NULL));
    make("shared/ours/file", "ours alone");
    mark("slave-mounted");
    await("done");
}

static void peer(void)
{
    MUST(unshare(CLONE_NEWNS));
    mark("peer");
    await("mounted");
    is(in_control("shared/dir/first"), "propagated");
    MUST(mount("peers", in_control("shared/peers"), "tmpfs", 0, NULL));
    make("shared/peers/file", "for all");
    mark("peer-mounted");
    await("done");
}

/* As a container runtime does it. */
static void pivoted(void)
{
    char path[PATH_MAX];
    MUST(unshare(CLONE_NEWNS));
    own_root_private();
    snprintf(path, sizeof path, "%s", control);
    MUST(mount("new", in_control("root"), "tmpfs", 0, NULL));
    MUST(mkdir(in_control("root/control"), 0755));
    MUST(mkdir(in_control("root/proc"), 0755));
    MUST(mkdir(in_control("root/old"), 0755));
    MUST(mount(control, in_control("root/control"), NULL, MS_BIND, NULL));
    MUST(mount("proc", in_control("root/proc"), "proc", 0, NULL));
    make("root/hello", "new root");
    MUST(chdir(in_control("root")));
    MUST(syscall(SYS_pivot_root, ".", "old"));
    MUST(chdir("/"));
    MUST(umount2("/old", MNT_DETACH));
    snprintf(control, sizeof control, "/control");
    int fd = (int)MUST(open("/hello", O_RDONLY));
    mark("pivoted");
    await("go");
    holds(fd, "new root");
    is("/hello", "new root");
    CHECK(access(path, F_OK) < 0, "the old root is there");
    CHECK(access("/usr", F_OK) < 0, "the old root is there");
    MUST(access("/proc/self/status", F_OK));
    MUST(mkdir("/works", 0755));
}

/* With fewer privileges, and another root. */
static void in_user(void)
{
    int fd;
    MUST(unshare(CLONE_NEWUSER | CLONE_NEWNS));
    tell("/proc/self/uid_map", "0 0 1");
    tell("/proc/self/setgroups", "deny");
    tell("/proc/self/gid_map", "0 0 1");
    MUST(mkdir(in_control("users"), 0755));
    MUST(mount("tmpfs", in_control("users"), "tmpfs", 0, NULL));
    fd = (int)MUST(open(in_control("users/file"), O_RDWR | O_CREAT, 0600));
    MUST(write(fd, "hello", 5));
    mark("user");
    await("go");
    holds(fd, "hello");
    is(in_control("users/file"), "hello");
    MUST(umount2(in_control("users"), MNT_DETACH));
}

int main(int argc, char **argv)
{
    static const char *const directories[] = {"place", "other", "shared", "root"};
    begin(argc, argv);
    own_root_private();
    for (int i = 0; i < 4; i++)
        MUST(mkdir(in_control(directories[i]), 0755));
    make("other/below", "beneath");
    MUST(mount("shared", in_control("shared"), "tmpfs", 0, NULL));
    MUST(mount(NULL, in_control("shared"), NULL, MS_SHARED, NULL));
    MUST(mkdir(in_control("shared/dir"), 0755));
    MUST(mkdir(in_control("shared/ours"), 0755));
    MUST(mkdir(in_control("shared/peers"), 0755));
    pid_t children[] = {start(alone, "alone"), start(slave, "slave"), start(peer, "peer"),
                        start(pivoted, "pivoted"), start(in_user, "user")};

    ready_then_go();

    CHECK(access(in_control("place/mine"), F_OK) < 0, "seen outside");
    CHECK(access(in_control("root/hello"), F_OK) < 0, "seen outside");
    MUST(mount("first", in_control("shared/dir"), "tmpfs", 0, NULL));
    make("shared/dir/first", "propagated");
    mark("mounted");
    await("slave-mounted");
    CHECK(access(in_control("shared/ours/file"), F_OK) < 0, "a slave's mount is seen");
    await("peer-mounted");
    is(in_control("shared/peers/file"), "for all");
    mark("done");
    for (int i = 0; i < 5; i++)
        reap(children[i]);
    pass();
}
