/* needs: container, needs: privileged
 * Bind mounts: of directories and files, of what is removed, recursive, moved, and who shares. */
#include "workload.h"
#include <sys/mount.h>

static const char *made(const char *name)
{
    MUST(mkdir(in_control(name), 0755));
    return in_control(name);
}

static void make(const char *name, const char *text)
{
    int fd = (int)MUST(open(in_control(name), O_RDWR | O_CREAT | O_EXCL, 0640));
    MUST(write(fd, text, strlen(text)));
    close(fd);
}

static void is(const char *name, const char *text)
{
    char found[64] = "";
    int fd = (int)MUST(open(in_control(name), O_RDONLY));
    CHECK(read(fd, found, sizeof found - 1) == (ssize_t)strlen(text) && !strcmp(found, text),
          "content %s, not %s", found, text);
    close(fd);
}

static bool there(const char *name)
{
    return access(in_control(name), F_OK) == 0;
}

static void bind(const char *from, const char *to, unsigned long flags)
{
    MUST(mount(in_control(from), in_control(to), NULL, MS_BIND | flags, NULL));
}

static void probe(const char *where, const char *sees, bool wanted)
{
    char name[256];
    snprintf(name, sizeof name, "%s/probe", where);
    MUST(mount("probe", in_control(name), "tmpfs", 0, NULL));
    snprintf(name, sizeof name, "%s/probe/here", where);
    make(name, "x");
    snprintf(name, sizeof name, "%s/probe/here", sees);
    CHECK(there(name) == wanted, "a mount on %s is%s seen on %s", where, wanted ? " not" : "", sees);
    snprintf(name, sizeof name, "%s/probe", where);
    MUST(umount(in_control(name)));
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    /* Alone, whatever a sandbox has made of the root. */
    MUST(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
    made("tree");
    made("tree/sub");
    make("tree/file", "a file");
    bind("tree", made("to") ? "to" : "", 0);
    MUST(mount("inner", in_control("tree/sub"), "tmpfs", 0, NULL));
    make("tree/sub/deep", "deeper");
    bind("tree", made("all") ? "all" : "", MS_REC);
    make("target", "to be covered");
    bind("tree/file", "target", 0);
    MUST(mount(NULL, in_control("target"), NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL));
    made("part");
    bind("tree/sub", "part", 0);
    bind("part", "part", 0);
    made("moved");
    made("moving");
    MUST(mount("moves", in_control("moving"), "tmpfs", 0, NULL));
    make("moving/file", "moved along");
    MUST(mount(in_control("moving"), in_control("moved"), NULL, MS_MOVE, NULL));

    made("source");
    made("removed");
    bind("source", "removed", 0);
    MUST(rmdir(in_control("source")));
    make("source-file", "no name left");
    make("removed-file", "");
    bind("source-file", "removed-file", 0);
    MUST(unlink(in_control("source-file")));

    /* Shared by two, a slave of these, one that is both, and one of its slaves; private ones. */
    MUST(mount("sharing", made("a"), "tmpfs", 0, NULL));
    made("a/probe");
    MUST(mount(NULL, in_control("a"), NULL, MS_SHARED, NULL));
    bind("a", made("b") ? "b" : "", 0);
    bind("a", made("slave") ? "slave" : "", 0);
    MUST(mount(NULL, in_control("slave"), NULL, MS_SLAVE, NULL));
    bind("a", made("both") ? "both" : "", 0);
    MUST(mount(NULL, in_control("both"), NULL, MS_SLAVE, NULL));
    MUST(mount(NULL, in_control("both"), NULL, MS_SHARED, NULL));
    bind("both", made("below") ? "below" : "", 0);
    MUST(mount(NULL, in_control("below"), NULL, MS_SLAVE, NULL));
    bind("a", made("alone") ? "alone" : "", 0);
    MUST(mount(NULL, in_control("alone"), NULL, MS_PRIVATE, NULL));
    bind("a", made("unbindable") ? "unbindable" : "", 0);
    MUST(mount(NULL, in_control("unbindable"), NULL, MS_UNBINDABLE, NULL));

    ready_then_go();

    is("to/file", "a file");
    CHECK(!there("to/sub/deep"), "more is bound");
    is("all/sub/deep", "deeper");
    is("part/deep", "deeper");
    is("target", "a file");
    CHECK(open(in_control("target"), O_WRONLY) < 0 && errno == EROFS, "writable");
    MUST(umount(in_control("target")));
    is("target", "to be covered");
    make("all/sub/new", "seen by all");
    is("tree/sub/new", "seen by all");
    is("part/new", "seen by all");
    MUST(umount(in_control("part")));
    is("part/new", "seen by all");
    MUST(umount(in_control("part")));
    CHECK(!there("part/new"), "still bound");
    is("moved/file", "moved along");
    CHECK(!there("moving/file"), "it is in both places");

    struct stat status;
    MUST(stat(in_control("removed"), &status));
    CHECK(S_ISDIR(status.st_mode) && status.st_nlink == 0, "%ld links", (long)status.st_nlink);
    CHECK(!there("source"), "the source is back");
    is("removed-file", "no name left");
    MUST(stat(in_control("removed-file"), &status));
    CHECK(status.st_nlink == 0 && !there("source-file"), "the source is back");

    probe("a", "b", true);
    probe("b", "a", true);
    probe("a", "slave", true);
    probe("slave", "a", false);
    probe("a", "both", true);
    probe("both", "b", false);
    probe("both", "below", true);
    probe("a", "below", true);
    probe("below", "both", false);
    probe("a", "alone", false);
    probe("alone", "a", false);
    made("nowhere");
    CHECK(mount(in_control("unbindable"), in_control("nowhere"), NULL, MS_BIND, NULL) < 0 &&
              errno == EINVAL, "it can be bound");
    pass();
}
