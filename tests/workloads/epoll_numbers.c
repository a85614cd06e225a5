/* epoll entries whose number is closed or stands for another file, fired one-shots, seen edges. */
#include "workload.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>

#ifndef EPOLLEXCLUSIVE
#define EPOLLEXCLUSIVE (1u << 28)
#endif

static void add(int epoll, int fd, uint32_t events, uint64_t data)
{
    struct epoll_event event = {.events = events, .data.u64 = data};
    MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
}

static int one(int epoll, uint64_t *data)
{
    struct epoll_event event = {0};
    int count = (int)MUST(epoll_wait(epoll, &event, 1, 0));
    *data = event.data.u64;
    return count;
}

int main(int argc, char **argv)
{
    uint64_t data;
    eventfd_t value;
    int ends[2];
    begin(argc, argv);
    int set = (int)MUST(epoll_create1(0)), edges = (int)MUST(epoll_create1(0));
    int kept = (int)MUST(eventfd(0, EFD_NONBLOCK)), reused = (int)MUST(eventfd(0, EFD_NONBLOCK));
    int twice = (int)MUST(eventfd(0, EFD_NONBLOCK)), exclusive = (int)MUST(eventfd(0, 0));
    int fired = (int)MUST(eventfd(1, 0)), seen = (int)MUST(eventfd(1, 0));
    int closed = (int)MUST(fcntl(kept, F_DUPFD, 100));
    add(set, closed, EPOLLIN, 1);
    close(closed);
    int number = (int)MUST(fcntl(reused, F_DUPFD, 200));
    add(set, number, EPOLLIN, 2);
    MUST(dup2(twice, number)); /* the old file lives on as `reused` */
    add(set, number, EPOLLIN, 3);
    add(set, exclusive, EPOLLIN | EPOLLEXCLUSIVE | EPOLLET, 4);
    add(edges, fired, EPOLLIN | EPOLLONESHOT, 5);
    MUST(pipe(ends));
    add(edges, seen, EPOLLIN | EPOLLET, 6);
    add(edges, ends[0], EPOLLIN | EPOLLET | EPOLLONESHOT, 7);
    CHECK(write(ends[1], "x", 1) == 1, "write");
    int inner = (int)MUST(epoll_create1(0)), outer = (int)MUST(epoll_create1(0));
    add(outer, inner, EPOLLIN | EPOLLET, 8);
    add(inner, seen, EPOLLIN | EPOLLET, 9);
    while (one(edges, &data) || one(inner, &data) || one(outer, &data))
        ;
    ready_then_go();
    CHECK(one(set, &data) == 0, "at first: %lu", (unsigned long)data);
    CHECK(one(edges, &data) == 0, "an edge came twice: %lu", (unsigned long)data);
    CHECK(one(outer, &data) == 0 && one(inner, &data) == 0, "nested: %lu", (unsigned long)data);
    MUST(eventfd_write(kept, 1));
    CHECK(one(set, &data) == 1 && data == 1, "closed number: %lu", (unsigned long)data);
    MUST(eventfd_read(kept, &value));
    MUST(eventfd_write(reused, 1));
    CHECK(one(set, &data) == 1 && data == 2, "old file of a number: %lu", (unsigned long)data);
    MUST(eventfd_read(reused, &value));
    MUST(eventfd_write(twice, 1));
    CHECK(one(set, &data) == 1 && data == 3, "new file of a number: %lu", (unsigned long)data);
    MUST(epoll_ctl(set, EPOLL_CTL_DEL, number, NULL));
    MUST(eventfd_write(exclusive, 1));
    CHECK(one(set, &data) == 1 && data == 4 && one(set, &data) == 0, "exclusive: %lu", (unsigned long)data);
    struct epoll_event event = {.events = EPOLLIN};
    CHECK(epoll_ctl(set, EPOLL_CTL_MOD, exclusive, &event) == -1 && errno == EINVAL, "not exclusive");
    MUST(eventfd_write(fired, 1));
    CHECK(write(ends[1], "y", 1) == 1, "write");
    CHECK(one(edges, &data) == 0, "fired twice: %lu", (unsigned long)data);
    MUST(eventfd_write(seen, 1));
    CHECK(one(edges, &data) == 1 && data == 6, "the next edge: %lu", (unsigned long)data);
    CHECK(one(outer, &data) == 1 && data == 8 && one(inner, &data) == 1 && data == 9, "the next, nested");
    pass();
}
