/* POSIX timers: ids with gaps, clocks, values, remaining times, intervals, overruns. */
#include "workload.h"
#include <pthread.h>
#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

static sigset_t all;

static timer_t make(clockid_t clock, int signal, int value, pid_t thread)
{
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = signal};
    timer_t id;
    event.sigev_value.sival_int = value;
    if (thread) {
        event.sigev_notify = SIGEV_THREAD_ID;
        event.sigev_notify_thread_id = thread;
    }
    if (!signal)
        event.sigev_notify = SIGEV_NONE;
    MUST(timer_create(clock, &event, &id));
    return id;
}

static void arm(timer_t id, double first, double interval)
{
    struct itimerspec spec = {
        {(time_t)interval, (long)((interval - (double)(time_t)interval) * 1e9)},
        {(time_t)first, (long)((first - (double)(time_t)first) * 1e9)}};
    MUST(timer_settime(id, 0, &spec, NULL));
}

static double remaining(timer_t id, double *interval)
{
    struct itimerspec spec;
    MUST(timer_gettime(id, &spec));
    if (interval)
        *interval = (double)spec.it_interval.tv_sec + (double)spec.it_interval.tv_nsec / 1e9;
    return (double)spec.it_value.tv_sec + (double)spec.it_value.tv_nsec / 1e9;
}

static void *run(void *argument)
{
    siginfo_t info;
    sigset_t own;
    *(pid_t *)argument = gettid_raw();
    sigemptyset(&own);
    sigaddset(&own, SIGRTMIN + 4);
    mark("thread");
    await("go");
    struct timespec limit = {.tv_sec = 10};
    int got = sigtimedwait(&own, &info, &limit);
    CHECK(got == SIGRTMIN + 4 && info.si_value.sival_int == 44, "thread got %d, value %d", got,
          info.si_value.sival_int);
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    pid_t tid = 0;
    siginfo_t info;
    double interval;
    begin(argc, argv);
    sigemptyset(&all);
    for (int i = 0; i < 5; i++)
        sigaddset(&all, SIGRTMIN + i);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    pthread_create(&thread, NULL, run, &tid);
    sigdelset(&all, SIGRTMIN + 4); /* that one is the thread's to wait for */
    await("thread");

    timer_t deleted = make(CLOCK_MONOTONIC, SIGRTMIN, 0, 0);
    timer_t far = make(CLOCK_MONOTONIC, SIGRTMIN, 11, 0);
    timer_t gap = make(CLOCK_MONOTONIC, SIGRTMIN, 0, 0), idle = make(CLOCK_BOOTTIME, SIGRTMIN + 1, 22, 0);
    timer_t periodic = make(CLOCK_MONOTONIC, SIGRTMIN + 2, 33, 0);
    timer_t real = make(CLOCK_REALTIME, SIGRTMIN + 3, 55, 0), silent = make(CLOCK_MONOTONIC, 0, 0, 0);
    timer_t cpu = make(CLOCK_PROCESS_CPUTIME_ID, SIGRTMIN + 3, 66, 0);
    timer_t for_thread = make(CLOCK_MONOTONIC, SIGRTMIN + 4, 44, tid);
    timer_delete(deleted);
    timer_delete(gap);
    double start = seconds(CLOCK_MONOTONIC);
    arm(far, 1000, 3.25);
    arm(periodic, 0.02, 0.02); /* overruns pile up while the signal is pending */
    arm(real, 3000, 0);
    arm(cpu, 100, 0);
    arm(silent, 500, 0.5);
    while (seconds(CLOCK_MONOTONIC) - start < 0.1)
        nap();
    ready_then_go();

    double ran = seconds(CLOCK_MONOTONIC) - start, left = remaining(far, &interval);
    CHECK(left > 999.5 - ran && left < 1000.5 - ran, "ran %f s, remaining %f", ran, left);
    CHECK(interval == 3.25, "interval %f", interval);
    CHECK(remaining(idle, NULL) == 0, "the idle timer runs");
    left = remaining(silent, &interval);
    CHECK(left > 499.5 - ran && left < 500.5 - ran && interval == 0.5, "silent: %f %f", left, interval);
    left = remaining(real, NULL);
    CHECK(left > 2900 && left < 3000.5, "real-time timer remaining %f", left);
    left = remaining(cpu, NULL);
    CHECK(left > 50 && left < 100.5, "CPU timer remaining %f", left);
    for (int i = 0; i < 3; i++) {
        CHECK(sigwaitinfo(&all, &info) == SIGRTMIN + 2, "signal %d", info.si_signo);
        CHECK(info.si_code == SI_TIMER && info.si_value.sival_int == 33, "code %d value %d",
              info.si_code, info.si_value.sival_int);
    }
    timer_delete(periodic);
    while (sigtimedwait(&all, &info, &(struct timespec){0}) > 0)
        CHECK(info.si_signo == SIGRTMIN + 2, "stray signal %d", info.si_signo);
    arm(idle, 0.01, 0);
    CHECK(sigwaitinfo(&all, &info) == SIGRTMIN + 1 && info.si_value.sival_int == 22, "idle timer");
    arm(far, 0.01, 0);
    CHECK(sigwaitinfo(&all, &info) == SIGRTMIN && info.si_value.sival_int == 11, "far timer");
    arm(for_thread, 0.01, 0);
    pthread_join(thread, NULL);
    timer_t fresh = make(CLOCK_MONOTONIC, SIGRTMIN, 1, 0);
    CHECK(fresh != far && fresh != idle && fresh != real, "a new timer got an old id");
    pass();
}
