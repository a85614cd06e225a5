/* A tree of processes, three levels deep: ids, parents and exit statuses come out right. */
#include "workload.h"

enum { WIDTH = 3, DEPTH = 3 };

static void node(int depth, pid_t parent, const char *name)
{
    pid_t self = getpid(), children[WIDTH];
    char child_name[32];
    int count = depth < DEPTH ? WIDTH : 0;
    uint64_t *own = malloc(4096);
    fill(own, 4096, (uint64_t)self);
    for (int i = 0; i < count; i++) {
        snprintf(child_name, sizeof child_name, "%s%d", name, i);
        children[i] = (pid_t)MUST(fork());
        if (children[i] == 0) {
            node(depth + 1, self, child_name);
            _exit(depth * 10 + i);
        }
    }
    if (depth > 0)
        mark(name);
    if (depth == 0) {
        for (int a = 0; a < WIDTH; a++)
            for (int b = 0; b < WIDTH; b++)
                for (int c = 0; c < WIDTH; c++) {
                    snprintf(child_name, sizeof child_name, "%s%d%d%d", name, a, b, c);
                    await(child_name);
                }
        ready_then_go();
    } else {
        await("go");
    }
    CHECK(getpid() == self, "pid was %d, is %d", self, getpid());
    CHECK(depth == 0 || getppid() == parent, "parent was %d, is %d", parent, getppid());
    CHECK(filled(own, 4096, (uint64_t)self), "memory of %s", name);
    for (int i = 0; i < count; i++) {
        int status;
        CHECK(waitpid(children[i], &status, 0) == children[i], "wait for %d", children[i]);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == depth * 10 + i, "status %#x", status);
    }
    errno = 0;
    CHECK(wait(NULL) == -1 && errno == ECHILD, "%s has further children", name);
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    node(0, 0, "node-");
    pass();
}
