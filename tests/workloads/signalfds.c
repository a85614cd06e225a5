/* signalfd: its mask, what was queued before, and a blocked reader. */
#include "workload.h"
#include <sys/signalfd.h>

int main(int argc, char **argv)
{
    struct signalfd_siginfo info;
    sigset_t some, other;
    begin(argc, argv);
    sigemptyset(&some);
    sigaddset(&some, SIGUSR1);
    sigaddset(&some, SIGRTMIN + 2);
    sigemptyset(&other);
    sigaddset(&other, SIGUSR2);
    sigprocmask(SIG_BLOCK, &some, NULL);
    sigprocmask(SIG_BLOCK, &other, NULL);
    int fd = (int)MUST(signalfd(-1, &some, SFD_NONBLOCK | SFD_CLOEXEC)), blocking = (int)MUST(signalfd(-1, &other, 0));
    MUST(sigqueue(getpid(), SIGRTMIN + 2, (union sigval){.sival_int = 17}));
    MUST(sigqueue(getpid(), SIGRTMIN + 2, (union sigval){.sival_int = 18}));
    pid_t child = (pid_t)MUST(fork());
    if (child == 0) {
        mark("child");
        CHECK(read(blocking, &info, sizeof info) == sizeof info, "the blocked reader");
        CHECK(info.ssi_signo == SIGUSR2, "the blocked reader got %u", info.ssi_signo);
        _exit(0);
    }
    await("child");
    ready_then_go();
    kill(child, SIGUSR2);
    reap(child);
    for (int i = 17; i < 19; i++) {
        CHECK(read(fd, &info, sizeof info) == sizeof info, "read");
        CHECK(info.ssi_signo == (uint32_t)SIGRTMIN + 2 && info.ssi_int == i, "signal %u value %d",
              info.ssi_signo, info.ssi_int);
    }
    CHECK(read(fd, &info, sizeof info) == -1 && errno == EAGAIN, "a further signal");
    raise(SIGUSR1);
    raise(SIGUSR2);
    CHECK(read(fd, &info, sizeof info) == sizeof info && info.ssi_signo == SIGUSR1, "after");
    CHECK(read(fd, &info, sizeof info) == -1 && errno == EAGAIN, "its mask grew");
    CHECK(read(blocking, &info, sizeof info) == sizeof info && info.ssi_signo == SIGUSR2, "other");
    CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC && fcntl(fd, F_GETFL) & O_NONBLOCK, "flags");
    pass();
}
