/* needs: privileged
 * Cgroups that a program has made: in hierarchies of v1, in v2, with limits, with a thread apart,
 * empty ones, owned by somebody else, and as roots of cgroup namespaces. */
#include "workload.h"
#include <pthread.h>

static char unique[64];
static const char *const pids = "/sys/fs/cgroup/pids", *const cpu = "/sys/fs/cgroup/cpu",
                        *const unified = "/sys/fs/cgroup/unified";

static const char *path_of(const char *top, const char *rest)
{
    static char paths[4][PATH_MAX];
    static unsigned int turn;
    char *path = paths[turn++ % 4];
    snprintf(path, PATH_MAX, "%s/%s%s", top, unique, rest);
    return path;
}

static void write_to(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    CHECK(fd >= 0, "%s", path);
    CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text), "%s to %s", text, path);
    close(fd);
}

static void expect(const char *path, const char *text)
{
    char now[256] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0, "%s", path);
    CHECK(read(fd, now, sizeof now - 1) >= 0, "%s", path);
    close(fd);
    CHECK(strncmp(now, text, strlen(text)) == 0, "%s has %s", path, now);
}

/* Whether /proc/PID/cgroup has a line that ends like this. */
static bool is_in(const char *pid, const char *hierarchy, const char *end)
{
    char path[64], line[512];
    bool found = false;
    snprintf(path, sizeof path, "/proc/%s/cgroup", pid);
    FILE *file = fopen(path, "re");
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        size_t length = strlen(line), tail = strlen(end);
        found |= strstr(line, hierarchy) && length >= tail && !strcmp(line + length - tail, end);
    }
    fclose(file);
    return found;
}

static void *apart(void *argument)
{
    char number[16];
    snprintf(number, sizeof number, "%d", gettid_raw());
    write_to(path_of(cpu, "/apart/tasks"), number);
    write_to(path_of(unified, "/threaded/apart/cgroup.threads"), number);
    mark("apart");
    await("go");
    CHECK(is_in("thread-self", ":cpu:", "/apart"), "the thread is elsewhere");
    CHECK(is_in("thread-self", "0::", "/threaded/apart"), "the thread is elsewhere");
    return argument;
}

static void process(void)
{
    pthread_t thread;
    struct stat status;
    write_to(path_of(pids, "/tasks"), "0");
    write_to(path_of(unified, "/threaded/cgroup.procs"), "0");
    CHECK(pthread_create(&thread, NULL, apart, NULL) == 0, "no thread");
    await("apart");
    MUST(unshare(CLONE_NEWCGROUP));
    mark("process");
    await("go");
    CHECK(is_in("self", ":pids:", ":/"), "not at the root of the namespace");
    CHECK(is_in("self", "0::", ":/"), "not at the root of the namespace");
    expect(path_of(pids, "/pids.max"), "77");
    expect(path_of(cpu, "/apart/cpu.shares"), "512");
    expect(path_of(cpu, "/cpu.cfs_quota_us"), "250000");
    expect(path_of(unified, "/threaded/cgroup.type"), "domain threaded");
    expect(path_of(unified, "/threaded/apart/cgroup.type"), "threaded");
    expect(path_of(unified, "/cgroup.max.descendants"), "40");
    MUST(stat(path_of(unified, "/delegated"), &status));
    CHECK(status.st_uid == 1234 && status.st_gid == 4321, "owner %d", status.st_uid);
    MUST(stat(path_of(unified, "/delegated/cgroup.procs"), &status));
    CHECK(status.st_uid == 1234, "owner %d", status.st_uid);
    pthread_join(thread, NULL);
    _exit(0);
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    if (access("/sys/fs/cgroup/pids", W_OK) || access("/sys/fs/cgroup/cpu/tasks", W_OK) ||
        access("/sys/fs/cgroup/unified", W_OK)) {
        ready_then_go();
        pass(); /* a host with other hierarchies */
    }
    snprintf(unique, sizeof unique, "workload-%d-%ld", getpid(), (long)time(NULL));
    const char *const all[] = {path_of(pids, ""), path_of(cpu, "")};
    for (int i = 0; i < 2; i++)
        MUST(mkdir(all[i], 0755));
    MUST(mkdir(path_of(cpu, "/apart"), 0755));
    MUST(mkdir(path_of(unified, ""), 0755));
    MUST(mkdir(path_of(unified, "/threaded"), 0755));
    MUST(mkdir(path_of(unified, "/threaded/apart"), 0755));
    MUST(mkdir(path_of(unified, "/delegated"), 0755));
    write_to(path_of(pids, "/pids.max"), "77");
    write_to(path_of(cpu, "/cpu.cfs_quota_us"), "250000");
    write_to(path_of(cpu, "/apart/cpu.shares"), "512");
    write_to(path_of(unified, "/cgroup.max.descendants"), "40");
    write_to(path_of(unified, "/threaded/apart/cgroup.type"), "threaded");
    MUST(chown(path_of(unified, "/delegated"), 1234, 4321));
    MUST(chown(path_of(unified, "/delegated/cgroup.procs"), 1234, 4321));
    pid_t child = (pid_t)MUST(fork());
    if (child == 0)
        process();
    await("process");
    ready_then_go();
    reap(child);
    CHECK(!is_in("self", "0::", "/threaded"), "we are in a cgroup of the child");
    MUST(rmdir(path_of(unified, "/delegated")));
    MUST(rmdir(path_of(unified, "/threaded/apart")));
    MUST(rmdir(path_of(unified, "/threaded")));
    MUST(rmdir(path_of(unified, "")));
    MUST(rmdir(path_of(cpu, "/apart")));
    MUST(rmdir(path_of(cpu, "")));
    MUST(rmdir(path_of(pids, "")));
    pass();
}
