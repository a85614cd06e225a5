/* The freeze comes while a signal handler runs; it returns to where it interrupted. */
#include "workload.h"

static volatile int depth;
static volatile bool ran;

static void inner(int signal)
{
    (void)signal;
    ran = true;
    ready_then_go();
}

static void outer(int signal)
{
    (void)signal;
    depth = 1;
    raise(SIGUSR2);
    depth = 2;
}

int main(int argc, char **argv)
{
    static char stack[128 << 10];
    sigset_t before, after;
    double x = 1.5, y;
    begin(argc, argv);
    MUST(sigaltstack(&(stack_t){.ss_sp = stack, .ss_size = sizeof stack}, NULL));
    sigaction(SIGUSR1, &(struct sigaction){.sa_handler = outer}, NULL);
    sigaction(SIGUSR2, &(struct sigaction){.sa_handler = inner, .sa_flags = SA_ONSTACK}, NULL);
    sigprocmask(SIG_SETMASK, NULL, &before);
    y = x * 3;
    raise(SIGUSR1);
    CHECK(depth == 2 && ran, "depth %d", depth);
    CHECK(x == 1.5 && y == 4.5, "floating point across the handler: %f %f", x, y);
    sigprocmask(SIG_SETMASK, NULL, &after);
    for (int signal = 1; signal < 65; signal++)
        CHECK(sigismember(&before, signal) == sigismember(&after, signal), "mask: %d", signal);
    pass();
}
