/* refused: traced-task
 * A process under a debugger of the container. */
#include "../workload.h"
#include <sys/ptrace.h>

int main(int argc, char **argv)
{
    int status;
    begin(argc, argv);
    pid_t child = (pid_t)MUST(fork());
    if (child == 0) {
        MUST(ptrace(PTRACE_TRACEME, 0, NULL, NULL));
        kill(getpid(), SIGSTOP);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFSTOPPED(status), "stop");
    ready_then_go();
    MUST(ptrace(PTRACE_CONT, child, NULL, NULL));
    reap(child);
    pass();
}
