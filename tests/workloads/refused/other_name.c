/* refused: file-other-name
 * A file that was opened by a name it lost, and lives on under another. */
#include "../workload.h"

int main(int argc, char **argv)
{
    struct stat found;
    begin(argc, argv);
    int fd = (int)MUST(open(in_control("first-name"), O_RDWR | O_CREAT, 0600));
    MUST(link(in_control("first-name"), in_control("second-name")));
    MUST(unlink(in_control("first-name")));
    ready_then_go();
    MUST(fstat(fd, &found));
    CHECK(found.st_nlink == 1, "%lu links", (unsigned long)found.st_nlink);
    pass();
}
