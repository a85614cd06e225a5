/* Clocks read through the vDSO all the time, also at the very moment of the freeze. */
#include "workload.h"
#include <pthread.h>
#include <sys/time.h>

static volatile bool stop;
static unsigned long reads[4];

static void *read_clock(void *argument)
{
    static const clockid_t clocks[] = {CLOCK_MONOTONIC, CLOCK_MONOTONIC_COARSE, CLOCK_BOOTTIME,
                                       CLOCK_MONOTONIC_RAW};
    long index = (long)argument;
    double last = seconds(clocks[index]), first = last;
    while (!stop || last == first) { /* a coarse clock moves with each tick only */
        double now = seconds(clocks[index]);
        CHECK(now >= last, "clock %d went back from %f to %f", clocks[index], last, now);
        CHECK(now - last < 60, "clock %d jumped from %f to %f", clocks[index], last, now);
        last = now;
        reads[index]++;
        time(NULL);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[4];
    begin(argc, argv);
    for (long i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, read_clock, (void *)i);
    ready_then_go();
    unsigned long before = reads[0];
    while (reads[0] < before + 1000)
        nap();
    stop = true;
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    struct timeval day;
    struct timespec through_kernel, through_vdso;
    gettimeofday(&day, NULL);
    CHECK(llabs((long long)day.tv_sec - time(NULL)) <= 1, "gettimeofday and time disagree");
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &through_kernel);
    clock_gettime(CLOCK_MONOTONIC, &through_vdso);
    double difference = (double)(through_vdso.tv_sec - through_kernel.tv_sec) +
                        (double)(through_vdso.tv_nsec - through_kernel.tv_nsec) / 1e9;
    CHECK(difference >= 0 && difference < 1, "vDSO and system call differ by %f s", difference);
    unsigned int cpu = 9999;
    CHECK(syscall(SYS_getcpu, &cpu, NULL, NULL) == 0 && sched_getcpu() >= 0, "getcpu");
    pass();
}
