/* The parent-death signal stays set and comes when the parent ends. */
#include "workload.h"
#include <sys/prctl.h>

int main(int argc, char **argv)
{
    begin(argc, argv);
    pid_t parent = (pid_t)MUST(fork());
    if (parent == 0) {
        pid_t child = (pid_t)MUST(fork());
        if (child == 0) {
            sigset_t set;
            int value = 0, got;
            sigemptyset(&set);
            sigaddset(&set, SIGUSR2);
            sigprocmask(SIG_BLOCK, &set, NULL);
            MUST(prctl(PR_SET_PDEATHSIG, SIGUSR2));
            mark("armed");
            await("go");
            prctl(PR_GET_PDEATHSIG, &value);
            CHECK(value == SIGUSR2, "the parent-death signal is %d", value);
            mark("checked");
            CHECK(!sigwait(&set, &got) && got == SIGUSR2, "sigwait");
            mark("orphan-told");
            _exit(0);
        }
        await("go");
        await("checked");
        _exit(0);
    }
    await("armed");
    ready_then_go();
    reap(parent);
    await("orphan-told");
    pass();
}
