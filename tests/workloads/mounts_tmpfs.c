/* needs: container, needs: privileged
 * File systems mounted by the program: tmpfs with what is in it, read-only, one over another, with
 * open files below; views of the kernel; an overlay; one of the sandbox's that is gone. */
#include "workload.h"
#include <sys/mount.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>

static const char *made(const char *name)
{
    MUST(mkdir(in_control(name), 0755));
    return in_control(name);
}

static int make(const char *name, const char *text)
{
    int fd = (int)MUST(open(in_control(name), O_RDWR | O_CREAT | O_EXCL, 0640));
    MUST(write(fd, text, strlen(text)));
    return fd;
}

static void holds(int fd, const char *text)
{
    char found[64] = "";
    CHECK(pread(fd, found, sizeof found - 1, 0) == (ssize_t)strlen(text) && !strcmp(found, text),
          "content %s, not %s", found, text);
}

static void is(const char *name, const char *text)
{
    int fd = (int)MUST(open(in_control(name), O_RDONLY));
    holds(fd, text);
    close(fd);
}

static bool same(int fd, const char *path)
{
    struct stat a, b;
    MUST(fstat(fd, &a));
    MUST(stat(path, &b));
    return a.st_ino == b.st_ino && a.st_dev == b.st_dev;
}

static void listed(const char *wanted)
{
    static char text[65536];
    int fd = (int)MUST(open("/proc/self/mountinfo", O_RDONLY));
    ssize_t size = 0, count;
    while ((count = MUST(read(fd, text + size, sizeof text - 1 - (size_t)size))) > 0)
        size += count;
    text[size] = 0;
    close(fd);
    CHECK(strstr(text, wanted), "no %s in %s", wanted, text);
}

