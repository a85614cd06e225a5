/* refused: unix-pending-data
 * A descriptor that a client has sent before anybody has accepted its connection. */
#include "../unix_workload.h"

int main(int argc, char **argv)
{
    int got[16];
    begin(argc, argv);
    int listener = bound(SOCK_STREAM, in_control("socket"));
    MUST(listen(listener, 5));
    int client = connected(SOCK_STREAM, in_control("socket"));
    pass_on(client, "early", (int[]){0}, 1, NULL);
    ready_then_go();
    CHECK(take((int)MUST(accept(listener, NULL, NULL)), "early", 100, got, NULL) == 1, "descriptor");
    pass();
}
