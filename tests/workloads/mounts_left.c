/* needs: container, needs: privileged
 * A namespace of mounts that its only process has left: what that has open and mapped is on mounts
 * which are in no namespace any more. */
#include "workload.h"
#include <sys/mount.h>

static void holds(int fd, const char *text)
{
    char found[64] = "";
    CHECK(pread(fd, found, sizeof found - 1, 0) == (ssize_t)strlen(text) && !strcmp(found, text),
          "content %s, not %s", found, text);
}

static int make(const char *name, const char *text)
{
    int fd = (int)MUST(open(in_control(name), O_RDWR | O_CREAT | O_EXCL, 0640));
    MUST(write(fd, text, strlen(text)));
    return fd;
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    int kept = make("kept", "kept");
    int removed = make("removed", "removed");
    MUST(unlink(in_control("removed")));
    int directory = (int)MUST(open(in_control("."), O_RDONLY | O_DIRECTORY));
    int sink = (int)MUST(open("/dev/null", O_WRONLY));
    int program = (int)MUST(open("/proc/self/exe", O_RDONLY));
    int self = (int)MUST(open("/proc/self/comm", O_RDONLY));
    char *mapped = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, kept, 0);
    CHECK(mapped != MAP_FAILED, "mmap");

    MUST(unshare(CLONE_NEWNS));
    MUST(mount(NULL, "/", NULL, MS_PRIVATE | MS_REC, NULL));
    MUST(mkdir(in_control("m"), 0755));
    MUST(mount("ours", in_control("m"), "tmpfs", 0, NULL));
    close(make("m/new", "new"));
    ready_then_go();

    holds(kept, "kept");
    holds(removed, "removed");
    CHECK(!memcmp(mapped, "kept", 4), "mapped %.4s", mapped);
    memcpy(mapped, "KEPT", 4);
    holds(kept, "KEPT");
    CHECK(!faccessat(directory, "kept", F_OK, 0), "directory");
    CHECK(!faccessat(directory, "m/new", F_OK, 0) || errno == ENOENT, "what was below it");
    CHECK(!access(in_control("m/new"), F_OK), "mounted since");
    CHECK(write(sink, "x", 1) == 1, "device");
    char magic[4] = "", comm[32] = "";
    CHECK(pread(program, magic, 4, 0) == 4 && !memcmp(magic, "\177ELF", 4), "program");
    CHECK(read(self, comm, sizeof comm - 1) > 0 && !strncmp(comm, "mounts_left", 11), "%s", comm);
    struct stat status;
    MUST(fstat(removed, &status));
    CHECK(status.st_nlink == 0, "%d names", (int)status.st_nlink);
    pass();
}
