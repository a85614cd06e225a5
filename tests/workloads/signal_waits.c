/* Processes that wait for a signal in every way; it comes after the restore. */
#include "workload.h"

static volatile int got;
static void on_signal(int signal)
{
    got = signal;
}

static void in_pause(void)
{
    sigaction(SIGUSR1, &(struct sigaction){.sa_handler = on_signal}, NULL);
    CHECK(pause() == -1 && errno == EINTR && got == SIGUSR1, "pause");
}

static void in_sigsuspend(void)
{
    sigset_t blocked, during, after;
    sigfillset(&blocked);
    sigprocmask(SIG_SETMASK, &blocked, NULL);
    sigfillset(&during);
    sigdelset(&during, SIGUSR1);
    sigaction(SIGUSR1, &(struct sigaction){.sa_handler = on_signal}, NULL);
    CHECK(sigsuspend(&during) == -1 && errno == EINTR && got == SIGUSR1, "sigsuspend");
    sigprocmask(SIG_SETMASK, NULL, &after);
    CHECK(sigismember(&after, SIGUSR1) == 1, "the mask before sigsuspend is lost");
}

static void in_sigwaitinfo(void)
{
    sigset_t set;
    siginfo_t info;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int result;
    do
        result = sigwaitinfo(&set, &info); /* documented to see EINTR at a stop */
    while (result == -1 && errno == EINTR);
    CHECK(result == SIGUSR1 && info.si_pid == getppid(), "sigwaitinfo returned %d", result);
}

static void in_read_with_restart(void)
{
    int pipes[2];
    char byte;
    MUST(pipe(pipes));
    sigaction(SIGUSR1, &(struct sigaction){.sa_handler = on_signal, .sa_flags = SA_RESTART}, NULL);
    pid_t writer = (pid_t)MUST(fork());
    if (writer == 0) {
        signal(SIGUSR1, SIG_IGN);
        await("signalled");
        for (int i = 0; i < 20; i++)
            nap();
        CHECK(write(pipes[1], "x", 1) == 1, "write");
        _exit(0);
    }
    CHECK(read(pipes[0], &byte, 1) == 1, "the read was not restarted");
    CHECK(got == SIGUSR1, "the handler did not run");
    reap(writer);
}

static void in_read_without_restart(void)
{
    int pipes[2];
    char byte;
    MUST(pipe(pipes));
    sigaction(SIGUSR1, &(struct sigaction){.sa_handler = on_signal}, NULL);
    CHECK(read(pipes[0], &byte, 1) == -1 && errno == EINTR && got == SIGUSR1, "read");
}

static void (*const kinds[])(void) = {in_pause, in_sigsuspend, in_sigwaitinfo, in_read_with_restart,
                                      in_read_without_restart};

static bool sleeps(pid_t pid)
{
    char path[64], line[512] = "";
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int fd = open(path, O_RDONLY);
    ssize_t length = read(fd, line, sizeof line - 1);
    close(fd);
    return length > 0 && strrchr(line, ')')[2] == 'S';
}

int main(int argc, char **argv)
{
    enum { KINDS = sizeof kinds / sizeof *kinds };
    pid_t children[KINDS];
    begin(argc, argv);
    for (int i = 0; i < KINDS; i++) {
        char name[16];
        snprintf(name, sizeof name, "kind%d", i);
        children[i] = (pid_t)MUST(fork());
        if (children[i] == 0) {
            mark(name);
            kinds[i]();
            _exit(0);
        }
        await(name);
    }
    for (int i = 0; i < 20; i++)
        nap();
    for (int i = 0; i < KINDS; i++)
        while (!sleeps(children[i]))
            nap();
    ready_then_go();
    for (int i = 0; i < 20; i++)
        nap();
    for (int i = 0; i < KINDS; i++) {
        CHECK(waitpid(children[i], NULL, WNOHANG) == 0, "child %d woke too early", i);
        kill(children[i], SIGUSR1);
    }
    mark("signalled");
    for (int i = 0; i < KINDS; i++)
        reap(children[i]);
    pass();
}
