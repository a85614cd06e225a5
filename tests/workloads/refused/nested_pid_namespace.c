/* refused: nested-pid-namespace
 * A process in a PID namespace of its own. */
#include "../workload.h"

int main(int argc, char **argv)
{
    begin(argc, argv);
    pid_t middle = (pid_t)MUST(fork());
    if (middle == 0) {
        MUST(unshare(CLONE_NEWUSER | CLONE_NEWPID));
        pid_t child = (pid_t)MUST(fork());
        if (child == 0) {
            mark("inside");
            await("go");
            _exit(0);
        }
        reap(child);
        _exit(0);
    }
    await("inside");
    ready_then_go();
    reap(middle);
    pass();
}
