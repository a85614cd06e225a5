/* Identities: all four user and group ids, groups, capability sets, securebits, no-new-privs. */
#include "workload.h"
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>

static void dump(char *text, size_t size)
{
    /* The kernel's own words about this very thread. */
    static const char *lines[] = {"Uid:", "Gid:", "Groups:", "CapInh:", "CapPrm:", "CapEff:",
                                  "CapBnd:", "CapAmb:", "NoNewPrivs:"};
    FILE *status = fopen("/proc/self/status", "re");
    char line[512];
    size_t length = 0;
    CHECK(status, "/proc/self/status");
    while (fgets(line, sizeof line, status))
        for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
            if (!strncmp(line, lines[i], strlen(lines[i])))
                length += (size_t)snprintf(text + length, size - length, "%s", line);
    fclose(status);
    snprintf(text + length, size - length, "securebits %#x keepcaps %d dumpable %d\n",
             prctl(PR_GET_SECUREBITS), prctl(PR_GET_KEEPCAPS), prctl(PR_GET_DUMPABLE));
}

static void set_caps(uint64_t effective, uint64_t permitted, uint64_t inheritable)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    for (int i = 0; i < 2; i++) {
        data[i].effective = (uint32_t)(effective >> 32 * i);
        data[i].permitted = (uint32_t)(permitted >> 32 * i);
        data[i].inheritable = (uint32_t)(inheritable >> 32 * i);
    }
    MUST(syscall(SYS_capset, &header, data));
}

static void mixed_ids(void)
{
    gid_t groups[] = {2000, 3000, 4000};
    MUST(setgroups(3, groups));
    MUST(setresgid(10, 20, 30));
    MUST(setresuid(0, 1000, 2000));
    setfsuid(2000);
    setfsgid(30);
}

static void plain_user(void)
{
    MUST(setgroups(0, NULL));
    MUST(setresgid(1234, 1234, 1234));
    MUST(setresuid(1234, 1234, 1234));
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
}

static void user_with_capabilities(void)
{
    uint64_t few = 1 << CAP_NET_BIND_SERVICE | 1 << CAP_KILL | 1 << CAP_CHOWN;
    MUST(prctl(PR_SET_KEEPCAPS, 1));
    MUST(setresgid(500, 500, 500));
    MUST(setresuid(500, 500, 500));
    set_caps(few, few, few);
    MUST(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_KILL, 0, 0));
    set_caps(1 << CAP_CHOWN, few, 1 << CAP_KILL);
    MUST(prctl(PR_SET_KEEPCAPS, 1));
}

static void root_without_everything(void)
{
    for (int cap = 20; cap < 41; cap++)
        if (cap != CAP_SYS_ADMIN && cap != CAP_SYS_PTRACE)
            prctl(PR_CAPBSET_DROP, cap);
    MUST(prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP | SECBIT_NOROOT | SECBIT_NOROOT_LOCKED));
    set_caps(1 << CAP_SETUID, 1 << CAP_SETUID | 1 << CAP_SETGID, 0);
}

static void (*const kinds[])(void) = {mixed_ids, plain_user, user_with_capabilities,
                                      root_without_everything};

int main(int argc, char **argv)
{
    enum { KINDS = 4 };
    pid_t children[KINDS];
    begin(argc, argv);
    MUST(chmod(control, 0777)); /* the children write there under other identities */
    for (int i = 0; i < KINDS; i++) {
        char name[16];
        snprintf(name, sizeof name, "kind%d", i);
        children[i] = (pid_t)MUST(fork());
        if (children[i] == 0) {
            static char before[4096], after[4096];
            kinds[i]();
            dump(before, sizeof before);
            mark(name);
            await("go");
            dump(after, sizeof after);
            CHECK(!strcmp(before, after), "kind %d was:\n%sis:\n%s", i, before, after);
            _exit(0);
        }
        await(name);
    }
    ready_then_go();
    for (int i = 0; i < KINDS; i++)
        reap(children[i]);
    pass();
}
