/* Listening UNIX sockets, by path and abstract, still accept; connected ones go on talking. */
#include "workload.h"
#include <pthread.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>

static struct sockaddr_un by_path, by_name;
static socklen_t name_size;

static int connect_to(struct sockaddr_un *address, socklen_t size)
{
    int fd = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    MUST(connect(fd, (struct sockaddr *)address, size));
    return fd;
}

static void *accept_one(void *argument)
{
    int fd = (int)MUST(accept4(*(int *)argument, NULL, NULL, SOCK_CLOEXEC));
    CHECK(write(fd, "welcome", 7) == 7, "write");
    close(fd);
    return NULL;
}

int main(int argc, char **argv)
{
    char found[64] = "";
    pthread_t thread;
    begin(argc, argv);
    by_path.sun_family = by_name.sun_family = AF_UNIX;
    snprintf(by_path.sun_path, sizeof by_path.sun_path, "%s", in_control("socket"));
    name_size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 +
                            (size_t)sprintf(by_name.sun_path + 1, "wherry-test-%d", getpid()));
    int path = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0)), name = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    int receiver = (int)MUST(socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0));
    MUST(bind(path, (struct sockaddr *)&by_path, sizeof by_path));
    MUST(listen(path, 17));
    MUST(bind(name, (struct sockaddr *)&by_name, name_size));
    MUST(listen(name, 5));
    struct sockaddr_un mailbox = {.sun_family = AF_UNIX};
    snprintf(mailbox.sun_path, sizeof mailbox.sun_path, "%s", in_control("mailbox"));
    MUST(bind(receiver, (struct sockaddr *)&mailbox, sizeof mailbox));
    pthread_create(&thread, NULL, accept_one, &path); /* blocked in accept over the freeze */
    int early = connect_to(&by_name, name_size), early_server = (int)MUST(accept(name, NULL, NULL));
    CHECK(write(early, "early", 5) == 5, "write");
    ready_then_go();

    int late = connect_to(&by_path, sizeof by_path);
    CHECK(read(late, found, 63) == 7 && !strcmp(found, "welcome"), "blocked accept: %s", found);
    pthread_join(thread, NULL);
    int second = connect_to(&by_name, name_size), second_server = (int)MUST(accept(name, NULL, NULL));
    CHECK(write(second, "second", 6) == 6 && read(second_server, found, 63) == 6, "abstract");
    memset(found, 0, sizeof found);
    CHECK(read(early_server, found, 63) == 5 && !strcmp(found, "early"), "early: %s", found);
    CHECK(write(early_server, "back", 4) == 4 && read(early, found, 63) == 4, "back");
    struct sockaddr_un peer = {0};
    socklen_t size = sizeof peer;
    MUST(getpeername(early, (struct sockaddr *)&peer, &size));
    CHECK(size == name_size && !memcmp(peer.sun_path + 1, by_name.sun_path + 1, 10), "peer name");
    struct ucred who;
    size = sizeof who;
    MUST(getsockopt(early, SOL_SOCKET, SO_PEERCRED, &who, &size));
    CHECK(who.pid == getpid(), "the peer is pid %d", who.pid);
    int sender = (int)MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
    MUST(sendto(sender, "letter", 6, 0, (struct sockaddr *)&mailbox, sizeof mailbox));
    memset(found, 0, sizeof found);
    CHECK(read(receiver, found, 63) == 6 && !strcmp(found, "letter"), "mailbox: %s", found);
    int flag = 0;
    size = sizeof flag;
    MUST(getsockopt(path, SOL_SOCKET, SO_ACCEPTCONN, &flag, &size));
    CHECK(flag == 1, "SO_ACCEPTCONN");
    pass();
}
