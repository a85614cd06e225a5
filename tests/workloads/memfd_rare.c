/* memfds: a seal against writing while mapped, opened twice, no execution, no name but a mapping. */
#include "workload.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8U
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 16
#endif
#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 32
#endif

int main(int argc, char **argv)
{
    char path[64], found[16] = "";
    begin(argc, argv);
    int sealed = (int)MUST(memfd_create("sealed", MFD_ALLOW_SEALING));
    MUST(ftruncate(sealed, 8192));
    CHECK(pwrite(sealed, "sealed", 6, 0) == 6, "write");
    snprintf(path, sizeof path, "/proc/self/fd/%d", sealed);
    int reader = (int)MUST(open(path, O_RDONLY));
    MUST(fcntl(sealed, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK));
    char *map = mmap(NULL, 4096, PROT_READ, MAP_SHARED, reader, 0);
    CHECK(map != MAP_FAILED, "mmap");
    int future = (int)MUST(memfd_create("future", MFD_ALLOW_SEALING));
    MUST(ftruncate(future, 4096));
    char *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, future, 0);
    CHECK(shared != MAP_FAILED, "mmap");
    MUST(fcntl(future, F_ADD_SEALS, F_SEAL_FUTURE_WRITE));
    strcpy(shared, "before");
    int no_exec = memfd_create("no-exec", MFD_NOEXEC_SEAL); /* Linux 6.3 */
    int twice = (int)MUST(memfd_create("twice", 0));
    snprintf(path, sizeof path, "/proc/self/fd/%d", twice);
    int append = (int)MUST(open(path, O_WRONLY | O_APPEND));
    CHECK(write(twice, "0123456789", 10) == 10 && lseek(twice, 3, SEEK_SET) == 3, "write");
    ready_then_go();
    CHECK(!strcmp(map, "sealed") && mprotect(map, 4096, PROT_READ | PROT_WRITE) == -1, "mapping");
    CHECK(fcntl(sealed, F_GET_SEALS) == (F_SEAL_WRITE | F_SEAL_SHRINK), "seals %#x",
          fcntl(sealed, F_GET_SEALS));
    CHECK(write(sealed, "x", 1) == -1 && errno == EPERM, "the seal does not hold");
    CHECK(fcntl(reader, F_GETFL) % 4 == O_RDONLY && write(reader, "x", 1) == -1, "the reader writes");
    CHECK(!strcmp(shared, "before") && strcpy(shared, "after"), "future");
    CHECK(pread(future, found, 6, 0) == 6 && !strcmp(found, "after"), "not one memory");
    CHECK(write(future, "x", 1) == -1 && errno == EPERM, "the future has begun");
    if (no_exec >= 0) {
        CHECK(fcntl(no_exec, F_GET_SEALS) & F_SEAL_EXEC, "no seal of execution");
        CHECK(fchmod(no_exec, 0777) == -1, "can be made executable");
    }
    CHECK(fcntl(twice, F_GET_SEALS) == F_SEAL_SEAL, "seals of an unsealable one");
    CHECK(write(append, "x", 1) == 1 && read(twice, found, 16) == 8 && !memcmp(found, "3456789x", 8),
          "twice: %.8s", found);
    pass();
}
