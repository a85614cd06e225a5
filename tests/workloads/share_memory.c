/* Address spaces that processes share: parent and child, siblings, with signal handlers and
 * without; each with registers, signals and threads of its own. */
#include "workload.h"

static char stacks[4][64 << 10];
static volatile int counter, caught[4];
static int page_size;

static pid_t make(int (*run)(void *), int number, int flags)
{
    char *top = stacks[number] + sizeof stacks[number];
    return (pid_t)MUST(clone(run, top, flags | SIGCHLD, (void *)(intptr_t)number));
}

static void handler(int signal)
{
    caught[signal - SIGRTMIN]++;
}

static int add(void *argument)
{
    int number = (int)(intptr_t)argument;
    __sync_fetch_and_add(&counter, 1);
    while (counter < 1000)
        syscall(SYS_sched_yield);
    __sync_fetch_and_add(&counter, number);
    syscall(SYS_exit_group, number);
    return 0;
}

static int with_sibling(void *argument)
{
    make(add, 2, CLONE_VM | CLONE_PARENT);
    return add(argument);
}

static int with_handlers(void *argument)
{
    __sync_fetch_and_add(&counter, 1);
    while (counter < 1000)
        syscall(SYS_sched_yield);
    struct sigaction action;
    sigaction(SIGRTMIN + 3, NULL, &action);
    if (action.sa_handler == handler)
        syscall(SYS_exit_group, (int)(intptr_t)argument);
    syscall(SYS_exit_group, 99);
    return 0;
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    page_size = getpagesize();
    char *page = mmap(NULL, 16 * page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                      -1, 0);
    fill(page, 16 * page_size, 5);
    pid_t with = make(with_sibling, 1, CLONE_VM);
    pid_t handlers = make(with_handlers, 3, CLONE_VM | CLONE_SIGHAND);
    while (counter < 3)
        nap();
    ready_then_go();
    struct sigaction action = {.sa_handler = handler};
    MUST(sigaction(SIGRTMIN + 3, &action, NULL));
    CHECK(counter == 3, "counter is %d", counter);
    CHECK(filled(page, 16 * page_size, 5), "memory");
    __sync_fetch_and_add(&counter, 997);
    int status, seen = 0;
    for (int i = 0; i < 3; i++) {
        pid_t pid = (pid_t)MUST(wait(&status));
        CHECK(WIFEXITED(status), "status %#x of %d", status, pid);
        CHECK(pid != with || WEXITSTATUS(status) == 1, "status %#x", status);
        CHECK(pid != handlers || WEXITSTATUS(status) == 3, "status %#x", status);
        seen += WEXITSTATUS(status);
    }
    CHECK(seen == 6, "statuses add up to %d", seen);
    CHECK(counter == 1003, "counter is %d", counter);
    raise(SIGRTMIN + 3);
    CHECK(caught[3] == 1, "%d signals", caught[3]);
    pass();
}
