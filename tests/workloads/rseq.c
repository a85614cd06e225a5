/* Restartable sequences, which the C library registers for every thread, stay registered. */
#include "workload.h"
#include <pthread.h>
#include <sys/rseq.h>

static void look(const char *who)
{
    struct rseq *area = (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
    /* The kernel writes the CPU number at every move while the area is registered. */
    for (size_t cpu = 0; cpu < 2; cpu++) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(cpu, &set);
        if (sched_setaffinity(0, sizeof set, &set))
            continue; /* one CPU only */
        CHECK(area->cpu_id == cpu, "%s: on CPU %zu, the area says %u", who, cpu, area->cpu_id);
        CHECK(area->cpu_id_start == cpu, "%s: start says %u", who, area->cpu_id_start);
    }
    long result = syscall(SYS_rseq, area, __rseq_size < 32 ? 32 : __rseq_size, 0, RSEQ_SIG);
    CHECK(result == -1 && errno == EBUSY, "%s: it can be registered again: %ld", who, result);
}

static void *run(void *argument)
{
    (void)argument;
    look("thread, before");
    mark("thread");
    await("go");
    look("thread");
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    begin(argc, argv);
    if (__rseq_size == 0) { /* switched off by a tunable */
        ready_then_go();
        pass();
    }
    look("main, before");
    pthread_create(&thread, NULL, run, NULL);
    await("thread");
    ready_then_go();
    look("main");
    pthread_join(thread, NULL);
    pass();
}
