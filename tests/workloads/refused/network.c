/* refused: net-tc-filter
 * A filter of traffic control. needs: privileged, needs: container */
#include "../workload.h"

int main(int argc, char **argv)
{
    begin(argc, argv);
    CHECK(!system("tc qdisc add dev lo clsact"), "clsact");
    CHECK(!system("tc filter add dev lo ingress protocol ip u32 match ip dst 192.0.2.1 classid 1:1"),
          "filter");
    ready_then_go();
    pass();
}
