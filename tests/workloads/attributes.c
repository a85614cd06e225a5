/* What a process has besides memory and files, one child for each: umask, cwd, nice, scheduling,
 * affinity, comm, personality, dumpable, timer slack, limits, OOM adjustment, huge page setting. */
#include "workload.h"
#include <linux/ioprio.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>

static const char *read_text(const char *path)
{
    static char text[512];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
    text[length > 0 ? length : 0] = 0;
    close(fd);
    return text;
}

static void check_basics(void)
{
    char directory[PATH_MAX], name[16];
    MUST(mkdir(in_control("some-directory"), 0755));
    MUST(chdir(in_control("some-directory")));
    umask(0137);
    prctl(PR_SET_NAME, "name (of) \1 it");
    MUST(prctl(PR_SET_DUMPABLE, 0));
    MUST(prctl(PR_SET_TIMERSLACK, 123456));
    mark("prepared-0");
    await("go");
    CHECK(getcwd(directory, sizeof directory), "getcwd");
    CHECK(!strcmp(directory, in_control("some-directory")), "cwd is %s", directory);
    mode_t mask = umask(0);
    CHECK(mask == 0137, "umask is %o", mask);
    prctl(PR_GET_NAME, name);
    CHECK(!strcmp(name, "name (of) \1 it"), "comm is %s", name);
    CHECK(prctl(PR_GET_DUMPABLE) == 0, "dumpable is %d", prctl(PR_GET_DUMPABLE));
    CHECK(prctl(PR_GET_TIMERSLACK) == 123456, "timer slack is %d", prctl(PR_GET_TIMERSLACK));
}

static void check_scheduling(void)
{
    cpu_set_t set, found;
    struct sched_param parameter = {0}, got;
    CPU_ZERO(&set);
    CPU_SET(0, &set);
    MUST(sched_setscheduler(0, SCHED_BATCH, &parameter));
    MUST(setpriority(PRIO_PROCESS, 0, 7));
    MUST(sched_setaffinity(0, sizeof set, &set));
    MUST(syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE, 6)));
    mark("prepared-1");
    await("go");
    CHECK(sched_getscheduler(0) == SCHED_BATCH, "policy is %d", sched_getscheduler(0));
    CHECK(getpriority(PRIO_PROCESS, 0) == 7, "nice is %d", getpriority(PRIO_PROCESS, 0));
    MUST(sched_getaffinity(0, sizeof found, &found));
    CHECK(CPU_EQUAL(&set, &found), "affinity to %d CPUs", CPU_COUNT(&found));
    MUST(sched_getparam(0, &got));
    CHECK(got.sched_priority == 0, "priority is %d", got.sched_priority);
    long io = syscall(SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0);
    CHECK(io == IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE, 6), "I/O priority is %#lx", io);
}

static void check_real_time(void)
{
    struct sched_param parameter = {.sched_priority = 5}, got;
    /* A cgroup without real-time bandwidth, or a missing capability, may forbid it. */
    bool allowed = sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &parameter) == 0;
    mark("prepared-2");
    await("go");
    if (!allowed)
        return;
    CHECK(sched_getscheduler(0) == (SCHED_RR | SCHED_RESET_ON_FORK), "policy %d", sched_getscheduler(0));
    MUST(sched_getparam(0, &got));
    CHECK(got.sched_priority == 5, "priority is %d", got.sched_priority);
}

static void check_personality(void)
{
    MUST(personality(ADDR_NO_RANDOMIZE | READ_IMPLIES_EXEC));
    mark("prepared-3");
    await("go");
    int found = personality(0xffffffff);
    CHECK(found == (ADDR_NO_RANDOMIZE | READ_IMPLIES_EXEC), "personality is %#x", found);
}

static void check_limits(void)
{
    struct rlimit limits[RLIM_NLIMITS], found;
    struct rlimit files = {100, 200}, core = {0, 0}, size = {1 << 20, 1 << 21};
    MUST(setrlimit(RLIMIT_NOFILE, &files));
    MUST(setrlimit(RLIMIT_CORE, &core));
    MUST(setrlimit(RLIMIT_FSIZE, &size));
    for (int i = 0; i < (int)RLIM_NLIMITS; i++)
        MUST(getrlimit((__rlimit_resource_t)i, &limits[i]));
    mark("prepared-4");
    await("go");
    for (int i = 0; i < (int)RLIM_NLIMITS; i++) {
        MUST(getrlimit((__rlimit_resource_t)i, &found));
        CHECK(found.rlim_cur == limits[i].rlim_cur && found.rlim_max == limits[i].rlim_max,
              "limit %d was %lu/%lu, is %lu/%lu", i, limits[i].rlim_cur, limits[i].rlim_max,
              found.rlim_cur, found.rlim_max);
    }
}

static void check_settings(void)
{
    int fd = (int)MUST(open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC));
    MUST(write(fd, "321", 3));
    close(fd);
    MUST(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
    mark("prepared-5");
    await("go");
    CHECK(atoi(read_text("/proc/self/oom_score_adj")) == 321, "oom_score_adj is %s",
          read_text("/proc/self/oom_score_adj"));
    CHECK(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 1, "THP is not disabled any more");
}

static void (*const kinds[])(void) = {check_basics,      check_scheduling, check_real_time,
                                      check_personality, check_limits,     check_settings};

int main(int argc, char **argv)
{
    enum { KINDS = sizeof kinds / sizeof *kinds };
    pid_t children[KINDS];
    static char command[4096], environment[4096], auxiliary[512], found[4096];
    begin(argc, argv);
    for (int i = 0; i < KINDS; i++) {
        char name[16];
        snprintf(name, sizeof name, "prepared-%d", i);
        children[i] = (pid_t)MUST(fork());
        if (children[i] == 0) {
            kinds[i]();
            _exit(0);
        }
        await(name);
    }
    snprintf(command, sizeof command, "%s", read_text("/proc/self/cmdline"));
    memcpy(environment, read_text("/proc/self/environ"), 512);
    memcpy(auxiliary, read_text("/proc/self/auxv"), 512);
    char exe[PATH_MAX] = "", exe_after[PATH_MAX] = "";
    MUST(readlink("/proc/self/exe", exe, sizeof exe - 1));
    ready_then_go();
    MUST(readlink("/proc/self/exe", exe_after, sizeof exe_after - 1));
    CHECK(!strcmp(exe, exe_after), "exe was %s, is %s", exe, exe_after);
    CHECK(!strcmp(command, read_text("/proc/self/cmdline")), "the command line changed");
    memcpy(found, read_text("/proc/self/environ"), 512);
    CHECK(!memcmp(environment, found, 512), "the environment changed");
    memcpy(found, read_text("/proc/self/auxv"), 512);
    CHECK(!memcmp(auxiliary, found, 320), "the auxiliary vector changed");
    for (int i = 0; i < KINDS; i++)
        reap(children[i]);
    pass();
}
