/* refused: file-outside
 * A named pipe whose name is gone. */
#include "../workload.h"

int main(int argc, char **argv)
{
    char found[16] = "";
    begin(argc, argv);
    MUST(mkfifo(in_control("deleted"), 0600));
    int fd = (int)MUST(open(in_control("deleted"), O_RDWR));
    CHECK(write(fd, "nameless", 8) == 8, "write");
    MUST(unlink(in_control("deleted")));
    ready_then_go();
    CHECK(read(fd, found, 16) == 8 && !memcmp(found, "nameless", 8), "content: %s", found);
    pass();
}
