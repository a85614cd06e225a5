/* refused: landlock
 * A process that has confined itself, which its child inherits. */
#include "../workload.h"
#include <linux/landlock.h>
#include <sys/prctl.h>

int main(int argc, char **argv)
{
    begin(argc, argv);
    pid_t child = (pid_t)MUST(fork());
    if (child) {
        await("confined");
        ready_then_go();
        reap(child);
        pass();
    }
    struct landlock_ruleset_attr rules = {.handled_access_fs = LANDLOCK_ACCESS_FS_MAKE_DIR};
    int fd = (int)MUST(syscall(SYS_landlock_create_ruleset, &rules, sizeof rules, 0));
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    MUST(syscall(SYS_landlock_restrict_self, fd, 0));
    close(fd);
    mark("confined");
    await("go");
    CHECK(mkdir(in_control("forbidden"), 0700) == -1 && errno == EACCES, "not confined");
    _exit(0);
}
