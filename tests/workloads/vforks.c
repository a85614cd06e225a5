/* Processes that vfork and execute all the time: a parent in vfork cannot stop by itself. */
#include "workload.h"

#include <spawn.h>
#include <sys/wait.h>

enum { SPAWNERS = 4 };

extern char **environ;

static void spawn(void)
{
    char *words[] = {"/bin/true", NULL};
    int status, rounds = 0;
    pid_t child;
    while (access(in_control("go"), F_OK) != 0) {
        CHECK(posix_spawn(&child, words[0], NULL, NULL, words, environ) == 0, "posix_spawn");
        CHECK(waitpid(child, &status, 0) == child && status == 0, "its end: %#x", status);
        if (++rounds == 3)
            mark(getpid() % 2 ? "one" : "other");
    }
    _exit(0);
}

int main(int argc, char **argv)
{
    pid_t spawners[SPAWNERS];
    begin(argc, argv);
    for (int i = 0; i < SPAWNERS; i++)
        if ((spawners[i] = (pid_t)MUST(fork())) == 0)
            spawn();
    await("one");
    await("other");
    ready_then_go();
    for (int i = 0; i < SPAWNERS; i++)
        reap(spawners[i]);
    pass();
}
