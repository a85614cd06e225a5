/* refused: pipe-packets
 * A pipe in packet mode that holds packets. */
#include "../workload.h"

int main(int argc, char **argv)
{
    int packets[2];
    char found[16];
    begin(argc, argv);
    MUST(pipe2(packets, O_DIRECT));
    CHECK(write(packets[1], "first", 5) == 5 && write(packets[1], "second", 6) == 6, "write");
    ready_then_go();
    CHECK(read(packets[0], found, 16) == 5 && read(packets[0], found, 16) == 6, "packets");
    pass();
}
