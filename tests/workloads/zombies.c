/* Children that ended before the checkpoint: their statuses are collected after it. */
#include "workload.h"
#include <sys/resource.h>

int main(int argc, char **argv)
{
    pid_t exited, killed, crashed, quiet;
    int status;
    siginfo_t info;
    begin(argc, argv);
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    if ((exited = (pid_t)MUST(fork())) == 0)
        _exit(77);
    if ((killed = (pid_t)MUST(fork())) == 0)
        for (;;)
            pause();
    kill(killed, SIGTERM);
    if ((crashed = (pid_t)MUST(fork())) == 0) {
        kill(getpid(), SIGSEGV);
        for (;;)
            pause();
    }
    if ((quiet = (pid_t)MUST(fork())) == 0)
        _exit(0);
    pid_t all[] = {exited, killed, crashed, quiet};
    for (int i = 0; i < 4; i++)
        MUST(waitid(P_PID, (id_t)all[i], &info, WEXITED | WNOWAIT));
    ready_then_go();
    CHECK(waitid(P_PID, (id_t)exited, &info, WEXITED | WNOWAIT) == 0, "waitid");
    CHECK(info.si_code == CLD_EXITED && info.si_status == 77, "%d %d", info.si_code, info.si_status);
    CHECK(waitpid(killed, &status, 0) == killed, "killed");
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM, "killed: %#x", status);
    CHECK(waitpid(crashed, &status, 0) == crashed, "crashed");
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV, "crashed: %#x", status);
    CHECK(waitpid(exited, &status, 0) == exited, "exited");
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 77, "exited: %#x", status);
    CHECK(waitpid(quiet, &status, 0) == quiet && status == 0, "quiet: %#x", status);
    pass();
}
