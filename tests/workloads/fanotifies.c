/* needs: container, needs: privileged
 * fanotify: marks on a file, a directory, a mount and a file system, ignored ones, and events with
 * names in place of descriptors. Nothing that wherry does is an event. */
#include "workload.h"
#include <sys/fanotify.h>
#include <sys/mount.h>

static void add(int fd, unsigned int flags, uint64_t mask, const char *path)
{
    MUST(fanotify_mark(fd, FAN_MARK_ADD | flags, mask, AT_FDCWD, path));
}

/* What /proc says of the marks, without file handles, which are the file system's own, and numbers
 * of mounts and devices. */
static void marks_of(int fd, char *found, size_t size)
{
    char path[64], line[512];
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    FILE *file = fopen(path, "re");
    CHECK(file, "%s", path);
    found[0] = 0;
    while (fgets(line, sizeof line, file)) {
        char *from = strstr(line, "mflags:");
        if (strncmp(line, "fanotify", 8))
            continue;
        char *handle = strstr(line, "fhandle");
        if (handle)
            *handle = 0;
        strncat(found, from ? from : line, size - strlen(found) - 2);
        strncat(found, "\n", 2);
    }
    fclose(file);
}

/* The masks of all events that wait, together; their files are closed. */
static uint64_t events_of(int fd)
{
    char buffer[8192];
    uint64_t masks = 0;
    ssize_t length;
    while ((length = read(fd, buffer, sizeof buffer)) > 0) {
        struct fanotify_event_metadata *event = (void *)buffer;
        for (; FAN_EVENT_OK(event, length); event = FAN_EVENT_NEXT(event, length)) {
            masks |= event->mask;
            CHECK(event->pid == getpid() || event->pid == 0, "of process %d", event->pid);
            if (event->fd >= 0)
                close(event->fd);
        }
    }
    CHECK(errno == EAGAIN, "read");
    return masks;
}

static void touch(const char *name)
{
    int fd = (int)MUST(open(in_control(name), O_RDWR | O_CREAT, 0600));
    MUST(write(fd, "x", 1));
    close(fd);
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    MUST(mkdir(in_control("d"), 0700));
    MUST(mkdir(in_control("m"), 0700));
    MUST(mount("ours", in_control("m"), "tmpfs", 0, NULL));
    touch("one");
    touch("m/two");
    int plain = (int)MUST(fanotify_init(FAN_CLOEXEC | FAN_NONBLOCK | FAN_UNLIMITED_QUEUE, O_RDONLY));
    add(plain, 0, FAN_MODIFY | FAN_CLOSE_WRITE, in_control("one"));
    add(plain, FAN_MARK_MOUNT, FAN_OPEN | FAN_CLOSE | FAN_ONDIR, in_control("m"));
    add(plain, FAN_MARK_MOUNT | FAN_MARK_IGNORED_MASK | FAN_MARK_IGNORED_SURV_MODIFY, FAN_ACCESS,
        in_control("m"));
    int names = (int)MUST(fanotify_init(FAN_NONBLOCK | FAN_REPORT_DFID_NAME, 0));
    add(names, 0, FAN_CREATE | FAN_DELETE | FAN_ONDIR | FAN_EVENT_ON_CHILD, in_control("d"));
    int whole = (int)MUST(fanotify_init(FAN_NONBLOCK | FAN_REPORT_FID, 0));
    add(whole, FAN_MARK_FILESYSTEM, FAN_MODIFY, in_control("m"));
    char before[3][4096], after[4096];
    const int fds[3] = {plain, names, whole};
    for (int i = 0; i < 3; i++)
        marks_of(fds[i], before[i], sizeof before[i]);
    ready_then_go();

    for (int i = 0; i < 3; i++) {
        marks_of(fds[i], after, sizeof after);
        CHECK(!strcmp(before[i], after), "marks %s, before %s", after, before[i]);
        uint64_t seen = events_of(fds[i]);
        CHECK(!seen, "events %#lx of group %d from nowhere", (unsigned long)seen, i);
    }
    CHECK(fcntl(plain, F_GETFD) & FD_CLOEXEC, "close-on-exec");
    CHECK(!(fcntl(names, F_GETFD) & FD_CLOEXEC), "close-on-exec");
    touch("one");
    uint64_t seen = events_of(plain);
    CHECK(seen == (FAN_MODIFY | FAN_CLOSE_WRITE), "events %#lx", (unsigned long)seen);
    touch("m/two");
    seen = events_of(plain);
    CHECK(seen == (FAN_OPEN | FAN_CLOSE_WRITE), "events %#lx", (unsigned long)seen);
    CHECK(events_of(whole) == FAN_MODIFY, "of the file system");
    touch("d/new");
    MUST(unlink(in_control("d/new")));
    CHECK((events_of(names) & (FAN_CREATE | FAN_DELETE)) == (FAN_CREATE | FAN_DELETE), "names");
    pass();
}
