/* Interval timers: remaining time and interval, and they still fire. */
#include "workload.h"
#include <sys/time.h>

static volatile int alarms, virtuals;
static void on_alarm(int signal)
{
    if (signal == SIGALRM)
        alarms++;
    else
        virtuals++;
}

static double to_seconds(struct timeval value)
{
    return (double)value.tv_sec + (double)value.tv_usec / 1e6;
}

int main(int argc, char **argv)
{
    struct itimerval now;
    begin(argc, argv);
    sigaction(SIGALRM, &(struct sigaction){.sa_handler = on_alarm, .sa_flags = SA_RESTART}, NULL);
    sigaction(SIGVTALRM, &(struct sigaction){.sa_handler = on_alarm, .sa_flags = SA_RESTART}, NULL);

    pid_t ticking = (pid_t)MUST(fork());
    if (ticking == 0) {
        struct itimerval fast = {{.tv_usec = 20000}, {.tv_usec = 20000}};
        MUST(setitimer(ITIMER_REAL, &fast, NULL));
        while (alarms < 3)
            pause();
        mark("ticking");
        await("go");
        int before = alarms;
        while (alarms < before + 10)
            pause();
        MUST(getitimer(ITIMER_REAL, &now));
        CHECK(now.it_interval.tv_usec == 20000, "interval %ld", (long)now.it_interval.tv_usec);
        _exit(0);
    }

    struct itimerval far = {{.tv_sec = 100}, {.tv_sec = 1000}};
    struct itimerval cpu = {{.tv_sec = 7}, {.tv_sec = 500}}, prof = {{.tv_sec = 8}, {.tv_sec = 600}};
    double start = seconds(CLOCK_MONOTONIC);
    MUST(setitimer(ITIMER_REAL, &far, NULL));
    MUST(setitimer(ITIMER_VIRTUAL, &cpu, NULL));
    MUST(setitimer(ITIMER_PROF, &prof, NULL));
    await("ticking");
    ready_then_go();
    double ran = seconds(CLOCK_MONOTONIC) - start;
    MUST(getitimer(ITIMER_REAL, &now));
    double remaining = to_seconds(now.it_value);
    CHECK(remaining > 999.5 - ran && remaining < 1000.5 - ran, "ran %f s, remaining %f", ran, remaining);
    CHECK(now.it_interval.tv_sec == 100, "interval %ld", (long)now.it_interval.tv_sec);
    MUST(getitimer(ITIMER_VIRTUAL, &now));
    remaining = to_seconds(now.it_value);
    CHECK(remaining > 490 && remaining < 500.1, "virtual timer remaining %f", remaining);
    CHECK(now.it_interval.tv_sec == 7, "virtual interval %ld", (long)now.it_interval.tv_sec);
    MUST(getitimer(ITIMER_PROF, &now));
    remaining = to_seconds(now.it_value);
    CHECK(remaining > 590 && remaining < 600.1, "profiling timer remaining %f", remaining);
    CHECK(now.it_interval.tv_sec == 8, "profiling interval %ld", (long)now.it_interval.tv_sec);
    reap(ticking);

    struct itimerval soon = {.it_value = {.tv_usec = 30000}};
    MUST(setitimer(ITIMER_REAL, &soon, NULL));
    while (!alarms)
        nap();
    soon.it_value.tv_usec = 30000;
    MUST(setitimer(ITIMER_VIRTUAL, &soon, NULL));
    while (!virtuals)
        ;
    pass();
}
