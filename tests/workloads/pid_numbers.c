/* needs: container
 * New processes and threads get the numbers after those that were given before. */
#include "workload.h"

#include <sys/syscall.h>
#include <sys/wait.h>

static pid_t child(void)
{
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0)
        _exit(0);
    MUST(waitpid(pid, NULL, 0));
    return pid;
}

int main(int argc, char **argv)
{
    pid_t last = 0;
    begin(argc, argv);
    for (int i = 0; i < 20; i++)
        last = child();
    CHECK(child() == last + 1, "numbers do not count up by themselves");
    ready_then_go();
    pid_t next = child();
    CHECK(next == last + 2, "pid %d after %d", next, last + 1);
    pass();
}
