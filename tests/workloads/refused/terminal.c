/* refused: fd-device
 * A pseudo-terminal of the program's own. */
#include "../workload.h"

int main(int argc, char **argv)
{
    begin(argc, argv);
    int master = (int)MUST(posix_openpt(O_RDWR | O_NOCTTY));
    MUST(grantpt(master));
    MUST(unlockpt(master));
    int slave = (int)MUST(open(ptsname(master), O_RDWR | O_NOCTTY));
    ready_then_go();
    CHECK(write(slave, "hello", 5) == 5, "write");
    pass();
}
