/* Directories that are gone: held open, one in another, worked in, and replaced by new ones. */
#include "workload.h"

static void make_file(int directory, const char *name, const char *text)
{
    int fd = (int)MUST(openat(directory, name, O_WRONLY | O_CREAT | O_EXCL, 0600));
    MUST(write(fd, text, strlen(text)));
    close(fd);
}

static void is_gone(int fd, const char *name)
{
    char link[64], path[PATH_MAX] = "", wanted[PATH_MAX + 20];
    struct stat status;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    MUST(readlink(link, path, sizeof path - 1));
    snprintf(wanted, sizeof wanted, "%s (deleted)", in_control(name));
    CHECK(!strcmp(path, wanted), "path %s, not %s", path, wanted);
    MUST(fstat(fd, &status));
    CHECK(S_ISDIR(status.st_mode) && status.st_nlink == 0, "%o, %ld links", status.st_mode,
          (long)status.st_nlink);
    CHECK(openat(fd, "new", O_CREAT | O_RDWR, 0600) < 0 && errno == ENOENT, "still takes files");
}

int main(int argc, char **argv)
{
    char directory[PATH_MAX];
    struct stat now, before, inside;
    begin(argc, argv);
    struct timespec long_ago[2] = {{.tv_sec = 1000000}, {.tv_sec = 2000000, .tv_nsec = 345}};

    MUST(mkdir(in_control("a"), 0750));
    MUST(mkdir(in_control("a/b"), 0711));
    MUST(mkdir(in_control("a/b/c"), 0700));
    int a = (int)MUST(open(in_control("a"), O_RDONLY | O_DIRECTORY));
    int b = (int)MUST(open(in_control("a/b"), O_PATH | O_DIRECTORY));
    int file = (int)MUST(open(in_control("a/b/c/file"), O_RDWR | O_CREAT, 0640));
    MUST(write(file, "content", 7));
    MUST(unlink(in_control("a/b/c/file")));
    MUST(chdir(in_control("a/b/c")));
    MUST(rmdir(in_control("a/b/c")));
    MUST(rmdir(in_control("a/b")));
    MUST(rmdir(in_control("a")));

    /* Its name has a new owner. */
    MUST(mkdir(in_control("again"), 0700));
    int old = (int)MUST(open(in_control("again"), O_RDONLY | O_DIRECTORY));
    MUST(rmdir(in_control("again")));
    MUST(mkdir(in_control("again"), 0755));
    int new = (int)MUST(open(in_control("again"), O_RDONLY | O_DIRECTORY));
    make_file(new, "here", "x");
    MUST(futimens(new, long_ago));

    pid_t child = (pid_t)MUST(fork());
    if (child == 0) {
        MUST(chdir("/"));
        MUST(mkdir(in_control("root"), 0755));
        MUST(chdir(in_control("root")));
        mark("in-root");
        await("go");
        MUST(stat(".", &now));
        CHECK(now.st_nlink == 0, "%ld links", (long)now.st_nlink);
        CHECK(getcwd(directory, sizeof directory) == NULL && errno == ENOENT, "cwd %s", directory);
        _exit(0);
    }
    await("in-root");
    MUST(rmdir(in_control("root")));
    MUST(fstat(a, &before));

    ready_then_go();

    is_gone(a, "a");
    is_gone(b, "a/b");
    MUST(fstat(a, &now));
    CHECK((now.st_mode & 07777) == 0750, "mode %o", now.st_mode);
    CHECK(now.st_mtim.tv_sec == before.st_mtim.tv_sec && now.st_mtim.tv_nsec == before.st_mtim.tv_nsec,
          "mtime");
    CHECK(getcwd(directory, sizeof directory) == NULL && errno == ENOENT, "cwd is %s", directory);
    MUST(stat("..", &now));
    MUST(fstat(b, &inside));
    CHECK(now.st_ino == inside.st_ino && now.st_dev == inside.st_dev, "the parent is another");
    CHECK(pread(file, directory, 8, 0) == 7 && !memcmp(directory, "content", 7), "content");

    MUST(fstat(old, &now));
    CHECK(now.st_nlink == 0, "the old one is back");
    MUST(fstat(new, &now));
    MUST(stat(in_control("again"), &inside));
    CHECK(now.st_ino == inside.st_ino, "the new one is another");
    CHECK(now.st_mtim.tv_sec == 2000000 && now.st_mtim.tv_nsec == 345, "mtime %ld", now.st_mtim.tv_sec);
    CHECK(access(in_control("a"), F_OK) == -1, "a removed directory is back");
    reap(child);
    pass();
}
