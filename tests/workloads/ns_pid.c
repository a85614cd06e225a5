/* needs: privileged
 * Pid namespaces: in each other, entered by unshare and by clone, without any process yet, and
 * with an init that is dead. */
#include "workload.h"

static void await_go(void)
{
    await("go");
}

static pid_t fork_into(unsigned long flags)
{
    return (pid_t)MUST(syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0));
}

/* The innermost: a session of its own in the third pid namespace. */
static void innermost(void)
{
    CHECK(getpid() == 1 && getppid() == 0, "pid %d, parent %d", getpid(), getppid());
    MUST(setsid());
    pid_t child = (pid_t)MUST(fork());
    if (child == 0) {
        mark("innermost");
        await_go();
        CHECK(getpid() == 2 && getppid() == 1, "pid %d, parent %d", getpid(), getppid());
        CHECK(getsid(0) == 1 && getpgid(0) == 1, "session %d, group %d", getsid(0), getpgid(0));
        _exit(0);
    }
    CHECK(child == 2, "child %d", child);
    await_go();
    CHECK(getpid() == 1 && getppid() == 0 && getsid(0) == 1, "pid %d", getpid());
    reap(child);
    _exit(0);
}

static void middle(void)
{
    pid_t group = (pid_t)MUST(fork());
    if (group == 0) {
        MUST(setpgid(0, 0));
        mark("group");
        await_go();
        CHECK(getpid() == 2 && getpgid(0) == 2 && getsid(0) == 0, "pid %d", getpid());
        _exit(0);
    }
    await("group");
    pid_t child = fork_into(CLONE_NEWPID);
    if (child == 0)
        innermost();
    await("innermost");
    pid_t daemon = (pid_t)MUST(fork());
    if (daemon == 0) {
        MUST(setsid());
        if (MUST(fork()))
            _exit(0);
        while (getppid() != 1)
            nap();
        mark("daemon");
        await_go();
        CHECK(getpid() == 6 && getppid() == 1 && getsid(0) == 5, "pid %d", getpid());
        _exit(0);
    }
    CHECK(group == 2 && child == 3 && daemon == 5, "%d, %d, %d", group, child, daemon);
    reap(daemon);
    await("daemon");
    mark("middle");
    await_go();
    CHECK(getpid() == 1 && getppid() == 0, "pid %d, parent %d", getpid(), getppid());
    reap(group);
    reap(child);
    reap(6);
    _exit(0);
}

/* Children are in another pid namespace than the process itself. */
static void entered(void)
{
    struct stat before, after;
    MUST(unshare(CLONE_NEWPID));
    pid_t first = (pid_t)MUST(fork());
    if (first == 0) {
        CHECK(getpid() == 1, "pid %d", getpid());
        mark("first");
        for (;;)
            pause();
    }
    MUST(stat("/proc/self/ns/pid_for_children", &before));
    await("first");
    mark("entered");
    await_go();
    MUST(stat("/proc/self/ns/pid_for_children", &after));
    pid_t second = (pid_t)MUST(fork());
    if (second == 0) {
        CHECK(getpid() == 2 && getppid() == 0, "pid %d, parent %d", getpid(), getppid());
        CHECK(kill(1, 0) == 0, "no init");
        _exit(0);
    }
    reap(second);
    MUST(kill(first, SIGKILL));
    MUST(waitpid(first, NULL, 0));
    _exit(0);
}

static void unborn(void)
{
    MUST(unshare(CLONE_NEWPID));
    mark("unborn");
    await_go();
    pid_t first = (pid_t)MUST(fork());
    if (first == 0) {
        CHECK(getpid() == 1, "pid %d", getpid());
        _exit(0);
    }
    reap(first);
    _exit(0);
}

static void dead(void)
{
    MUST(unshare(CLONE_NEWPID));
    pid_t first = (pid_t)MUST(fork());
    if (first == 0)
        _exit(0);
    reap(first);
    mark("dead");
    await_go();
    CHECK(fork() == -1 && errno == ENOMEM, "forked into a dead namespace");
    _exit(0);
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    void (*const acts[])(void) = {entered, unborn, dead};
    const char *const marks[] = {"entered", "unborn", "dead"};
    pid_t children[3], nested = fork_into(CLONE_NEWPID), corpse;
    if (nested == 0)
        middle();
    for (int i = 0; i < 3; i++) {
        children[i] = (pid_t)MUST(fork());
        if (children[i] == 0)
            acts[i]();
    }
    corpse = fork_into(CLONE_NEWPID);
    if (corpse == 0)
        _exit(7);
    siginfo_t info;
    MUST(waitid(P_PID, (id_t)corpse, &info, WEXITED | WNOWAIT));
    for (int i = 0; i < 3; i++)
        await(marks[i]);
    await("middle");
    ready_then_go();
    reap(nested);
    for (int i = 0; i < 3; i++)
        reap(children[i]);
    int status;
    CHECK(waitpid(corpse, &status, 0) == corpse && WEXITSTATUS(status) == 7, "status %#x", status);
    pass();
}
