/* AIO contexts: some events taken, some not yet; a ring that has turned; contexts of other sizes. */
#include "workload.h"
#include <linux/aio_abi.h>

static int null;

static void submit(aio_context_t context, int fd, uint64_t data, void *buffer, size_t size, int write)
{
    struct iocb request = {.aio_data = data, .aio_fildes = (uint32_t)fd,
                           .aio_lio_opcode = write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD,
                           .aio_buf = (uint64_t)(uintptr_t)buffer, .aio_nbytes = size};
    struct iocb *list[] = {&request};
    CHECK(syscall(SYS_io_submit, context, 1, list) == 1, "io_submit");
}

static void take(aio_context_t context, uint64_t data, int64_t result)
{
    struct io_event event = {0};
    struct timespec soon = {.tv_sec = 5};
    CHECK(syscall(SYS_io_getevents, context, 1, 1, &event, &soon) == 1, "no event %lu",
          (unsigned long)data);
    CHECK(event.data == data && event.res == result, "event %llu result %lld, not %lu",
          event.data, event.res, (unsigned long)data);
}

static void empty(aio_context_t context)
{
    struct io_event event;
    struct timespec now = {0};
    CHECK(syscall(SYS_io_getevents, context, 1, 1, &event, &now) == 0, "one event too many");
}

int main(int argc, char **argv)
{
    aio_context_t fresh = 0, some = 0, turned = 0, large = 0;
    char text[16] = "asynchronous", found[16] = "";
    begin(argc, argv);
    null = (int)MUST(open("/dev/null", O_RDWR));
    int file = (int)MUST(open(in_control("file"), O_RDWR | O_CREAT, 0600));
    MUST(syscall(SYS_io_setup, 10, &fresh));
    MUST(syscall(SYS_io_setup, 64, &some));
    MUST(syscall(SYS_io_setup, 1, &turned));
    MUST(syscall(SYS_io_setup, 1000, &large));
    for (uint64_t i = 0; i < 5; i++)
        submit(some, null, i, text, 16, 1);
    take(some, 0, 16);
    take(some, 1, 16);
    for (uint64_t i = 0; i < 1003; i++) {
        submit(turned, null, i, text, 1, 0);
        if (i >= 3)
            take(turned, i - 3, 0);
    }
    submit(large, file, 7, text, 12, 1);
    take(large, 7, 12);
    pid_t child = (pid_t)MUST(fork());
    if (child == 0) {
        struct io_event event;
        struct timespec now = {0};
        mark("child");
        await("go");
        CHECK(syscall(SYS_io_getevents, some, 1, 1, &event, &now) == -1 && errno == EINVAL,
              "a child has its parent's context");
        _exit(0);
    }
    await("child");
    ready_then_go();
    empty(fresh);
    submit(fresh, file, 1, found, 16, 0);
    take(fresh, 1, 12);
    CHECK(!strcmp(found, text), "read '%s'", found);
    submit(some, null, 5, text, 3, 1);
    for (uint64_t i = 2; i < 5; i++)
        take(some, i, 16);
    take(some, 5, 3);
    empty(some);
    for (uint64_t i = 1000; i < 1003; i++)
        take(turned, i, 0);
    empty(turned);
    for (uint64_t i = 0; i < 2000; i++) {
        submit(turned, null, i, text, 1, 0);
        take(turned, i, 0);
    }
    submit(large, file, 8, text, 12, 1);
    take(large, 8, 12);
    MUST(syscall(SYS_io_destroy, some));
    CHECK(syscall(SYS_io_destroy, some) == -1, "destroyed twice");
    reap(child);
    pass();
}
