/* refused: *
 * A process in a network namespace of its own. */
#include "../workload.h"

int main(int argc, char **argv)
{
    struct stat own, now;
    begin(argc, argv);
    pid_t child = (pid_t)MUST(fork());
    if (child == 0) {
        MUST(unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWUTS));
        MUST(stat("/proc/self/ns/net", &own));
        mark("inside");
        await("go");
        MUST(stat("/proc/self/ns/net", &now));
        CHECK(own.st_ino == now.st_ino, "another namespace");
        _exit(0);
    }
    await("inside");
    ready_then_go();
    reap(child);
    pass();
}
