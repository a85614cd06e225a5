/* refused: leader-exited
 * A process whose first thread has ended while another goes on. */
#include "../workload.h"
#include <pthread.h>

static void *run(void *argument)
{
    (void)argument;
    mark("thread");
    await("go");
    _exit(0);
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    pid_t child = (pid_t)MUST(fork());
    if (child == 0) {
        pthread_t thread;
        pthread_create(&thread, NULL, run, NULL);
        pthread_exit(NULL);
    }
    await("thread");
    for (int i = 0; i < 20; i++)
        nap();
    ready_then_go();
    reap(child);
    pass();
}
