/* A signalfd in an epoll set: the signal wakes whoever waits, in parent and child. */
#include "workload.h"

#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

static int set, events_of;

static void watch(int sig)
{
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, sig);
    MUST(sigprocmask(SIG_BLOCK, &mask, NULL));
    events_of = (int)MUST(signalfd(-1, &mask, SFD_NONBLOCK));
    set = (int)MUST(epoll_create1(0));
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)sig};
    MUST(epoll_ctl(set, EPOLL_CTL_ADD, events_of, &event));
}

static void expect(int sig)
{
    struct epoll_event event;
    struct signalfd_siginfo info;
    CHECK(epoll_wait(set, &event, 1, 20000) == 1, "signal %d wakes nobody", sig);
    CHECK(event.data.u32 == (uint32_t)sig, "data %u", event.data.u32);
    CHECK(read(events_of, &info, sizeof info) == sizeof info && (int)info.ssi_signo == sig, "read");
    CHECK(epoll_wait(set, &event, 1, 0) == 0, "more events");
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    pid_t child = (pid_t)MUST(fork());
    if (child == 0) {
        watch(SIGURG);
        mark("child");
        expect(SIGURG); /* it waits while it is frozen */
        expect(SIGURG);
        _exit(0);
    }
    await("child");
    watch(SIGUSR1);
    /* A second set, whose signalfd has lost the number it was added by. */
    int other = (int)MUST(epoll_create1(0));
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = 5};
    int number = (int)MUST(dup(events_of));
    MUST(epoll_ctl(other, EPOLL_CTL_ADD, number, &event));
    MUST(close(number));
    ready_then_go();
    kill(child, SIGURG);
    CHECK(epoll_wait(other, &event, 1, 0) == 0, "an event without a signal");
    kill(getpid(), SIGUSR1);
    CHECK(epoll_wait(other, &event, 1, 0) == 1 && event.data.u32 == 5, "by the lost number");
    expect(SIGUSR1);
    struct timespec moment = {0, 20000000};
    nanosleep(&moment, NULL);
    kill(child, SIGURG);
    reap(child);
    pass();
}
