/* refused: fd-kind
 * A descriptor of a process. */
#include "../workload.h"

int main(int argc, char **argv)
{
    begin(argc, argv);
    MUST(syscall(SYS_pidfd_open, getpid(), 0));
    ready_then_go();
    pass();
}
