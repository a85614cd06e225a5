/* refused: fd-kind
 * A userfaultfd, whose faults somebody else would have to answer. */
#include "../workload.h"
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

int main(int argc, char **argv)
{
    struct uffdio_api api = {.api = UFFD_API};
    begin(argc, argv);
    int fd = (int)MUST(syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY));
    MUST(ioctl(fd, UFFDIO_API, &api));
    ready_then_go();
    pass();
}
