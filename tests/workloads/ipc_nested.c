/* Objects of an IPC namespace that a process has made for itself, of the same ids as its parent's.
 * needs: privileged, needs: container */
#include "workload.h"
#include <mqueue.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>

static int segment, set, queue;
static char *memory;
static mqd_t posix;

static void make(char what)
{
    struct mq_attr attributes = {.mq_maxmsg = 3, .mq_msgsize = 16};
    struct {
        long type;
        char text[1];
    } message = {1, {what}};
    struct sembuf operation = {0, -1, SEM_UNDO};
    segment = (int)MUST(shmget(0x77, 4096, IPC_CREAT | IPC_EXCL | 0600));
    memory = shmat(segment, NULL, 0);
    CHECK(memory != (char *)-1, "shmat");
    memory[0] = what;
    set = (int)MUST(semget(0x77, 1, IPC_CREAT | IPC_EXCL | 0600));
    MUST(semctl(set, 0, SETVAL, what));
    MUST(semop(set, &operation, 1));
    queue = (int)MUST(msgget(0x77, IPC_CREAT | IPC_EXCL | 0600));
    MUST(msgsnd(queue, &message, 1, 0));
    posix = mq_open("/same", O_RDWR | O_CREAT | O_EXCL | O_NONBLOCK, 0600, &attributes);
    CHECK(posix != (mqd_t)-1, "mq_open");
    MUST(mq_send(posix, &what, 1, 0));
}

static void check(char what)
{
    char found[16];
    struct {
        long type;
        char text[1];
    } message;
    CHECK(memory[0] == what, "memory has %c, not %c", memory[0], what);
    CHECK(semctl(set, 0, GETVAL) == what - 1, "the semaphore is %d", semctl(set, 0, GETVAL));
    CHECK(msgrcv(queue, &message, 1, 0, IPC_NOWAIT) == 1 && message.text[0] == what, "message");
    CHECK(mq_receive(posix, found, sizeof found, NULL) == 1 && found[0] == what, "POSIX message");
    CHECK(mq_receive(posix, found, sizeof found, NULL) == -1, "another POSIX message");
    MUST(shmdt(memory));
    MUST(shmctl(segment, IPC_RMID, NULL));
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    make('A');
    pid_t child = (pid_t)MUST(fork());
    if (child == 0) {
        MUST(shmdt(memory));
        mq_close(posix);
        MUST(unshare(CLONE_NEWIPC));
        make('b');
        mark("child");
        await("go");
        check('b');
        _exit(0);
    }
    await("child");
    ready_then_go();
    check('A');
    reap(child);
    pass();
}
