/* Threads that make their successor and end, processes that do the same, and a thread that executes
 * a program in place of its whole process, all the time: nobody is lost and nobody comes twice. */
#include "workload.h"
#include <pthread.h>
#include <sys/prctl.h>

enum { CHAINS = 6, FORKS = 3, EXECS = 2 };

static volatile int alive, made;

static void *link_of_chain(void *argument)
{
    pthread_t next;
    pthread_attr_t attributes;
    __sync_fetch_and_add(&made, 1);
    if (access(in_control("go"), F_OK) == 0) {
        __sync_fetch_and_sub(&alive, 1);
        return argument;
    }
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, 64 << 10);
    while (pthread_create(&next, &attributes, link_of_chain, argument))
        sched_yield();
    return argument;
}

/* A process whose child takes its place; the main process is the subreaper of all. */
static void forks(void)
{
    for (;;) {
        pid_t next = fork();
        if (next)
            _exit(next == -1);
        usleep(500);
        if (access(in_control("go"), F_OK) == 0)
            _exit(77);
    }
}

static char *own_arguments[4];

static void *executes(void *argument)
{
    execv("/proc/self/exe", own_arguments);
    return argument;
}

/* Not the first thread executes the program: it takes the first one's id over. */
static void again(void)
{
    pthread_t thread;
    if (access(in_control("go"), F_OK) == 0)
        _exit(78);
    usleep(1000);
    pthread_create(&thread, NULL, executes, NULL);
    for (;;)
        pause();
}

int main(int argc, char **argv)
{
    own_arguments[0] = argv[0];
    own_arguments[1] = argc > 1 ? argv[1] : NULL;
    own_arguments[2] = "again";
    if (argc == 3) {
        begin(2, argv);
        again();
    }
    begin(argc, argv);
    MUST(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0));
    for (int i = 0; i < FORKS + EXECS; i++)
        if (MUST(fork()) == 0) {
            if (i < FORKS)
                forks();
            again();
        }
    pid_t threaded = (pid_t)MUST(fork());
    if (threaded == 0) {
        alive = CHAINS;
        for (long i = 0; i < CHAINS; i++) {
            pthread_t thread;
            pthread_create(&thread, NULL, link_of_chain, NULL);
            pthread_detach(thread);
        }
        while (made < 10 * CHAINS)
            nap();
        mark("threads");
        while (access(in_control("go"), F_OK))
            nap();
        while (alive)
            nap();
        _exit(79);
    }
    await("threads");
    mark("ready");
    int ends[3] = {0}, status;
    for (;;) {
        pid_t pid = wait(&status);
        if (pid == -1 && errno == ECHILD)
            break;
        CHECK(WIFEXITED(status), "process %d: status %#x", pid, status);
        int code = WEXITSTATUS(status);
        CHECK(code == 0 || (code >= 77 && code <= 79), "process %d: code %d", pid, code);
        if (code)
            ends[code - 77]++;
    }
    CHECK(ends[0] == FORKS && ends[1] == EXECS && ends[2] == 1, "ends: %d forks, %d execs, %d",
          ends[0], ends[1], ends[2]);
    pass();
}
