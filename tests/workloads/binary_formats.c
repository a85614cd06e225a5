/* needs: container, needs: privileged
 * Binary formats that a user namespace has registered for itself: by extension, by magic, disabled.
 * Before Linux 6.7 there are none. */
#include "workload.h"
#include <sys/mount.h>

static void put_text(const char *path, const char *text)
{
    int fd = (int)MUST(open(path, O_WRONLY));
    CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text), "%s into %s", text, path);
    close(fd);
}

static void get_text(const char *path, char *text, size_t size)
{
    int fd = (int)MUST(open(path, O_RDONLY));
    ssize_t length = MUST(read(fd, text, size - 1));
    text[length] = 0;
    close(fd);
}

static void apart(void)
{
    static const char *const names[] = {"by_extension", "by_magic", "disabled"};
    char before[3][512], after[512], path[64];
    MUST(unshare(CLONE_NEWUSER | CLONE_NEWNS));
    put_text("/proc/self/setgroups", "deny");
    put_text("/proc/self/uid_map", "0 0 1");
    put_text("/proc/self/gid_map", "0 0 1");
    if (mount("formats", in_control("formats"), "binfmt_misc", 0, NULL)) {
        mark("apart");
        _exit(0);
    }
    put_text(in_control("formats/register"), ":by_extension:E::w-ext::/bin/true:");
    put_text(in_control("formats/register"), "|by_magic|M|3|\\x01:\\x02|\\xff\\xf0\\xff|/bin/true|OC");
    put_text(in_control("formats/register"), ":disabled:M::w-magic::/bin/false:");
    put_text(in_control("formats/disabled"), "0");
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "formats/%s", names[i]);
        get_text(in_control(path), before[i], sizeof before[i]);
    }
    mark("apart");
    await("go");
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "formats/%s", names[i]);
        get_text(in_control(path), after, sizeof after);
        CHECK(!strcmp(before[i], after), "%s, before %s", after, before[i]);
    }
    int fd = (int)MUST(open(in_control("run.w-ext"), O_CREAT | O_WRONLY, 0755));
    MUST(write(fd, "nothing", 7));
    close(fd);
    pid_t child = (pid_t)MUST(fork());
    if (child == 0) {
        execl(in_control("run.w-ext"), "run", NULL);
        _exit(99);
    }
    reap(child);
    _exit(0);
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    MUST(mkdir(in_control("formats"), 0755));
    pid_t child = (pid_t)MUST(fork());
    if (child == 0)
        apart();
    await("apart");
    ready_then_go();
    reap(child);
    pass();
}
