/* Private anonymous memory: patterns, protections, holes, guard pages, and zeros where none is. */
#include "workload.h"
#include <setjmp.h>

static sigjmp_buf escape;
static void on_fault(int signal)
{
    (void)signal;
    siglongjmp(escape, 1);
}

static bool faults(volatile char *address, bool writing)
{
    if (sigsetjmp(escape, 1))
        return true;
    if (writing)
        *address = 1;
    else
        (void)*address;
    return false;
}

static char *map(size_t size, int protection)
{
    char *start = mmap(NULL, size, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(start != MAP_FAILED, "mmap of %zu", size);
    return start;
}

int main(int argc, char **argv)
{
    enum { SIZE = 1 << 20 };
    begin(argc, argv);
    signal(SIGSEGV, on_fault);
    int rw = PROT_READ | PROT_WRITE;

    char *plain = map(SIZE, rw), *readable = map(SIZE, rw), *hidden = map(SIZE, rw);
    fill(plain, SIZE, 1);
    fill(readable, SIZE, 2);
    MUST(mprotect(readable, SIZE, PROT_READ));
    fill(hidden, SIZE, 3); /* the content below PROT_NONE must not be lost */
    MUST(mprotect(hidden, SIZE, PROT_NONE));

    char *guarded = map(3 * 4096, rw);
    fill(guarded, 3 * 4096, 4);
    MUST(mprotect(guarded + 4096, 4096, PROT_NONE));

    char *sparse = map(1ul << 32, rw); /* 4 GiB, of which three pages exist */
    fill(sparse, 4096, 5);
    fill(sparse + (2ul << 30), 4096, 6);
    fill(sparse + (1ul << 32) - 4096, 4096, 7);

    char *dropped = map(SIZE, rw);
    fill(dropped, SIZE, 8);
    MUST(madvise(dropped + 4096, 8192, MADV_DONTNEED));

    char *holed = map(10 * 4096, rw);
    fill(holed, 10 * 4096, 9);
    MUST(munmap(holed + 2 * 4096, 4096));

    char *untouched = map(SIZE, rw), *read_only_zero = map(SIZE, rw);
    CHECK(read_only_zero[5] == 0, "zero page"); /* now backed by the shared zero page */

    ready_then_go();

    CHECK(filled(plain, SIZE, 1), "plain");
    fill(plain, SIZE, 11);
    CHECK(filled(plain, SIZE, 11), "plain, written again");
    CHECK(filled(readable, SIZE, 2), "read-only");
    CHECK(faults(readable, true), "read-only memory can be written");
    CHECK(faults(hidden, false), "PROT_NONE memory can be read");
    MUST(mprotect(hidden, SIZE, PROT_READ));
    CHECK(filled(hidden, SIZE, 3), "content below PROT_NONE");
    CHECK(faults(guarded + 4096, true), "the guard page is gone");
    CHECK(filled(guarded, 4096, 4), "before the guard page");
    CHECK(filled(guarded + 8192, 4096, 4 + 1024), "behind the guard page");
    CHECK(filled(sparse, 4096, 5) && filled(sparse + (2ul << 30), 4096, 6), "sparse");
    CHECK(filled(sparse + (1ul << 32) - 4096, 4096, 7), "end of sparse");
    CHECK(sparse[1ul << 30] == 0, "hole of sparse");
    CHECK(filled(dropped, 4096, 8) && filled(dropped + 3 * 4096, SIZE - 3 * 4096, 8 + 1536), "rest");
    for (int i = 0; i < 8192; i++)
        CHECK(dropped[4096 + i] == 0, "dropped page has %d at %d", dropped[4096 + i], i);
    MUST(madvise(plain, SIZE, MADV_DONTNEED));
    for (int i = 0; i < SIZE; i++)
        CHECK(plain[i] == 0, "MADV_DONTNEED brought old pages back");
    CHECK(faults(holed + 2 * 4096, false), "the hole is mapped");
    CHECK(filled(holed, 2 * 4096, 9), "before the hole");
    for (int i = 0; i < SIZE; i += 4096)
        CHECK(untouched[i] == 0 && read_only_zero[i] == 0, "zeros");
    untouched[0] = read_only_zero[0] = 1;
    pass();
}
