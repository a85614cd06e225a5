/* needs: container, needs: privileged
 * Everything shared, as an init system makes it, with namespaces below that follow or are peers; a
 * root that is read-only, one that something is mounted over, one that was left by chroot(2); the
 * sandbox's own mounts moved; a removed file that is open in two namespaces. */
#include "workload.h"
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

static int both;

static void follower(void)
{
    MUST(unshare(CLONE_NEWNS));
    MUST(mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL));
    CHECK(lseek(both, 0, SEEK_CUR) == 0, "offset");
    int own = (int)MUST(open(in_control("both"), O_RDWR));
    mark("follower");
    await("unlinked");
    mark("follower-ready");
    await("mounted");
    is(in_control("mount/file"), "for all");
    await("peers-mounted");
    CHECK(access(in_control("peers/file"), F_OK) == 0, "the peer's mount did not arrive");
    struct stat mine, inherited;
    MUST(fstat(own, &mine));
    MUST(fstat(both, &inherited));
    CHECK(mine.st_ino == inherited.st_ino && mine.st_nlink == 0, "two files came back for one");
    holds(own, "in both");
}

static void peer(void)
{
    MUST(unshare(CLONE_NEWNS));
    mark("peer");
    await("mounted");
    is(in_control("mount/file"), "for all");
    MUST(mount("peers", in_control("peers"), "tmpfs", 0, NULL));
    make("peers/file", "from the peer");
    mark("peers-mounted");
}

static void read_only(void)
{
    MUST(unshare(CLONE_NEWNS));
    MUST(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
    MUST(mount("rest", in_control("rest"), "tmpfs", 0, NULL));
    MUST(mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL));
    /* The way to tell others leads over what is read-only by now. */
    close((int)MUST(open(in_control("rest/ready"), O_CREAT | O_WRONLY, 0600)));
    await("read-only");
    await("go");
    CHECK(open(in_control("no"), O_CREAT | O_WRONLY, 0600) < 0 && errno == EROFS, "writable");
    close((int)MUST(open(in_control("rest/yes"), O_CREAT | O_WRONLY, 0600)));
    _exit(0);
}

static void over_root(void)
{
    MUST(unshare(CLONE_NEWNS));
    MUST(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
    MUST(mount("over", "/", "tmpfs", 0, NULL));
    int top = (int)MUST(open("/..", O_PATH | O_DIRECTORY)); /* the one that is on top */
    int fd = (int)MUST(openat(top, "above", O_RDWR | O_CREAT, 0600));
    MUST(write(fd, "above all", 9));
    mark("over-root");
    await("go");
    holds(fd, "above all");
    CHECK(faccessat(top, "above", F_OK, 0) == 0, "the top is another");
    MUST(access("/usr", F_OK));
}

static void in_chroot(void)
{
    MUST(unshare(CLONE_NEWNS));
    MUST(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
    MUST(mkdir(in_control("jail/control"), 0755));
    MUST(mkdir(in_control("jail/tmp"), 0755));
    MUST(mount(control, in_control("jail/control"), NULL, MS_BIND, NULL));
    MUST(chroot(in_control("jail")));
    MUST(chdir("/tmp"));
    snprintf(control, sizeof control, "/control");
    MUST(mount("inside", "/tmp", "tmpfs", 0, NULL));
    int fd = (int)MUST(open("/tmp/file", O_RDWR | O_CREAT, 0600));
    MUST(write(fd, "in jail", 7));
    mark("jailed");
    await("go");
    is("/tmp/file", "in jail");
    holds(fd, "in jail");
    CHECK(access("/usr", F_OK) < 0, "not in jail");
    CHECK(access("file", F_OK) < 0, "the working directory lies below");
}

int main(int argc, char **argv)
{
    static const char *const directories[] = {"mount", "peers", "jail", "rest", "pts"};
    struct statfs fs;
    begin(argc, argv);
    MUST(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
    MUST(mount(NULL, "/", NULL, MS_REC | MS_SHARED, NULL));
    for (int i = 0; i < 5; i++)
        MUST(mkdir(in_control(directories[i]), 0755));
    make("both", "in both");
    both = (int)MUST(open(in_control("both"), O_RDONLY));
    pid_t children[] = {start(follower, "follower"), start(peer, "peer"),
                        start(over_root, "over-root"), start(in_chroot, "jailed")};
    pid_t frozen = (pid_t)MUST(fork());
    if (frozen == 0)
        read_only();
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/root%s", (int)frozen, in_control("rest/ready"));
    while (access(path, F_OK))
        nap();
    mark("read-only");
    MUST(unlink(in_control("both")));
    mark("unlinked");
    await("follower-ready");
    umount2("/dev/pts", MNT_DETACH);
    MUST(mount("devpts", in_control("pts"), "devpts", MS_NOSUID, "newinstance,mode=600"));
    MUST(mkdir(in_control("shm"), 0755));
    MUST(mount(NULL, "/dev", NULL, MS_PRIVATE, NULL));
    if (mount("/dev/shm", in_control("shm"), NULL, MS_MOVE, NULL)) /* none of its own there */
        MUST(mount("shm", in_control("shm"), "tmpfs", 0, NULL));
    make("shm/file", "moved");

    ready_then_go();

    MUST(statfs(in_control("pts"), &fs));
    CHECK(fs.f_type == 0x1cd1, "no devpts");
    is(in_control("shm/file"), "moved");
    CHECK(access("/dev/shm/file", F_OK) < 0, "it is there too");
    MUST(mount("mount", in_control("mount"), "tmpfs", 0, NULL));
    make("mount/file", "for all");
    mark("mounted");
    await("peers-mounted");
    is(in_control("peers/file"), "from the peer");
    for (int i = 0; i < 4; i++)
        reap(children[i]);
    reap(frozen);
    pass();
}
