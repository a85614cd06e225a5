/* Pipes in packet mode that hold packets, also small ones and of a full page; full pipes. */
#include "workload.h"

int main(int argc, char **argv)
{
    int packets[2], switched[2], full[2], refilled[2];
    static char page[4096], found[8192], big[65536];
    begin(argc, argv);
    fill(page, sizeof page, 3);
    fill(big, sizeof big, 4);
    MUST(pipe2(packets, O_DIRECT));
    CHECK(write(packets[1], "first", 5) == 5 && write(packets[1], "2", 1) == 1, "write");
    CHECK(write(packets[1], page, 4096) == 4096 && write(packets[1], "last", 4) == 4, "write");
    MUST(pipe2(switched, O_DIRECT));
    CHECK(write(switched[1], "one", 3) == 3 && write(switched[1], "two", 3) == 3, "write");
    MUST(fcntl(switched[1], F_SETFL, 0));
    MUST(pipe2(full, O_NONBLOCK));
    CHECK(write(full[1], big, sizeof big) == sizeof big && write(full[1], "x", 1) == -1, "full");
    MUST(pipe(refilled));
    MUST(fcntl(refilled[0], F_SETPIPE_SZ, 8192));
    for (int i = 0; i < 2; i++)
        CHECK(write(refilled[1], page, 4096) == 4096, "write");
    CHECK(read(refilled[0], found, 100) == 100, "read");
    ready_then_go();
    CHECK(read(packets[0], found, 8192) == 5 && !memcmp(found, "first", 5), "first packet");
    CHECK(read(packets[0], found, 8192) == 1 && found[0] == '2', "second packet");
    CHECK(read(packets[0], found, 100) == 100 && !memcmp(found, page, 100), "third packet");
    CHECK(read(packets[0], found, 8192) == 4 && !memcmp(found, "last", 4), "last packet");
    CHECK(write(packets[1], "a", 1) == 1 && write(packets[1], "b", 1) == 1, "write");
    CHECK(read(packets[0], found, 10) == 1 && fcntl(packets[1], F_GETFL) & O_DIRECT, "still packets");
    CHECK(read(switched[0], found, 100) == 3 && read(switched[0], found, 100) == 3, "switched");
    CHECK(write(full[1], "x", 1) == -1 && errno == EAGAIN, "the full pipe takes more");
    for (size_t got = 0; got < sizeof big; got += 4096)
        CHECK(read(full[0], found, 4096) == 4096 && !memcmp(found, big + got, 4096), "at %zu", got);
    CHECK(fcntl(refilled[0], F_GETPIPE_SZ) == 8192, "size");
    CHECK(read(refilled[0], found, 8192) == 8092 && !memcmp(found, page + 100, 3996), "rest");
    pass();
}
