/* A child stopped by SIGSTOP stays stopped, says so once, and goes on with SIGCONT. */
#include "workload.h"

static char state_of(pid_t pid)
{
    char path[64], line[512] = "", *end;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = fopen(path, "re");
    CHECK(file, "open %s", path);
    CHECK(fgets(line, sizeof line, file), "read %s", path);
    fclose(file);
    end = strrchr(line, ')');
    return end[2];
}

int main(int argc, char **argv)
{
    int status;
    volatile unsigned long *counter;
    begin(argc, argv);
    counter = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t child = (pid_t)MUST(fork());
    if (child == 0)
        for (;;) {
            ++*counter;
            nap();
        }
    while (*counter < 3)
        nap();
    kill(child, SIGSTOP);
    CHECK(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status), "stop %#x", status);
    ready_then_go();
    unsigned long seen = *counter;
    for (int i = 0; i < 20; i++)
        nap();
    CHECK(state_of(child) == 'T', "the child's state is %c", state_of(child));
    CHECK(*counter == seen, "the stopped child counted from %lu to %lu", seen, *counter);
    CHECK(waitpid(child, &status, WUNTRACED | WNOHANG) == 0, "the stop was reported twice");
    kill(child, SIGCONT);
    CHECK(waitpid(child, &status, WCONTINUED) == child && WIFCONTINUED(status), "cont %#x", status);
    while (*counter < seen + 3)
        nap();
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    pass();
}
