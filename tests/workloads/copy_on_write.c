/* After a fork, parent and children share pages until they write; none sees another's writes. */
#include "workload.h"

int main(int argc, char **argv)
{
    enum { PAGES = 512, SIZE = PAGES * 4096, CHILDREN = 3 };
    begin(argc, argv);
    char *memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    pid_t children[CHILDREN];
    fill(memory, SIZE, 1);
    for (int i = 0; i < CHILDREN; i++) {
        char name[16];
        snprintf(name, sizeof name, "child%d", i);
        children[i] = (pid_t)MUST(fork());
        if (children[i] == 0) {
            for (int page = i; page < PAGES; page += 10)
                fill(memory + page * 4096, 4096, 100 + (uint64_t)i);
            mark(name);
            await("go");
            for (int page = 0; page < PAGES; page++) {
                uint64_t seed = page % 10 == i ? 100 + (uint64_t)i : 1 + (uint64_t)page * 512;
                CHECK(filled(memory + page * 4096, 4096, seed), "child %d page %d", i, page);
            }
            fill(memory, SIZE, 200 + (uint64_t)i);
            mark(i == 0 ? "wrote" : name);
            _exit(0);
        }
        await(name);
    }
    ready_then_go();
    await("wrote");
    CHECK(filled(memory, SIZE, 1), "the parent sees a child's write");
    for (int i = 0; i < CHILDREN; i++)
        reap(children[i]);
    pass();
}
