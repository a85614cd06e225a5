/* Who gets SIGIO: a thread, another process, a group; of sockets and pipes. */
#include "workload.h"
#include <pthread.h>
#include <sys/socket.h>

static volatile pid_t thread_id;
static volatile sig_atomic_t caught, by_fd;

static void *work(void *argument)
{
    sigset_t set;
    siginfo_t info;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 1);
    thread_id = gettid_raw();
    CHECK(sigwaitinfo(&set, &info) == SIGRTMIN + 1, "sigwaitinfo");
    CHECK(info.si_fd == *(int *)argument, "descriptor %d", info.si_fd);
    return NULL;
}

static void catch(int number, siginfo_t *info, void *context)
{
    (void)number, (void)context;
    caught++;
    by_fd = info->si_fd;
}

static void own(int fd, int kind, pid_t id, int number)
{
    struct f_owner_ex owner = {kind, id};
    MUST(fcntl(fd, F_SETOWN_EX, &owner));
    MUST(fcntl(fd, F_SETSIG, number));
    MUST(fcntl(fd, F_SETFL, O_ASYNC | O_NONBLOCK));
}

int main(int argc, char **argv)
{
    int to_thread[2], to_child[2], to_group[2];
    pthread_t thread;
    sigset_t set;
    begin(argc, argv);
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    struct sigaction action = {.sa_sigaction = catch, .sa_flags = SA_SIGINFO};
    sigaction(SIGRTMIN + 2, &action, NULL);
    setpgid(0, 0); /* a session leader has a group of its own already */
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, to_thread));
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, to_child));
    MUST(pipe(to_group));
    pid_t child = (pid_t)MUST(fork());
    if (child == 0) {
        mark("child");
        while (caught < 2)
            nap();
        _exit(0);
    }
    pthread_create(&thread, NULL, work, &to_thread[0]);
    while (!thread_id)
        nap();
    await("child");
    own(to_thread[0], F_OWNER_TID, thread_id, SIGRTMIN + 1);
    own(to_child[0], F_OWNER_PID, child, SIGRTMIN + 2);
    own(to_group[0], F_OWNER_PGRP, getpgrp(), SIGRTMIN + 2);
    ready_then_go();
    struct f_owner_ex owner;
    MUST(fcntl(to_thread[0], F_GETOWN_EX, &owner));
    CHECK(owner.type == F_OWNER_TID && owner.pid == thread_id, "owner %d %d", owner.type, owner.pid);
    CHECK(write(to_thread[1], "x", 1) == 1, "write");
    pthread_join(thread, NULL);
    CHECK(caught == 0 && write(to_group[1], "x", 1) == 1, "write");
    while (!caught)
        nap();
    CHECK(by_fd == to_group[0], "descriptor %d", by_fd);
    CHECK(write(to_child[1], "x", 1) == 1, "write");
    reap(child);
    CHECK(caught == 1, "%d signals", caught);
    pass();
}
