/* Vector and floating point registers, held in registers while the freeze happens.
 *
 * Each spinner loads its registers, spins on a flag in memory without touching them, and stores
 * them afterwards. */
#include "workload.h"
#include <pthread.h>

static volatile int spinning, released;

#define LOAD(n) "vmovdqu " #n "*32(%[in]), %%ymm" #n "\n"
#define STORE(n) "vmovdqu %%ymm" #n ", " #n "*32(%[out])\n"
#define ALL(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7) f(8) f(9) f(10) f(11) f(12) f(13) f(14) f(15)

static void spin_avx(uint64_t seed)
{
    char in[512], out[512] = {0};
    uint32_t mxcsr = 0x1f80 | 0x6000, found = 0; /* round toward zero */
    uint16_t control_word = 0x027f, found_word = 0; /* double precision, all masked */
    double e = 2.718281828459045, popped = 0;
    fill(in, sizeof in, seed);
    __asm__ volatile("ldmxcsr %[mxcsr]\n fldcw %[cw]\n fldl %[e]\n" ALL(LOAD)
                     "lock incl %[spinning]\n"
                     "1: pause\n cmpl $0, %[released]\n je 1b\n" ALL(STORE)
                     "fstpl %[popped]\n fnstcw %[found_cw]\n stmxcsr %[found]\n vzeroupper\n"
                     : [spinning] "+m"(spinning), [popped] "=m"(popped),
                       [found_cw] "=m"(found_word), [found] "=m"(found)
                     : [in] "r"(in), [out] "r"(out), [mxcsr] "m"(mxcsr), [cw] "m"(control_word),
                       [e] "m"(e), [released] "m"(released)
                     : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6",
                       "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14",
                       "xmm15");
    CHECK(filled(out, sizeof out, seed), "ymm registers of seed %lu", seed);
    CHECK((found & 0xffc0) == (mxcsr & 0xffc0), "mxcsr was %#x, is %#x", mxcsr, found);
    CHECK(found_word == control_word, "x87 control word was %#x, is %#x", control_word, found_word);
    CHECK(popped == e, "the x87 stack had %f", popped);
    uint32_t standard = 0x1f80;
    __asm__ volatile("fninit\n ldmxcsr %0" : : "m"(standard));
}

#define LOADZ(n) "vmovdqu64 (" #n "-16)*64(%[in]), %%zmm" #n "\n"
#define STOREZ(n) "vmovdqu64 %%zmm" #n ", (" #n "-16)*64(%[out])\n"
#define ALLZ(f)                                                                                    \
    f(16) f(17) f(18) f(19) f(20) f(21) f(22) f(23) f(24) f(25) f(26) f(27) f(28) f(29) f(30) f(31)

__attribute__((target("avx512f"))) static void spin_avx512(uint64_t seed)
{
    char in[1024], out[1024] = {0};
    uint32_t mask = 0xa5c3, found = 0;
    fill(in, sizeof in, seed);
    __asm__ volatile("kmovw %[mask], %%k3\n" ALLZ(LOADZ) "lock incl %[spinning]\n"
                     "1: pause\n cmpl $0, %[released]\n je 1b\n" ALLZ(STOREZ)
                     "kmovw %%k3, %[found]\n vzeroupper\n"
                     : [spinning] "+m"(spinning), [found] "=r"(found)
                     : [in] "r"(in), [out] "r"(out), [mask] "r"(mask), [released] "m"(released)
                     : "memory", "cc", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21",
                       "xmm22", "xmm23", "xmm24", "xmm25", "xmm26", "xmm27", "xmm28", "xmm29",
                       "xmm30", "xmm31", "k3");
    CHECK(filled(out, sizeof out, seed), "zmm registers of seed %lu", seed);
    CHECK((found & 0xffff) == mask, "k3 was %#x, is %#x", mask, found);
}

static void *run(void *argument)
{
    long index = (long)argument;
    __builtin_cpu_init();
    if (index == 2 && __builtin_cpu_supports("avx512f"))
        spin_avx512(77);
    else if (__builtin_cpu_supports("avx"))
        spin_avx(1000 + (uint64_t)index);
    else
        __sync_fetch_and_add(&spinning, 1);
    return NULL;
}

int main(int argc, char **argv)
{
    enum { THREADS = 3 };
    pthread_t threads[THREADS];
    begin(argc, argv);
    for (long i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, run, (void *)i);
    while (spinning < THREADS)
        nap();
    ready_then_go();
    released = 1;
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    pass();
}
