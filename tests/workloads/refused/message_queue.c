/* refused: *
 * A POSIX message queue with a message. */
#include "../workload.h"
#include <mqueue.h>

int main(int argc, char **argv)
{
    char name[32], found[64];
    struct mq_attr attributes = {.mq_maxmsg = 4, .mq_msgsize = 64};
    begin(argc, argv);
    snprintf(name, sizeof name, "/wherry-test-%d", getpid());
    mqd_t queue = mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0600, &attributes);
    CHECK(queue != (mqd_t)-1, "mq_open");
    MUST(mq_send(queue, "hello", 5, 1));
    ready_then_go();
    CHECK(mq_receive(queue, found, sizeof found, NULL) == 5, "mq_receive");
    MUST(mq_unlink(name));
    pass();
}
