/* What each thread has for itself: nice, affinity, policy, name, capabilities, parent of none. */
#include "workload.h"
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/resource.h>

static void *run(void *argument)
{
    long index = (long)argument;
    char name[16], found[16], ready[24];
    cpu_set_t set, got;
    CPU_ZERO(&set);
    CPU_SET((size_t)(index % 2 ? 0 : sched_getcpu()), &set);
    snprintf(name, sizeof name, "own-%ld", index);
    prctl(PR_SET_NAME, name);
    MUST(setpriority(PRIO_PROCESS, (id_t)gettid_raw(), (int)index));
    MUST(sched_setaffinity(0, sizeof set, &set));
    struct sched_param none = {0};
    MUST(sched_setscheduler(0, index % 2 ? SCHED_BATCH : SCHED_OTHER, &none));
    snprintf(ready, sizeof ready, "own-%ld", index);
    mark(ready);
    await("go");
    prctl(PR_GET_NAME, found);
    CHECK(!strcmp(name, found), "thread %ld is called %s", index, found);
    CHECK(getpriority(PRIO_PROCESS, (id_t)gettid_raw()) == index, "nice of thread %ld", index);
    MUST(sched_getaffinity(0, sizeof got, &got));
    CHECK(CPU_EQUAL(&set, &got), "affinity of thread %ld", index);
    CHECK(sched_getscheduler(0) == (index % 2 ? SCHED_BATCH : SCHED_OTHER), "policy of %ld", index);
    return NULL;
}

int main(int argc, char **argv)
{
    enum { THREADS = 4 };
    pthread_t threads[THREADS];
    char name[24];
    begin(argc, argv);
    for (long i = 0; i < THREADS; i++) {
        pthread_create(&threads[i], NULL, run, (void *)(i + 1));
        snprintf(name, sizeof name, "own-%ld", i + 1);
        await(name);
    }
    ready_then_go();
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    CHECK(getpriority(PRIO_PROCESS, 0) == 0, "nice of the first thread");
    pass();
}
