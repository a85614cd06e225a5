/* A robust mutex in shared memory: its owner dies after the restore, and the next one is told. */
#include "workload.h"
#include <pthread.h>

int main(int argc, char **argv)
{
    begin(argc, argv);
    pthread_mutex_t *lock = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(lock, &attributes);
    pid_t owner = (pid_t)MUST(fork());
    if (owner == 0) {
        pthread_mutex_lock(lock);
        mark("owned");
        for (;;)
            pause();
    }
    await("owned");
    CHECK(pthread_mutex_trylock(lock) == EBUSY, "the lock is free");
    ready_then_go();
    CHECK(pthread_mutex_trylock(lock) == EBUSY, "the lock became free");
    kill(owner, SIGKILL);
    int result = pthread_mutex_lock(lock); /* woken by the kernel's walk of the robust list */
    CHECK(result == EOWNERDEAD, "pthread_mutex_lock returned %d", result);
    CHECK(!pthread_mutex_consistent(lock), "consistent");
    CHECK(!pthread_mutex_unlock(lock), "unlock");
    waitpid(owner, NULL, 0);
    pass();
}
