/* refused: task-32bit
 * A task that runs 32-bit code. */
#include "../workload.h"

static void run(void)
{
    /* pause() with the 32-bit system call interface, for ever: mov eax,29; int 0x80; jmp back */
    static const unsigned char code[] = {0xb8, 29, 0, 0, 0, 0xcd, 0x80, 0xeb, 0xf7};
    char *low = mmap(NULL, 8192, PROT_READ | PROT_WRITE | PROT_EXEC,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    CHECK(low != MAP_FAILED, "no memory below 2 GiB");
    memcpy(low, code, sizeof code);
    mark("compat");
    asm volatile("mov %0, %%rsp\n pushq $0x23\n push %1\n lretq"
                 :
                 : "r"(low + 8192), "r"(low)
                 : "memory");
    __builtin_unreachable();
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    pid_t child = (pid_t)MUST(fork());
    if (child == 0)
        run();
    await("compat");
    nap();
    ready_then_go();
    MUST(kill(child, SIGKILL));
    MUST(waitpid(child, NULL, 0));
    pass();
}
