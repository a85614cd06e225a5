/* General registers, flags and both segment bases, held while the freeze happens. */
#include "workload.h"
#include <asm/prctl.h>
#include <pthread.h>

static volatile int spinning, released;

struct registers {
    uint64_t rax, rbx, rcx, rdx, rsi, r8, r9, r10, r11, r12, r13, r14, r15, flags;
};

static void *run(void *argument)
{
    static uint64_t behind_gs[2] = {0x1122334455667788, 0x99aabbccddeeff00};
    struct registers found = {0};
    uint64_t through_gs = 0, gs = 0, fs_before = 0, fs_after = 0;
    (void)argument;
    MUST(syscall(SYS_arch_prctl, ARCH_SET_GS, behind_gs));
    MUST(syscall(SYS_arch_prctl, ARCH_GET_FS, &fs_before));
    /* The flags at the spin are those of the compare; the direction flag stays set. */
    __asm__ volatile(
        "mov $0x0101010101010101, %%rax\n mov $0x0202020202020202, %%rbx\n"
        "mov $0x0303030303030303, %%rcx\n mov $0x0404040404040404, %%rdx\n"
        "mov $0x0505050505050505, %%rsi\n mov $0x0606060606060606, %%r8\n"
        "mov $0x0707070707070707, %%r9\n mov $0x0808080808080808, %%r10\n"
        "mov $0x0909090909090909, %%r11\n mov $0x0a0a0a0a0a0a0a0a, %%r12\n"
        "mov $0x0b0b0b0b0b0b0b0b, %%r13\n mov $0x0c0c0c0c0c0c0c0c, %%r14\n"
        "mov $0x0d0d0d0d0d0d0d0d, %%r15\n"
        "std\n lock incl spinning(%%rip)\n"
        "1: pause\n cmpl $0, released(%%rip)\n je 1b\n"
        "mov %%rax, 0(%[found])\n mov %%rbx, 8(%[found])\n mov %%rcx, 16(%[found])\n"
        "mov %%rdx, 24(%[found])\n mov %%rsi, 32(%[found])\n mov %%r8, 40(%[found])\n"
        "mov %%r9, 48(%[found])\n mov %%r10, 56(%[found])\n mov %%r11, 64(%[found])\n"
        "mov %%r12, 72(%[found])\n mov %%r13, 80(%[found])\n mov %%r14, 88(%[found])\n"
        "mov %%r15, 96(%[found])\n pushfq\n pop %%rax\n mov %%rax, 104(%[found])\n cld\n"
        "mov %%gs:0, %%rax\n"
        : "=a"(through_gs)
        : [found] "D"(&found)
        : "rbx", "rcx", "rdx", "rsi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
          "memory", "cc");
    const uint64_t *values = &found.rax;
    for (uint64_t i = 0; i < 13; i++)
        CHECK(values[i] == (i + 1) * 0x0101010101010101, "register %lu has %#lx", i, values[i]);
    CHECK(found.flags & 0x400, "the direction flag is gone: %#lx", found.flags);
    MUST(syscall(SYS_arch_prctl, ARCH_GET_GS, &gs));
    MUST(syscall(SYS_arch_prctl, ARCH_GET_FS, &fs_after));
    CHECK(gs == (uint64_t)behind_gs, "gs base is %#lx", gs);
    CHECK(through_gs == behind_gs[0], "behind gs is %#lx", through_gs);
    CHECK(fs_before == fs_after, "fs base was %#lx, is %#lx", fs_before, fs_after);
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    begin(argc, argv);
    pthread_create(&thread, NULL, run, NULL);
    while (spinning < 1)
        nap();
    ready_then_go();
    released = 1;
    pthread_join(thread, NULL);
    pass();
}
