/* Sessions and process groups, also those whose leader is gone. */
#include "workload.h"

static void check_ids(const char *who, pid_t group, pid_t session)
{
    CHECK(getpgid(0) == group, "%s: group was %d, is %d", who, group, getpgid(0));
    CHECK(getsid(0) == session, "%s: session was %d, is %d", who, session, getsid(0));
}

/* A session whose members are in two groups. */
static void session_with_groups(void)
{
    pid_t session = (pid_t)MUST(setsid()), inner;
    inner = (pid_t)MUST(fork());
    if (inner == 0) {
        MUST(setpgid(0, 0));
        mark("inner");
        await("go");
        check_ids("inner", getpid(), session);
        _exit(0);
    }
    await("inner");
    mark("outer");
    await("go");
    check_ids("outer", session, session);
    reap(inner);
    _exit(0);
}

/* A group whose leader has exited; its number must still be its members'. */
static void orphaned_group(void)
{
    pid_t leader, member;
    int pipes[2];
    MUST(setsid());
    MUST(pipe(pipes));
    leader = (pid_t)MUST(fork());
    if (leader == 0) {
        MUST(setpgid(0, 0));
        MUST(write(pipes[1], "1", 1));
        pause();
    }
    char byte;
    MUST(read(pipes[0], &byte, 1));
    member = (pid_t)MUST(fork());
    if (member == 0) {
        close(pipes[0]);
        close(pipes[1]);
        MUST(setpgid(0, leader));
        mark("member");
        await("go");
        check_ids("member", leader, getppid());
        _exit(0);
    }
    await("member");
    kill(leader, SIGKILL);
    waitpid(leader, NULL, 0);
    mark("orphaned");
    await("go");
    reap(member);
    _exit(0);
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    pid_t group = getpgid(0), session = getsid(0), children[2];
    children[0] = (pid_t)MUST(fork());
    if (children[0] == 0)
        session_with_groups();
    children[1] = (pid_t)MUST(fork());
    if (children[1] == 0)
        orphaned_group();
    await("outer");
    await("orphaned");
    ready_then_go();
    check_ids("first", group, session);
    reap(children[0]);
    reap(children[1]);
    pass();
}
