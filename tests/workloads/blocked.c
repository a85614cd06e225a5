/* One thread in each blocking system call at the freeze; none sees EINTR, none wakes too early. */
#include "workload.h"
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/un.h>

enum { SLEEP_MS = 1500 };
static volatile int entered;
static volatile bool released;
static int pipe_read[2], pipe_poll[2], pipe_select[2], pipe_ppoll[2], pair[2], event;
static uint32_t futex_word, futex_long;
static pid_t child;

static void enter(void)
{
    __sync_fetch_and_add(&entered, 1);
}

static void slept(const char *what, double start, long result)
{
    double ran = seconds(CLOCK_MONOTONIC) - start;
    CHECK(result == 0, "%s returned %ld", what, result);
    CHECK(ran >= SLEEP_MS / 1e3, "%s slept only %f s", what, ran);
}

static void relative_sleep(void)
{
    struct timespec span = {SLEEP_MS / 1000, SLEEP_MS % 1000 * 1000000};
    double start = seconds(CLOCK_MONOTONIC);
    slept("nanosleep", start, nanosleep(&span, NULL));
}

static void clock_sleep(void)
{
    struct timespec span = {SLEEP_MS / 1000, SLEEP_MS % 1000 * 1000000};
    double start = seconds(CLOCK_MONOTONIC);
    slept("clock_nanosleep", start, clock_nanosleep(CLOCK_BOOTTIME, 0, &span, NULL));
}

static void absolute_sleep(void)
{
    struct timespec until;
    double start = seconds(CLOCK_MONOTONIC);
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += SLEEP_MS / 1000;
    until.tv_nsec += SLEEP_MS % 1000 * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    slept("absolute sleep", start, clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL));
}

static void poll_timeout(void)
{
    double start = seconds(CLOCK_MONOTONIC);
    slept("poll", start, poll(NULL, 0, SLEEP_MS));
}

static void epoll_timeout(void)
{
    struct epoll_event found;
    int fd = epoll_create1(0);
    double start = seconds(CLOCK_MONOTONIC);
    slept("epoll_wait", start, epoll_wait(fd, &found, 1, SLEEP_MS));
}

static void select_timeout(void)
{
    struct timeval span = {SLEEP_MS / 1000, SLEEP_MS % 1000 * 1000};
    double start = seconds(CLOCK_MONOTONIC);
    slept("select", start, select(0, NULL, NULL, NULL, &span));
}

static void futex_timeout(void)
{
    struct timespec span = {SLEEP_MS / 1000, SLEEP_MS % 1000 * 1000000};
    double start = seconds(CLOCK_MONOTONIC);
    long result = syscall(SYS_futex, &futex_long, FUTEX_WAIT_PRIVATE, 0, &span);
    CHECK(result == -1 && errno == ETIMEDOUT, "futex with timeout returned %ld", result);
    slept("futex", start, 0);
}

static void read_pipe(void)
{
    char byte;
    CHECK(read(pipe_read[0], &byte, 1) == 1 && byte == 'r', "read");
}

static void poll_pipe(void)
{
    struct pollfd wanted = {pipe_poll[0], POLLIN, 0};
    int result = poll(&wanted, 1, -1);
    CHECK(result == 1 && wanted.revents == POLLIN, "poll returned %d", result);
}

static void ppoll_pipe(void)
{
    struct pollfd wanted = {pipe_ppoll[0], POLLIN, 0};
    struct timespec limit = {.tv_sec = 100};
    sigset_t mask;
    sigfillset(&mask);
    int result = ppoll(&wanted, 1, &limit, &mask);
    CHECK(result == 1 && wanted.revents == POLLIN, "ppoll returned %d", result);
}

static void select_pipe(void)
{
    fd_set set;
    FD_ZERO(&set);
    FD_SET(pipe_select[0], &set);
    int result = select(pipe_select[0] + 1, &set, NULL, NULL, NULL);
    CHECK(result == 1, "select returned %d", result);
}

static void epoll_forever(void)
{
    struct epoll_event wanted = {.events = EPOLLIN}, found;
    int fd = epoll_create1(0);
    MUST(epoll_ctl(fd, EPOLL_CTL_ADD, event, &wanted));
    int result = epoll_wait(fd, &found, 1, -1);
    CHECK(result == 1, "epoll_wait returned %d", result);
}

static void futex_forever(void)
{
    long result = syscall(SYS_futex, &futex_word, FUTEX_WAIT_PRIVATE, 0, NULL);
    CHECK(result == 0 || (result == -1 && errno == EAGAIN && futex_word), "futex returned %ld", result);
}

static void receive(void)
{
    char byte;
    CHECK(recv(pair[0], &byte, 1, 0) == 1 && byte == 's', "recv");
}

static void wait_child(void)
{
    int status;
    CHECK(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 3, "waitpid %#x", status);
}

static void (*const calls[])(void) = {
    relative_sleep, clock_sleep, absolute_sleep, poll_timeout, epoll_timeout, select_timeout,
    futex_timeout,  read_pipe,   poll_pipe,      ppoll_pipe,   select_pipe,   epoll_forever,
    futex_forever,  receive,     wait_child};

static void *run(void *argument)
{
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    enter();
    calls[(long)argument]();
    return NULL;
}

int main(int argc, char **argv)
{
    enum { CALLS = sizeof calls / sizeof *calls };
    pthread_t threads[CALLS];
    begin(argc, argv);
    MUST(pipe(pipe_read));
    MUST(pipe(pipe_poll));
    MUST(pipe(pipe_ppoll));
    MUST(pipe(pipe_select));
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    event = (int)MUST(eventfd(0, 0));
    child = (pid_t)MUST(fork());
    if (child == 0) {
        await("child-ends");
        _exit(3);
    }
    for (long i = 0; i < CALLS; i++)
        pthread_create(&threads[i], NULL, run, (void *)i);
    while (entered < CALLS)
        nap();
    for (int i = 0; i < 20; i++)
        nap(); /* entered, and now blocked */
    ready_then_go();
    for (int i = 0; i < 20; i++)
        nap(); /* a wrong early return would show before anything is released */
    mark("child-ends");
    CHECK(write(pipe_read[1], "r", 1) == 1 && write(pipe_poll[1], "p", 1) == 1, "write");
    CHECK(write(pipe_ppoll[1], "p", 1) == 1 && write(pipe_select[1], "s", 1) == 1, "write");
    CHECK(write(pair[1], "s", 1) == 1, "write");
    MUST(eventfd_write(event, 1));
    futex_word = 1;
    syscall(SYS_futex, &futex_word, FUTEX_WAKE_PRIVATE, 1);
    for (int i = 0; i < CALLS; i++)
        pthread_join(threads[i], NULL);
    pass();
}
