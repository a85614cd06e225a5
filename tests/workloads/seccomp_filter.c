/* A seccomp filter of the program's own, and no-new-privileges, are still in force. */
#include "workload.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>

static void install(int number, int error)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned int)number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned int)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0));
}

static void check(const char *when)
{
    CHECK(syscall(SYS_getpriority, 0, 0) == -1 && errno == ENOMEDIUM, "%s: first filter", when);
    CHECK(syscall(SYS_sethostname, "x", 1) == -1 && errno == EDOM, "%s: second filter", when);
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    pid_t child = (pid_t)MUST(fork());
    if (child == 0) {
        MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
        install(SYS_getpriority, ENOMEDIUM);
        install(SYS_sethostname, EDOM);
        check("before");
        mark("filtered");
        await("go");
        check("after");
        CHECK(prctl(PR_GET_SECCOMP) == SECCOMP_MODE_FILTER, "mode %d", prctl(PR_GET_SECCOMP));
        _exit(0);
    }
    await("filtered");
    ready_then_go();
    CHECK(prctl(PR_GET_SECCOMP) == 0, "the parent has a filter");
    reap(child);
    pass();
}
