/* refused: inotify-queue
 * Events that an inotify instance had queued and nobody had read. */
#include "../workload.h"
#include <sys/inotify.h>

int main(int argc, char **argv)
{
    static char buffer[4096] __attribute__((aligned(8)));
    char name[16];
    begin(argc, argv);
    MUST(mkdir(in_control("a"), 0755));
    int fd = (int)MUST(inotify_init1(IN_NONBLOCK));
    int watch = (int)MUST(inotify_add_watch(fd, in_control("a"), IN_CREATE));
    for (int i = 0; i < 5; i++) {
        snprintf(name, sizeof name, "a/new-%d", i);
        close((int)MUST(open(in_control(name), O_CREAT | O_WRONLY, 0600)));
    }
    ready_then_go();
    ssize_t length = read(fd, buffer, sizeof buffer);
    CHECK(length > 0, "the queue is lost");
    int seen = 0;
    for (ssize_t at = 0; at < length; seen++) {
        struct inotify_event *event = (struct inotify_event *)(void *)(buffer + at);
        snprintf(name, sizeof name, "new-%d", seen);
        CHECK(event->wd == watch && event->mask == IN_CREATE && !strcmp(event->name, name),
              "event %d: watch %d mask %#x name %s", seen, event->wd, event->mask, event->name);
        at += (ssize_t)(sizeof *event + event->len);
    }
    CHECK(seen == 5, "%d events", seen);
    pass();
}
