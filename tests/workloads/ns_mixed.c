/* needs: privileged
 * Network, UTS, IPC, mount, cgroup and time namespaces: made by a process, by one thread, entered
 * by a process that is no relative, or only for children. */
#include "workload.h"
#include <pthread.h>

static const char *const kinds[] = {"net", "uts", "ipc", "mnt", "cgroup", "time"};
enum { KINDS = 6 };

static ino_t of(pid_t pid, const char *kind)
{
    char path[64];
    struct stat status;
    snprintf(path, sizeof path, "/proc/%d/ns/%s", pid, kind);
    MUST(stat(path, &status));
    return status.st_ino;
}

static void is_host(const char *name)
{
    char host[65];
    MUST(gethostname(host, sizeof host));
    CHECK(strcmp(host, name) == 0, "host name %s, not %s", host, name);
}

static void maker(pid_t init)
{
    MUST(unshare(CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNS | CLONE_NEWCGROUP));
    MUST(sethostname("maker", 5));
    MUST(unshare(CLONE_NEWTIME));
    int fd = (int)MUST(open("/proc/self/timens_offsets", O_WRONLY | O_CLOEXEC));
    MUST(dprintf(fd, "monotonic 100000 5\nboottime 300000 0\n"));
    close(fd);
    double monotonic = seconds(CLOCK_MONOTONIC), boottime = seconds(CLOCK_BOOTTIME);
    pid_t child = (pid_t)MUST(fork());
    if (child == 0) {
        CHECK(seconds(CLOCK_MONOTONIC) > monotonic + 99990, "the clock is not ahead");
        mark("child");
        await("go");
        double passed = seconds(CLOCK_MONOTONIC) - monotonic;
        CHECK(passed > 100000 && passed < 100100, "%f seconds ahead", passed);
        passed = seconds(CLOCK_BOOTTIME) - boottime;
        CHECK(passed > 300000 && passed < 300100, "%f seconds ahead", passed);
        for (int i = 0; i < KINDS - 1; i++)
            CHECK(of(getpid(), kinds[i]) == of(getppid(), kinds[i]), "another %s", kinds[i]);
        CHECK(of(getpid(), "time") == of(getppid(), "time_for_children"), "another clock");
        _exit(0);
    }
    await("child");
    mark("maker");
    await("go");
    is_host("maker");
    for (int i = 0; i < KINDS; i++)
        CHECK((of(getpid(), kinds[i]) == of(init, kinds[i])) == (i == 5), "%s", kinds[i]);
    double passed = seconds(CLOCK_MONOTONIC) - monotonic;
    CHECK(passed >= 0 && passed < 100, "%f seconds ahead", passed);
    pid_t next = (pid_t)MUST(fork());
    if (next == 0) {
        CHECK(seconds(CLOCK_MONOTONIC) > monotonic + 99990, "the clock is not ahead");
        _exit(0);
    }
    reap(next);
    reap(child);
    await("compared");  // a process that has ended has no namespaces to compare with
    _exit(0);
}

static void guest(pid_t other)
{
    await("maker");
    for (int i = 0; i < 3; i++) {
        char path[64];
        snprintf(path, sizeof path, "/proc/%d/ns/%s", other, kinds[i]);
        int fd = (int)MUST(open(path, O_RDONLY | O_CLOEXEC));
        MUST(setns(fd, 0));
        close(fd);
    }
    mark("guest");
    await("go");
    for (int i = 0; i < 3; i++)
        CHECK(of(getpid(), kinds[i]) == of(other, kinds[i]), "another %s", kinds[i]);
    CHECK(of(getpid(), "mnt") == of(getppid(), "mnt"), "another mnt");
    is_host("maker");
    MUST(kill(other, 0));
    mark("compared");
    _exit(0);
}

static void *in_thread(void *argument)
{
    MUST(unshare(CLONE_NEWUTS | CLONE_NEWNET));
    MUST(sethostname("thread", 6));
    mark("thread");
    await("go");
    is_host("thread");
    return argument;
}

static void with_thread(void)
{
    pthread_t thread;
    MUST(unshare(CLONE_NEWUTS));
    MUST(sethostname("leader", 6));
    CHECK(pthread_create(&thread, NULL, in_thread, NULL) == 0, "no thread");
    await("thread");
    mark("threads");
    await("go");
    is_host("leader");
    pthread_join(thread, NULL);
    _exit(0);
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    pid_t self = getpid(), children[3];
    for (int i = 0; i < 3; i++) {
        children[i] = (pid_t)MUST(fork());
        if (children[i] == 0) {
            if (i == 0)
                maker(self);
            if (i == 1)
                guest(children[0]);
            with_thread();
        }
    }
    await("maker");
    await("guest");
    await("threads");
    ready_then_go();
    for (int i = 0; i < 3; i++)
        reap(children[i]);
    pass();
}
