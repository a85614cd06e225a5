/* Child subreaper: orphans still come to it, before and after. */
#include "workload.h"
#include <sys/prctl.h>

int main(int argc, char **argv)
{
    begin(argc, argv);
    pid_t reaper = (pid_t)MUST(fork());
    if (reaper == 0) {
        int flag = 0;
        MUST(prctl(PR_SET_CHILD_SUBREAPER, 1));
        pid_t middle = (pid_t)MUST(fork());
        if (middle == 0) {
            if (MUST(fork()) == 0) {
                mark("grandchild");
                await("go");
                CHECK(getppid() != 1 || reaper == 1, "the orphan went to the init");
                _exit(5);
            }
            await("go");
            _exit(4); /* while its child lives on */
        }
        await("grandchild");
        mark("reaper");
        await("go");
        prctl(PR_GET_CHILD_SUBREAPER, &flag);
        CHECK(flag == 1, "the subreaper flag is %d", flag);
        bool seen[6] = {false};
        for (int i = 0; i < 2; i++) {
            int status;
            CHECK(wait(&status) > 0 && WIFEXITED(status), "wait: %#x", status);
            seen[WEXITSTATUS(status)] = true;
        }
        CHECK(seen[4] && seen[5], "exit statuses of child and orphan");
        _exit(0);
    }
    await("reaper");
    ready_then_go();
    int flag = 1;
    prctl(PR_GET_CHILD_SUBREAPER, &flag);
    CHECK(flag == 0, "the first process became a subreaper");
    reap(reaper);
    pass();
}
