/* Half a gigabyte, half of it compressible, with pages that come and go around it. */
#include "workload.h"

int main(int argc, char **argv)
{
    const size_t size = 512ul << 20;
    begin(argc, argv);
    char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED, "mmap");
    for (size_t at = 0; at < size; at += 1 << 20) {
        if (at >> 20 & 1)
            memset(memory + at, (int)(at >> 20 & 0xff), 1 << 20);
        else
            fill(memory + at, 1 << 20, at);
    }
    ready_then_go();
    for (size_t at = 0; at < size; at += 1 << 20) {
        if (at >> 20 & 1)
            for (size_t i = 0; i < 1 << 20; i += 8)
                CHECK(*(uint64_t *)(memory + at + i) == (at >> 20 & 0xff) * 0x0101010101010101ull,
                      "at %zx", at + i);
        else
            CHECK(filled(memory + at, 1 << 20, at), "at %zx", at);
    }
    pass();
}
