/* eventfd: counters, semaphores, flags, and one shared by two processes with a blocked reader. */
#include "workload.h"
#include <sys/eventfd.h>

int main(int argc, char **argv)
{
    uint64_t value;
    begin(argc, argv);
    int counter = (int)MUST(eventfd(0, EFD_NONBLOCK)), semaphore = (int)MUST(eventfd(3, EFD_SEMAPHORE));
    int huge = (int)MUST(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)), shared = (int)MUST(eventfd(0, 0));
    MUST(eventfd_write(counter, 123456));
    MUST(eventfd_write(huge, 0xfffffffffffffffe)); /* the largest there is */
    pid_t child = (pid_t)MUST(fork());
    if (child == 0) {
        mark("child");
        CHECK(read(shared, &value, 8) == 8 && value == 42, "the blocked reader got %lu", value);
        _exit(0);
    }
    await("child");
    ready_then_go();
    MUST(eventfd_write(shared, 42));
    reap(child);
    CHECK(read(counter, &value, 8) == 8 && value == 123456, "counter %lu", value);
    CHECK(read(counter, &value, 8) == -1 && errno == EAGAIN, "non-blocking");
    for (int i = 0; i < 3; i++)
        CHECK(read(semaphore, &value, 8) == 8 && value == 1, "semaphore %lu", value);
    CHECK(fcntl(semaphore, F_SETFL, O_NONBLOCK) == 0, "fcntl");
    CHECK(read(semaphore, &value, 8) == -1 && errno == EAGAIN, "semaphore has a fourth");
    value = 1;
    CHECK(write(huge, &value, 8) == -1 && errno == EAGAIN, "the full counter took one more");
    CHECK(read(huge, &value, 8) == 8 && value == 0xfffffffffffffffe, "huge %lx", value);
    CHECK(fcntl(huge, F_GETFD) & FD_CLOEXEC, "close-on-exec");
    pass();
}
