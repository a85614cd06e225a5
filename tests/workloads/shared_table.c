/* Processes that share a descriptor table, a directory, or an address space without being threads. */
#include "workload.h"

static char stacks[2][64 << 10];
static volatile int told, shared_word = 5;
static int late = -1;

static int share_files(void *argument)
{
    (void)argument;
    mark("files");
    await("opened");
    char text[8] = "";
    /* The descriptor was opened by the parent after the restore; a shared table has it. */
    CHECK(pread(77, text, 4, 0) == 4 && !strcmp(text, "late"), "the table is not shared: %s", text);
    char here[PATH_MAX];
    CHECK(getcwd(here, sizeof here) && !strcmp(here, "/"), "the directory is not shared: %s", here);
    _exit(0);
}

static int share_memory(void *argument)
{
    (void)argument;
    mark("memory");
    while (!told)
        nap();
    shared_word = 6;
    _exit(0);
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    MUST(chdir(control));
    int files = clone(share_files, stacks[0] + sizeof stacks[0], CLONE_FILES | CLONE_FS | SIGCHLD, NULL);
    MUST(files);
    await("files");
    int memory = clone(share_memory, stacks[1] + sizeof stacks[1], CLONE_VM | SIGCHLD, NULL);
    MUST(memory);
    await("memory");
    ready_then_go();
    MUST(late = open(in_control("late"), O_RDWR | O_CREAT, 0600));
    MUST(write(late, "late", 4));
    MUST(dup2(late, 77));
    MUST(chdir("/"));
    mark("opened");
    reap(files);
    told = 1;
    reap(memory);
    CHECK(shared_word == 6, "the memory is not shared");
    pass();
}
