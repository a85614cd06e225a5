/* Pipes: content, size, flags, ends in different processes, ends that are closed. */
#include "workload.h"

int main(int argc, char **argv)
{
    int full[2], between[2], no_writer[2], no_reader[2], empty[2];
    static char text[200000];
    begin(argc, argv);
    MUST(pipe2(full, O_NONBLOCK));
    MUST(pipe(between));
    MUST(pipe2(no_writer, O_CLOEXEC));
    MUST(pipe(no_reader));
    MUST(pipe(empty));
    long size = MUST(fcntl(full[1], F_SETPIPE_SZ, 256 << 10));
    fill(text, sizeof text, 1);
    CHECK(write(full[1], text, sizeof text) == sizeof text, "write");
    CHECK(write(no_writer[1], "last words", 10) == 10, "write");
    close(no_writer[1]);
    close(no_reader[0]);

    pid_t child = (pid_t)MUST(fork());
    if (child == 0) {
        char byte;
        close(between[0]);
        close(empty[1]);
        CHECK(write(between[1], "from the child", 14) == 14, "write");
        mark("child");
        await("go");
        CHECK(write(between[1], ", twice", 7) == 7, "write");
        CHECK(read(empty[0], &byte, 1) == 1 && byte == 'e', "read");
        _exit(0);
    }
    close(between[1]);
    close(empty[0]);
    await("child");
    ready_then_go();

    char found[200000], byte;
    CHECK(fcntl(full[0], F_GETPIPE_SZ) == size, "pipe size %d", fcntl(full[0], F_GETPIPE_SZ));
    CHECK(fcntl(full[0], F_GETFL) & O_NONBLOCK && fcntl(full[1], F_GETFL) & O_NONBLOCK, "flags");
    size_t got = 0;
    while (got < sizeof text) {
        ssize_t step = read(full[0], found + got, sizeof found - got);
        CHECK(step > 0, "after %zu bytes: %zd", got, step);
        got += (size_t)step;
    }
    CHECK(!memcmp(text, found, sizeof text), "content of the pipe");
    CHECK(read(full[0], &byte, 1) == -1 && errno == EAGAIN, "more than was written");
    CHECK(write(empty[1], "e", 1) == 1, "write");
    reap(child);
    for (got = 0; got < 21;) {
        ssize_t step = read(between[0], found + got, sizeof found - got);
        CHECK(step > 0, "between: %zd", step);
        got += (size_t)step;
    }
    CHECK(got == 21 && !memcmp(found, "from the child, twice", 21), "between: %.21s", found);
    CHECK(read(between[0], &byte, 1) == 0, "no end of file when the child is gone");
    CHECK(read(no_writer[0], found, 100) == 10 && !memcmp(found, "last words", 10), "last words");
    CHECK(read(no_writer[0], found, 100) == 0, "no end of file without a writer");
    CHECK(fcntl(no_writer[0], F_GETFD) & FD_CLOEXEC, "close-on-exec");
    signal(SIGPIPE, SIG_IGN);
    CHECK(write(no_reader[1], "x", 1) == -1 && errno == EPIPE, "no EPIPE without a reader");
    pass();
}
