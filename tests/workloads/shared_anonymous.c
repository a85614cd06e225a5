/* Shared anonymous memory of several processes is still one piece of memory. */
#include "workload.h"

int main(int argc, char **argv)
{
    enum { SIZE = 4 << 20, CHILDREN = 3 };
    begin(argc, argv);
    int rw = PROT_READ | PROT_WRITE;
    char *shared = mmap(NULL, SIZE, rw, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    char *other = mmap(NULL, SIZE, rw, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t children[CHILDREN];
    fill(shared + 4096, SIZE - 4096, 1);
    fill(other, SIZE / 2, 2);
    volatile int *said = (volatile int *)shared;
    for (int i = 0; i < CHILDREN; i++) {
        char name[16];
        children[i] = (pid_t)MUST(fork());
        if (children[i] == 0) {
            if (i == 1) { /* the same object at another address, and only its middle */
                char *moved = mmap(NULL, SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
                MUST(mremap(shared, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, moved) == MAP_FAILED
                         ? -1
                         : 0);
                shared = moved;
                said = (volatile int *)shared;
                munmap(shared + SIZE / 2, 4096);
            }
            snprintf(name, sizeof name, "child%d", i);
            mark(name);
            await("go");
            while (said[i] == 0)
                nap();
            CHECK(said[i] == 100 + i, "child %d was told %d", i, said[i]);
            said[i + 10] = 200 + i;
            CHECK(filled(shared + 4096, SIZE / 2 - 4096, 1), "child %d sees other content", i);
            _exit(0);
        }
        snprintf(name, sizeof name, "child%d", i);
        await(name);
    }
    ready_then_go();
    CHECK(filled(shared + 4096, SIZE - 4096, 1), "shared content");
    CHECK(filled(other, SIZE / 2, 2) && other[SIZE - 1] == 0, "content of the other");
    for (int i = 0; i < CHILDREN; i++)
        said[i] = 100 + i;
    for (int i = 0; i < CHILDREN; i++) {
        reap(children[i]);
        CHECK(said[i + 10] == 200 + i, "child %d answered %d", i, said[i + 10]);
    }
    pass();
}
