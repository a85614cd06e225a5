/* Signals: every real-time signal in a queue, codes that the kernel makes, calls that a stop has
 * interrupted, masks for the length of a call, alternate stacks in use and disarmed. */
#include "workload.h"
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/socket.h>

static const struct timespec at_once;
static volatile int handled, code, last_fd, nested;
static volatile bool on_stack;

static void on_signal(int signal, siginfo_t *info, void *unused)
{
    (void)unused;
    handled = signal;
    code = info->si_code;
    last_fd = info->si_fd;
}

static void handle(int signal, int flags)
{
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | flags};
    sigemptyset(&action.sa_mask);
    MUST(sigaction(signal, &action, NULL));
}

/* Five of each real-time signal. */
static void all_queued(void)
{
    sigset_t all;
    siginfo_t info;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    for (int value = 0; value < 5; value++)
        for (int signal = SIGRTMIN; signal <= SIGRTMAX; signal++)
            MUST(sigqueue(getpid(), signal, (union sigval){.sival_int = 100 * signal + value}));
    mark("all_queued");
    await("go");
    for (int signal = SIGRTMIN; signal <= SIGRTMAX; signal++)
        for (int value = 0; value < 5; value++) {
            CHECK(sigtimedwait(&all, &info, &at_once) == signal, "signal %d", signal);
            CHECK(info.si_value.sival_int == 100 * signal + value, "value %d", info.si_value.sival_int);
        }
    CHECK(sigtimedwait(&all, &info, &at_once) == -1, "a further signal %d", info.si_signo);
    _exit(0);
}

/* SIGIO of the kernel with the descriptor it is about, pending and to come. */
static void from_descriptors(void)
{
    int pair[2];
    sigset_t set;
    siginfo_t info;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 3);
    sigprocmask(SIG_BLOCK, &set, NULL);
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
    MUST(fcntl(pair[0], F_SETOWN, getpid()));
    MUST(fcntl(pair[0], F_SETSIG, SIGRTMIN + 3));
    MUST(fcntl(pair[0], F_SETFL, O_ASYNC));
    CHECK(write(pair[1], "x", 1) == 1, "write");
    mark("from_descriptors");
    await("go");
    CHECK(sigtimedwait(&set, &info, &at_once) == SIGRTMIN + 3, "no signal of the kernel");
    CHECK(info.si_code == POLL_IN && info.si_fd == pair[0], "code %d, fd %d", info.si_code, info.si_fd);
    while (sigtimedwait(&set, &info, &at_once) > 0)
        ;
    CHECK(write(pair[1], "y", 1) == 1, "write");
    CHECK(sigtimedwait(&set, &info, &(struct timespec){.tv_sec = 5}) == SIGRTMIN + 3, "the next");
    CHECK(info.si_code == POLL_IN && info.si_fd == pair[0], "code %d, fd %d", info.si_code, info.si_fd);
    _exit(0);
}

/* Was stopped in a call that gives EINTR after any stop: so it does, though it was frozen too. */
static void stopped_in_epoll(void)
{
    struct epoll_event event;
    mark("stopped_in_epoll");
    int result = epoll_wait(epoll_create1(0), &event, 1, -1);
    CHECK(result == -1 && errno == EINTR, "epoll_wait returned %d", result);
    _exit(0);
}

/* A signal that is blocked but for the length of a call. */
static void mask_of_call(void)
{
    struct epoll_event event;
    sigset_t blocked, during, now;
    handle(SIGUSR1, 0);
    sigfillset(&blocked);
    sigprocmask(SIG_SETMASK, &blocked, NULL);
    during = blocked;
    sigdelset(&during, SIGUSR1);
    mark("mask_of_call");
    int result = epoll_pwait(epoll_create1(0), &event, 1, -1, &during);
    CHECK(result == -1 && errno == EINTR && handled == SIGUSR1, "epoll_pwait returned %d", result);
    sigprocmask(SIG_SETMASK, NULL, &now);
    CHECK(sigismember(&now, SIGUSR1) == 1, "the mask before the call is lost");
    _exit(0);
}

static void nested_handler(int signal)
{
    char here;
    stack_t stack;
    sigaltstack(NULL, &stack);
    if (signal == SIGUSR1) {
        on_stack = stack.ss_flags & SS_ONSTACK;
        nested = 1;
        raise(SIGUSR2);
        CHECK(nested == 3, "the nested handler has not run");
        nested = 4;
    } else {
        nested = 2;
        mark("on_alternate_stack");
        await("go");
        sigaltstack(NULL, &stack);
        CHECK(&here > (char *)stack.ss_sp && &here < (char *)stack.ss_sp + stack.ss_size &&
                  stack.ss_flags & SS_ONSTACK,
              "flags %#x", stack.ss_flags);
        nested = 3;
    }
}

