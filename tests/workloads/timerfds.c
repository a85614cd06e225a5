/* timerfd: one-shot, periodic, expired and unread, absolute, disarmed; remaining times. */
#include "workload.h"
#include <sys/timerfd.h>

static void set(int fd, double first, double interval, int flags)
{
    struct itimerspec spec = {
        {(time_t)interval, (long)((interval - (double)(time_t)interval) * 1e9)},
        {(time_t)first, (long)((first - (double)(time_t)first) * 1e9)}};
    MUST(timerfd_settime(fd, flags, &spec, NULL));
}

static double get(int fd, double *interval)
{
    struct itimerspec spec;
    MUST(timerfd_gettime(fd, &spec));
    if (interval)
        *interval = (double)spec.it_interval.tv_sec + (double)spec.it_interval.tv_nsec / 1e9;
    return (double)spec.it_value.tv_sec + (double)spec.it_value.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
    uint64_t ticks;
    double interval;
    begin(argc, argv);
    int far = (int)MUST(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
    int periodic = (int)MUST(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
    int expired = (int)MUST(timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK));
    int absolute = (int)MUST(timerfd_create(CLOCK_MONOTONIC, 0));
    int idle = (int)MUST(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
    int real = (int)MUST(timerfd_create(CLOCK_REALTIME, 0));
    double start = seconds(CLOCK_MONOTONIC);
    set(far, 1000, 2.5, 0);
    set(periodic, 0.01, 0.01, 0);
    set(expired, 0.001, 0, 0);
    set(absolute, start + 500, 0, TFD_TIMER_ABSTIME);
    set(real, seconds(CLOCK_REALTIME) + 3000, 0, TFD_TIMER_ABSTIME);
    while (seconds(CLOCK_MONOTONIC) < start + 0.05)
        nap();
    ready_then_go();

    double ran = seconds(CLOCK_MONOTONIC) - start, left = get(far, &interval);
    CHECK(left > 999.5 - ran && left < 1000.5 - ran, "ran %f s, remaining %f", ran, left);
    CHECK(interval == 2.5, "interval %f", interval);
    left = get(absolute, NULL);
    CHECK(left > 499.5 - ran && left < 500.5 - ran, "absolute: ran %f s, remaining %f", ran, left);
    left = get(real, NULL);
    CHECK(left > 2900 && left < 3001, "real time: remaining %f", left);
    CHECK(read(expired, &ticks, 8) == 8 && ticks == 1, "expired before: %lu ticks", ticks);
    CHECK(read(expired, &ticks, 8) == -1 && errno == EAGAIN, "it expired twice");
    CHECK(read(periodic, &ticks, 8) == 8, "periodic");
    CHECK(ticks >= 5 && (double)ticks < ran / 0.01 + 10, "ran %f s, %lu ticks", ran, ticks);
    ran = seconds(CLOCK_MONOTONIC);
    for (int count = 0; count < 5; count += read(periodic, &ticks, 8) == 8 ? (int)ticks : 0)
        nap();
    CHECK(seconds(CLOCK_MONOTONIC) - ran > 0.03, "five periods of 10 ms in %f s",
          seconds(CLOCK_MONOTONIC) - ran);
    CHECK(get(idle, NULL) == 0 && read(idle, &ticks, 8) == -1 && errno == EAGAIN, "idle");
    set(far, 0.01, 0, 0);
    CHECK(read(far, &ticks, 8) == 8 && ticks == 1, "it does not fire");
    CHECK(fcntl(far, F_GETFD) & FD_CLOEXEC, "close-on-exec");
    pass();
}
