/* refused: shared-memory-map
 * Two processes that share one address space. */
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
    int child = clone(run, stack + sizeof stack, CLONE_VM | SIGCHLD, NULL);
    MUST(child);
    await("child");
    ready_then_go();
    reap(child);
    pass();
}
