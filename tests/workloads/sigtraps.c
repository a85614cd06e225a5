/* SIGTRAP, which a checkpoint uses itself: handled, pending for a process and for a thread, raised by
 * every instruction of a program that steps through itself. */
#include "workload.h"
#include <pthread.h>

static volatile long traps;
static const struct timespec at_once;
static sigset_t set;

static void on_trap(int signal)
{
    (void)signal;
    traps++;
}

static void breakpoints(void)
{
    struct sigaction action = {.sa_handler = on_trap};
    sigaction(SIGTRAP, &action, NULL);
    __asm__ volatile("int3");
    mark("breakpoints");
    await("go");
    __asm__ volatile("int3");
    CHECK(traps == 2, "%ld traps", traps);
    raise(SIGTRAP);
    CHECK(traps == 3, "%ld traps", traps);
    _exit(0);
}

static void step(bool on)
{
    unsigned long flags;
    __asm__ volatile("lea -128(%%rsp), %%rsp; pushfq; popq %0; lea 128(%%rsp), %%rsp" : "=r"(flags));
    flags = on ? flags | 0x100 : flags & ~0x100ul;
    __asm__ volatile("lea -128(%%rsp), %%rsp; pushq %0; popfq; lea 128(%%rsp), %%rsp" ::"r"(flags) : "cc");
}

static void steps(void)
{
    struct sigaction action = {.sa_handler = on_trap};
    sigaction(SIGTRAP, &action, NULL);
    step(true);
    mark("steps");
    await("go");
    long before = traps;
    unsigned long sum = 0;
    for (unsigned long i = 0; i < 1000; i++) {
        sum += i * i;
        __asm__ volatile("" : "+r"(sum));
    }
    step(false);
    CHECK(sum == 332833500, "the sum is %lu", sum);
    CHECK(traps > before + 1000, "%ld steps", traps - before);
    _exit(0);
}

static void expect(int code, int value)
{
    siginfo_t info;
    CHECK(sigtimedwait(&set, &info, &at_once) == SIGTRAP, "no SIGTRAP of code %d", code);
    CHECK(info.si_code == code && info.si_pid == getpid(), "code %d, not %d", info.si_code, code);
    CHECK(code != SI_QUEUE || info.si_value.sival_int == value, "value %d", info.si_value.sival_int);
}

static void *thread_pending(void *unused)
{
    CHECK(!pthread_sigqueue(pthread_self(), SIGTRAP, (union sigval){.sival_int = 78}), "sigqueue");
    mark("thread-pending");
    await("go");
    expect(SI_QUEUE, 78);
    mark("thread-done");
    return unused;
}

static void pending(void)
{
    pthread_t thread;
    sigemptyset(&set);
    sigaddset(&set, SIGTRAP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    pthread_create(&thread, NULL, thread_pending, NULL);
    await("thread-pending");
    CHECK(syscall(SYS_tgkill, getpid(), gettid_raw(), SIGTRAP) == 0, "tgkill");
    MUST(sigqueue(getpid(), SIGTRAP, (union sigval){.sival_int = 77}));
    mark("pending");
    await("thread-done");
    expect(SI_USER, 0); /* SI_TKILL, which the C library hides */
    expect(SI_QUEUE, 77);
    CHECK(sigtimedwait(&set, NULL, &at_once) == -1 && errno == EAGAIN, "a further one");
    pthread_join(thread, NULL);
    _exit(0);
}

/* Pending in a process that is stopped by job control. */
static void stopped(void)
{
    sigemptyset(&set);
    sigaddset(&set, SIGTRAP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    MUST(sigqueue(getpid(), SIGTRAP, (union sigval){.sival_int = 79}));
    mark("stopped");
    raise(SIGSTOP);
    expect(SI_QUEUE, 79);
    _exit(0);
}

static void (*const kinds[])(void) = {breakpoints, steps, pending, stopped};
static const char *const names[] = {"breakpoints", "steps", "pending", "stopped"};

int main(int argc, char **argv)
{
    enum { KINDS = sizeof kinds / sizeof *kinds };
    pid_t children[KINDS];
    int status;
    begin(argc, argv);
    for (int i = 0; i < KINDS; i++) {
        children[i] = (pid_t)MUST(fork());
        if (children[i] == 0)
            kinds[i]();
        await(names[i]);
    }
    CHECK(waitpid(children[3], &status, WUNTRACED) == children[3] && WIFSTOPPED(status), "stopped");
    ready_then_go();
    MUST(kill(children[3], SIGCONT));
    for (int i = 0; i < KINDS; i++)
        reap(children[i]);
    pass();
}
