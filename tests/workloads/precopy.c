/* Memory that is written to, moved, dropped and inherited while somebody copies it in rounds.
 *
 * Between ready and go it does a step of changes whenever CONTROL_DIR/step-N appears (and says
 * CONTROL_DIR/stepped-N), while a thread writes all the time. At the end all of it is compared with
 * what it has to be. Without any step it is just memory that has to survive. Where there is a file
 * CONTROL_DIR/alone, no child stays behind that shares memory with it.
 */
#include "workload.h"
#include <pthread.h>
#include <stdatomic.h>

#define MIB (1ul << 20)
#define PAGE 4096ul
#define BUSY_PAGES 512

static char *plain, *dropped, *moved, *replaced, *grown, *shared, *file, *guarded;
static uint64_t plain_seed[4 * MIB / PAGE], grown_seed[2 * MIB / PAGE], shared_seed[2 * MIB / PAGE];
static uint64_t file_seed[2 * MIB / PAGE], dropped_seed[4 * MIB / PAGE];
static uint64_t moved_seed = 3000000, replaced_seed = 4000000, guarded_seed = 6000000;
static size_t grown_pages = MIB / PAGE;
static int memory_file;
static atomic_bool enough;

struct busy {
    uint64_t version, content[PAGE / 8 - 1];
};
static struct busy *busy;
static uint64_t busy_versions[BUSY_PAGES]; /* elsewhere, so that an old page does not fit */

static void *write_all_the_time(void *unused)
{
    (void)unused;
    uint64_t state = 88172645463325252ull;
    while (!enough) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        struct busy *page = busy + state % BUSY_PAGES;
        uint64_t known = busy_versions[page - busy];
        CHECK(page->version == known, "busy page %td is old", page - busy);
        CHECK(!known || filled(page->content, sizeof page->content,
                               known + (uint64_t)(page - busy) * 1000003),
              "busy page %td is torn", page - busy);
        page->version++;
        fill(page->content, sizeof page->content, page->version + (uint64_t)(page - busy) * 1000003);
        busy_versions[page - busy] = page->version;
        if (state % 64 == 0)
            sched_yield();
    }
    return NULL;
}

static void *map(size_t size, int flags, int fd)
{
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0);
    CHECK(at != MAP_FAILED, "mmap of %zu bytes", size);
    return at;
}

static void rewrite(char *memory, uint64_t *seeds, size_t page, uint64_t seed)
{
    seeds[page] = seed;
    fill(memory + page * PAGE, PAGE, seed);
}

static void check_pages(const char *what, const char *memory, const uint64_t *seeds, size_t pages)
{
    static const char zeros[PAGE];
    for (size_t page = 0; page < pages; page++)
        if (seeds[page])
            CHECK(filled(memory + page * PAGE, PAGE, seeds[page]), "%s: page %zu", what, page);
        else
            CHECK(!memcmp(memory + page * PAGE, zeros, PAGE), "%s: page %zu, zeros", what, page);
}

static void check_everything(void)
{
    check_pages("plain", plain, plain_seed, 4 * MIB / PAGE);
    check_pages("dropped", dropped, dropped_seed, 4 * MIB / PAGE);
    check_pages("grown", grown, grown_seed, grown_pages);
    check_pages("shared", shared, shared_seed, 2 * MIB / PAGE);
    check_pages("file", file, file_seed, 2 * MIB / PAGE);
    CHECK(filled(moved, 2 * MIB, moved_seed), "moved");
    CHECK(filled(replaced, 2 * MIB, replaced_seed), "replaced");
    MUST(mprotect(guarded, MIB, PROT_READ));
    CHECK(filled(guarded, MIB, guarded_seed), "guarded");
}

/* A child for the length of a step: what it writes to shared memory stays, the rest is its own. */
static void short_child(int step)
{
    pid_t child = (pid_t)MUST(fork());
    if (!child) {
        memset(plain, step, 4 * MIB);
        char *again = map(2 * MIB, MAP_SHARED, memory_file);
        fill(again + (size_t)step * 7 * PAGE, PAGE, 7000000 + (uint64_t)step);
        fill(shared + (size_t)step * 11 * PAGE, PAGE, 8000000 + (uint64_t)step);
        _exit(0);
    }
    file_seed[step * 7] = 7000000 + (uint64_t)step;
    shared_seed[step * 11] = 8000000 + (uint64_t)step;
    reap(child);
}

/* A child that stays, with a copy of everything as it is now. */
static void lasting_child(int step)
{
    char ready[32], gone[32];
    snprintf(ready, sizeof ready, "child-%d", step);
    snprintf(gone, sizeof gone, "checked-%d", step);
    pid_t child = (pid_t)MUST(fork());
    if (child) {
        await(ready);
        return;
    }
    for (size_t page = (size_t)step; page < 4 * MIB / PAGE; page += 3)
        rewrite(plain, plain_seed, page, 9000000 + page + (uint64_t)step * 100000);
    mark(ready);
    await("go");
    check_pages("the child's plain", plain, plain_seed, 4 * MIB / PAGE);
    check_pages("the child's dropped", dropped, dropped_seed, 4 * MIB / PAGE);
    CHECK(filled(moved, 2 * MIB, moved_seed), "the child's moved");
    mark(gone);
    _exit(0);
}

/* A process whose pid stays while another program takes its memory's place. */
static void executed_child(void)
{
    if (!MUST(fork())) {
        fill(plain, 4 * MIB, 1);
        extern char **environ;
        char *arguments[] = {(char *)"precopy", control, (char *)"executed", NULL};
        execve("/proc/self/exe", arguments, environ);
        _exit(1);
    }
    await("executed");
}

static int lasting[8], lasting_count;

