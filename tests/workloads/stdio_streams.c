/* The C library's own streams: buffered and unread, buffered and unwritten, and popen. */
#include "workload.h"

int main(int argc, char **argv)
{
    char line[64];
    begin(argc, argv);
    FILE *out = fopen(in_control("out"), "w+e");
    CHECK(out, "fopen");
    for (int i = 0; i < 1000; i++)
        fprintf(out, "line %d\n", i);
    rewind(out);
    CHECK(fgets(line, sizeof line, out), "fgets"); /* the rest of the buffer is in memory */
    FILE *later = fopen(in_control("later"), "we");
    fprintf(later, "not flushed"); /* still only in memory */
    FILE *command = popen("read line; exit 9", "w");
    CHECK(command, "popen");
    ready_then_go();
    for (int i = 1; i < 1000; i++) {
        char wanted[64];
        snprintf(wanted, sizeof wanted, "line %d\n", i);
        CHECK(fgets(line, sizeof line, out) && !strcmp(line, wanted), "got %s", line);
    }
    CHECK(!fgets(line, sizeof line, out), "more than was written");
    fclose(later);
    later = fopen(in_control("later"), "re");
    CHECK(fgets(line, sizeof line, later) && !strcmp(line, "not flushed"), "later: %s", line);
    fprintf(command, "hello\n");
    int status = pclose(command);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 9, "popen ended with %#x", status);
    pass();
}
