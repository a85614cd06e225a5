/* inotify: watches keep their numbers, masks and files; what happens afterwards is reported. */
#include "workload.h"
#include <sys/inotify.h>

static char buffer[4096] __attribute__((aligned(8)));

static void expect(int fd, int watch, uint32_t mask, const char *name)
{
    static ssize_t length, at;
    if (at >= length) {
        length = read(fd, buffer, sizeof buffer);
        CHECK(length > 0, "no event for %s", name);
        at = 0;
    }
    struct inotify_event *event = (struct inotify_event *)(void *)(buffer + at);
    at += (ssize_t)(sizeof *event + event->len);
    CHECK(event->wd == watch, "%s: watch %d, expected %d", name, event->wd, watch);
    CHECK((event->mask & mask) == mask, "%s: mask %#x", name, event->mask);
    CHECK(!event->len || !strcmp(event->name, name), "name %s, expected %s", event->name, name);
}

static void touch(const char *name)
{
    close((int)MUST(open(in_control(name), O_CREAT | O_WRONLY, 0600)));
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    MUST(mkdir(in_control("a"), 0755));
    MUST(mkdir(in_control("b"), 0755));
    touch("file");
    int fd = (int)MUST(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
    int gone = (int)MUST(inotify_add_watch(fd, in_control("b"), IN_CREATE));
    int directory = (int)MUST(inotify_add_watch(fd, in_control("a"), IN_CREATE | IN_DELETE | IN_MOVED_TO));
    MUST(inotify_rm_watch(fd, gone));
    int file = (int)MUST(inotify_add_watch(fd, in_control("file"), IN_MODIFY | IN_ATTRIB));
    int quiet = (int)MUST(inotify_init1(0));
    while (read(fd, buffer, sizeof buffer) > 0)
        ; /* the removal of the first watch is an event */
    ready_then_go();
    CHECK(read(fd, buffer, sizeof buffer) == -1 && errno == EAGAIN, "an event out of nothing");
    touch("a/new");
    MUST(chmod(in_control("file"), 0640));
    touch("b/unwatched");
    MUST(rename(in_control("b/unwatched"), in_control("a/moved")));
    expect(fd, directory, IN_CREATE, "new");
    expect(fd, file, IN_ATTRIB, "file");
    expect(fd, directory, IN_MOVED_TO, "moved");
    CHECK(read(fd, buffer, sizeof buffer) == -1 && errno == EAGAIN, "more events");
    MUST(inotify_rm_watch(fd, file));
    CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC, "close-on-exec");
    int added = (int)MUST(inotify_add_watch(quiet, in_control("a"), IN_CREATE));
    touch("a/newer");
    struct inotify_event *event = (struct inotify_event *)(void *)buffer;
    CHECK(read(quiet, buffer, sizeof buffer) > 0 && event->wd == added, "the empty instance");
    pass();
}
