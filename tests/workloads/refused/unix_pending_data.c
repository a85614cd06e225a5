/* refused: unix-pending-data
 * What a client has sent before anybody has accepted its connection. */
#include "../unix_workload.h"

int main(int argc, char **argv)
{
    begin(argc, argv);
    int listener = bound(SOCK_STREAM, in_control("socket"));
    MUST(listen(listener, 5));
    int client = connected(SOCK_STREAM, in_control("socket"));
    tell(client, "early");
    ready_then_go();
    hear((int)MUST(accept(listener, NULL, NULL)), "early");
    pass();
}
