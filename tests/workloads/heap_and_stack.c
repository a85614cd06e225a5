/* brk goes on where it was; a stack that had grown is whole, and grows further. */
#include "workload.h"
#include <sys/resource.h>

static uint64_t descend(int depth, uint64_t seed)
{
    volatile uint64_t frame[512]; /* one page for each level */
    for (int i = 0; i < 512; i++)
        frame[i] = seed + (uint64_t)i;
    if (depth == 0)
        ready_then_go();
    uint64_t below = depth > 0 ? descend(depth - 1, seed + 1000) : 0;
    for (int i = 0; i < 512; i++)
        CHECK(frame[i] == seed + (uint64_t)i, "frame at depth %d", depth);
    return below + frame[0];
}

static uint64_t descend_again(int depth)
{
    volatile uint64_t frame[512];
    frame[0] = (uint64_t)depth;
    frame[511] = 1;
    return depth > 0 ? descend_again(depth - 1) + frame[0] : frame[511];
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    char *start = sbrk(0);
    CHECK(sbrk(1 << 20) == start, "sbrk");
    fill(start, 1 << 20, 1);
    char *end = sbrk(0);
    uint64_t sum = descend(100, 7);
    CHECK(sum != 0, "sum");
    CHECK(sbrk(0) == end, "the break was %p, is %p", (void *)end, sbrk(0));
    CHECK(filled(start, 1 << 20, 1), "the heap");
    CHECK(sbrk(1 << 20) == end, "the break cannot grow");
    fill(end, 1 << 20, 2);
    CHECK(filled(end, 1 << 20, 2), "the grown heap");
    CHECK(sbrk(-(2 << 20)) == end + (1 << 20), "the break cannot shrink");
    CHECK(sbrk(0) == start, "the break is elsewhere");
    CHECK(descend_again(800) != 0, "deep stack"); /* 3.2 MiB, far beyond what was mapped */
    pass();
}
