/* A child whose root directory is elsewhere, and whose cwd was deleted. */
#include "workload.h"

int main(int argc, char **argv)
{
    int pipes[2];
    begin(argc, argv);
    MUST(mkdir(in_control("root"), 0755));
    MUST(mkdir(in_control("root/inner"), 0755));
    MUST(mkdir(in_control("gone"), 0755));
    MUST(pipe(pipes));
    pid_t caged = (pid_t)MUST(fork());
    if (caged == 0) {
        struct stat here, root;
        char directory[64], byte;
        MUST(chroot(in_control("root")));
        MUST(chdir("/inner"));
        MUST(stat("/", &root));
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
        MUST(stat("/", &here));
        CHECK(here.st_ino == root.st_ino, "the root is another directory");
        CHECK(getcwd(directory, sizeof directory) && !strcmp(directory, "/inner"), "cwd");
        CHECK(access("/proc", F_OK) == -1, "it escaped");
        (void)byte;
        _exit(0);
    }
    char byte;
    MUST(read(pipes[0], &byte, 1));
    pid_t floating = (pid_t)MUST(fork());
    if (floating == 0) {
        char directory[PATH_MAX] = "";
        MUST(chdir(in_control("gone")));
        MUST(rmdir(in_control("gone")));
        mark("floating");
        await("go");
        CHECK(getcwd(directory, sizeof directory) == NULL && errno == ENOENT, "cwd is %s", directory);
        CHECK(open("file", O_CREAT | O_RDWR, 0600) == -1 && errno == ENOENT, "it can be written");
        MUST(chdir("/"));
        _exit(0);
    }
    await("floating");
    ready_then_go();
    kill(caged, SIGUSR1);
    reap(caged);
    reap(floating);
    pass();
}
