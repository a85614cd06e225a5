/* refused: fanotify-permission
 * needs: privileged
 * A group whose answer others wait for. */
#include "../workload.h"
#include <sys/fanotify.h>

int main(int argc, char **argv)
{
    begin(argc, argv);
    int group = (int)MUST(fanotify_init(FAN_CLASS_CONTENT | FAN_NONBLOCK, O_RDONLY));
    ready_then_go();
    close(group);
    pass();
}
