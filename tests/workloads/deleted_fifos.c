/* Named pipes whose name is gone or stands for another one, and readers that never had a writer. */
#include "workload.h"
#include <poll.h>

static int hang_up(int fd)
{
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
    MUST(poll(&poll_fd, 1, 0));
    return poll_fd.revents & POLLHUP;
}

int main(int argc, char **argv)
{
    char found[16] = "";
    struct stat status;
    begin(argc, argv);
    MUST(mkfifo(in_control("deleted"), 0640));
    int deleted = (int)MUST(open(in_control("deleted"), O_RDWR));
    CHECK(write(deleted, "nameless", 8) == 8, "write");
    MUST(unlink(in_control("deleted")));
    MUST(mkfifo(in_control("replaced"), 0600));
    int before = (int)MUST(open(in_control("replaced"), O_RDWR)), reader;
    MUST(rename(in_control("replaced"), in_control("moved")));
    MUST(mkfifo(in_control("replaced"), 0600));
    int after = (int)MUST(open(in_control("replaced"), O_RDWR));
    CHECK(write(before, "before", 6) == 6 && write(after, "after", 5) == 5, "write");
    MUST(mkfifo(in_control("lonely"), 0600));
    int lonely = (int)MUST(open(in_control("lonely"), O_RDONLY | O_NONBLOCK));
    MUST(mkfifo(in_control("left"), 0600));
    int left = (int)MUST(open(in_control("left"), O_RDONLY | O_NONBLOCK));
    close((int)MUST(open(in_control("left"), O_WRONLY)));
    CHECK(!hang_up(lonely) && hang_up(left), "before");
    MUST(mkdir(in_control("gone"), 0700));
    MUST(mkfifo(in_control("gone/fifo"), 0600));
    int buried = (int)MUST(open(in_control("gone/fifo"), O_RDWR));
    MUST(unlink(in_control("gone/fifo")));
    MUST(rmdir(in_control("gone")));
    ready_then_go();
    CHECK(read(deleted, found, 16) == 8 && !memcmp(found, "nameless", 8), "content: %s", found);
    MUST(fstat(deleted, &status));
    CHECK(status.st_nlink == 0 && (status.st_mode & 0777) == 0640, "mode %o", status.st_mode);
    CHECK(access(in_control("deleted"), F_OK) == -1, "the name is back");
    reader = (int)MUST(open(in_control("moved"), O_RDONLY | O_NONBLOCK));
    CHECK(read(reader, found, 16) == 6 && !memcmp(found, "before", 6), "moved: %s", found);
    close(reader);
    reader = (int)MUST(open(in_control("replaced"), O_RDONLY | O_NONBLOCK));
    CHECK(read(reader, found, 16) == 5 && !memcmp(found, "after", 5), "replaced: %s", found);
    CHECK(!hang_up(lonely), "the lonely reader has seen somebody");
    CHECK(hang_up(left), "the left one has not");
    CHECK(read(lonely, found, 16) == 0, "somebody writes");
    int writer = (int)MUST(open(in_control("lonely"), O_WRONLY));
    CHECK(write(writer, "hello", 5) == 5 && read(lonely, found, 16) == 5, "hello");
    CHECK(write(buried, "still", 5) == 5 && read(buried, found, 16) == 5, "buried");
    pass();
}
