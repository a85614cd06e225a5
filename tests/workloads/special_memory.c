/* Memory of rare kinds: hugetlb (private, shared, memfd), droppable, guard regions, sealed mappings,
 * mlockall for what comes. Without huge pages on the host that part is left out. needs: privileged */
#include "workload.h"
#include <setjmp.h>
#include <sys/resource.h>

#define HUGE (2ul << 20)
#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08
#endif
#define GUARD_INSTALL 102
#define NR_mseal 462

static sigjmp_buf escape;
static void on_fault(int signal)
{
    (void)signal;
    siglongjmp(escape, 1);
}

static bool faults(volatile char *address)
{
    if (sigsetjmp(escape, 1))
        return true;
    (void)*address;
    return false;
}

static void *map(size_t size, int flags, int fd)
{
    void *start = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0);
    return start == MAP_FAILED ? NULL : start;
}

static bool locked(void *address)
{
    char line[512], want[32], flags[512] = "";
    snprintf(want, sizeof want, "%lx-", (unsigned long)address);
    FILE *file = fopen("/proc/self/smaps", "r");
    bool here = false;
    while (fgets(line, sizeof line, file)) {
        if (!strncmp(line, want, strlen(want)))
            here = true;
        if (here && !strncmp(line, "VmFlags:", 8)) {
            strcpy(flags, line);
            break;
        }
    }
    fclose(file);
    return strstr(flags, " lo") != NULL;
}

int main(int argc, char **argv)
{
    int private = MAP_PRIVATE | MAP_ANONYMOUS;
    begin(argc, argv);
    signal(SIGSEGV, on_fault);
    char *own = NULL, *shared = NULL, *named = NULL;
    pid_t child = -1;
    own = map(HUGE, private | MAP_HUGETLB, -1);
    bool huge = own != NULL;
    if (own)
        MUST(munmap(own, HUGE));
    if (huge) {
        own = map(2 * HUGE, private | MAP_HUGETLB, -1);
        shared = map(HUGE, MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB, -1);
        int fd = (int)MUST(memfd_create("huge", MFD_HUGETLB | MFD_ALLOW_SEALING));
        MUST(ftruncate(fd, HUGE));
        named = map(HUGE, MAP_SHARED, fd);
        CHECK(own && shared && named, "mmap of huge pages");
        fill(own, HUGE, 1);
        fill(shared, HUGE, 2);
        fill(named, HUGE, 3);
        MUST(mprotect(own, HUGE, PROT_READ));
        child = (pid_t)MUST(fork());
        if (child == 0) {
            await("go");
            CHECK(filled(own, HUGE, 1) && filled(shared, HUGE, 2), "what the child sees");
            fill(shared, HUGE, 4);
            mark("filled");
            _exit(0);
        }
    }
    char *droppable = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_DROPPABLE | MAP_ANONYMOUS, -1, 0);
    if (droppable != MAP_FAILED)
        memset(droppable, 1, 1 << 16);
    char *guarded = map(16 * 4096, private, -1);
    fill(guarded, 16 * 4096, 5);
    bool guards = !madvise(guarded + 4 * 4096, 2 * 4096, GUARD_INSTALL);
    char *sealed = map(4 * 4096, private, -1);
    fill(sealed, 4 * 4096, 6);
    MUST(mprotect(sealed, 4096, PROT_READ));
    bool seals = !syscall(NR_mseal, sealed, 4 * 4096, 0);
    MUST(mlockall(MCL_FUTURE | MCL_ONFAULT));
    ready_then_go();

    if (huge) {
        CHECK(filled(own, HUGE, 1), "private huge page");
        CHECK(own[HUGE] == 0, "untouched huge page");
        CHECK(filled(named, HUGE, 3), "huge memfd");
        await("filled");
        CHECK(filled(shared, HUGE, 4), "the child's huge page is another one");
        reap(child);
    }
    if (droppable != MAP_FAILED)
        CHECK(droppable[0] == 0 || droppable[0] == 1, "droppable memory holds %d", droppable[0]);
    CHECK(filled(guarded, 4 * 4096, 5), "before the guard");
    CHECK(!guards || (faults(guarded + 4 * 4096) && faults(guarded + 6 * 4096 - 1)), "guards are gone");
    CHECK(!faults(guarded + 6 * 4096), "a guard too many");
    CHECK(filled(sealed, 4 * 4096, 6), "sealed content");
    if (seals) {
        CHECK(munmap(sealed, 4096) == -1 && errno == EPERM, "unmapped what was sealed");
        CHECK(mprotect(sealed + 4096, 4096, PROT_READ) == -1 && errno == EPERM, "changed what was sealed");
    }
    char *new = map(1 << 16, private, -1);
    CHECK(locked(new), "MCL_FUTURE is gone");
    MUST(munlockall());
    pass();
}
