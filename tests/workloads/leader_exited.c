/* A process whose first thread has ended while others go on, with signals, timers, a child and
 * descriptors; and zombies of another user, of a killed process, of a session leader. */
#include "workload.h"
#include <pthread.h>

static pid_t process, child;
static int opened;

static void *other(void *argument)
{
    await("go");
    sigset_t wanted;
    sigemptyset(&wanted);
    sigaddset(&wanted, SIGRTMIN + 1);
    sigaddset(&wanted, SIGUSR1);
    siginfo_t info;
    struct timespec soon = {.tv_sec = 20};
    CHECK(sigtimedwait(&wanted, &info, &soon) == SIGRTMIN + 1, "no signal of this thread");
    CHECK(sigtimedwait(&wanted, &info, &soon) == SIGUSR1, "no SIGUSR1");
    CHECK(info.si_code == SI_QUEUE && info.si_value.sival_int == 77, "value %d", info.si_code);
    return argument;
}

static void *run(void *argument)
{
    pthread_t thread;
    char path[64], state;
    snprintf(path, sizeof path, "/proc/%d/task/%d/stat", process, process);
    do {
        FILE *file = fopen(path, "r");
        CHECK(file && fscanf(file, "%*d %*s %c", &state) == 1, "%s", path);
        fclose(file);
        nap();
    } while (state != 'Z');
    child = (pid_t)MUST(fork());
    if (child == 0) {
        await("go");
        CHECK(getppid() == process, "parent %d", getppid());
        _exit(3);
    }
    pthread_create(&thread, NULL, other, NULL);
    union sigval value = {.sival_int = 77};
    MUST(sigqueue(process, SIGUSR1, value));
    CHECK(pthread_kill(thread, SIGRTMIN + 1) == 0, "pthread_kill");
    opened = (int)MUST(open("/etc/passwd", O_RDONLY | O_CLOEXEC));
    lseek(opened, 10, SEEK_SET);
    mark("thread");
    await("go");
    CHECK(getpid() == process && gettid_raw() != process, "pid %d", getpid());
    CHECK(lseek(opened, 0, SEEK_CUR) == 10, "offset");
    FILE *file = fopen(path, "r");
    CHECK(file && fscanf(file, "%*d %*s %c", &state) == 1 && state == 'Z', "state %c", state);
    int status;
    CHECK(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 3, "status %#x", status);
    pthread_join(thread, NULL);
    _exit(9);
    return argument;
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    pid_t pid = (pid_t)MUST(fork()), corpses[2];
    if (pid == 0) {
        pthread_t thread;
        sigset_t blocked;
        sigfillset(&blocked);
        pthread_sigmask(SIG_BLOCK, &blocked, NULL);
        process = getpid();
        pthread_create(&thread, NULL, run, NULL);
        pthread_exit(NULL);
    }
    for (int i = 0; i < 2; i++) {
        corpses[i] = (pid_t)MUST(fork());
        if (corpses[i] == 0) {
            MUST(setsid());
            MUST(setresgid(1000 + i, 1000 + i, 1000 + i));
            MUST(setresuid(2000 + i, 2000 + i, 2000 + i));
            if (i)
                raise(SIGKILL);
            _exit(11);
        }
    }
    siginfo_t info;
    for (int i = 0; i < 2; i++)
        MUST(waitid(P_PID, (id_t)corpses[i], &info, WEXITED | WNOWAIT));
    await("thread");
    ready_then_go();
    MUST(waitid(P_PID, (id_t)corpses[0], &info, WEXITED));
    CHECK(info.si_uid == 2000 && info.si_status == 11, "uid %d", info.si_uid);
    CHECK(getsid(corpses[1]) == corpses[1], "session %d", getsid(corpses[1]));
    MUST(waitid(P_PID, (id_t)corpses[1], &info, WEXITED));
    CHECK(info.si_uid == 2001 && info.si_code == CLD_KILLED, "uid %d", info.si_uid);
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 9, "status %#x", status);
    pass();
}
