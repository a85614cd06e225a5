/* System V message queues: messages of all sizes, full and empty queues, waiters at both ends. */
#include "workload.h"
#include <sys/ipc.h>
#include <sys/msg.h>

struct message {
    long type;
    char text[8192];
};
static int queue, small, emptied, full;

static void put_message(int id, long type, size_t size, char what)
{
    struct message message = {.type = type};
    memset(message.text, what, size);
    MUST(msgsnd(id, &message, size, IPC_NOWAIT));
}

static void take_message(int id, long wanted, long type, size_t size, char what)
{
    struct message message;
    ssize_t got = msgrcv(id, &message, sizeof message.text, wanted, IPC_NOWAIT);
    CHECK(got == (ssize_t)size && message.type == type, "got %ld bytes of type %ld, not %ld of %ld",
          (long)got, message.type, (long)size, type);
    for (size_t i = 0; i < size; i++)
        CHECK(message.text[i] == what, "byte %zu is %d", i, message.text[i]);
}

static void receiver(void)
{
    struct message message;
    mark("receiver");
    CHECK(msgrcv(emptied, &message, sizeof message.text, -5, 0) == 3 && message.type == 4, "msgrcv");
    _exit(0);
}

static void sender(void)
{
    struct message message = {.type = 8, .text = "lllll"};
    mark("sender");
    MUST(msgsnd(full, &message, 5, 0));
    _exit(0);
}

static struct msqid_ds info_of(int id)
{
    struct msqid_ds info;
    MUST(msgctl(id, IPC_STAT, &info));
    return info;
}

static bool waits(pid_t pid)
{
    char path[64], line[512] = "";
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int fd = open(path, O_RDONLY);
    ssize_t length = read(fd, line, sizeof line - 1);
    close(fd);
    return length > 0 && strrchr(line, ')')[2] == 'S';
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    int gap = (int)MUST(msgget(IPC_PRIVATE, 0600));
    queue = (int)MUST(msgget(0x3355, IPC_CREAT | IPC_EXCL | 0622));
    small = (int)MUST(msgget(IPC_PRIVATE, 0600));
    emptied = (int)MUST(msgget(IPC_PRIVATE, 0600));
    full = (int)MUST(msgget(IPC_PRIVATE, 0600));
    MUST(msgctl(gap, IPC_RMID, NULL));
    put_message(queue, 7, 100, 'a');
    put_message(queue, 1, 0, 0);
    put_message(queue, 7, 8192, 'b');
    put_message(queue, 2147483653l, 5000, 'c');
    put_message(small, 1, 300, 's');
    put_message(small, 2, 300, 't');
    struct msqid_ds info = info_of(small);
    info.msg_qbytes = 200; /* less than there is in it */
    MUST(msgctl(small, IPC_SET, &info));
    put_message(emptied, 1, 1, 'x');
    take_message(emptied, 0, 1, 1, 'x');
    info = info_of(full);
    info.msg_qbytes = 1000;
    MUST(msgctl(full, IPC_SET, &info));
    put_message(full, 6, 1000, 'f');
    time_t before = info_of(emptied).msg_rtime;
    CHECK(before, "never received");
    pid_t children[] = {0, 0};
    void (*const runs[])(void) = {receiver, sender};
    const char *names[] = {"receiver", "sender"};
    for (int i = 0; i < 2; i++) {
        children[i] = (pid_t)MUST(fork());
        if (children[i] == 0)
            runs[i]();
        await(names[i]);
    }
    while (!waits(children[0]) || !waits(children[1]))
        nap();
    ready_then_go();

    CHECK(msgget(0x3355, 0) == queue, "the key");
    info = info_of(queue);
    CHECK(info.msg_qnum == 4 && info.msg_cbytes == 13292, "%d messages", (int)info.msg_qnum);
    CHECK(info.msg_lspid == getpid() && info.msg_lrpid == 0 && !info.msg_rtime, "never received");
    CHECK(info.msg_perm.mode == 0622, "mode %o", info.msg_perm.mode);
    take_message(queue, 2147483653l, 2147483653l, 5000, 'c');
    take_message(queue, 7, 7, 100, 'a');
    take_message(queue, 0, 1, 0, 0);
    take_message(queue, 0, 7, 8192, 'b');
    CHECK(info_of(queue).msg_qbytes == 16384, "its size");
    CHECK(info_of(small).msg_qbytes == 200, "%ld bytes", (long)info_of(small).msg_qbytes);
    take_message(small, 0, 1, 300, 's');
    take_message(small, 0, 2, 300, 't');
    info = info_of(emptied);
    CHECK(info.msg_lrpid == getpid() && info.msg_rtime >= before, "received by %d", info.msg_lrpid);
    put_message(emptied, 9, 3, 'n'); /* not for the receiver */
    put_message(emptied, 4, 3, 'm');
    reap(children[0]);
    take_message(emptied, 0, 9, 3, 'n');
    CHECK(info_of(full).msg_qnum == 1, "the sender did not wait");
    take_message(full, 0, 6, 1000, 'f');
    reap(children[1]);
    take_message(full, 8, 8, 5, 'l');
    int all[] = {queue, small, emptied, full};
    for (int i = 0; i < 4; i++)
        MUST(msgctl(all[i], IPC_RMID, NULL));
    pass();
}
