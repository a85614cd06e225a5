/* Names in the file system: relative, renamed, removed, replaced; a directory that is gone. */
#include "unix_workload.h"

static int listening(const char *name)
{
    int fd = bound(SOCK_STREAM, name);
    MUST(listen(fd, 5));
    return fd;
}

static void talk(int listener, int client)
{
    int server = (int)MUST(accept(listener, NULL, NULL));
    tell(client, "hello");
    hear(server, "hello");
    close(server);
    close(client);
}

int main(int argc, char **argv)
{
    char full[108], link_path[PATH_MAX];
    struct stat before, after;
    begin(argc, argv);
    snprintf(full, sizeof full, "%s", in_control("replaced"));
    MUST(mkdir(in_control("sub"), 0755));
    MUST(mkdir(in_control("sub/low"), 0755));
    MUST(chdir(in_control("sub")));
    umask(0);
    int relative = listening("relative"), dotted = listening("./low/../low/dotted");
    int renamed = listening("renamed"), removed = listening("removed");
    MUST(rename("renamed", "low/other"));
    int client = connected(SOCK_STREAM, "removed"), server = (int)MUST(accept(removed, NULL, NULL));
    MUST(unlink("removed"));
    MUST(chmod("relative", 0640));
    MUST(chown("relative", 5, 6));
    MUST(mkdir("gone", 0755));
    int buried = listening("gone/socket");
    MUST(unlink("gone/socket"));
    MUST(rmdir("gone"));
    int first = listening(full), early = connected(SOCK_STREAM, full);
    int early_server = (int)MUST(accept(first, NULL, NULL));
    MUST(unlink(full));
    int second = listening(full);
    /* the name of a listening socket that is closed, held by what it had accepted only */
    int closing = listening(in_control("closing"));
    int c1 = connected(SOCK_STREAM, in_control("closing")), s1 = (int)MUST(accept(closing, NULL, NULL));
    close(closing);
    int abstract = listening("@wn-closing"), c2 = connected(SOCK_STREAM, "@wn-closing");
    int s2 = (int)MUST(accept(abstract, NULL, NULL));
    close(abstract);
    /* a client with a name of its own */
    int named = bound(SOCK_SEQPACKET, "@wn-client"), to = bound(SOCK_SEQPACKET, "@wn-server");
    MUST(listen(to, 3));
    MUST(connects(named, "@wn-server"));
    int got = (int)MUST(accept(to, NULL, NULL));
    char closing_path[108];
    snprintf(closing_path, sizeof closing_path, "%s", in_control("closing"));
    snprintf(link_path, sizeof link_path, "%s", in_control("link"));
    MUST(symlink("sub", link_path));
    char through[108];
    snprintf(through, sizeof through, "%s", in_control("link/through"));
    int linked = listening(through);
    MUST(stat("relative", &before));
    MUST(chdir("/"));
    ready_then_go();

    own_name(relative, "relative");
    talk(relative, connected(SOCK_STREAM, in_control("sub/relative")));
    MUST(stat(in_control("sub/relative"), &after));
    CHECK((after.st_mode & 0777) == 0640 && after.st_uid == 5 && after.st_gid == 6, "mode %o",
          after.st_mode);
    own_name(dotted, "./low/../low/dotted");
    talk(dotted, connected(SOCK_STREAM, in_control("sub/low/dotted")));
    own_name(renamed, "renamed");
    talk(renamed, connected(SOCK_STREAM, in_control("sub/low/other")));
    CHECK(access(in_control("sub/renamed"), F_OK) == -1, "the old name is back");
    own_name(removed, "removed");
    CHECK(access(in_control("sub/removed"), F_OK) == -1, "the removed name is back");
    tell(client, "through");
    hear(server, "through");
    own_name(server, "removed");
    peer_name(client, "removed");
    own_name(buried, "gone/socket");
    CHECK(access(in_control("sub/gone"), F_OK) == -1, "the removed directory is back");
    own_name(first, full);
    own_name(second, full);
    int late = connected(SOCK_STREAM, full);
    struct pollfd poll_fd = {.fd = first, .events = POLLIN};
    CHECK(poll(&poll_fd, 1, 0) == 0, "the first takes connections");
    talk(second, late);
    tell(early, "to the first");
    hear(early_server, "to the first");
    tell(c1, "c1");
    hear(s1, "c1");
    own_name(s1, closing_path);
    peer_name(c1, closing_path);
    tell(s2, "s2");
    hear(c2, "s2");
    own_name(s2, "@wn-closing");
    peer_name(c2, "@wn-closing");
    close(bound(SOCK_STREAM, "@wn-closing"));
    tell(named, "named");
    hear(got, "named");
    peer_name(got, "@wn-client");
    own_name(got, "@wn-server");
    own_name(linked, through);
    talk(linked, connected(SOCK_STREAM, through));
    pass();
}
