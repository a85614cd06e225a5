/* Pseudo-terminals for workloads. */
#ifndef TERMINAL_H
#define TERMINAL_H
#include "workload.h"
#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>

/* A new master, whose slave can be opened. */
static inline int new_master(int flags)
{
    int master = (int)MUST(posix_openpt(O_RDWR | O_NOCTTY | flags));
    MUST(grantpt(master));
    MUST(unlockpt(master));
    return master;
}

static inline int open_slave(int master, int flags)
{
    return (int)MUST(open(ptsname(master), O_RDWR | O_NOCTTY | flags));
}

static inline unsigned int index_of(int master)
{
    unsigned int index = ~0u;
    MUST(ioctl(master, TIOCGPTN, &index));
    return index;
}

static inline struct termios modes_of(int fd)
{
    struct termios modes;
    memset(&modes, 0, sizeof modes); /* its padding too, for those who compare */
    MUST(tcgetattr(fd, &modes));
    return modes;
}

static inline void set_modes(int fd, struct termios modes)
{
    MUST(tcsetattr(fd, TCSANOW, &modes));
}

static inline struct termios raw(int fd)
{
    struct termios modes = modes_of(fd);
    cfmakeraw(&modes);
    set_modes(fd, modes);
    return modes;
}

static inline int events_of(int fd)
{
    struct pollfd one = {.fd = fd, .events = POLLIN | POLLOUT | POLLPRI};
    MUST(poll(&one, 1, 0));
    return one.revents;
}

#define READS(fd, wanted)                                                                          \
    do {                                                                                           \
        char reads_data[9000];                                                                     \
        CHECK(events_of(fd) & POLLIN, "nothing to read");                                          \
        ssize_t reads_count = read(fd, reads_data, sizeof reads_data);                             \
        CHECK(reads_count == sizeof(wanted) - 1 && !memcmp(reads_data, wanted, reads_count),       \
              "read %zd bytes: %.*s", reads_count, (int)reads_count, reads_data);                  \
    } while (0)

#define NOTHING_IN(fd) CHECK(!(events_of(fd) & POLLIN), "something to read")

#define WRITES(fd, data) CHECK(write(fd, data, sizeof(data) - 1) == sizeof(data) - 1, "write")

#endif
