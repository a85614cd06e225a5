/* refused: cwd-outside
 * A working directory that was removed. */
#include "../workload.h"

int main(int argc, char **argv)
{
    char directory[PATH_MAX];
    begin(argc, argv);
    MUST(mkdir(in_control("gone"), 0755));
    MUST(chdir(in_control("gone")));
    MUST(rmdir(in_control("gone")));
    ready_then_go();
    CHECK(getcwd(directory, sizeof directory) == NULL && errno == ENOENT, "cwd is %s", directory);
    pass();
}
