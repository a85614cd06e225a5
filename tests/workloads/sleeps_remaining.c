/* Sleeps of a relative length end when they would have ended: not earlier, and not later by the
 * time that had passed before a freeze. One thread in each call. */
#include "workload.h"
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/select.h>

enum { LENGTH_MS = 5000, BEFORE_MS = 2000, LATE_MS = 1500 };
static const struct timespec span = {LENGTH_MS / 1000, LENGTH_MS % 1000 * 1000000l};
static volatile int entered;
static double started;
static volatile double awake_after; /* seconds after the end of all sleeps in which we ran */
static uint32_t word, bitset_word;
static int empty[2];

static struct timespec until(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (struct timespec){now.tv_sec + span.tv_sec, now.tv_nsec};
}

static long sleeps_plainly(void)
{
    return nanosleep(&span, NULL);
}

static long sleeps_with_rest(void)
{
    struct timespec rest = {-7, 0};
    return nanosleep(&span, &rest);
}

static long sleeps_raw(void)
{
    return syscall(SYS_nanosleep, &span, NULL);
}

static long sleeps_on_boottime(void)
{
    return clock_nanosleep(CLOCK_BOOTTIME, 0, &span, NULL);
}

static long sleeps_on_tai(void)
{
    return clock_nanosleep(CLOCK_TAI, 0, &span, NULL);
}

static long sleeps_until(void)
{
    struct timespec end = until(CLOCK_MONOTONIC);
    return clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &end, NULL);
}

static long polls(void)
{
    struct pollfd wanted = {empty[0], POLLIN, 0};
    return poll(&wanted, 1, LENGTH_MS);
}

static long ppolls(void)
{
    struct pollfd wanted = {empty[0], POLLIN, 0};
    sigset_t none;
    sigemptyset(&none);
    return ppoll(&wanted, 1, &span, &none);
}

static long selects(void)
{
    struct timeval limit = {LENGTH_MS / 1000, LENGTH_MS % 1000 * 1000};
    return select(0, NULL, NULL, NULL, &limit);
}

static long pselects(void)
{
    return pselect(0, NULL, NULL, NULL, &span, NULL);
}

static long futex_waits(void)
{
    long result = syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &span, NULL, 0);
    return result == -1 && errno == ETIMEDOUT ? 0 : result;
}

static long futex_waits_until(void)
{
    struct timespec end = until(CLOCK_MONOTONIC);
    long result = syscall(SYS_futex, &bitset_word, FUTEX_WAIT_BITSET_PRIVATE, 0, &end, NULL, ~0u);
    return result == -1 && errno == ETIMEDOUT ? 0 : result;
}

static long condition_waits(void)
{
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
    struct timespec end = until(CLOCK_MONOTONIC);
    pthread_mutex_lock(&mutex);
    long result = pthread_cond_clockwait(&condition, &mutex, CLOCK_MONOTONIC, &end);
    return result == ETIMEDOUT ? 0 : result;
}

static const struct {
    const char *name;
    long (*run)(void);
} calls[] = {
    {"nanosleep", sleeps_plainly},
    {"nanosleep with a rest", sleeps_with_rest},
    {"bare nanosleep", sleeps_raw},
    {"clock_nanosleep on CLOCK_BOOTTIME", sleeps_on_boottime},
    {"clock_nanosleep on CLOCK_TAI", sleeps_on_tai},
    {"absolute clock_nanosleep", sleeps_until},
    {"poll", polls},
    {"ppoll", ppolls},
    {"select", selects},
    {"pselect", pselects},
    {"futex", futex_waits},
    {"absolute futex", futex_waits_until},
    {"pthread_cond_clockwait", condition_waits},
};
enum { CALLS = sizeof calls / sizeof *calls };

static void *run(void *argument)
{
    long index = (long)argument;
    double start = seconds(CLOCK_MONOTONIC);
    __sync_fetch_and_add(&entered, 1);
    long result = calls[index].run();
    double slept = seconds(CLOCK_MONOTONIC) - start;
    CHECK(result == 0, "%s returned %ld", calls[index].name, result);
    CHECK(slept >= LENGTH_MS / 1e3, "%s ended after %f s", calls[index].name, slept);
    CHECK(awake_after < LATE_MS / 1e3, "%s ended after %f s, %f s too late", calls[index].name, slept,
          awake_after);
    return NULL;
}

/* Time in which nothing can run, because a checkpoint is made, is nobody's fault. */
static void *watch(void *unused)
{
    double last = started, end = started + LENGTH_MS / 1e3;
    for (;;) {
        nap();
        double now = seconds(CLOCK_MONOTONIC);
        if (now > end)
            awake_after += now - last < 0.05 ? now - last : 0.05;
        last = now;
    }
    return unused;
}

int main(int argc, char **argv)
{
    pthread_t threads[CALLS], watcher;
    begin(argc, argv);
    MUST(pipe(empty));
    double start = started = seconds(CLOCK_MONOTONIC);
    pthread_create(&watcher, NULL, watch, NULL);
    for (long i = 0; i < CALLS; i++)
        pthread_create(&threads[i], NULL, run, (void *)i);
    while (entered < CALLS || seconds(CLOCK_MONOTONIC) < start + BEFORE_MS / 1e3)
        nap();
    ready_then_go();
    for (int i = 0; i < CALLS; i++)
        pthread_join(threads[i], NULL);
    pass();
}
