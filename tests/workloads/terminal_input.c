/* What waits in pseudo-terminals: lines, what is typed of the next, raw bytes, output. */
#include "terminal.h"

int main(int argc, char **argv)
{
    static char text[4000], found[9000];
    begin(argc, argv);
    int lines = new_master(0), reader = open_slave(lines, 0);
    WRITES(lines, "first\nsecond\x04\x04" "with\x16\nin it\nand \xff the\tnext");
    int literal = new_master(0), literally = open_slave(literal, 0);
    struct termios modes = modes_of(literally);
    modes.c_cc[VEOL] = ';';
    modes.c_lflag &= ~(tcflag_t)ECHO;
    set_modes(literally, modes);
    WRITES(literal, "a;b;\x16\x03;\x16;x\n;y");
    int unread = new_master(0), plain = open_slave(unread, 0);
    raw(plain);
    fill(text, sizeof text, 3);
    CHECK(write(unread, text, sizeof text) == sizeof text, "write");
    CHECK(write(plain, text, sizeof text) == sizeof text, "write");
    int early = new_master(0);
    WRITES(early, "typed before anybody listened\nand more");
    int late = new_master(0);
    close(open_slave(late, 0));
    WRITES(late, "typed afterwards\n");
    int blocks = new_master(0), full = open_slave(blocks, O_NONBLOCK);
    raw(full);
    size_t sent = 0;
    for (ssize_t step; (step = write(full, text, 1000)) > 0;)
        sent += (size_t)step;
    int now = new_master(0), then = open_slave(now, 0);
    WRITES(now, "typed as lines\nread raw");
    raw(then);
    int again = new_master(0), after = open_slave(again, 0);
    modes = raw(after);
    WRITES(again, "typed raw");
    while (!(events_of(after) & POLLIN))
        nap();
    modes.c_lflag |= ICANON;
    set_modes(after, modes);
    ready_then_go();

    READS(reader, "first\n");
    READS(reader, "second");
    CHECK(events_of(reader) & POLLIN && read(reader, found, 10) == 0, "no end of file");
    READS(reader, "with\nin it\n");
    NOTHING_IN(reader);
    READS(lines, "first\r\nsecondwith^\b^Jin it\r\nand \xff the\tnext");
    WRITES(lines, "\x7f\x7f line\n");
    READS(reader, "and \xff the\tne line\n");

    READS(literally, "a;");
    READS(literally, "b;");
    READS(literally, "\x03;");
    READS(literally, ";x\n");
    READS(literally, ";");
    NOTHING_IN(literally);
    WRITES(literal, "\n");
    READS(literally, "y\n");
    NOTHING_IN(literal);

    CHECK(read(plain, found, sizeof found) == sizeof text, "too short");
    CHECK(!memcmp(text, found, sizeof text), "input");
    CHECK(read(unread, found, sizeof found) == sizeof text, "too short");
    CHECK(!memcmp(text, found, sizeof text), "output");
    NOTHING_IN(unread);
    NOTHING_IN(plain);

    CHECK(!(events_of(early) & POLLHUP), "hung up");
    READS(early, "typed before anybody listened\r\nand more");
    int first = open_slave(early, 0);
    READS(first, "typed before anybody listened\n");
    NOTHING_IN(first);
    READS(late, "typed afterwards\r\n");
    CHECK(read(late, found, 1) == -1 && errno == EIO, "not hung up");
    first = open_slave(late, 0);
    READS(first, "typed afterwards\n");

    for (size_t got = 0; got < sent;) {
        ssize_t step = read(blocks, found, 1);
        CHECK(step == 1 && found[0] == text[got % 1000], "byte %zu of %zu", got, sent);
        got++;
    }
    NOTHING_IN(blocks);
    READS(then, "typed as lines\nread raw");
    READS(after, "typed raw");
    pass();
}
