/* refused: vfork
 * A parent that the kernel holds until its vfork child executes or ends. */
#include "../workload.h"

int main(int argc, char **argv)
{
    begin(argc, argv);
    pid_t parent = (pid_t)MUST(fork());
    if (parent == 0) {
        pid_t child = vfork();
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
    reap(parent);
    pass();
}
