/* Threads: ids, names, masks, thread-local data, and joins that need the clear-tid address. */
#include "workload.h"
#include <pthread.h>
#include <sys/prctl.h>

enum { THREADS = 8 };
static __thread uint64_t local_value;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turn_changed = PTHREAD_COND_INITIALIZER;
static int turn, started;
static unsigned long rounds[THREADS];
static volatile bool stop;

static void *run(void *argument)
{
    long index = (long)argument;
    pid_t tid = gettid_raw();
    char name[16], found[16];
    sigset_t mask, now;
    snprintf(name, sizeof name, "worker-%ld", index);
    prctl(PR_SET_NAME, name);
    sigemptyset(&mask);
    sigaddset(&mask, SIGRTMIN + (int)index);
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
    local_value = 1000 + (uint64_t)index;

    pthread_mutex_lock(&lock);
    started++;
    while (!stop) {
        while (turn % THREADS != index && !stop)
            pthread_cond_wait(&turn_changed, &lock);
        rounds[index]++;
        turn++;
        pthread_cond_broadcast(&turn_changed);
    }
    pthread_mutex_unlock(&lock);

    CHECK(gettid_raw() == tid, "thread %ld: tid was %d, is %d", index, tid, gettid_raw());
    CHECK(local_value == 1000 + (uint64_t)index, "thread-local is %lu", local_value);
    prctl(PR_GET_NAME, found);
    CHECK(!strcmp(name, found), "name was %s, is %s", name, found);
    pthread_sigmask(SIG_SETMASK, NULL, &now);
    for (int signal = 1; signal <= SIGRTMAX; signal++)
        CHECK(sigismember(&mask, signal) == sigismember(&now, signal), "mask of signal %d", signal);
    return (void *)(index + 100);
}

int main(int argc, char **argv)
{
    pthread_t threads[THREADS];
    unsigned long before[THREADS];
    begin(argc, argv);
    for (long i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, run, (void *)i);
    while (__atomic_load_n(&started, __ATOMIC_SEQ_CST) < THREADS)
        nap();
    ready_then_go();
    pthread_mutex_lock(&lock);
    memcpy(before, rounds, sizeof before);
    pthread_mutex_unlock(&lock);
    for (int i = 0; i < THREADS; i++)
        while (__atomic_load_n(&rounds[i], __ATOMIC_SEQ_CST) < before[i] + 100)
            nap();
    pthread_mutex_lock(&lock);
    stop = true;
    pthread_cond_broadcast(&turn_changed);
    pthread_mutex_unlock(&lock);
    for (long i = 0; i < THREADS; i++) {
        void *value;
        CHECK(!pthread_join(threads[i], &value), "join of thread %ld", i);
        CHECK((long)value == i + 100, "thread %ld returned %ld", i, (long)value);
    }
    pthread_t late;
    CHECK(!pthread_create(&late, NULL, (void *(*)(void *))(void *)getpid, NULL), "new thread");
    pthread_join(late, NULL);
    pass();
}