static void on_alternate_stack(void)
{
    stack_t stack = {.ss_sp = malloc(1 << 16), .ss_size = 1 << 16};
    struct sigaction action = {.sa_handler = nested_handler, .sa_flags = SA_ONSTACK | SA_RESETHAND};
    MUST(sigaltstack(&stack, NULL));
    MUST(sigaction(SIGUSR1, &action, NULL));
    MUST(sigaction(SIGUSR2, &action, NULL));
    raise(SIGUSR1);
    CHECK(nested == 4 && on_stack, "the handlers");
    MUST(sigaction(SIGUSR2, NULL, &action));
    CHECK(action.sa_handler == SIG_DFL, "SA_RESETHAND");
    MUST(sigaltstack(NULL, &stack));
    CHECK(stack.ss_flags == 0 && stack.ss_size == 1 << 16, "flags %#x", stack.ss_flags);
    _exit(0);
}

#ifndef SS_AUTODISARM
#define SS_AUTODISARM (1u << 31)
#endif

static void in_disarmed(int signal)
{
    stack_t stack;
    (void)signal;
    sigaltstack(NULL, &stack);
    CHECK(stack.ss_flags == SS_DISABLE, "flags %#x in the handler", stack.ss_flags);
    mark("disarmed");
    await("go");
    sigaltstack(NULL, &stack);
    CHECK(stack.ss_flags == SS_DISABLE, "flags %#x in the handler", stack.ss_flags);
}

static void disarmed(void)
{
    stack_t stack = {.ss_sp = malloc(1 << 16), .ss_size = 1 << 16, .ss_flags = (int)SS_AUTODISARM};
    struct sigaction action = {.sa_handler = in_disarmed, .sa_flags = SA_ONSTACK};
    MUST(sigaltstack(&stack, NULL));
    MUST(sigaction(SIGUSR1, &action, NULL));
    raise(SIGUSR1);
    MUST(sigaltstack(NULL, &stack));
    CHECK(stack.ss_flags == (int)SS_AUTODISARM, "flags %#x after the handler", stack.ss_flags);
    _exit(0);
}

/* Blocked in one thread only: it goes to the other. */
static void *unblocked(void *unused)
{
    mark("one_thread");
    await("signalled");
    while (!handled)
        nap();
    return unused;
}

static void one_thread(void)
{
    pthread_t thread;
    sigset_t set;
    handle(SIGUSR1, SA_RESTART);
    pthread_create(&thread, NULL, unblocked, NULL);
    sigfillset(&set);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    pthread_join(thread, NULL);
    sigpending(&set);
    CHECK(!sigismember(&set, SIGUSR1), "it is still pending");
    _exit(0);
}

static void (*const kinds[])(void) = {all_queued,         from_descriptors, stopped_in_epoll,
                                      mask_of_call,       on_alternate_stack, disarmed,
                                      one_thread};
static const char *const names[] = {"all_queued",         "from_descriptors", "stopped_in_epoll",
                                    "mask_of_call",       "on_alternate_stack", "disarmed",
                                    "one_thread"};

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
    enum { KINDS = sizeof kinds / sizeof *kinds, STOPPED = 2, MASKED = 3, THREADED = 6 };
    pid_t children[KINDS];
    int status;
    begin(argc, argv);
    for (int i = 0; i < KINDS; i++) {
        children[i] = (pid_t)MUST(fork());
        if (children[i] == 0)
            kinds[i]();
        await(names[i]);
    }
    for (int i = 0; i < 20; i++)
        nap(); /* entered, and now blocked */
    while (!sleeps(children[STOPPED]) || !sleeps(children[MASKED]))
        nap();
    MUST(kill(children[STOPPED], SIGSTOP));
    CHECK(waitpid(children[STOPPED], &status, WUNTRACED) == children[STOPPED], "the stop");
    ready_then_go();
    CHECK(waitpid(children[STOPPED], NULL, WNOHANG) == 0, "it goes on by itself");
    MUST(kill(children[STOPPED], SIGCONT));
    MUST(kill(children[MASKED], SIGUSR1));
    MUST(kill(children[THREADED], SIGUSR1));
    mark("signalled");
    for (int i = 0; i < KINDS; i++)
        reap(children[i]);
    pass();
}
