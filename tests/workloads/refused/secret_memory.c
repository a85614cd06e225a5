/* refused: memfd-secret
 * Memory that only its owner can read. */
#include "../workload.h"

int main(int argc, char **argv)
{
    begin(argc, argv);
    int fd = (int)MUST(syscall(447 /* memfd_secret, Linux 5.14 */, 0));
    MUST(ftruncate(fd, 4096));
    char *secret = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(secret != MAP_FAILED, "mmap");
    strcpy(secret, "secret");
    ready_then_go();
    CHECK(!strcmp(secret, "secret"), "content");
    pass();
}
