/* Named pipes with content, opened in every way. */
#include "workload.h"

int main(int argc, char **argv)
{
    char found[64] = "";
    begin(argc, argv);
    MUST(mkfifo(in_control("both"), 0600));
    MUST(mkfifo(in_control("ends"), 0600));
    int both = (int)MUST(open(in_control("both"), O_RDWR | O_NONBLOCK));
    int reader = (int)MUST(open(in_control("ends"), O_RDONLY | O_NONBLOCK));
    int writer = (int)MUST(open(in_control("ends"), O_WRONLY | O_APPEND));
    CHECK(write(both, "content", 7) == 7 && write(writer, "more content", 12) == 12, "write");
    ready_then_go();
    CHECK(read(both, found, 64) == 7 && !memcmp(found, "content", 7), "both: %s", found);
    CHECK(read(both, found, 64) == -1 && errno == EAGAIN, "both has more");
    CHECK(read(reader, found, 64) == 12 && !memcmp(found, "more content", 12), "ends: %s", found);
    CHECK(fcntl(writer, F_GETFL) & O_APPEND, "flags of the writer");
    int another = (int)MUST(open(in_control("ends"), O_WRONLY | O_NONBLOCK));
    CHECK(write(another, "by name", 7) == 7, "write by name");
    CHECK(read(reader, found, 64) == 7 && !memcmp(found, "by name", 7), "by name: %s", found);
    close(another);
    close(writer);
    CHECK(read(reader, found, 64) == 0, "no end of file");
    pass();
}
