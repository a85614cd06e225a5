/* refused: fd-kind
 * An io_uring instance. */
#include "../workload.h"
#include <linux/io_uring.h>

int main(int argc, char **argv)
{
    struct io_uring_params parameters = {0};
    begin(argc, argv);
    MUST(syscall(SYS_io_uring_setup, 4, &parameters));
    ready_then_go();
    pass();
}
