/* inotify: files without a name, numbers that start high, one-shots; nothing of a restore shows. */
#include "workload.h"
#include <sys/inotify.h>
#include <sys/ioctl.h>

static char buffer[4096] __attribute__((aligned(8)));

static ssize_t length, at;

static void expect(int fd, int watch, uint32_t mask)
{
    if (at >= length) {
        length = read(fd, buffer, sizeof buffer);
        CHECK(length > 0, "no event %#x", mask);
        at = 0;
    }
    struct inotify_event *event = (struct inotify_event *)(void *)(buffer + at);
    at += (ssize_t)(sizeof *event + event->len);
    CHECK(event->wd == watch && event->mask == mask, "watch %d mask %#x, not %d %#x", event->wd,
          event->mask, watch, mask);
}

static void drain(int fd)
{
    while (read(fd, buffer, sizeof buffer) > 0)
        ;
    length = at = 0;
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    MUST(mkdir(in_control("dir"), 0755));
    int fd = (int)MUST(inotify_init1(IN_NONBLOCK)), one = 1000, wd = 0;
    for (int i = 0; i < 300; i++) {
        wd = (int)MUST(inotify_add_watch(fd, in_control("dir"), IN_ALL_EVENTS));
        MUST(inotify_rm_watch(fd, wd));
    }
    int high = (int)MUST(inotify_add_watch(fd, in_control("dir"), IN_ALL_EVENTS));
    CHECK(high > 300, "wd %d", high);
    int file = (int)MUST(open(in_control("dir/file"), O_RDWR | O_CREAT, 0600));
    int deleted = (int)MUST(inotify_add_watch(fd, in_control("dir/file"), IN_MODIFY | IN_CLOSE_WRITE));
    MUST(unlink(in_control("dir/file")));
    int kept = (int)MUST(open(in_control("dir/kept"), O_RDWR | O_CREAT, 0600));
    int once = (int)MUST(inotify_add_watch(fd, in_control("dir/kept"), IN_MODIFY | IN_ONESHOT));
    MUST(rename(in_control("dir/kept"), in_control("dir/renamed")));
    drain(fd);
    ready_then_go();
    MUST(ioctl(fd, 0x541B /* FIONREAD */, &one));
    CHECK(one == 0, "%d bytes of events", one);
    CHECK(write(file, "x", 1) == 1, "write");
    expect(fd, high, IN_MODIFY);
    expect(fd, deleted, IN_MODIFY);
    CHECK(write(kept, "x", 1) == 1, "write");
    expect(fd, high, IN_MODIFY);
    expect(fd, once, IN_MODIFY);
    expect(fd, once, IN_IGNORED);
    close(file);
    expect(fd, high, IN_CLOSE_WRITE);
    expect(fd, deleted, IN_CLOSE_WRITE);
    drain(fd);
    close(kept);
    expect(fd, high, IN_CLOSE_WRITE);
    pass();
}
