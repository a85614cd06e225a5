/* System V semaphores: values, last operators, waiters, and adjustments on exit. */
#include "workload.h"
#include <pthread.h>
#include <sys/ipc.h>
#include <sys/sem.h>

static int set, initialized, fresh;

static void operate(int index, int by, int flags)
{
    struct sembuf operation = {(unsigned short)index, (short)by, (short)flags};
    int result;
    do
        result = semop(set, &operation, 1);
    while (result == -1 && errno == EINTR); /* documented to be seen at a stop */
    MUST(result);
}

static int value(int index)
{
    return (int)MUST(semctl(set, index, GETVAL));
}

/* Takes, gives and overturns with SEM_UNDO, so that its end changes the values. */
static void debtor(void)
{
    operate(0, -3, SEM_UNDO);
    operate(1, 5, SEM_UNDO);
    operate(2, -1, SEM_UNDO);
    operate(2, 1, SEM_UNDO); /* settled */
    operate(3, 20000, SEM_UNDO);
    operate(3, -20000, 0);
    operate(4, 32767, 0);
    operate(4, -32767, SEM_UNDO);
    operate(4, 32767, 0); /* owes 32767 to a semaphore that is full */
    operate(4, -32767, 0);
    mark("debts");
    await("debtor-ends");
    _exit(0);
}

static void *threaded_debt(void *unused)
{
    operate(5, -2, SEM_UNDO);
    return unused;
}

static void threaded_debtor(void)
{
    pthread_t thread;
    pthread_create(&thread, NULL, threaded_debt, NULL);
    pthread_join(thread, NULL);
    mark("threaded-debts");
    await("debtor-ends");
    _exit(0);
}

static void waiter(void)
{
    mark("waiter");
    operate(6, -1, 0);
    _exit(0);
}

static void timed_waiter(void)
{
    struct sembuf operation = {7, -1, 0};
    struct timespec limit = {.tv_sec = 60};
    mark("timed-waiter");
    MUST(semtimedop(set, &operation, 1, &limit));
    _exit(0);
}

static void zero_waiter(void)
{
    mark("zero-waiter");
    operate(8, 0, 0);
    _exit(0);
}

static pid_t start(void (*run)(void), const char *name)
{
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0)
        run();
    await(name);
    return pid;
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    int gap = (int)MUST(semget(IPC_PRIVATE, 1, 0600));
    set = (int)MUST(semget(0x5e4a, 250, IPC_CREAT | IPC_EXCL | 0660));
    initialized = (int)MUST(semget(IPC_PRIVATE, 2, 0600));
    fresh = (int)MUST(semget(IPC_PRIVATE, 3, 0444));
    MUST(semctl(gap, 0, IPC_RMID));
    unsigned short values[250] = {[0] = 10, [1] = 1, [2] = 4, [5] = 9, [8] = 1, [249] = 32767};
    MUST(semctl(set, 0, SETALL, values));
    MUST(semctl(initialized, 0, SETVAL, 5));

    pid_t debtors[] = {start(debtor, "debts"), start(threaded_debtor, "threaded-debts")};
    pid_t waiters[] = {start(waiter, "waiter"), start(timed_waiter, "timed-waiter"),
                       start(zero_waiter, "zero-waiter")};
    while (semctl(set, 6, GETNCNT) != 1 || semctl(set, 7, GETNCNT) != 1 ||
           semctl(set, 8, GETZCNT) != 1)
        nap();
    ready_then_go();

    CHECK(semget(0x5e4a, 0, 0) == set, "the key");
    struct semid_ds info;
    MUST(semctl(set, 0, IPC_STAT, &info));
    CHECK(info.sem_nsems == 250 && info.sem_perm.mode == 0660 && info.sem_otime, "the set");
    MUST(semctl(initialized, 0, IPC_STAT, &info));
    CHECK(info.sem_otime == 0, "operated on, at %ld", (long)info.sem_otime);
    CHECK(semctl(initialized, 0, GETPID) == getpid() && semctl(initialized, 0, GETVAL) == 5, "set");
    CHECK(semctl(fresh, 2, GETPID) == 0 && semctl(fresh, 2, GETVAL) == 0, "never set");
    CHECK(value(0) == 7 && value(1) == 6 && value(2) == 4 && value(3) == 0 && value(5) == 7, "values");
    CHECK(value(249) == 32767 && value(4) == 0 && value(8) == 1, "values");
    CHECK(semctl(set, 0, GETPID) == debtors[0], "last operator %d", semctl(set, 0, GETPID));
    while (semctl(set, 6, GETNCNT) != 1 || semctl(set, 7, GETNCNT) != 1 ||
           semctl(set, 8, GETZCNT) != 1)
        nap();
    mark("debtor-ends");
    reap(debtors[0]);
    reap(debtors[1]);
    CHECK(value(0) == 10, "%d after the debtor's end", value(0));
    CHECK(value(1) == 1, "%d after the debtor's end", value(1));
    CHECK(value(2) == 4, "%d after a settled debt", value(2));
    CHECK(value(3) == 0, "%d, below which there is nothing", value(3));
    CHECK(value(4) == 32767, "%d after a great debt", value(4));
    CHECK(value(5) == 9, "%d after a thread's debt", value(5));
    operate(6, 1, 0);
    operate(7, 1, 0);
    operate(8, -1, 0);
    for (int i = 0; i < 3; i++)
        reap(waiters[i]);
    MUST(semctl(set, 0, IPC_RMID));
    MUST(semctl(initialized, 0, IPC_RMID));
    MUST(semctl(fresh, 0, IPC_RMID));
    pass();
}
