/* Code made at run time still runs, in writable-executable and in executable memory. */
#include "workload.h"

int main(int argc, char **argv)
{
    /* mov eax, 42; ret */
    static const unsigned char code[] = {0xb8, 42, 0, 0, 0, 0xc3};
    begin(argc, argv);
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
    char *open_code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, flags, -1, 0);
    char *closed_code = mmap(NULL, 4096, PROT_READ | PROT_WRITE, flags, -1, 0);
    CHECK(open_code != MAP_FAILED && closed_code != MAP_FAILED, "mmap");
    memcpy(open_code, code, sizeof code);
    memcpy(closed_code, code, sizeof code);
    MUST(mprotect(closed_code, 4096, PROT_READ | PROT_EXEC));
    ready_then_go();
    CHECK(((int (*)(void))(void *)open_code)() == 42, "rwx");
    CHECK(((int (*)(void))(void *)closed_code)() == 42, "r-x");
    open_code[1] = 43;
    CHECK(((int (*)(void))(void *)open_code)() == 43, "rwx, changed");
    pass();
}
