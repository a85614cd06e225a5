/* Seccomp in threads: filters that all have, a longer chain in one, which may be extended to all
 * in one go afterwards; strict mode; filters without privileges. */
#include "workload.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/prctl.h>

static long install(int number, int error, unsigned int flags)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned int)number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned int)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}

static bool blocked(int number, int error)
{
    return syscall(number, 0, 0, 0) == -1 && errno == error;
}

static void *longer(void *argument)
{
    MUST(install(SYS_setpriority, EDOM, SECCOMP_FILTER_FLAG_LOG));
    mark("longer");
    await("go");
    await("checked");
    CHECK(blocked(SYS_getpriority, ENOMEDIUM) && blocked(SYS_setpriority, EDOM), "filters");
    /* Everybody else's filters are ancestors of ours, so they can be given ours. */
    long result = install(SYS_sethostname, EXFULL, SECCOMP_FILTER_FLAG_TSYNC);
    CHECK(result == 0, "thread %ld could not be synchronized", result);
    mark("synchronized");
    return argument;
}

static void *same(void *argument)
{
    await("go");
    CHECK(blocked(SYS_getpriority, ENOMEDIUM), "filter of all");
    CHECK(!blocked(SYS_setpriority, EDOM), "filter of another thread");
    mark("checked");
    await("synchronized");
    CHECK(blocked(SYS_setpriority, EDOM) && blocked(SYS_sethostname, EXFULL), "filters");
    return argument;
}

static void threads(void)
{
    pthread_t first, second;
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    MUST(setresgid(1000, 1000, 1000));
    MUST(setresuid(1000, 1000, 1000));
    MUST(install(SYS_getpriority, ENOMEDIUM, 0));
    pthread_create(&first, NULL, longer, NULL);
    pthread_create(&second, NULL, same, NULL);
    pthread_join(first, NULL);
    pthread_join(second, NULL);
    CHECK(blocked(SYS_setpriority, EDOM), "filters of the first thread");
    _exit(0);
}

int main(int argc, char **argv)
{
    int in[2], out[2];
    char byte;
    begin(argc, argv);
    MUST(pipe(in));
    MUST(pipe(out));
    MUST(chmod(control, 0777));
    pid_t filtered = (pid_t)MUST(fork()), strict;
    if (filtered == 0)
        threads();
    strict = (pid_t)MUST(fork());
    if (strict == 0) {
        MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT));
        syscall(SYS_write, out[1], "s", 1);
        syscall(SYS_read, in[0], &byte, 1);
        syscall(SYS_write, out[1], &byte, 1);
        if (byte == 'x')
            syscall(SYS_getpid);
        syscall(SYS_exit, 0);
    }
    MUST(read(out[0], &byte, 1));
    await("longer");
    ready_then_go();
    reap(filtered);
    MUST(write(in[1], "x", 1));
    MUST(read(out[0], &byte, 1));
    CHECK(byte == 'x', "byte %c", byte);
    int status;
    CHECK(waitpid(strict, &status, 0) == strict, "wait");
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "status %#x", status);
    pass();
}
