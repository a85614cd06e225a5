/* refused: mqueue-notify
 * A registration for the arrival of a message, whose value no interface shows. */
#include "../workload.h"
#include <mqueue.h>

int main(int argc, char **argv)
{
    struct mq_attr attributes = {.mq_maxmsg = 4, .mq_msgsize = 64};
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    siginfo_t info;
    sigset_t set;
    begin(argc, argv);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    mqd_t queue = mq_open("/notifies", O_RDWR | O_CREAT | O_EXCL, 0600, &attributes);
    CHECK(queue != (mqd_t)-1, "mq_open");
    event.sigev_value.sival_int = 5;
    MUST(mq_notify(queue, &event));
    ready_then_go();
    MUST(mq_send(queue, "hello", 5, 1));
    CHECK(sigwaitinfo(&set, &info) == SIGUSR1 && info.si_value.sival_int == 5, "notification");
    MUST(mq_unlink("/notifies"));
    pass();
}
