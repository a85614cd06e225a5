/* Files without the name they were opened by: of every type, with other names, or never named. */
#include "workload.h"
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/xattr.h>

#define HUGE_SIZE (3ll << 40)

static struct stat status_of(int fd)
{
    struct stat status;
    MUST(fstat(fd, &status));
    return status;
}

static void reads_link(int fd, const char *name)
{
    char link[64], path[PATH_MAX] = "", wanted[PATH_MAX + 20];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    MUST(readlink(link, path, sizeof path - 1));
    snprintf(wanted, sizeof wanted, "%s (deleted)", in_control(name));
    CHECK(!strcmp(path, wanted), "path %s, not %s", path, wanted);
}

static int make(const char *name, int flags)
{
    return (int)MUST(open(in_control(name), flags | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
}

int main(int argc, char **argv)
{
    char text[64], own[64];
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    begin(argc, argv);

    /* No name left. */
    int plain = make("plain", O_RDWR | O_APPEND);
    MUST(write(plain, "plain text", 10));
    int reader = (int)MUST(open(in_control("plain"), O_RDONLY));
    MUST(lseek(reader, 6, SEEK_SET));
    MUST(fsetxattr(plain, "user.colour", "green", 5, 0));
    MUST(fchmod(plain, 04711));
    struct timespec times[2] = {{.tv_sec = 11, .tv_nsec = 12}, {.tv_sec = 13, .tv_nsec = 14}};
    MUST(futimens(plain, times));
    MUST(unlink(in_control("plain")));
    char *mapped = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, plain, 0);
    CHECK(mapped != MAP_FAILED, "mmap");
    ino_t plain_inode = status_of(plain).st_ino;
    CHECK(plain_inode == status_of(reader).st_ino, "not the same file");

    /* Mostly a hole. */
    int sparse = make("sparse", O_RDWR);
    MUST(pwrite(sparse, "far away", 8, HUGE_SIZE));
    MUST(pwrite(sparse, "near", 4, 8192));
    MUST(unlink(in_control("sparse")));

    /* Another name is left. */
    int first = make("first", O_RDWR);
    MUST(write(first, "linked", 6));
    MUST(link(in_control("first"), in_control("second")));
    MUST(unlink(in_control("first")));
    int second = (int)MUST(open(in_control("second"), O_RDONLY));

    /* The name belongs to another file by now, and the old file has one in another place. */
    int replaced = make("name", O_RDWR);
    MUST(write(replaced, "old", 3));
    MUST(mkdir(in_control("elsewhere"), 0700));
    MUST(link(in_control("name"), in_control("elsewhere/kept")));
    int other = make("new", O_RDWR);
    MUST(write(other, "new one", 7));
    MUST(rename(in_control("new"), in_control("name")));

    /* Never had a name. */
    int unnamed = (int)MUST(open(control, O_TMPFILE | O_RDWR, 0640));
    MUST(write(unnamed, "unnamed", 7));

    /* Other types, and only paths. */
    MUST(mkfifo(in_control("fifo"), 0600));
    MUST(chmod(in_control("fifo"), 0620));
    int fifo = (int)MUST(open(in_control("fifo"), O_RDWR));
    MUST(write(fifo, "in the fifo", 11));
    int fifo_path = (int)MUST(open(in_control("fifo"), O_PATH));
    MUST(unlink(in_control("fifo")));
    MUST(symlink("points/nowhere", in_control("symlink")));
    int symbolic = (int)MUST(open(in_control("symlink"), O_PATH | O_NOFOLLOW));
    MUST(unlink(in_control("symlink")));
    int bound = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    snprintf(address.sun_path, sizeof address.sun_path, "%s", in_control("socket"));
    MUST(bind(bound, (struct sockaddr *)&address, sizeof address));
    int socket_path = (int)MUST(open(in_control("socket"), O_PATH));
    MUST(close(bound));
    MUST(unlink(in_control("socket")));
    MUST(mknod(in_control("null"), S_IFCHR | 0666, makedev(1, 3)));
    int node_path = (int)MUST(open(in_control("null"), O_PATH));
    MUST(unlink(in_control("null")));

    ready_then_go();

    struct stat now = status_of(plain);
    CHECK(now.st_nlink == 0 && (now.st_mode & 07777) == 04711, "%o", now.st_mode);
    CHECK(now.st_mtim.tv_sec == 13 && now.st_mtim.tv_nsec == 14, "mtime %ld", now.st_mtim.tv_sec);
    CHECK(fgetxattr(plain, "user.colour", text, sizeof text) == 5 && !memcmp(text, "green", 5), "xattr");
    reads_link(plain, "plain");
    CHECK(status_of(reader).st_ino == now.st_ino, "two files came back for one");
    CHECK(read(reader, text, 8) == 4 && !memcmp(text, "text", 4), "offset");
    CHECK(!memcmp(mapped, "plain", 5), "mapped content");
    memcpy(mapped, "PLAIN", 5);
    CHECK(pread(reader, text, 5, 0) == 5 && !memcmp(text, "PLAIN", 5), "the mapping is of another file");
    MUST(pwrite(plain, "+", 1, 0)); /* O_APPEND: at the end all the same */
    CHECK(status_of(reader).st_size == 11, "size %ld", (long)status_of(reader).st_size);

    CHECK(status_of(sparse).st_size == HUGE_SIZE + 8, "size");
    CHECK(status_of(sparse).st_blocks < 1000, "%ld blocks", (long)status_of(sparse).st_blocks);
    CHECK(pread(sparse, text, 8, HUGE_SIZE) == 8 && !memcmp(text, "far away", 8), "content");
    CHECK(pread(sparse, text, 4, 8192) == 4 && !memcmp(text, "near", 4), "content");

    CHECK(status_of(first).st_nlink == 1, "%ld links", (long)status_of(first).st_nlink);
    CHECK(status_of(first).st_ino == status_of(second).st_ino, "two files came back for one");
    reads_link(first, "first");
    CHECK(access(in_control("first"), F_OK) == -1, "the name is back");
    MUST(stat(in_control("second"), &now));
    CHECK(now.st_ino == status_of(first).st_ino, "the name leads to another file");

    CHECK(pread(replaced, text, 8, 0) == 3 && !memcmp(text, "old", 3), "content");
    CHECK(pread(other, text, 8, 0) == 7 && !memcmp(text, "new one", 7), "content");
    MUST(stat(in_control("elsewhere/kept"), &now));
    CHECK(now.st_ino == status_of(replaced).st_ino, "the name leads to another file");
    MUST(stat(in_control("name"), &now));
    CHECK(now.st_ino == status_of(other).st_ino, "the name leads to another file");

    CHECK(status_of(unnamed).st_nlink == 0, "it has a name");
    snprintf(own, sizeof own, "/proc/self/fd/%d", unnamed);
    MUST(linkat(AT_FDCWD, own, AT_FDCWD, in_control("named"), AT_SYMLINK_FOLLOW));
    MUST(stat(in_control("named"), &now));
    CHECK(now.st_size == 7 && (now.st_mode & 0777) == 0640, "%o", now.st_mode);

    CHECK(read(fifo, text, sizeof text) == 11 && !memcmp(text, "in the fifo", 11), "fifo");
    CHECK(status_of(fifo).st_ino == status_of(fifo_path).st_ino, "two FIFOs came back for one");
    CHECK((status_of(fifo).st_mode & 0777) == 0620 && status_of(fifo).st_nlink == 0, "fifo");
    reads_link(fifo, "fifo");
    CHECK(readlinkat(symbolic, "", text, sizeof text) == 14 && !memcmp(text, "points/nowhere", 14),
          "symbolic link");
    CHECK(S_ISSOCK(status_of(socket_path).st_mode), "socket");
    reads_link(socket_path, "socket");
    CHECK(status_of(node_path).st_rdev == makedev(1, 3), "device");
    pass();
}