int main(int argc, char **argv)
{
    struct statfs fs;
    struct stat status;
    char options[3 * PATH_MAX];
    begin(argc, argv);

    MUST(mount("one", made("one"), "tmpfs", MS_NOSUID | MS_NOATIME, "size=1m,mode=0751"));
    int file = make("one/file", "in one");
    MUST(setxattr(in_control("one/file"), "trusted.mark", "yes", 3, 0));
    MUST(mkdir(in_control("one/below"), 0700));
    int under = make("one/below/under", "hidden by two");
    int gone = make("one/below/gone", "removed and hidden");
    MUST(unlink(in_control("one/below/gone")));
    MUST(mkfifo(in_control("one/below/fifo"), 0600));
    int fifo = (int)MUST(open(in_control("one/below/fifo"), O_RDWR));
    MUST(write(fifo, "queued", 6));
    int directory = (int)MUST(open(in_control("one/below"), O_RDONLY | O_DIRECTORY));
    MUST(mount("two", in_control("one/below"), "tmpfs", 0, "size=64k"));
    int above = make("one/below/above", "in two");

    /* Over the same place, and over a file. */
    MUST(mount("low", made("stack"), "tmpfs", 0, NULL));
    int low = make("stack/low", "at the bottom");
    MUST(mount("high", in_control("stack"), "tmpfs", 0, NULL));
    close(make("stack/high", "at the top"));
    int covered = make("covered", "covered file");
    int cover = make("one/cover", "cover");
    MUST(mount(in_control("one/cover"), in_control("covered"), NULL, MS_BIND, NULL));

    /* Read-only, both kinds. */
    MUST(mount("ro", made("ro"), "tmpfs", 0, NULL));
    close(make("ro/file", "frozen"));
    int removed = make("ro/removed", "nameless on read-only");
    MUST(unlink(in_control("ro/removed")));
    close(removed);
    removed = (int)MUST(open(in_control("ro/file"), O_RDONLY));
    MUST(mount(NULL, in_control("ro"), NULL, MS_REMOUNT | MS_RDONLY, NULL));
    MUST(mount("ro2", made("ro2"), "tmpfs", 0, NULL));
    close(make("ro2/file", "behind glass"));
    MUST(mount(NULL, in_control("ro2"), NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL));

    MUST(mount("proc", made("proc"), "proc", MS_NOEXEC, NULL));
    int status_file = (int)MUST(open(in_control("proc/self/status"), O_RDONLY));
    MUST(mount("sysfs", made("sys"), "sysfs", MS_RDONLY, NULL));
    MUST(mount("ramfs", made("ram"), "ramfs", 0, NULL));
    close(make("ram/file", "in ramfs"));

    MUST(mount("layers", made("layers"), "tmpfs", 0, NULL));
    made("layers/lower");
    made("layers/upper");
    made("layers/work");
    close(make("layers/lower/from", "below"));
    close(make("layers/lower/whited", "out"));
    snprintf(options, sizeof options, "lowerdir=%s,upperdir=%s,workdir=%s", in_control("layers/lower"),
             in_control("layers/upper"), in_control("layers/work"));
    MUST(mount("overlay", made("overlay"), "overlay", 0, options));
    int upper = make("overlay/new", "in the upper layer");
    MUST(unlink(in_control("overlay/whited")));

    /* Of the sandbox's own. */
    CHECK(!umount2("/dev/mqueue", MNT_DETACH) || errno == ENOENT || errno == EINVAL, "umount");
    MUST(mount("shm", "/dev/shm", "tmpfs", MS_NOEXEC, "size=128k"));
    MUST(mount(NULL, "/dev/pts", NULL, MS_REMOUNT | MS_BIND | MS_NOSUID | MS_NODEV, NULL));

    ready_then_go();

    MUST(statfs(in_control("one"), &fs));
    CHECK(fs.f_type == 0x01021994 && fs.f_blocks * (uint64_t)fs.f_bsize == 1 << 20, "size");
    CHECK(fs.f_flags & ST_NOSUID && fs.f_flags & ST_NOATIME, "flags %lx", fs.f_flags);
    MUST(stat(in_control("one"), &status));
    CHECK((status.st_mode & 07777) == 0751, "mode %o", status.st_mode);
    holds(file, "in one");
    CHECK(same(file, in_control("one/file")), "another file");
    char mark[8];
    CHECK(getxattr(in_control("one/file"), "trusted.mark", mark, sizeof mark) == 3, "xattr");
    holds(above, "in two");
    CHECK(same(above, in_control("one/below/above")), "another file");
    holds(under, "hidden by two");
    holds(gone, "removed and hidden");
    MUST(fstat(gone, &status));
    CHECK(status.st_nlink == 0, "it has a name");
    CHECK(read(fifo, options, 8) == 6 && !memcmp(options, "queued", 6), "fifo");
    CHECK(faccessat(directory, "under", F_OK, 0) == 0, "the hidden directory");
    CHECK(access(in_control("one/below/under"), F_OK) < 0, "not hidden");
    close(directory);
    close(above);
    MUST(umount(in_control("one/below")));
    CHECK(same(under, in_control("one/below/under")), "another file");
    CHECK(same(fifo, in_control("one/below/fifo")), "another fifo");

    is("stack/high", "at the top");
    MUST(umount(in_control("stack")));
    CHECK(same(low, in_control("stack/low")), "another file below");
    is("covered", "cover");
    CHECK(same(cover, in_control("covered")), "not bound");
    MUST(umount(in_control("covered")));
    CHECK(same(covered, in_control("covered")), "another file");

    is("ro/file", "frozen");
    holds(removed, "frozen");
    CHECK(open(in_control("ro/file"), O_WRONLY) < 0 && errno == EROFS, "writable");
    MUST(mount(NULL, in_control("ro"), NULL, MS_REMOUNT | MS_BIND, NULL));
    CHECK(open(in_control("ro/file"), O_WRONLY) < 0 && errno == EROFS, "the file system is writable");
    CHECK(open(in_control("ro2/file"), O_WRONLY) < 0 && errno == EROFS, "writable");
    MUST(mount(NULL, in_control("ro2"), NULL, MS_REMOUNT | MS_BIND, NULL));
    close((int)MUST(open(in_control("ro2/file"), O_WRONLY)));

    MUST(statfs(in_control("proc"), &fs));
    CHECK(fs.f_type == 0x9fa0 && fs.f_flags & ST_NOEXEC, "proc");
    CHECK(pread(status_file, options, 5, 0) == 5 && !memcmp(options, "Name:", 5), "status");
    snprintf(options, sizeof options, "proc/%d", (int)getpid());
    MUST(access(in_control(options), F_OK));
    MUST(statfs(in_control("sys"), &fs));
    CHECK(fs.f_type == 0x62656572 && fs.f_flags & ST_RDONLY, "sysfs");
    MUST(statfs(in_control("ram"), &fs));
    CHECK(fs.f_type == (typeof(fs.f_type))0x858458f6, "ramfs %lx", (long)fs.f_type);
    is("ram/file", "in ramfs");

    is("overlay/from", "below");
    holds(upper, "in the upper layer");
    CHECK(same(upper, in_control("overlay/new")), "another file");
    CHECK(access(in_control("overlay/whited"), F_OK) < 0, "whiteout");

    CHECK(statfs("/dev/mqueue", &fs) < 0 || fs.f_type != 0x19800202, "it is mounted again");
    MUST(statfs("/dev/shm", &fs));
    CHECK(fs.f_blocks * (uint64_t)fs.f_bsize == 128 << 10, "size of /dev/shm");
    MUST(umount("/dev/shm"));
    MUST(statfs("/dev/shm", &fs));
    CHECK(fs.f_type == 0x01021994, "the lower /dev/shm");
    listed(" /dev/pts rw,nosuid,nodev,relatime ");
    pass();
}