static void step(int number)
{
    uint64_t base = (uint64_t)number * 10000;
    for (size_t page = (size_t)number; page < 4 * MIB / PAGE; page += 13)
        rewrite(plain, plain_seed, page, 1000000 + base + page);
    for (size_t page = (size_t)number; page < grown_pages; page += 5)
        rewrite(grown, grown_seed, page, 5000000 + base + page);
    /* Some of it goes, and some of that comes again. */
    size_t half = (size_t)(number % 2) * 2 * MIB;
    MUST(madvise(dropped + half, 2 * MIB, MADV_DONTNEED));
    for (size_t page = half / PAGE; page < (half + 2 * MIB) / PAGE; page++) {
        dropped_seed[page] = 0;
        if (page % 4 == 0)
            rewrite(dropped, dropped_seed, page, 2000000 + base + page);
        else if (page % 4 == 1)
            CHECK(dropped[page * PAGE] == 0, "page %zu is not empty", page);
    }
    /* What was there moves away, other memory comes to its place: by mremap and by mmap. */
    char *place = map(2 * MIB, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    fill(place, 2 * MIB, 31337);
    CHECK(mremap(moved, 2 * MIB, 2 * MIB, MREMAP_MAYMOVE | MREMAP_FIXED, place) == place, "mremap");
    char *other = mmap(moved, 2 * MIB, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    CHECK(other == moved, "mmap where memory was");
    replaced_seed = 4000000 + base;
    fill(other, 2 * MIB, replaced_seed);
    MUST(munmap(replaced, 2 * MIB));
    replaced = other;
    moved = place;
    /* Growing in place, where nothing else has come to lie. */
    size_t more = grown_pages + 32;
    if (more <= 2 * MIB / PAGE
        && mremap(grown, grown_pages * PAGE, more * PAGE, 0) != MAP_FAILED)
        for (; grown_pages < more; grown_pages++)
            rewrite(grown, grown_seed, grown_pages, 5500000 + base + grown_pages);
    /* Not by way of any mapping. */
    char content[PAGE];
    size_t written = (size_t)number * 17 + 3;
    fill(content, PAGE, 7500000 + base);
    CHECK(pwrite(memory_file, content, PAGE, (off_t)(written * PAGE)) == PAGE, "pwrite");
    file_seed[written] = 7500000 + base;
    short_child(number);
    MUST(mprotect(guarded, MIB, PROT_READ | PROT_WRITE));
    guarded_seed = 6000000 + base;
    fill(guarded, MIB, guarded_seed);
    MUST(mprotect(guarded, MIB, PROT_NONE));
    if (!access(in_control("alone"), F_OK))
        return;
    if (number == 1 || number == 3) {
        lasting[lasting_count++] = number;
        lasting_child(number);
    }
    if (number == 2)
        executed_child();
}

static int executed(void)
{
    char *memory = map(4 * MIB, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    fill(memory, 4 * MIB, 424242);
    mark("executed");
    await("go");
    CHECK(filled(memory, 4 * MIB, 424242), "the executed program's memory");
    mark("executed-checked");
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 3) {
        snprintf(control, sizeof control, "%s", argv[1]);
        return executed();
    }
    begin(argc, argv);
    plain = map(4 * MIB, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    dropped = map(4 * MIB, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    moved = map(2 * MIB, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    replaced = map(2 * MIB, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    guarded = map(MIB, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    shared = map(2 * MIB, MAP_SHARED | MAP_ANONYMOUS, -1);
    memory_file = (int)MUST(memfd_create("precopy", MFD_CLOEXEC));
    MUST(ftruncate(memory_file, 2 * MIB));
    file = map(2 * MIB, MAP_SHARED, memory_file);
    busy = map(BUSY_PAGES * sizeof *busy, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    grown = map(2 * MIB, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    MUST(munmap(grown + MIB, MIB));
    for (size_t page = 0; page < 4 * MIB / PAGE; page++) {
        rewrite(plain, plain_seed, page, 1 + page);
        rewrite(dropped, dropped_seed, page, 100001 + page);
    }
    for (size_t page = 0; page < 2 * MIB / PAGE; page++) {
        rewrite(shared, shared_seed, page, 200001 + page);
        rewrite(file, file_seed, page, 300001 + page);
    }
    for (size_t page = 0; page < grown_pages; page++)
        rewrite(grown, grown_seed, page, 400001 + page);
    fill(moved, 2 * MIB, moved_seed);
    fill(replaced, 2 * MIB, replaced_seed);
    fill(guarded, MIB, guarded_seed);
    MUST(mprotect(guarded, MIB, PROT_NONE));
    pthread_t writer;
    CHECK(pthread_create(&writer, NULL, write_all_the_time, NULL) == 0, "pthread_create");
    mark("ready");
    for (int next = 1; access(in_control("go"), F_OK); nap()) {
        char name[32];
        snprintf(name, sizeof name, "step-%d", next);
        if (access(in_control(name), F_OK))
            continue;
        step(next);
        snprintf(name, sizeof name, "stepped-%d", next++);
        mark(name);
    }
    enough = true;
    CHECK(pthread_join(writer, NULL) == 0, "pthread_join");
    for (size_t page = 0; page < BUSY_PAGES; page++)
        CHECK(busy[page].version == busy_versions[page], "busy page %zu is old", page);
    for (size_t page = 0; page < BUSY_PAGES; page++)
        CHECK(!busy[page].version || filled(busy[page].content, sizeof busy->content,
                                            busy[page].version + page * 1000003),
              "busy page %zu", page);
    check_everything();
    for (int i = 0; i < lasting_count; i++) {
        char name[32];
        snprintf(name, sizeof name, "checked-%d", lasting[i]);
        await(name);
    }
    if (!access(in_control("executed"), F_OK))
        await("executed-checked");
    pass();
}
