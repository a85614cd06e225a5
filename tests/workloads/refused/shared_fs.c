/* refused: shared-fs
 * Two processes that share their working directory and umask. */
#include "../workload.h"

static char stack[64 << 10];

static int run(void *argument)
{
    (void)argument;
    mark("child");
    await("go");
    _exit(0);
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    int child = clone(run, stack + sizeof stack, CLONE_FS | SIGCHLD, NULL);
    MUST(child);
    await("child");
    ready_then_go();
    reap(child);
    pass();
}
