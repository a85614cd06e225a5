/* /proc/self/maps is line for line what it was, but for the kernel's own vDSO pages; so are the
 * flags of each mapping in smaps. */
#include "workload.h"

enum { CAPACITY = 1 << 18 };
static char maps_before[CAPACITY], maps_after[CAPACITY];
static char flags_before[CAPACITY], flags_after[CAPACITY];

static void drop(char *line, const char *word)
{
    char *place = strstr(line, word);
    if (place)
        memmove(place, place + strlen(word), strlen(place + strlen(word)) + 1);
}

/* Into static memory, so that looking maps nothing new. */
static void look(const char *file, char *into)
{
    FILE *maps = fopen(file, "re");
    char line[1024];
    size_t length = 0;
    bool kernels_own = false;
    CHECK(maps, "open %s", file);
    while (fgets(line, sizeof line, maps)) {
        char *rest, perms[8], name[512] = "";
        unsigned long start, end, offset;
        strtoul(line, &rest, 16);
        if (*rest == '-') {
            kernels_own = strstr(line, "[v") != NULL;
            int fields = sscanf(line, "%lx-%lx %7s %lx %*s %*s %511s", &start, &end, perms, &offset,
                                name);
            CHECK(fields >= 4, "%s", line);
            if (!kernels_own)
                length += (size_t)sprintf(into + length, "%lx-%lx %s %lx %s\n", start, end, perms,
                                          offset, name);
        } else if (!kernels_own && !strncmp(line, "VmFlags", 7)) {
            drop(line, " sd"); /* whether it was written since the start of counting */
            drop(line, " ac"); /* how it is accounted for, not how it behaves */
            drop(line, " nr");
            length += (size_t)sprintf(into + length, "%s", line);
        }
        CHECK(length < CAPACITY - 2048, "too many mappings");
    }
    fclose(maps);
}

static void compare(const char *what, char *before, char *after)
{
    char *old_place, *new_place;
    char *old = strtok_r(before, "\n", &old_place), *new = strtok_r(after, "\n", &new_place);
    while (old || new) {
        CHECK(old && new && !strcmp(old, new), "%s: was '%s', is '%s'", what, old ? old : "nothing",
              new ? new : "nothing");
        old = strtok_r(NULL, "\n", &old_place);
        new = strtok_r(NULL, "\n", &new_place);
    }
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    int flags = MAP_PRIVATE | MAP_ANONYMOUS, rw = PROT_READ | PROT_WRITE;
    char *a = mmap(NULL, 1 << 20, rw, flags, -1, 0);
    char *b = mmap(NULL, 1 << 20, rw, flags | MAP_NORESERVE, -1, 0);
    char *c = mmap(NULL, 1 << 20, rw | PROT_EXEC, flags, -1, 0);
    char *d = mmap(NULL, 1 << 16, rw, flags | MAP_LOCKED, -1, 0);
    char *e = mmap(NULL, 1 << 16, rw, flags | MAP_GROWSDOWN, -1, 0);
    a[0] = b[0] = c[0] = 1;
    if (d != MAP_FAILED)
        d[0] = 1;
    e[0] = 1;
    MUST(madvise(a, 64 << 10, MADV_DONTFORK));
    MUST(madvise(a + (128 << 10), 64 << 10, MADV_DONTDUMP));
    MUST(madvise(a + (256 << 10), 64 << 10, MADV_WIPEONFORK));
    MUST(madvise(a + (384 << 10), 64 << 10, MADV_SEQUENTIAL));
    MUST(madvise(a + (512 << 10), 64 << 10, MADV_RANDOM));
    madvise(b, 64 << 10, MADV_HUGEPAGE);
    madvise(b + (128 << 10), 64 << 10, MADV_NOHUGEPAGE);
    look("/proc/self/smaps", flags_before); /* the heap grows at the first look */
    memset(flags_before, 0, sizeof flags_before);
    look("/proc/self/smaps", flags_before);
    look("/proc/self/maps", maps_before);
    ready_then_go();
    look("/proc/self/smaps", flags_after);
    look("/proc/self/maps", maps_after);
    compare("maps", maps_before, maps_after);
    compare("smaps", flags_before, flags_after);
    pass();
}
