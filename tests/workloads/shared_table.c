/* Two processes that share one descriptor table without being threads of one process. */
#include "workload.h"

static char stack[64 << 10];

static int share_files(void *argument)
{
    (void)argument;
    mark("files");
    await("opened");
    char text[8] = "";
    /* The descriptor was opened by the parent after the restore; a shared table has it. */
    CHECK(pread(77, text, 4, 0) == 4 && !strcmp(text, "late"), "the table is not shared: %s", text);
    _exit(0);
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    int child = clone(share_files, stack + sizeof stack, CLONE_FILES | SIGCHLD, NULL);
    MUST(child);
    await("files");
    ready_then_go();
    int late = (int)MUST(open(in_control("late"), O_RDWR | O_CREAT, 0600));
    MUST(write(late, "late", 4));
    MUST(dup2(late, 77));
    mark("opened");
    reap(child);
    pass();
}
