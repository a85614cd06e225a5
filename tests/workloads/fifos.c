/* Named pipes with content, opened in every way. */
#include "workload.h"

#include <poll.h>

static int events(int fd)
{
    struct pollfd look = {fd, POLLIN | POLLOUT, 0};
    MUST(poll(&look, 1, 0));
    return look.revents;
}

int main(int argc, char **argv)
{
    char found[64] = "";
    begin(argc, argv);
    MUST(mkfifo(in_control("both"), 0600));
    MUST(mkfifo(in_control("ends"), 0600));
    int both = (int)MUST(open(in_control("both"), O_RDWR | O_NONBLOCK));
    int reader = (int)MUST(open(in_control("ends"), O_RDONLY | O_NONBLOCK));
    int writer = (int)MUST(open(in_control("ends"), O_WRONLY | O_APPEND));
    CHECK(write(both, "content", 7) == 7 && write(writer, "more content", 12) == 12, "write");
    /* Readers whose writer has not come yet, and whose writer has gone. */
    MUST(mkfifo(in_control("waiting"), 0600));
    MUST(mkfifo(in_control("left"), 0600));
    int waiting = (int)MUST(open(in_control("waiting"), O_RDONLY | O_NONBLOCK));
    int left = (int)MUST(open(in_control("left"), O_RDONLY | O_NONBLOCK));
    close((int)MUST(open(in_control("left"), O_WRONLY)));
    int late = (int)MUST(open(in_control("left"), O_RDONLY | O_NONBLOCK));
    CHECK(!events(waiting) && !events(late) && events(left) == POLLHUP, "before");
    ready_then_go();
    CHECK(!events(waiting), "events of a reader without a writer: %#x", events(waiting));
    CHECK(!events(late), "events of a reader that came after the writer: %#x", events(late));
    CHECK(events(left) == POLLHUP, "events of a reader that was left: %#x", events(left));
    int first = (int)MUST(open(in_control("waiting"), O_WRONLY | O_NONBLOCK));
    CHECK(write(first, "first", 5) == 5 && events(waiting) == POLLIN, "the first writer");
    CHECK(read(waiting, found, 64) == 5 && !events(waiting), "from the first writer");
    close(first);
    CHECK(events(waiting) == POLLHUP, "the first writer has gone: %#x", events(waiting));
    CHECK(read(both, found, 64) == 7 && !memcmp(found, "content", 7), "both: %s", found);
    CHECK(read(both, found, 64) == -1 && errno == EAGAIN, "both has more");
    CHECK(read(reader, found, 64) == 12 && !memcmp(found, "more content", 12), "ends: %s", found);
    CHECK(fcntl(writer, F_GETFL) & O_APPEND, "flags of the writer");
    int another = (int)MUST(open(in_control("ends"), O_WRONLY | O_NONBLOCK));
    CHECK(write(another, "by name", 7) == 7, "write by name");
    CHECK(read(reader, found, 64) == 7 && !memcmp(found, "by name", 7), "by name: %s", found);
    close(another);
    close(writer);
    CHECK(read(reader, found, 64) == 0, "no end of file");
    pass();
}
