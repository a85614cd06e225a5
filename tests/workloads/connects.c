/* Threads that connect, are accepted and hang up without end: no call fails, whatever it was in. */
#include "workload.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>

enum { CLIENTS = 8 };
static struct sockaddr_in where;
static atomic_bool ended;
static atomic_int made;

static void *client(void *argument)
{
    struct linger abort = {1, 0}; /* no port is to stay behind in TIME_WAIT */
    while (!ended) {
        char byte;
        int fd = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
        MUST(setsockopt(fd, SOL_SOCKET, SO_LINGER, &abort, sizeof abort));
        MUST(connect(fd, (struct sockaddr *)&where, sizeof where));
        MUST(write(fd, "x", 1));
        CHECK(MUST(read(fd, &byte, 1)) == 1 && byte == 'y', "no answer");
        close(fd);
        made++;
    }
    return argument;
}

static void *server(void *argument)
{
    int listener = *(int *)argument;
    for (;;) {
        char byte;
        int fd = (int)MUST(accept(listener, NULL, NULL));
        if (read(fd, &byte, 1) == 1)
            (void)!write(fd, "y", 1);
        close(fd);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[CLIENTS], acceptors[2];
    socklen_t size = sizeof where;
    begin(argc, argv);
    signal(SIGPIPE, SIG_IGN);
    int listener = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    where = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    MUST(bind(listener, (struct sockaddr *)&where, sizeof where));
    MUST(listen(listener, 64));
    MUST(getsockname(listener, (struct sockaddr *)&where, &size));
    for (int i = 0; i < 2; i++)
        CHECK(!pthread_create(&acceptors[i], NULL, server, &listener), "no thread");
    for (int i = 0; i < CLIENTS; i++)
        CHECK(!pthread_create(&threads[i], NULL, client, NULL), "no thread");
    while (made < 100)
        usleep(1000);
    ready_then_go();
    ended = true;
    for (int i = 0; i < CLIENTS; i++)
        pthread_join(threads[i], NULL);
    pass();
}
