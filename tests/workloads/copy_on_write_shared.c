/* Pages that parents and children share since a fork stay shared: nobody grows.
 * needs: privileged (the kernel shows page numbers to CAP_SYS_ADMIN only) */
#include "workload.h"

enum { PAGES = 2048, SIZE = PAGES * 4096, CHILDREN = 3 };
static char *memory, *wiped, *secret, *heap;

static uint64_t page_of(pid_t pid, void *address)
{
    char path[64];
    uint64_t word = 0;
    snprintf(path, sizeof path, "/proc/%d/pagemap", (int)pid);
    int fd = (int)MUST(open(path, O_RDONLY));
    CHECK(pread(fd, &word, 8, (off_t)((uintptr_t)address / 4096 * 8)) == 8, "pagemap");
    close(fd);
    return word >> 63 ? word & ((1ull << 55) - 1) : 0;
}

static int count_shared(pid_t a, pid_t b)
{
    int count = 0;
    for (int page = 0; page < PAGES; page++) {
        uint64_t number = page_of(a, memory + page * 4096);
        count += number && number == page_of(b, memory + page * 4096);
    }
    return count;
}

static void be_child(int number)
{
    char name[16];
    for (int page = number; page < PAGES; page += 8)
        fill(memory + page * 4096, 4096, 1000 + (uint64_t)number);
    if (number == 1)
        MUST(madvise(memory + SIZE / 2, SIZE / 4, MADV_DONTNEED));
    if (number == 2) {
        MUST(munmap(memory + SIZE - 16 * 4096, 16 * 4096));
        MUST(mprotect(memory, 16 * 4096, PROT_READ));
        heap = MUST(sbrk(1 << 20)) + (char *)0;
        fill(heap, 1 << 20, 77);
    }
    CHECK(wiped[0] == 0 && wiped[5 * 4096] == 0, "not wiped");
    wiped[0] = 'c';
    pid_t grandchild = (pid_t)MUST(fork());
    if (grandchild == 0) {
        memory[4096 * 100] ^= 1;
        snprintf(name, sizeof name, "grand%d", number);
        mark(name);
        await("go");
        memory[4096 * 100] ^= 1;
    } else {
        snprintf(name, sizeof name, "child%d", number);
        mark(name);
        await("go");
    }
    for (int page = 0; page < PAGES; page++) {
        bool own = page % 8 == number, dropped = number == 1 && page >= PAGES / 2 && page < PAGES * 3 / 4;
        if (number == 2 && page >= PAGES - 16)
            continue;
        if (dropped)
            CHECK(memory[page * 4096] == 0 && memory[page * 4096 + 4095] == 0, "page %d came back", page);
        else
            CHECK(filled(memory + page * 4096, 4096, own ? 1000 + (uint64_t)number : 1 + (uint64_t)page),
                  "child %d page %d", number, page);
    }
    if (number == 2)
        CHECK(filled(heap, 1 << 20, 77), "heap");
    CHECK(wiped[0] == (grandchild ? 'c' : 0), "wiped is %d", wiped[0]);
    if (grandchild) {
        await("counted");
        reap(grandchild);
    } else
        await("counted");
    _exit(0);
}

int main(int argc, char **argv)
{
    pid_t children[CHILDREN];
    begin(argc, argv);
    memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    wiped = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    secret = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int page = 0; page < PAGES; page++)
        fill(memory + page * 4096, 4096, 1 + (uint64_t)page);
    memset(wiped, 'w', 1 << 16);
    memset(secret, 's', 1 << 16);
    MUST(madvise(memory, SIZE, MADV_NOHUGEPAGE));
    MUST(madvise(wiped, 1 << 16, MADV_WIPEONFORK));
    MUST(madvise(secret, 1 << 16, MADV_DONTFORK));
    for (int i = 0; i < CHILDREN; i++) {
        char name[16];
        children[i] = (pid_t)MUST(fork());
        if (children[i] == 0)
            be_child(i);
        snprintf(name, sizeof name, "child%d", i);
        await(name);
        snprintf(name, sizeof name, "grand%d", i);
        await(name);
    }
    fill(memory + 7 * 4096, 4096, 5); /* the parent writes too */
    int before[CHILDREN];
    for (int i = 0; i < CHILDREN; i++)
        before[i] = count_shared(getpid(), children[i]);
    CHECK(before[0] >= PAGES * 3 / 4, "only %d pages are shared at all", before[0]);
    ready_then_go();

    for (int i = 0; i < CHILDREN; i++) {
        int now = count_shared(getpid(), children[i]);
        CHECK(now == before[i], "child %d shares %d pages, not %d", i, now, before[i]);
    }
    CHECK(filled(memory + 7 * 4096, 4096, 5), "what the parent has written");
    CHECK(wiped[100] == 'w' && secret[100] == 's', "what no child has");
    mark("counted");
    for (int i = 0; i < CHILDREN; i++)
        reap(children[i]);
    pass();
}
