/* needs: container, needs: privileged
 * Pseudo-terminals of a devpts that a program has mounted: for itself, and, with a session, in mount
 * and pid namespaces of a child, as a container runtime does it. */
#include "workload.h"
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <termios.h>

static int open_pair(const char *devpts, int expected, int *slave, int flags)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/ptmx", devpts);
    int master = (int)MUST(open(path, O_RDWR | O_NOCTTY));
    int number, unlocked = 0;
    MUST(ioctl(master, TIOCGPTN, &number));
    CHECK(number == expected, "number %d", number);
    MUST(ioctl(master, TIOCSPTLCK, &unlocked));
    snprintf(path, sizeof path, "%s/%d", devpts, number);
    *slave = (int)MUST(open(path, O_RDWR | flags));
    return master;
}

static void echoes(int master, int slave, const char *line)
{
    char got[64];
    ssize_t size = (ssize_t)strlen(line);
    MUST(write(master, line, size));
    CHECK(read(slave, got, sizeof got) == size && !memcmp(got, line, size), "line");
}

static void inner(void)
{
    MUST(setsid());
    MUST(mount(NULL, "/", NULL, MS_PRIVATE | MS_REC, NULL));
    MUST(mount("pts", "/dev/pts", "devpts", 0, "mode=666,ptmxmode=666,newinstance"));
    int slave, master = open_pair("/dev/pts", 0, &slave, 0);
    MUST(ioctl(slave, TIOCSCTTY, 0));
    mark("inner");
    await("go");
    echoes(master, slave, "inside\n");
    CHECK(tcgetpgrp(slave) == getpid(), "foreground %d", (int)tcgetpgrp(slave));
    CHECK(tcgetsid(slave) == getsid(0), "session %d", (int)tcgetsid(slave));
    close((int)MUST(open("/dev/tty", O_RDWR)));
    char link[64], name[64] = "";
    snprintf(link, sizeof link, "/proc/%d/fd/%d", (int)getpid(), slave);
    MUST(mount("proc", "/proc", "proc", 0, NULL));
    MUST(readlink(link, name, sizeof name - 1));
    CHECK(!strcmp(name, "/dev/pts/0"), "terminal %s", name);
    _exit(0);
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    MUST(mkdir(in_control("pts"), 0755));
    MUST(mount("pts", in_control("pts"), "devpts", 0, "mode=620,ptmxmode=666,newinstance"));
    int slave, master = open_pair(in_control("pts"), 0, &slave, O_NOCTTY);
    struct termios modes;
    MUST(tcgetattr(slave, &modes));
    modes.c_lflag &= ~(tcflag_t)ECHO;
    MUST(tcsetattr(slave, TCSANOW, &modes));
    MUST(write(master, "typed\n", 6));
    MUST(fchmod(slave, 0600));
    pid_t child = (pid_t)MUST(syscall(SYS_clone, CLONE_NEWNS | CLONE_NEWPID | SIGCHLD, 0, 0, 0, 0));
    if (child == 0)
        inner();
    await("inner");
    ready_then_go();

    char got[64];
    CHECK(read(slave, got, sizeof got) == 6 && !memcmp(got, "typed\n", 6), "what was typed");
    MUST(tcgetattr(slave, &modes));
    CHECK(!(modes.c_lflag & ECHO), "echo");
    struct stat by_name, open_one;
    MUST(stat(in_control("pts/0"), &by_name));
    MUST(fstat(slave, &open_one));
    CHECK(by_name.st_dev == open_one.st_dev && by_name.st_ino == open_one.st_ino, "another file");
    CHECK((open_one.st_mode & 07777) == 0600, "mode %o", open_one.st_mode);
    int next, further = open_pair(in_control("pts"), 1, &next, O_NOCTTY);
    echoes(further, next, "further\n");
    reap(child);
    pass();
}
