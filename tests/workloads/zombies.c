/* Children that ended before the checkpoint: their statuses are collected after it. */
#include "workload.h"
#include <sys/resource.h>

int main(int argc, char **argv)
{
    pid_t exited, killed, crashed, dumped, quiet;
    int status, how;
    siginfo_t info;
    begin(argc, argv);
    struct rlimit limit;
    MUST(getrlimit(RLIMIT_CORE, &limit));
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, limit.rlim_max});
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
    if ((dumped = (pid_t)MUST(fork())) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_CORE, &limit);
        signal(SIGQUIT, SIG_DFL); /* a shell ignores it for what runs in its background */
        MUST(chdir(control));
        raise(SIGQUIT);
    }
    MUST(waitid(P_PID, (id_t)dumped, &info, WEXITED | WNOWAIT));
    how = info.si_code; /* whether it could dump core is the host's affair */
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
    MUST(waitid(P_PID, (id_t)dumped, &info, WEXITED));
    CHECK(info.si_code == how && info.si_status == SIGQUIT, "%d, not %d", info.si_code, how);
    CHECK(waitpid(quiet, &status, 0) == quiet && status == 0, "quiet: %#x", status);
    pass();
}
