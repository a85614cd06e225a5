/* Datagram sockets connected in every way, with messages of named, unnamed and closed senders. */
#include "unix_workload.h"

static int linked(const char *from, const char *to)
{
    int fd = from ? bound(SOCK_DGRAM, from) : (int)MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
    if (to)
        MUST(connects(fd, to));
    return fd;
}

int main(int argc, char **argv)
{
    char path[108], gone_path[108];
    int pair[2], parted[2], left[2];
    begin(argc, argv);
    snprintf(path, sizeof path, "%s", in_control("box"));
    snprintf(gone_path, sizeof gone_path, "%s", in_control("gone"));
    /* many to one, that one not connected */
    int box = linked(path, NULL), a = linked("@wd-a", path), b = linked(NULL, path);
    int closed = linked("@wd-closed", path), closed_path = linked(in_control("sender"), path);
    int nobody = linked(NULL, NULL);
    tell(a, "from a");
    tell(b, "from b");
    tell(closed, "from closed");
    tell(closed_path, "from path");
    tell_to(nobody, path, "from nobody");
    close(closed);
    close(closed_path);
    char sender_path[108];
    snprintf(sender_path, sizeof sender_path, "%s", in_control("sender"));
    /* mutual; more messages than the limit for strangers */
    int m1 = linked("@wd-m1", NULL), m2 = linked("@wd-m2", NULL);
    tell_to(a, "@wd-m1", "early");
    MUST(connects(m1, "@wd-m2"));
    MUST(connects(m2, "@wd-m1"));
    for (int i = 0; i < 20; i++)
        tell(m2, "mutual");
    /* a chain, and one connected to itself */
    int c3 = linked("@wd-c3", NULL), c2 = linked("@wd-c2", "@wd-c3"), c1;
    MUST(connects(c2, "@wd-c3"));
    c1 = linked("@wd-c1", NULL);
    int chain = linked("@wd-d1", NULL), chain2 = linked("@wd-d2", NULL);
    MUST(connects(chain, "@wd-d2"));
    MUST(connects(chain2, "@wd-c3"));
    int self = linked("@wd-self", "@wd-self");
    tell(self, "to me");
    /* connected to a name that is gone, to a socket that is gone */
    int unlinked = linked(gone_path, NULL), follower = linked(NULL, gone_path);
    MUST(unlink(gone_path));
    tell(follower, "unlinked");
    int dying = linked("@wd-dying", NULL), orphan = linked("@wd-orphan", "@wd-dying");
    close(dying);
    /* pairs: named ones, parted ones, one left alone */
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
    struct sockaddr_un address;
    socklen_t size = address_of(&address, "@wd-pair");
    MUST(bind(pair[0], (struct sockaddr *)&address, size));
    tell(pair[0], "named pair");
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, parted));
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    MUST(connect(parted[0], &none, sizeof none));
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, left));
    tell(left[1], "last words");
    close(left[1]);
    /* autobind */
    int automatic = (int)MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
    struct sockaddr_un given = {.sun_family = AF_UNIX};
    MUST(bind(automatic, (struct sockaddr *)&given, sizeof given.sun_family));
    socklen_t given_size = sizeof given;
    MUST(getsockname(automatic, (struct sockaddr *)&given, &given_size));
    ready_then_go();

    hear_from(box, "from a", "@wd-a");
    hear_from(box, "from b", "");
    hear_from(box, "from closed", "@wd-closed");
    hear_from(box, "from path", sender_path);
    hear_from(box, "from nobody", "");
    silent(box);
    tell(a, "again");
    hear_from(box, "again", "@wd-a");
    peer_name(a, path);
    hear_from(m1, "early", "@wd-a");
    for (int i = 0; i < 20; i++)
        hear_from(m1, "mutual", "@wd-m2");
    silent(m1);
    CHECK(connects(c1, "@wd-m1") == -1 && errno == EPERM, "m1 is not connected");
    tell(m1, "back");
    hear_from(m2, "back", "@wd-m1");
    tell(c2, "one");
    hear_from(c3, "one", "@wd-c2");
    peer_name(chain, "@wd-d2");
    CHECK(send(chain, "x", 1, 0) == -1 && errno == EPERM, "the middle of a chain listens");
    tell(chain2, "three");
    hear_from(c3, "three", "@wd-d2");
    hear_from(self, "to me", "@wd-self");
    tell(self, "me again");
    hear_from(self, "me again", "@wd-self");
    hear_from(unlinked, "unlinked", "");
    tell(follower, "still");
    hear_from(unlinked, "still", "");
    peer_name(follower, gone_path);
    own_name(unlinked, gone_path);
    CHECK(access(gone_path, F_OK) == -1, "the name is back");
    peer_name(orphan, "@wd-dying");
    CHECK(send(orphan, "x", 1, MSG_NOSIGNAL) == -1 && errno == ECONNREFUSED, "to the dead");
    hear_from(pair[1], "named pair", "@wd-pair");
    tell(pair[1], "back");
    hear(pair[0], "back");
    peer_name(pair[1], "@wd-pair");
    CHECK(send(parted[0], "x", 1, 0) == -1 && errno == ENOTCONN, "not parted");
    tell(parted[1], "one way");
    hear(parted[0], "one way");
    hear_from(left[0], "last words", "");
    CHECK(send(left[0], "x", 1, MSG_NOSIGNAL) == -1 && errno == ECONNREFUSED, "to the left");
    CHECK(peer_of(pair[0]).pid == getpid() && peer_of(a).pid == 0, "credentials");
    struct sockaddr_un now = {0};
    size = sizeof now;
    MUST(getsockname(automatic, (struct sockaddr *)&now, &size));
    CHECK(size == given_size && !memcmp(&now, &given, size), "autobind");
    int again = (int)MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
    CHECK(bind(again, (struct sockaddr *)&given, given_size) == -1 && errno == EADDRINUSE, "autobind");
    pass();
}
