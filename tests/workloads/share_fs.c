/* Directories, umask and descriptor tables shared by relatives: over a generation that does not
 * take part, by siblings, and by all threads of a process but one. */
#include "workload.h"
#include <pthread.h>

static pid_t make(unsigned long flags)
{
    return (pid_t)MUST(syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0));
}

static void is_at(const char *path)
{
    char now[PATH_MAX];
    CHECK(getcwd(now, sizeof now) != NULL, "getcwd");
    CHECK(strcmp(now, path) == 0, "in %s, not %s", now, path);
}

/* A grandchild shares with its grandparent what its parent has given up. */
static void grandparent(void)
{
    pid_t child = make(CLONE_FS | CLONE_FILES);
    if (child == 0) {
        pid_t grandchild = make(CLONE_FS | CLONE_FILES);
        if (grandchild == 0) {
            await("go");
            await("moved");
            is_at("/usr");
            CHECK(umask(0) == 031, "umask");
            CHECK(fcntl(500, F_GETFD) == 0, "descriptor 500 is not shared");
            _exit(0);
        }
        MUST(unshare(CLONE_FS | CLONE_FILES));
        MUST(chdir("/etc"));
        umask(044);
        mark("grandchild");
        await("go");
        await("moved");
        is_at("/etc");
        CHECK(umask(0) == 044, "umask");
        CHECK(fcntl(500, F_GETFD) == -1, "descriptor 500 is shared");
        reap(grandchild);
        _exit(0);
    }
    await("grandchild");
    mark("grandparent");
    await("go");
    is_at("/");
    MUST(chdir("/usr"));
    umask(031);
    MUST(dup2(0, 500));
    mark("moved");
    reap(child);
    _exit(0);
}

/* Two siblings share; their parent does not. */
static void siblings(void)
{
    pid_t first = make(0), second = 0;
    if (first == 0) {
        MUST(chdir("/var"));
        second = make(CLONE_FS | CLONE_PARENT);
        if (second == 0) {
            await("go");
            await("sibling-moved");
            is_at("/etc");
            _exit(0);
        }
        mark("siblings");
        await("go");
        is_at("/var");
        MUST(chdir("/etc"));
        mark("sibling-moved");
        _exit(0);
    }
    await("siblings");
    await("go");
    await("sibling-moved");
    is_at("/");
    for (int i = 0; i < 2; i++) {
        int status;
        MUST(wait(&status));
        CHECK(status == 0, "status %#x", status);
    }
    _exit(0);
}

static int taken;

static void *apart(void *argument)
{
    MUST(unshare(CLONE_FS | CLONE_FILES));
    MUST(chdir("/usr/bin"));
    umask(055);
    taken = (int)MUST(open("/dev/null", O_RDONLY | O_CLOEXEC));
    mark("apart");
    await("go");
    is_at("/usr/bin");
    CHECK(umask(0) == 055, "umask");
    CHECK(fcntl(taken, F_GETFD) == FD_CLOEXEC, "descriptor %d", taken);
    return argument;
}

static void *together(void *argument)
{
    await("go");
    await("thread-moved");
    is_at("/tmp");
    CHECK(fcntl(taken, F_GETFD) == -1, "descriptor %d is shared", taken);
    return argument;
}

static void threads(void)
{
    pthread_t first, second;
    pthread_create(&first, NULL, apart, NULL);
    await("apart");
    pthread_create(&second, NULL, together, NULL);
    mark("threads");
    await("go");
    MUST(chdir("/tmp"));
    mark("thread-moved");
    pthread_join(first, NULL);
    pthread_join(second, NULL);
    _exit(0);
}

int main(int argc, char **argv)
{
    void (*const acts[])(void) = {grandparent, siblings, threads};
    const char *const marks[] = {"grandparent", "siblings", "threads"};
    pid_t children[3];
    begin(argc, argv);
    MUST(chdir("/"));
    for (int i = 0; i < 3; i++) {
        children[i] = (pid_t)MUST(fork());
        if (children[i] == 0)
            acts[i]();
    }
    for (int i = 0; i < 3; i++)
        await(marks[i]);
    ready_then_go();
    for (int i = 0; i < 3; i++)
        reap(children[i]);
    pass();
}
