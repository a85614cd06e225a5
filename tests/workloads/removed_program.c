/* A program whose own file is gone, and one that runs from a name it lost. */
#include "workload.h"

static void copy_to(const char *target)
{
    char buffer[65536];
    ssize_t count;
    int from = (int)MUST(open("/proc/self/exe", O_RDONLY));
    int to = (int)MUST(open(target, O_WRONLY | O_CREAT | O_EXCL, 0755));
    while ((count = MUST(read(from, buffer, sizeof buffer))) > 0)
        MUST(write(to, buffer, (size_t)count));
    close(from);
    close(to);
}

static void runs(const char *name)
{
    char path[PATH_MAX] = "", wanted[PATH_MAX + 20];
    MUST(readlink("/proc/self/exe", path, sizeof path - 1));
    snprintf(wanted, sizeof wanted, "%s (deleted)", in_control(name));
    CHECK(!strcmp(path, wanted), "runs %s, not %s", path, wanted);
}

int main(int argc, char **argv)
{
    if (argc == 3) { /* a copy */
        snprintf(control, sizeof control, "%s", argv[1]);
        bool linked = !strcmp(argv[2], "linked");
        if (linked)
            MUST(link(in_control("linked"), in_control("other")));
        MUST(unlink(in_control(argv[2])));
        mark(linked ? "linked-runs" : "copy-runs");
        await("go");
        runs(argv[2]);
        _exit(0);
    }
    begin(argc, argv);
    const char *names[] = {"copy", "linked"};
    pid_t children[2];
    for (int i = 0; i < 2; i++) {
        copy_to(in_control(names[i]));
        children[i] = (pid_t)MUST(fork());
        if (children[i] == 0) {
            execl(in_control(names[i]), names[i], control, names[i], NULL);
            _exit(97);
        }
    }
    await("copy-runs");
    await("linked-runs");
    ready_then_go();
    reap(children[0]);
    reap(children[1]);
    pass();
}
