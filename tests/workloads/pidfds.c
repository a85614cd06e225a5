/* Descriptors of processes: ourselves, a child, a thread, a zombie, the dead. */
#include "workload.h"
#include <poll.h>
#include <pthread.h>

#ifndef P_PIDFD
#define P_PIDFD 3
#endif
#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL
#endif

static int open_pid(pid_t pid, unsigned int flags)
{
    return (int)MUST(syscall(SYS_pidfd_open, pid, flags));
}

static int kill_fd(int fd, int number)
{
    return (int)syscall(SYS_pidfd_send_signal, fd, number, NULL, 0);
}

static int readable(int fd)
{
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
    return (int)MUST(poll(&poll_fd, 1, 0));
}

static pid_t thread_id;
static volatile int stop_thread;

static void *work(void *argument)
{
    (void)argument;
    __atomic_store_n(&thread_id, gettid_raw(), __ATOMIC_SEQ_CST);
    while (!stop_thread)
        nap();
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    siginfo_t info;
    begin(argc, argv);
    pid_t child = (pid_t)MUST(fork());
    if (child == 0)
        for (;;)
            pause();
    pid_t zombie = (pid_t)MUST(fork());
    if (zombie == 0)
        _exit(17);
    pid_t dead = (pid_t)MUST(fork());
    if (dead == 0)
        _exit(18);
    pthread_create(&thread, NULL, work, NULL);
    while (!__atomic_load_n(&thread_id, __ATOMIC_SEQ_CST))
        nap();
    int own = open_pid(getpid(), 0), of_child = open_pid(child, O_NONBLOCK), of_zombie = open_pid(zombie, 0);
    int of_dead = open_pid(dead, 0), again = open_pid(dead, 0);
    int of_thread = (int)syscall(SYS_pidfd_open, thread_id, PIDFD_THREAD); /* Linux 6.9 */
    CHECK(waitpid(dead, NULL, 0) == dead, "waitpid");
    while (!readable(of_zombie))
        nap();
    struct stat before, after;
    ready_then_go();
    CHECK(kill_fd(own, 0) == 0 && kill_fd(of_child, 0) == 0, "the living");
    CHECK(!readable(own) && !readable(of_child) && readable(of_zombie) && readable(of_dead), "poll");
    CHECK(kill_fd(of_dead, 0) == -1 && errno == ESRCH, "the dead takes signals");
    CHECK(kill_fd(again, 0) == -1 && errno == ESRCH, "the dead takes signals");
    MUST(fstat(of_dead, &before));
    MUST(fstat(again, &after));
    CHECK(before.st_ino == after.st_ino, "not of one process");
    CHECK(waitid(P_PIDFD, (id_t)of_dead, &info, WEXITED) == -1 && errno == ECHILD, "wait for the dead");
    memset(&info, 0, sizeof info);
    MUST(waitid(P_PIDFD, (id_t)of_zombie, &info, WEXITED));
    CHECK(info.si_pid == zombie && info.si_status == 17, "zombie: %d", info.si_status);
    CHECK(fcntl(of_child, F_GETFL) & O_NONBLOCK, "O_NONBLOCK");
    MUST(kill_fd(of_child, SIGKILL));
    while (!readable(of_child))
        nap();
    MUST(waitid(P_PIDFD, (id_t)of_child, &info, WEXITED));
    CHECK(info.si_pid == child && info.si_status == SIGKILL, "child: %d", info.si_status);
    if (of_thread >= 0) {
        CHECK(!readable(of_thread), "the thread ended");
        stop_thread = 1;
        pthread_join(thread, NULL);
        while (!readable(of_thread))
            nap();
    }
    pass();
}
