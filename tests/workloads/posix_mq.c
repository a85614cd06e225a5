/* POSIX message queues: messages in order and by priority, full, empty and removed queues, flags of
 * descriptors, waiters at both ends. */
#include "workload.h"
#include <mqueue.h>
#include <pthread.h>

enum { SIZE = 512 };
static mqd_t queue, full, waited, removed, reading;

static mqd_t make(const char *name, long messages, int mode)
{
    struct mq_attr attributes = {.mq_maxmsg = messages, .mq_msgsize = SIZE};
    mqd_t fd = mq_open(name, O_RDWR | O_CREAT | O_EXCL | O_NONBLOCK, mode, &attributes);
    CHECK(fd != (mqd_t)-1, "mq_open(%s)", name);
    MUST(fchmod(fd, (mode_t)mode));
    return fd;
}

static void put_text(mqd_t fd, const char *text, unsigned int priority)
{
    MUST(mq_send(fd, text, strlen(text), priority));
}

static void take_text(mqd_t fd, const char *text, unsigned int priority)
{
    char found[SIZE + 1];
    unsigned int got;
    ssize_t length = mq_receive(fd, found, SIZE, &got);
    CHECK(length >= 0, "instead of %s", text);
    found[length] = 0;
    CHECK(!strcmp(found, text) && got == priority, "%s of %u, not %s of %u", found, got, text, priority);
}

static void expect_empty(mqd_t fd)
{
    char found[SIZE];
    CHECK(mq_receive(fd, found, SIZE, NULL) == -1 && errno == EAGAIN, "a further message");
}

static void *receiver(void *unused)
{
    mqd_t fd = mq_open("/waited", O_RDONLY);
    mark("receiver");
    take_text(fd, "for the receiver", 3);
    mq_close(fd);
    return unused;
}

static void *timed_receiver(void *unused)
{
    char found[SIZE];
    struct timespec limit;
    mqd_t fd = mq_open("/timed", O_RDONLY);
    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += 2;
    mark("timed");
    ssize_t result = mq_timedreceive(fd, found, SIZE, NULL, &limit);
    CHECK(result == -1 && errno == ETIMEDOUT, "mq_timedreceive returned %ld", (long)result);
    CHECK(seconds(CLOCK_REALTIME) >= (double)limit.tv_sec, "too early");
    return unused;
}

static void *sender(void *unused)
{
    mqd_t fd = mq_open("/full", O_WRONLY);
    mark("sender");
    put_text(fd, "late", 1);
    mq_close(fd);
    return unused;
}

int main(int argc, char **argv)
{
    pthread_t threads[3];
    struct mq_attr attributes;
    struct stat status;
    begin(argc, argv);
    queue = make("/a-queue", 9, 0640);
    full = make("/full", 2, 0600);
    waited = make("/waited", 4, 0600);
    removed = make("/removed", 3, 0600);
    mqd_t timed = make("/timed", 3, 0600);
    put_text(queue, "low, first", 1);
    put_text(queue, "high, first", 30000);
    put_text(queue, "low, second", 1);
    put_text(queue, "", 2);
    put_text(queue, "high, second", 30000);
    put_text(full, "one", 5);
    put_text(full, "two", 6);
    put_text(removed, "kept", 0);
    MUST(mq_unlink("/removed"));
    mqd_t again = make("/removed", 8, 0600); /* another one of the same name */
    put_text(again, "new", 0);
    MUST(fchown(again, 1, 2));
    reading = mq_open("/a-queue", O_RDONLY);
    mqd_t shared = dup(queue);
    void *(*const runs[])(void *) = {receiver, timed_receiver, sender};
    const char *names[] = {"receiver", "timed", "sender"};
    for (int i = 0; i < 3; i++) {
        pthread_create(&threads[i], NULL, runs[i], NULL);
        await(names[i]);
    }
    for (int i = 0; i < 20; i++)
        nap();
    ready_then_go();

    MUST(mq_getattr(queue, &attributes));
    CHECK(attributes.mq_maxmsg == 9 && attributes.mq_msgsize == SIZE && attributes.mq_curmsgs == 5 &&
              attributes.mq_flags == O_NONBLOCK,
          "%ld messages", attributes.mq_curmsgs);
    MUST(mq_getattr(reading, &attributes));
    CHECK(attributes.mq_flags == 0, "flags %lx", attributes.mq_flags);
    CHECK(mq_send(reading, "x", 1, 0) == -1 && errno == EBADF, "read only");
    MUST(fstat(queue, &status));
    CHECK((status.st_mode & 0777) == 0640, "mode %o", status.st_mode);
    take_text(reading, "high, first", 30000);
    take_text(shared, "high, second", 30000);
    take_text(queue, "", 2);
    take_text(queue, "low, first", 1);
    take_text(queue, "low, second", 1);
    expect_empty(queue);
    take_text(removed, "kept", 0);
    expect_empty(removed);
    MUST(fstat(removed, &status));
    CHECK(status.st_nlink == 0, "the removed queue has a name");
    MUST(fstat(again, &status));
    CHECK(status.st_uid == 1 && status.st_gid == 2, "owner");
    mqd_t by_name = mq_open("/removed", O_RDWR | O_NONBLOCK);
    take_text(by_name, "new", 0);
    expect_empty(again);
    take_text(full, "two", 6);
    put_text(waited, "for the receiver", 3);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    take_text(full, "one", 5);
    take_text(full, "late", 1);
    const char *all[] = {"/a-queue", "/full", "/waited", "/removed", "/timed"};
    for (int i = 0; i < 5; i++)
        MUST(mq_unlink(all[i]));
    mq_close(timed);
    pass();
}
