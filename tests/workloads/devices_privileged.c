/* needs: container, needs: privileged
 * Devices that not everybody may open: the system's console and a virtual one, by nodes of the
 * program's own; a removed node of a usual one; the devices of a devtmpfs. */
#include "workload.h"
#include <sys/mount.h>
#include <sys/sysmacros.h>

static void is_device(int fd, unsigned int wanted_major, unsigned int wanted_minor)
{
    struct stat found;
    MUST(fstat(fd, &found));
    CHECK(S_ISCHR(found.st_mode) && major(found.st_rdev) == wanted_major &&
              minor(found.st_rdev) == wanted_minor,
          "device %u:%u", major(found.st_rdev), minor(found.st_rdev));
}

/* -1 where the system has no such device. */
static int own(const char *name, unsigned int wanted_major, unsigned int wanted_minor, int flags)
{
    MUST(mknod(in_control(name), S_IFCHR | 0600, makedev(wanted_major, wanted_minor)));
    int fd = open(in_control(name), flags | O_NOCTTY);
    CHECK(fd >= 0 || errno == ENXIO || errno == ENODEV || errno == EIO, "%s", name);
    return fd;
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    int console = own("console", 5, 1, O_RDONLY), virtual = own("virtual", 4, 5, O_RDWR);
    int removed = own("null", 1, 3, O_RDWR);
    MUST(unlink(in_control("null")));
    MUST(mkdir(in_control("dev"), 0755));
    MUST(mount("dev", in_control("dev"), "devtmpfs", 0, NULL));
    int shown = (int)MUST(open(in_control("dev/zero"), O_RDONLY));
    ready_then_go();

    if (console >= 0)
        is_device(console, 5, 1);
    if (virtual >= 0)
        is_device(virtual, 4, 5);
    is_device(removed, 1, 3);
    CHECK(write(removed, "x", 1) == 1, "null");
    char byte = 'x';
    CHECK(read(shown, &byte, 1) == 1 && byte == 0, "zero");
    CHECK(!access(in_control("dev/null"), F_OK), "devtmpfs");
    pass();
}
