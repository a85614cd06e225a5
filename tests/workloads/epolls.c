/* epoll: data, edge and level triggers, one-shot, nested instances, and a blocked waiter. */
#include "workload.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>

static void add(int epoll, int fd, uint32_t events, uint64_t data)
{
    struct epoll_event event = {.events = events, .data.u64 = data};
    MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
}

static int wait_for(int epoll, struct epoll_event *events)
{
    return (int)MUST(epoll_wait(epoll, events, 8, 0));
}

int main(int argc, char **argv)
{
    struct epoll_event events[8];
    int pipes[2];
    begin(argc, argv);
    int outer = (int)MUST(epoll_create1(EPOLL_CLOEXEC)), inner = (int)MUST(epoll_create1(0));
    int level = (int)MUST(eventfd(1, 0)), edge = (int)MUST(eventfd(1, 0)), once = (int)MUST(eventfd(1, 0));
    int nested = (int)MUST(eventfd(0, 0)), waited = (int)MUST(eventfd(0, 0));
    MUST(pipe(pipes));
    add(outer, level, EPOLLIN, 0x1111111122222222);
    add(outer, edge, EPOLLIN | EPOLLET, 2);
    add(outer, once, EPOLLIN | EPOLLONESHOT, 3);
    add(outer, inner, EPOLLIN, 4);
    add(outer, pipes[0], EPOLLIN | EPOLLRDHUP, 5);
    add(inner, nested, EPOLLIN, 6);
    CHECK(wait_for(outer, events) == 3, "three events at first");
    CHECK(wait_for(outer, events) == 1 && events[0].data.u64 == 0x1111111122222222, "the level one");
    pid_t child = (pid_t)MUST(fork());
    if (child == 0) {
        int own = (int)MUST(epoll_create1(0));
        add(own, waited, EPOLLIN, 99);
        mark("child");
        int count = epoll_wait(own, events, 8, -1);
        CHECK(count == 1 && events[0].data.u64 == 99, "the blocked waiter got %d", count);
        _exit(0);
    }
    await("child");
    ready_then_go();

    MUST(eventfd_write(waited, 1));
    reap(child);
    /* An edge that was seen may be seen once more after a restore, as after a re-add; not twice. */
    int count = wait_for(outer, events);
    CHECK(count == 1 || count == 2, "%d events", count);
    CHECK(wait_for(outer, events) == 1 && events[0].data.u64 == 0x1111111122222222, "level data %lx",
          (unsigned long)events[0].data.u64);
    eventfd_t value;
    MUST(eventfd_read(level, &value));
    CHECK(wait_for(outer, events) == 0, "nothing is left");
    MUST(eventfd_write(edge, 1));
    CHECK(wait_for(outer, events) == 1 && events[0].data.u64 == 2, "edge");
    CHECK(wait_for(outer, events) == 0, "the edge came twice");
    MUST(eventfd_write(once, 1));
    CHECK(wait_for(outer, events) == 0, "the one-shot came again");
    struct epoll_event again = {.events = EPOLLIN | EPOLLONESHOT, .data.u64 = 33};
    MUST(epoll_ctl(outer, EPOLL_CTL_MOD, once, &again));
    CHECK(wait_for(outer, events) == 1 && events[0].data.u64 == 33, "re-armed one-shot");
    MUST(eventfd_write(nested, 1));
    CHECK(wait_for(outer, events) == 1 && events[0].data.u64 == 4, "nested, outer");
    CHECK(wait_for(inner, events) == 1 && events[0].data.u64 == 6, "nested, inner");
    MUST(eventfd_read(nested, &value));
    close(pipes[1]);
    CHECK(wait_for(outer, events) == 1 && events[0].data.u64 == 5 && events[0].events & EPOLLHUP,
          "hang-up of the pipe: %#x", events[0].events);
    CHECK(fcntl(outer, F_GETFD) & FD_CLOEXEC, "close-on-exec");
    pass();
}
