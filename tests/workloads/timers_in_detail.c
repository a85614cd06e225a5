/* Timers beyond the plain ones: whose signal is pending, which thread it is for, whose clock it is,
 * absolute ones of the wall clock, blocked readers. */
#include "workload.h"
#include <pthread.h>
#include <sys/timerfd.h>
#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

enum { PERIOD_MS = 20 };
static const struct timespec at_once;
static volatile int taken_by_other;
static int blocked_fd;

static void on_signal(int signal)
{
    (void)signal;
    taken_by_other = 1;
}

/* Would take any signal for the process, and burns some time of its own clock. */
static void *other_thread(void *result)
{
    timer_t timer;
    struct sigevent none = {.sigev_notify = SIGEV_NONE};
    while (seconds(CLOCK_THREAD_CPUTIME_ID) < 0.05)
        ;
    MUST(timer_create(CLOCK_THREAD_CPUTIME_ID, &none, &timer));
    mark("other");
    await("go");
    *(timer_t volatile *)result = timer;
    await("main-done");
    return NULL;
}

static void *reader(void *unused)
{
    uint64_t ticks;
    mark("reader");
    CHECK(read(blocked_fd, &ticks, 8) == 8 && ticks == 1, "a blocked read of a timer");
    return unused;
}

/* Sets a timer for itself, and ends. */
static void *mortal(void *made)
{
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN + 2};
    event.sigev_notify_thread_id = gettid_raw();
    MUST(timer_create(CLOCK_MONOTONIC, &event, made));
    struct itimerspec spec = {{1000, 0}, {2000, 0}};
    MUST(timer_settime(*(timer_t *)made, 0, &spec, NULL));
    return NULL;
}

static void settime_flags(int fd, char *found, size_t size)
{
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    int info = (int)MUST(open(path, O_RDONLY));
    ssize_t length = MUST(read(info, text, sizeof text - 1));
    close(info);
    text[length] = 0;
    char *line = strstr(text, "settime flags:");
    CHECK(line, "%s", text);
    line[strcspn(line, "\n")] = 0;
    snprintf(found, size, "%s", line);
}

int main(int argc, char **argv)
{
    pthread_t other, waiting;
    timer_t volatile made_by_other = (timer_t)-1;
    timer_t mine, pending, once;
    sigset_t set;
    siginfo_t info;
    char before[64], after[64];
    begin(argc, argv);
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigaction(SIGUSR1, &action, NULL);
    pthread_create(&other, NULL, other_thread, (void *)&made_by_other);
    await("other");
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGRTMIN);
    sigaddset(&set, SIGRTMIN + 1);
    pthread_sigmask(SIG_BLOCK, &set, NULL);

    /* For this thread, which is the first of the process, and for no other. */
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR1};
    event.sigev_notify_thread_id = gettid_raw();
    MUST(timer_create(CLOCK_MONOTONIC, &event, &mine));
    struct itimerspec spec = {{0, 0}, {0, PERIOD_MS * 1000000}};
    event = (struct sigevent){.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN};
    event.sigev_notify_thread_id = gettid_raw();
    event.sigev_value.sival_int = 31;
    MUST(timer_create(CLOCK_MONOTONIC, &event, &pending));
    spec.it_interval = spec.it_value;
    double armed = seconds(CLOCK_MONOTONIC);
    MUST(timer_settime(pending, 0, &spec, NULL));
    event.sigev_signo = SIGRTMIN + 1;
    event.sigev_value.sival_int = 41;
    MUST(timer_create(CLOCK_BOOTTIME, &event, &once));
    spec = (struct itimerspec){{0, 0}, {0, 1}};
    MUST(timer_settime(once, 0, &spec, NULL));

    int wall = (int)MUST(timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK));
    struct itimerspec tomorrow = {.it_value.tv_sec = time(NULL) + 86400};
    MUST(timerfd_settime(wall, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &tomorrow, NULL));
    settime_flags(wall, before, sizeof before);
    blocked_fd = (int)MUST(timerfd_create(CLOCK_MONOTONIC, 0));
    struct itimerspec soon = {.it_value.tv_sec = 2};
    double reading = seconds(CLOCK_MONOTONIC);
    MUST(timerfd_settime(blocked_fd, 0, &soon, NULL));
    pthread_create(&waiting, NULL, reader, NULL);
    await("reader");
    while (seconds(CLOCK_MONOTONIC) < armed + 0.1)
        nap();
    pthread_t dying;
    timer_t of_the_dead;
    pthread_create(&dying, NULL, mortal, &of_the_dead);
    pthread_join(dying, NULL);
    ready_then_go();

    CHECK(sigtimedwait(&set, &info, &at_once) == SIGRTMIN, "the periodic timer's signal");
    double ran = seconds(CLOCK_MONOTONIC) - armed;
    CHECK(info.si_code == SI_TIMER && info.si_value.sival_int == 31, "code %d", info.si_code);
    CHECK(info.si_overrun >= 0 && info.si_overrun <= ran * 1000 / PERIOD_MS + 1,
          "%d overruns in %f s", info.si_overrun, ran);
    CHECK(info.si_overrun == timer_getoverrun(pending), "%d overruns, and %d", info.si_overrun,
          timer_getoverrun(pending));
    CHECK(sigtimedwait(&set, &info, &at_once) == SIGRTMIN + 1, "the signal of the one that is over");
    CHECK(info.si_code == SI_TIMER && info.si_value.sival_int == 41, "code %d", info.si_code);
    spec = (struct itimerspec){{0, 0}, {0, 0}};
    MUST(timer_settime(pending, 0, &spec, NULL));
    while (sigtimedwait(&set, &info, &at_once) == SIGRTMIN)
        ;
    spec = (struct itimerspec){{0, 0}, {0, 1000000}};
    MUST(timer_settime(mine, 0, &spec, NULL));
    struct timespec limit = {.tv_sec = 20};
    CHECK(sigtimedwait(&set, &info, &limit) == SIGUSR1 && !taken_by_other, "for another thread");

    spec = (struct itimerspec){{0, 0}, {1000, 0}};
    while (made_by_other == (timer_t)-1)
        nap();
    MUST(timer_settime(made_by_other, 0, &spec, NULL));
    MUST(timer_gettime(made_by_other, &spec));
    CHECK(spec.it_value.tv_sec >= 999, "a thread's clock");
    settime_flags(wall, after, sizeof after);
    CHECK(!strcmp(before, after), "%s, now %s", before, after);
    struct itimerspec left;
    MUST(timerfd_gettime(wall, &left));
    double off = (double)tomorrow.it_value.tv_sec - seconds(CLOCK_REALTIME);
    off -= (double)left.it_value.tv_sec + (double)left.it_value.tv_nsec / 1e9;
    CHECK(off > -0.05 && off < 0.05, "an absolute timer is off by %f s", off);
    pthread_join(waiting, NULL);
    CHECK(seconds(CLOCK_MONOTONIC) - reading >= 2, "the blocked reader came back too early");
    struct itimerspec dead;
    MUST(timer_gettime(of_the_dead, &dead));
    CHECK(dead.it_value.tv_sec > 1900 && dead.it_interval.tv_sec == 1000, "a dead thread's timer");
    mark("main-done");
    pthread_join(other, NULL);
    pass();
}
