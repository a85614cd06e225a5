/* Signal handlers with their flags and masks, alternate stacks of two threads, blocked signals. */
#include "workload.h"
#include <pthread.h>
#include <ucontext.h>

static char main_stack[64 << 10], thread_stack[64 << 10];
static volatile int calls[65];
static volatile void *stack_seen;
static volatile bool masked_inside;

static void on_plain(int signal)
{
    calls[signal]++;
}

static void on_alternate(int signal, siginfo_t *info, void *context)
{
    sigset_t now;
    (void)info;
    (void)context;
    stack_seen = &now;
    sigprocmask(SIG_BLOCK, NULL, &now);
    masked_inside = sigismember(&now, SIGTERM) && sigismember(&now, signal);
    calls[signal]++;
}

static bool within(const volatile void *address, const char *start)
{
    return (const volatile char *)address >= start && (const volatile char *)address < start + (64 << 10);
}

static void *run(void *argument)
{
    stack_t alternate = {.ss_sp = thread_stack, .ss_size = sizeof thread_stack}, found;
    (void)argument;
    MUST(sigaltstack(&alternate, NULL));
    mark("thread");
    await("go");
    MUST(sigaltstack(NULL, &found));
    CHECK(found.ss_sp == thread_stack && found.ss_size == sizeof thread_stack && !found.ss_flags,
          "alternate stack of the thread: %p %zu %#x", found.ss_sp, found.ss_size, found.ss_flags);
    CHECK(!pthread_kill(pthread_self(), SIGUSR2), "pthread_kill");
    CHECK(within(stack_seen, thread_stack), "the handler ran at %p", (void *)stack_seen);
    return NULL;
}

static void check_action(int signal, struct sigaction *wanted)
{
    struct sigaction found;
    MUST(sigaction(signal, NULL, &found));
    CHECK(found.sa_handler == wanted->sa_handler, "handler of %d", signal);
    CHECK((found.sa_flags & 0xffffffff) == (wanted->sa_flags & 0xffffffff), "flags of %d: %#x, %#x",
          signal, wanted->sa_flags, found.sa_flags);
    for (int other = 1; other < 65; other++)
        CHECK(sigismember(&found.sa_mask, other) == sigismember(&wanted->sa_mask, other),
              "mask of %d: %d", signal, other);
}

int main(int argc, char **argv)
{
    struct sigaction plain = {.sa_handler = on_plain, .sa_flags = SA_RESTART};
    struct sigaction alternate = {.sa_sigaction = on_alternate, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    struct sigaction once = {.sa_handler = on_plain, .sa_flags = SA_RESETHAND | SA_NODEFER};
    struct sigaction ignored = {.sa_handler = SIG_IGN}, defaulted = {.sa_handler = SIG_DFL};
    stack_t stack = {.ss_sp = main_stack, .ss_size = sizeof main_stack}, found;
    sigset_t blocked, now;
    pthread_t thread;
    begin(argc, argv);
    sigaddset(&plain.sa_mask, SIGINT);
    sigaddset(&alternate.sa_mask, SIGTERM);
    MUST(sigaction(SIGUSR1, &plain, NULL));
    MUST(sigaction(SIGUSR2, &alternate, NULL));
    MUST(sigaction(SIGHUP, &once, NULL));
    MUST(sigaction(SIGPIPE, &ignored, NULL));
    MUST(sigaction(SIGRTMIN + 5, &plain, NULL));
    MUST(sigaction(SIGCHLD, &defaulted, NULL));
    MUST(sigaltstack(&stack, NULL));
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGQUIT);
    sigaddset(&blocked, SIGRTMAX);
    sigprocmask(SIG_SETMASK, &blocked, NULL);
    pthread_create(&thread, NULL, run, NULL);
    await("thread");
    /* What sigaction() returns has the C library's restorer flag. */
    struct sigaction *actions[] = {&plain, &alternate, &once, &ignored, &defaulted};
    int signals[] = {SIGUSR1, SIGUSR2, SIGHUP, SIGPIPE, SIGCHLD};
    for (int i = 0; i < 5; i++)
        MUST(sigaction(signals[i], NULL, actions[i]));
    ready_then_go();
    pthread_join(thread, NULL);

    for (int i = 0; i < 5; i++)
        check_action(signals[i], actions[i]);
    pthread_sigmask(SIG_SETMASK, NULL, &now);
    for (int signal = 1; signal < 65; signal++)
        CHECK(sigismember(&now, signal) == sigismember(&blocked, signal), "blocked: %d", signal);
    MUST(sigaltstack(NULL, &found));
    CHECK(found.ss_sp == main_stack && found.ss_size == sizeof main_stack, "alternate stack");
    raise(SIGUSR1);
    raise(SIGRTMIN + 5);
    raise(SIGPIPE);
    CHECK(calls[SIGUSR1] == 1 && calls[SIGRTMIN + 5] == 1, "plain handlers");
    raise(SIGUSR2);
    CHECK(calls[SIGUSR2] == 2 && masked_inside, "the handler's mask");
    CHECK(within(stack_seen, main_stack), "the handler ran at %p", (void *)stack_seen);
    raise(SIGHUP);
    MUST(sigaction(SIGHUP, NULL, &once));
    CHECK(calls[SIGHUP] == 1 && once.sa_handler == SIG_DFL, "SA_RESETHAND");
    pass();
}
