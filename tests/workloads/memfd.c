/* memfd: content, seals, offset, and one object between processes, mapped and not. */
#include "workload.h"
#ifndef F_ADD_SEALS
#include <linux/fcntl.h>
#endif

int main(int argc, char **argv)
{
    enum { SIZE = 1 << 20 };
    begin(argc, argv);
    int mapped = (int)MUST(memfd_create("mapped", MFD_ALLOW_SEALING));
    int plain = (int)MUST(memfd_create("plain", MFD_CLOEXEC));
    int sealed = (int)MUST(memfd_create("sealed", MFD_ALLOW_SEALING));
    MUST(ftruncate(mapped, SIZE));
    char *view = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, mapped, 0);
    fill(view + 4096, SIZE / 2, 1);
    CHECK(write(plain, "0123456789", 10) == 10, "write");
    MUST(lseek(plain, 4, SEEK_SET));
    CHECK(write(sealed, "sealed content", 14) == 14, "write");
    int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
    MUST(fcntl(sealed, F_ADD_SEALS, seals));

    pid_t child = (pid_t)MUST(fork());
    if (child == 0) {
        char digit;
        mark("child");
        await("told");
        CHECK(filled(view + 4096, SIZE / 2, 1), "the child's view");
        CHECK(view[0] == 'x', "the child does not see the parent's write");
        CHECK(read(plain, &digit, 1) == 1 && digit == '5', "shared offset: %c", digit);
        view[1] = 'y';
        _exit(0);
    }
    await("child");
    ready_then_go();
    char text[32] = "", link_text[64] = "";
    CHECK(read(plain, text, 1) == 1 && text[0] == '4', "offset of the plain memfd: %s", text);
    view[0] = 'x';
    mark("told");
    reap(child);
    CHECK(view[1] == 'y', "the parent does not see the child's write");
    CHECK(pread(mapped, text, 2, 0) == 2 && !memcmp(text, "xy", 2), "the mapping is not the file");
    CHECK(lseek(mapped, 0, SEEK_END) == SIZE, "size");
    CHECK(fcntl(sealed, F_GET_SEALS) == seals, "seals are %#x", fcntl(sealed, F_GET_SEALS));
    CHECK(pread(sealed, text, 20, 0) == 14 && !memcmp(text, "sealed content", 14), "content");
    CHECK(write(sealed, "x", 1) == -1 && errno == EPERM, "the seal does not hold");
    CHECK(fcntl(mapped, F_GET_SEALS) == 0, "the unsealed one got seals");
    CHECK(fcntl(plain, F_GETFD) & FD_CLOEXEC, "close-on-exec");
    snprintf(text, sizeof text, "/proc/self/fd/%d", mapped);
    MUST(readlink(text, link_text, sizeof link_text - 1));
    CHECK(!strcmp(link_text, "/memfd:mapped (deleted)"), "its name is %s", link_text);
    pass();
}
