/* Children of a thread that is not the first: they hear of its end and not of the process's; children
 * with other exit signals than SIGCHLD or none; whom __WCLONE and __WALL are for. */
#include "workload.h"
#include <pthread.h>
#include <sys/prctl.h>

static volatile pid_t child;

static pid_t make(unsigned long flags)
{
    return (pid_t)MUST(syscall(SYS_clone, flags, 0, 0, 0, 0));
}

static void *parent(void *argument)
{
    pid_t made = (pid_t)MUST(fork());
    if (made == 0) {
        sigset_t wanted;
        int signal;
        sigemptyset(&wanted);
        sigaddset(&wanted, SIGUSR2);
        sigprocmask(SIG_BLOCK, &wanted, NULL);
        MUST(prctl(PR_SET_PDEATHSIG, SIGUSR2, 0, 0, 0));
        mark("child");
        sigwait(&wanted, &signal);
        _exit(access(in_control("thread-ended"), F_OK) ? 9 : 5);
    }
    child = made;
    await("thread-ended");
    return argument;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    int status;
    sigset_t wanted, pending;
    begin(argc, argv);
    sigemptyset(&wanted);
    sigaddset(&wanted, SIGUSR1);
    sigprocmask(SIG_BLOCK, &wanted, NULL);
    CHECK(pthread_create(&thread, NULL, parent, NULL) == 0, "no thread");
    pid_t other = make(SIGUSR1), silent = other ? make(0) : 0;
    if (other == 0 || silent == 0) {
        await("go");
        _exit(other == 0 ? 3 : 4);
    }
    pid_t gone = make(SIGUSR1);
    if (gone == 0)
        _exit(6);
    siginfo_t info;
    MUST(waitid(P_PID, (id_t)gone, &info, WEXITED | WNOWAIT | __WCLONE));
    CHECK(sigwaitinfo(&wanted, &info) == SIGUSR1, "no signal");
    await("child");
    ready_then_go();
    CHECK(waitpid(gone, &status, __WCLONE) == gone && WEXITSTATUS(status) == 6, "%#x", status);
    CHECK(waitpid(silent, &status, 0) == -1 && errno == ECHILD, "a clone child");
    CHECK(waitpid(silent, &status, __WALL) == silent && WEXITSTATUS(status) == 4, "%#x", status);
    CHECK(sigwaitinfo(&wanted, &info) == SIGUSR1 && info.si_pid == other, "from %d", info.si_pid);
    CHECK(waitpid(other, &status, __WALL) == other && WEXITSTATUS(status) == 3, "%#x", status);
    sigpending(&pending);
    CHECK(!sigismember(&pending, SIGUSR1), "a second signal");
    mark("thread-ended");
    pthread_join(thread, NULL);
    CHECK(waitpid(child, &status, 0) == child, "wait");
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 5, "status %#x", status);
    pass();
}
