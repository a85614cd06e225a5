/* A child whose root directory is elsewhere. */
#include "workload.h"

int main(int argc, char **argv)
{
    int pipes[2];
    begin(argc, argv);
    MUST(mkdir(in_control("root"), 0755));
    MUST(mkdir(in_control("root/inner"), 0755));
    MUST(pipe(pipes));
    pid_t caged = (pid_t)MUST(fork());
    if (caged == 0) {
        char directory[64];
        MUST(chroot(in_control("root")));
        MUST(chdir("/inner"));
        MUST(mkdir("/marker", 0700));
        MUST(write(pipes[1], "1", 1)); /* it cannot see the control directory any more */
        sigset_t set;
        int got;
        sigemptyset(&set);
        sigaddset(&set, SIGUSR1);
        sigprocmask(SIG_BLOCK, &set, NULL);
        close(pipes[1]);
        do
            sigwait(&set, &got);
        while (got != SIGUSR1);
        CHECK(access("/marker", F_OK) == 0, "the root is another directory");
        CHECK(getcwd(directory, sizeof directory) && !strcmp(directory, "/inner"), "cwd");
        CHECK(access("/proc", F_OK) == -1, "it escaped");
        _exit(0);
    }
    char byte;
    MUST(read(pipes[0], &byte, 1));
    ready_then_go();
    kill(caged, SIGUSR1);
    reap(caged);
    pass();
}
