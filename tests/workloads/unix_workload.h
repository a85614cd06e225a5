/* Short ways to make UNIX sockets, to talk through them, and to pass descriptors. */
#ifndef UNIX_WORKLOAD_H
#define UNIX_WORKLOAD_H
#include "workload.h"
#include <poll.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

/* An address: "@name" is abstract, anything else a path. */
static inline socklen_t address_of(struct sockaddr_un *address, const char *name)
{
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    strcpy(address->sun_path, name);
    if (name[0] == '@')
        address->sun_path[0] = 0;
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name) + (name[0] != '@'));
}

static inline int bound(int kind, const char *name)
{
    struct sockaddr_un address;
    int fd = (int)MUST(socket(AF_UNIX, kind, 0));
    socklen_t size = address_of(&address, name);
    MUST(bind(fd, (struct sockaddr *)&address, size));
    return fd;
}

static inline int connects(int fd, const char *name)
{
    struct sockaddr_un address;
    socklen_t size = address_of(&address, name);
    return connect(fd, (struct sockaddr *)&address, size);
}

static inline int connected(int kind, const char *name)
{
    int fd = (int)MUST(socket(AF_UNIX, kind, 0));
    MUST(connects(fd, name));
    return fd;
}

static inline void tell(int fd, const char *text)
{
    CHECK(send(fd, text, strlen(text), MSG_NOSIGNAL) == (ssize_t)strlen(text), "send %s", text);
}

static inline void tell_to(int fd, const char *name, const char *text)
{
    struct sockaddr_un address;
    socklen_t size = address_of(&address, name);
    CHECK(sendto(fd, text, strlen(text), 0, (struct sockaddr *)&address, size) == (ssize_t)strlen(text),
          "send %s to %s", text, name);
}

static inline void hear(int fd, const char *text)
{
    char found[256] = "";
    ssize_t length = recv(fd, found, sizeof found - 1, MSG_DONTWAIT);
    CHECK(length == (ssize_t)strlen(text) && !strcmp(found, text), "%zd bytes '%s', not '%s'", length,
          found, text);
}

static inline void silent(int fd)
{
    char byte;
    CHECK(recv(fd, &byte, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN, "something more is there");
}

/* Whether an address is this name; "" for none. */
static inline void is_name(const struct sockaddr_un *address, socklen_t size, const char *name)
{
    struct sockaddr_un wanted;
    socklen_t length = name[0] ? address_of(&wanted, name) : 0;
    if (!name[0]) {
        CHECK(size <= sizeof(sa_family_t), "a name of %u bytes: %s", size, address->sun_path);
        return;
    }
    CHECK(size == length && !memcmp(address, &wanted, length), "%u bytes '%s', not '%s'", size,
          address->sun_path[0] ? address->sun_path : address->sun_path + 1, name);
}

static inline void hear_from(int fd, const char *text, const char *name)
{
    struct sockaddr_un address = {0};
    socklen_t size = sizeof address;
    char found[256] = "";
    ssize_t length = recvfrom(fd, found, 255, MSG_DONTWAIT, (struct sockaddr *)&address, &size);
    CHECK(length == (ssize_t)strlen(text) && !strcmp(found, text), "%zd bytes '%s', not '%s'", length,
          found, text);
    is_name(&address, size, name);
}

static inline void own_name(int fd, const char *name)
{
    struct sockaddr_un address = {0};
    socklen_t size = sizeof address;
    MUST(getsockname(fd, (struct sockaddr *)&address, &size));
    is_name(&address, size, name);
}

static inline void peer_name(int fd, const char *name)
{
    struct sockaddr_un address = {0};
    socklen_t size = sizeof address;
    MUST(getpeername(fd, (struct sockaddr *)&address, &size));
    is_name(&address, size, name);
}

static inline struct ucred peer_of(int fd)
{
    struct ucred who = {0};
    socklen_t size = sizeof who;
    MUST(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size));
    return who;
}

/* Send text with descriptors, and perhaps credentials. */
static inline void pass_on(int fd, const char *text, const int *fds, int count, struct ucred *who)
{
    char control_data[CMSG_SPACE(16 * sizeof(int)) + CMSG_SPACE(sizeof *who)] = {0};
    struct iovec data = {(void *)(uintptr_t)text, strlen(text)};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control_data,
                             .msg_controllen = sizeof control_data};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    size_t used = 0;
    if (count) {
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN((size_t)count * sizeof(int));
        memcpy(CMSG_DATA(header), fds, (size_t)count * sizeof(int));
        used += CMSG_SPACE((size_t)count * sizeof(int));
        header = (struct cmsghdr *)(void *)(control_data + used);
    }
    if (who) {
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_CREDENTIALS;
        header->cmsg_len = CMSG_LEN(sizeof *who);
        memcpy(CMSG_DATA(header), who, sizeof *who);
        used += CMSG_SPACE(sizeof *who);
    }
    message.msg_controllen = used;
    CHECK(sendmsg(fd, &message, 0) == (ssize_t)strlen(text), "sendmsg %s", text);
}

/* Receive up to *size bytes; returns how many descriptors came, and the credentials if any did. */
static inline int take(int fd, const char *text, size_t size, int *fds, struct ucred *who)
{
    char control_data[CMSG_SPACE(16 * sizeof(int)) + CMSG_SPACE(sizeof *who)] = {0}, found[256] = "";
    struct iovec data = {found, size};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control_data,
                             .msg_controllen = sizeof control_data};
    int count = 0;
    ssize_t length = recvmsg(fd, &message, MSG_DONTWAIT);
    CHECK(length == (ssize_t)strlen(text) && !strcmp(found, text), "%zd bytes '%s', not '%s'", length,
          found, text);
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header)) {
        if (header->cmsg_type == SCM_RIGHTS) {
            count = (int)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
            memcpy(fds, CMSG_DATA(header), (size_t)count * sizeof(int));
        } else if (header->cmsg_type == SCM_CREDENTIALS && who) {
            memcpy(who, CMSG_DATA(header), sizeof *who);
        }
    }
    return count;
}

#endif
