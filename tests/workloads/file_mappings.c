/* Mapped files: private with changed and unchanged pages, shared, deleted, past the end. */
#include "workload.h"
#include <setjmp.h>

enum { PAGES = 64, SIZE = PAGES * 4096 };
static sigjmp_buf escape;

static void on_bus(int signal)
{
    (void)signal;
    siglongjmp(escape, 1);
}

static int make(const char *name, uint64_t seed)
{
    char *content = malloc(SIZE);
    int fd = (int)MUST(open(in_control(name), O_RDWR | O_CREAT | O_TRUNC, 0600));
    fill(content, SIZE, seed);
    CHECK(write(fd, content, SIZE) == SIZE, "write %s", name);
    free(content);
    return fd;
}

static char *map(int fd, int protection, int flags)
{
    char *start = mmap(NULL, SIZE, protection, flags, fd, 0);
    CHECK(start != MAP_FAILED, "mmap");
    return start;
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    int rw = PROT_READ | PROT_WRITE;
    int private_fd = make("private.dat", 1), shared_fd = make("shared.dat", 2);
    int deleted_fd = make("deleted.dat", 3), short_fd = make("short.dat", 4);
    char *private = map(private_fd, rw, MAP_PRIVATE);
    char *read_only = map(private_fd, PROT_READ, MAP_PRIVATE);
    char *shared = map(shared_fd, rw, MAP_SHARED), *deleted = map(deleted_fd, rw, MAP_SHARED);
    char *deleted_private = map(deleted_fd, rw, MAP_PRIVATE);
    char *shorter = map(short_fd, PROT_READ, MAP_SHARED);
    for (int page = 0; page < PAGES; page += 3)
        fill(private + page * 4096, 4096, 1000 + (uint64_t)page);
    fill(shared + 8 * 4096, 4096, 2000);
    fill(deleted + 9 * 4096, 4096, 3000);
    fill(deleted_private, 4096, 3001);
    MUST(unlink(in_control("deleted.dat")));
    MUST(ftruncate(short_fd, 2 * 4096));
    close(private_fd);
    close(shared_fd);
    close(deleted_fd);
    ready_then_go();

    for (int page = 0; page < PAGES; page++) {
        uint64_t seed = page % 3 ? 1 + (uint64_t)page * 512 : 1000 + (uint64_t)page;
        CHECK(filled(private + page * 4096, 4096, seed), "page %d of the private mapping", page);
    }
    CHECK(filled(read_only, SIZE, 1), "the file below the private mapping changed");
    CHECK(filled(shared + 8 * 4096, 4096, 2000), "shared mapping");
    CHECK(filled(deleted + 9 * 4096, 4096, 3000), "mapping of the deleted file");
    CHECK(filled(deleted, 9 * 4096, 3), "start of the deleted file");
    CHECK(filled(deleted_private, 4096, 3001), "private pages over the deleted file");
    CHECK(filled(deleted_private + 9 * 4096, 4096, 3000), "shared pages below them");
    CHECK(filled(shorter, 2 * 4096, 4), "shortened file");
    signal(SIGBUS, on_bus);
    if (!sigsetjmp(escape, 1)) {
        (void)*(volatile char *)(shorter + 3 * 4096);
        CHECK(false, "a page past the end of the file can be read");
    }
    /* A write through the shared mapping reaches the file, and the other way round. */
    fill(shared + 5 * 4096, 4096, 2001);
    MUST(msync(shared, SIZE, MS_SYNC));
    int fd = (int)MUST(open(in_control("shared.dat"), O_RDWR));
    char page[4096];
    CHECK(pread(fd, page, 4096, 5 * 4096) == 4096 && filled(page, 4096, 2001), "write-back");
    fill(page, 4096, 2002);
    CHECK(pwrite(fd, page, 4096, 6 * 4096) == 4096, "pwrite");
    CHECK(filled(shared + 6 * 4096, 4096, 2002), "the mapping does not see the file's change");
    fill(deleted, 4096, 3002);
    CHECK(filled(deleted, 4096, 3002), "write to the deleted file");
    pass();
}
