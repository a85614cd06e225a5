/* What tasks have asked the kernel for: syscall user dispatch, write-xor-execute, memory merging,
 * memory barriers, the time-stamp counter, machine checks, segment descriptors, core dumps. */
#include "workload.h"
#include <asm/ldt.h>
#include <asm/prctl.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/ucontext.h>

#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#define PR_GET_MDWE 66
#define PR_MDWE_REFUSE_EXEC_GAIN 1
#endif
#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67
#define PR_GET_MEMORY_MERGE 68
#endif

static volatile char selector;
static volatile sig_atomic_t dispatched, faults;

static void on_sys(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    (void)context;
    selector = SYSCALL_DISPATCH_FILTER_ALLOW;
    dispatched = info->si_syscall;
}

static void on_fault(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    (void)info;
    faults++;
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] += 2; /* rdtsc */
}

static void catches(int number)
{
    dispatched = -1;
    selector = SYSCALL_DISPATCH_FILTER_BLOCK;
    syscall(number);
    CHECK(dispatched == number, "%d was dispatched, not %d", dispatched, number);
}

static void *dispatch(void *argument)
{
    struct sigaction action = {.sa_sigaction = on_sys, .sa_flags = SA_SIGINFO};
    MUST(sigaction(SIGSYS, &action, NULL));
    MUST(prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, 0, 0, &selector));
    catches(SYS_getppid);
    mark("dispatch");
    await("go");
    catches(SYS_getsid);
    MUST(prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_OFF, 0, 0, 0));
    return argument;
}

static void counter(void)
{
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    int mode;
    MUST(sigaction(SIGSEGV, &action, NULL));
    MUST(prctl(PR_SET_TSC, PR_TSC_SIGSEGV, 0, 0, 0));
    MUST(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0));
    MUST(prctl(PR_SET_TIMERSLACK, 12345, 0, 0, 0));
    mark("counter");
    while (access(in_control("go"), F_OK))
        syscall(SYS_sched_yield);
    asm volatile("rdtsc" ::: "eax", "edx");
    CHECK(faults == 1, "%d faults", faults);
    MUST(prctl(PR_GET_TSC, &mode, 0, 0, 0));
    CHECK(mode == PR_TSC_SIGSEGV, "mode %d", mode);
    CHECK(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0) == PR_MCE_KILL_EARLY, "machine checks");
    CHECK(prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0) == 12345, "slack");
    _exit(0);
}

static char in_segment[64] = "a segment";

static void segments(void)
{
    struct user_desc entry = {.entry_number = 3,
                              .base_addr = 0,
                              .limit = 0xfffff,
                              .seg_32bit = 1,
                              .limit_in_pages = 1,
                              .useable = 1};
    char *low = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT,
                     -1, 0);
    CHECK(low != MAP_FAILED, "mmap");
    memcpy(low, in_segment, sizeof in_segment);
    entry.base_addr = (unsigned int)(uintptr_t)low;
    MUST(syscall(SYS_modify_ldt, 0x11, &entry, sizeof entry));
    asm volatile("mov %0, %%gs" : : "r"((unsigned short)(3 << 3 | 7)));
    mark("segments");
    await("go");
    uint64_t now[16] = {0};
    long size = MUST(syscall(SYS_modify_ldt, 0, now, sizeof now));
    CHECK((size & 0xffffffff) >= 32 && now[3] && !now[0], "descriptor table of %ld bytes", size);
    unsigned short loaded;
    char first;
    asm volatile("mov %%gs, %0\n movb %%gs:0, %1" : "=r"(loaded), "=r"(first));
    CHECK(loaded == (3 << 3 | 7), "selector %#x", loaded);
    CHECK(first == 'a', "the segment starts with %d", first);
    _exit(0);
}

static void barriers(void)
{
    MUST(syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0));
    int dump = (int)MUST(open("/proc/self/coredump_filter", O_WRONLY | O_CLOEXEC));
    MUST(write(dump, "0x7", 3));
    close(dump);
    bool merges = prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0) == 0;
    bool protects = prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) == 0;
    mark("barriers");
    await("go");
    MUST(syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0));
    char filter[16] = "";
    dump = (int)MUST(open("/proc/self/coredump_filter", O_RDONLY | O_CLOEXEC));
    MUST(read(dump, filter, sizeof filter - 1));
    CHECK(strcmp(filter, "00000007\n") == 0, "filter %s", filter);
    CHECK(!merges || prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0) == 1, "merging");
    if (protects) {
        CHECK(prctl(PR_GET_MDWE, 0, 0, 0, 0) == PR_MDWE_REFUSE_EXEC_GAIN, "write-xor-execute");
        void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(page == MAP_FAILED && errno == EACCES, "memory can be written and executed");
    }
    _exit(0);
}

int main(int argc, char **argv)
{
    void (*const acts[])(void) = {counter, segments, barriers};
    const char *const marks[] = {"counter", "segments", "barriers"};
    pid_t children[3];
    pthread_t thread;
    begin(argc, argv);
    for (int i = 0; i < 3; i++) {
        children[i] = (pid_t)MUST(fork());
        if (children[i] == 0)
            acts[i]();
    }
    CHECK(pthread_create(&thread, NULL, dispatch, NULL) == 0, "no thread");
    for (int i = 0; i < 3; i++)
        await(marks[i]);
    await("dispatch");
    ready_then_go();
    pthread_join(thread, NULL);
    for (int i = 0; i < 3; i++)
        reap(children[i]);
    pass();
}
