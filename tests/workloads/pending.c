/* Queued signals, with values and in order, for the process and for single threads. */
#include "workload.h"
#include <pthread.h>

static sigset_t all;

static void expect(int signal, int code, int value)
{
    siginfo_t info;
    struct timespec limit = {.tv_sec = 2};
    int got = sigtimedwait(&all, &info, &limit);
    CHECK(got == signal, "expected signal %d, got %d", signal, got);
    CHECK(info.si_code == code, "signal %d: code %d, expected %d", signal, info.si_code, code);
    CHECK(info.si_pid == getpid(), "signal %d is from %d", signal, info.si_pid);
    CHECK(info.si_uid == getuid(), "signal %d is from uid %u", signal, info.si_uid);
    if (code == SI_QUEUE)
        CHECK(info.si_value.sival_int == value, "signal %d: value %d, expected %d", signal,
              info.si_value.sival_int, value);
}

static void expect_none(void)
{
    struct timespec at_once = {0};
    int got = sigtimedwait(&all, NULL, &at_once);
    CHECK(got == -1 && errno == EAGAIN, "a further signal: %d", got);
}

static void *run(void *argument)
{
    (void)argument;
    for (int i = 0; i < 3; i++)
        CHECK(!pthread_sigqueue(pthread_self(), SIGRTMIN + 7, (union sigval){.sival_int = 50 + i}),
              "pthread_sigqueue");
    CHECK(!pthread_kill(pthread_self(), SIGUSR2), "pthread_kill");
    mark("thread");
    await("go");
    expect(SIGUSR2, SI_USER, 0); /* SI_TKILL, which the C library hides */
    for (int i = 0; i < 3; i++)
        expect(SIGRTMIN + 7, SI_QUEUE, 50 + i);
    mark("thread-done");
    await("main-done");
    expect_none();
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    begin(argc, argv);
    sigfillset(&all);
    sigdelset(&all, SIGALRM);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    pthread_create(&thread, NULL, run, NULL);
    await("thread");
    for (int i = 0; i < 20; i++)
        MUST(sigqueue(getpid(), SIGRTMIN + 3, (union sigval){.sival_int = 1000 - i}));
    MUST(sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_int = -7}));
    MUST(kill(getpid(), SIGUSR1));
    MUST(kill(getpid(), SIGTERM));
    MUST(sigqueue(getpid(), SIGHUP, (union sigval){.sival_int = 9}));
    ready_then_go();
    await("thread-done");
    expect(SIGHUP, SI_QUEUE, 9);
    expect(SIGUSR1, SI_USER, 0);
    expect(SIGTERM, SI_USER, 0);
    expect(SIGRTMIN + 1, SI_QUEUE, -7);
    for (int i = 0; i < 20; i++)
        expect(SIGRTMIN + 3, SI_QUEUE, 1000 - i);
    expect_none();
    mark("main-done");
    pthread_join(thread, NULL);
    pass();
}
