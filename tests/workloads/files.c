/* Regular files: offsets, modes, append, deleted, renamed, O_PATH, and sharing by fork. */
#include "workload.h"

static int make(const char *name, int flags, const char *text)
{
    int fd = (int)MUST(open(in_control(name), flags | O_CREAT, 0640));
    if (text)
        CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text), "write %s", name);
    return fd;
}

static void expect(int fd, off_t offset, const char *text)
{
    char found[64] = "";
    CHECK(pread(fd, found, sizeof found - 1, offset) >= 0, "pread %s", text);
    CHECK(!strcmp(found, text), "file has '%s', should have '%s'", found, text);
}

int main(int argc, char **argv)
{
    struct stat before, after;
    char path[PATH_MAX], link_text[PATH_MAX];
    begin(argc, argv);
    int plain = make("plain", O_RDWR, "0123456789"), append = make("append", O_WRONLY | O_APPEND, "one\n");
    int deleted = make("deleted", O_RDWR, "deleted content"), renamed = make("old", O_RDWR, "renamed content");
    int twice = make("twice", O_RDWR, "twice");
    int twice_read_only = (int)MUST(open(in_control("twice"), O_RDONLY | O_CLOEXEC));
    int path_only = (int)MUST(open(in_control("plain"), O_PATH));
    int synced = make("synced", O_RDWR | O_DSYNC | O_NOFOLLOW, NULL), empty = make("empty", O_RDWR, NULL);
    int duplicate = (int)MUST(fcntl(plain, F_DUPFD_CLOEXEC, 300)), fifty = (int)MUST(dup2(plain, 50));
    int deleted_empty = make("deleted-empty", O_RDWR, NULL), sparse = make("sparse", O_RDWR, NULL);
    int deleted_twice = (int)MUST(open(in_control("deleted"), O_RDONLY));
    MUST(unlink(in_control("deleted")));
    MUST(unlink(in_control("deleted-empty")));
    MUST(rename(in_control("old"), in_control("new")));
    MUST(ftruncate(sparse, 1 << 30));
    MUST(pwrite(sparse, "middle", 6, 1 << 29));
    MUST(lseek(plain, 3, SEEK_SET));
    MUST(lseek(deleted, 8, SEEK_SET));
    MUST(lseek(twice_read_only, 2, SEEK_SET));
    MUST(fchmod(deleted, 0604));
    MUST(fstat(plain, &before));

    pid_t child = (pid_t)MUST(fork());
    if (child == 0) {
        char digit;
        int own = (int)MUST(open(in_control("plain"), O_RDONLY));
        mark("child");
        await("told");
        CHECK(read(fifty, &digit, 1) == 1 && digit == '5', "the shared offset gave %c", digit);
        CHECK(read(own, &digit, 1) == 1 && digit == '0', "the own offset gave %c", digit);
        _exit(0);
    }
    await("child");
    ready_then_go();

    char digit;
    CHECK(read(plain, &digit, 1) == 1 && digit == '3', "offset: %c", digit);
    CHECK(read(duplicate, &digit, 1) == 1 && digit == '4', "offset of the duplicate: %c", digit);
    mark("told");
    reap(child);
    CHECK(lseek(plain, 0, SEEK_CUR) == 6, "offset after the child's read");
    CHECK(fcntl(duplicate, F_GETFD) == FD_CLOEXEC && fcntl(fifty, F_GETFD) == 0, "close-on-exec");
    MUST(fstat(plain, &after));
    CHECK(before.st_size == after.st_size && before.st_mode == after.st_mode, "stat");
    CHECK(write(append, "two\n", 4) == 4 && fcntl(append, F_GETFL) & O_APPEND, "append");
    int again = (int)MUST(open(in_control("append"), O_RDONLY));
    expect(again, 0, "one\ntwo\n");
    CHECK(lseek(deleted, 0, SEEK_CUR) == 8, "offset of the deleted file");
    expect(deleted, 0, "deleted content");
    MUST(pwrite(deleted, "D", 1, 0));
    expect(deleted_twice, 0, "Deleted content");
    CHECK(access(in_control("deleted"), F_OK) == -1 && errno == ENOENT, "the deleted file is back");
    MUST(fstat(deleted, &after));
    CHECK(after.st_nlink == 0 && (after.st_mode & 0777) == 0604, "deleted: %lu links, mode %o",
          (unsigned long)after.st_nlink, after.st_mode);
    MUST(fstat(deleted_empty, &after));
    CHECK(after.st_nlink == 0 && after.st_size == 0, "deleted and empty");
    expect(renamed, 0, "renamed content");
    snprintf(path, sizeof path, "/proc/self/fd/%d", renamed);
    memset(link_text, 0, sizeof link_text);
    MUST(readlink(path, link_text, sizeof link_text - 1));
    CHECK(!strcmp(link_text, in_control("new")), "the renamed file is %s", link_text);
    CHECK(write(twice, "!", 1) == 1, "write");
    CHECK(read(twice_read_only, path, 10) == 4 && !memcmp(path, "ice!", 4), "two openings of one file");
    CHECK(write(twice_read_only, "x", 1) == -1 && errno == EBADF, "read-only can be written");
    CHECK(fcntl(path_only, F_GETFL) & O_PATH, "O_PATH");
    CHECK(read(path_only, path, 1) == -1 && errno == EBADF, "O_PATH can be read");
    CHECK(fcntl(synced, F_GETFL) & O_DSYNC, "O_DSYNC");
    MUST(fstat(empty, &after));
    CHECK(after.st_size == 0, "empty");
    expect(sparse, 1 << 29, "middle");
    MUST(fstat(sparse, &after));
    CHECK(after.st_size == 1 << 30, "sparse size %ld", (long)after.st_size);
    CHECK(open(in_control("plain"), O_RDONLY) < 300, "free descriptor numbers");
    pass();
}
