/* POSIX shared memory and semaphores: files of the container's own tmpfs, mapped and named. */
#include "workload.h"
#include <semaphore.h>

int main(int argc, char **argv)
{
    enum { SIZE = 1 << 20 };
    char shm_name[64], sem_name[64];
    begin(argc, argv);
    snprintf(shm_name, sizeof shm_name, "/wherry-test-shm-%d", getpid());
    snprintf(sem_name, sizeof sem_name, "/wherry-test-sem-%d", getpid());
    int fd = (int)MUST(shm_open(shm_name, O_RDWR | O_CREAT | O_EXCL, 0600));
    MUST(ftruncate(fd, SIZE));
    char *memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(memory != MAP_FAILED, "mmap");
    fill(memory, SIZE, 5);
    sem_t *semaphore = sem_open(sem_name, O_CREAT | O_EXCL, 0600, 2);
    CHECK(semaphore != SEM_FAILED, "sem_open");
    sem_wait(semaphore);
    pid_t child = (pid_t)MUST(fork());
    if (child == 0) {
        mark("child");
        sem_wait(semaphore);
        sem_wait(semaphore); /* blocked over the freeze */
        memory[8] = 'c';
        _exit(0);
    }
    await("child");
    for (int i = 0; i < 10; i++)
        nap();
    ready_then_go();
    CHECK(filled(memory, SIZE, 5), "content");
    CHECK(waitpid(child, NULL, WNOHANG) == 0, "the child passed the semaphore");
    sem_post(semaphore);
    reap(child);
    CHECK(memory[8] == 'c', "the child's write");
    int again = shm_open(shm_name, O_RDWR, 0);
    CHECK(again >= 0, "the name is gone");
    char found;
    CHECK(pread(again, &found, 1, 8) == 1 && found == 'c', "by name");
    sem_t *named = sem_open(sem_name, 0);
    int value = -1;
    CHECK(named != SEM_FAILED && !sem_getvalue(named, &value) && value == 0, "semaphore %d", value);
    CHECK(!shm_unlink(shm_name) && !sem_unlink(sem_name), "unlink");
    pass();
}
