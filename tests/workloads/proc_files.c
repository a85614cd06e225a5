/* Files of /proc: of ourselves, of others, of processes that are gone, and of the system. */
#include "workload.h"

static int child_of(const char *name, pid_t pid)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, name);
    return (int)MUST(open(path, O_RDONLY | O_CLOEXEC));
}

int main(int argc, char **argv)
{
    char text[4096], path[64];
    begin(argc, argv);
    pid_t child = (pid_t)MUST(fork());
    if (child == 0) {
        await("go");
        await("looked");
        _exit(0);
    }
    pid_t dead = (pid_t)MUST(fork());
    if (dead == 0) {
        await("opened");
        _exit(0);
    }
    int status = child_of("status", child);
    int own = (int)MUST(open("/proc/self/comm", O_RDWR));
    int memory = (int)MUST(open("/proc/self/mem", O_RDONLY));
    int task = (int)MUST(open("/proc/thread-self/stat", O_RDONLY));
    int sysctl = (int)MUST(open("/proc/sys/kernel/pid_max", O_RDONLY));
    int directory = (int)MUST(open("/proc", O_RDONLY | O_DIRECTORY));
    int network = (int)MUST(open("/proc/net/dev", O_RDONLY));
    int of_descriptor = (int)MUST(open("/proc/self/fdinfo/0", O_RDONLY));
    close((int)MUST(open("/proc/net/dev", O_RDONLY))); /* the first one's name is forgotten now */
    int dead_directory = child_of("", dead);
    int dead_maps = child_of("maps", dead);
    int dead_path = (int)MUST(openat(dead_directory, "status", O_PATH));
    mark("opened");
    reap(dead);
    CHECK(openat(dead_directory, "stat", O_RDONLY) < 0, "it lives");

    ready_then_go();

    ssize_t size = MUST(pread(status, text, sizeof text - 1, 0));
    text[size] = 0;
    snprintf(path, sizeof path, "\nPid:\t%d\n", (int)child);
    CHECK(strstr(text, path), "status of another process: %s", text);
    MUST(write(own, "renamed", 7));
    CHECK(pread(own, text, 64, 0) == 8 && !memcmp(text, "renamed\n", 8), "comm");
    uint64_t word = 0x1234567890, copy = 0;
    CHECK(pread(memory, &copy, 8, (off_t)(uintptr_t)&word) == 8 && copy == word, "mem");
    size = MUST(pread(task, text, sizeof text - 1, 0));
    CHECK(size > 0 && atoi(text) == getpid(), "stat of a thread");
    CHECK(pread(sysctl, text, 64, 0) > 0, "sysctl");
    CHECK(faccessat(directory, "self", F_OK, 0) == 0, "/proc");
    memset(text, 0, sizeof text);
    CHECK(read(network, text, sizeof text - 1) > 0 && strstr(text, "lo:"), "/proc/net: %s", text);
    CHECK(read(of_descriptor, text, 4) == 4 && !memcmp(text, "pos:", 4), "fdinfo");
    CHECK(openat(dead_directory, "stat", O_RDONLY) < 0, "a dead process lives");
    CHECK(read(dead_maps, text, 64) <= 0, "a dead process has mappings");
    snprintf(path, sizeof path, "/proc/self/fd/%d", dead_path);
    size = MUST(readlink(path, text, sizeof text - 1));
    text[size] = 0;
    snprintf(path, sizeof path, "/proc/%d/status", (int)dead);
    CHECK(!strncmp(text, path, strlen(path)), "path %s", text);
    mark("looked");
    reap(child);
    pass();
}
