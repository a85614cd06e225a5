/* One thread in each call that blocks on a file, a lock or another thread, at the freeze: none sees
 * EINTR, and none loses a byte. */
#include "workload.h"
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/sendfile.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/un.h>

#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif

enum { PIPE_SIZE = 65536 };
static volatile int entered;
static int full[2], gone[2], spliced[2], splice_to[2], teed[2], tee_to[2], vm[2], sent[2], event, timer;
static int signals, listener, backlog, locked_file, record_file, datagrams[2], stuck[2], watch, lazy;
static uint32_t pi_word, waitv_word;
static pid_t child;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static bool signalled;

static struct sockaddr_un address_of(const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path + 1, sizeof address.sun_path - 1, "blocked-%s", name);
    return address;
}

static void fill_pipe(int fd)
{
    static char zeros[PIPE_SIZE];
    CHECK(write(fd, zeros, PIPE_SIZE) == PIPE_SIZE, "a full pipe");
}

static void writes(void)
{
    CHECK(write(full[1], "w", 1) == 1, "write");
}

static void writes_vector(void)
{
    struct iovec parts[] = {{"ab", 2}, {"cd", 2}};
    CHECK(writev(vm[1], parts, 2) == 4, "writev");
}

static void reads_vector(void)
{
    char a, b;
    struct iovec parts[] = {{&a, 1}, {&b, 1}};
    CHECK(readv(gone[0], parts, 2) == 2 && a == 'x' && b == 'y', "readv");
}

static void splices(void)
{
    CHECK(splice(spliced[0], NULL, splice_to[1], NULL, 5, 0) == 5, "splice");
}

static void tees(void)
{
    CHECK(tee(teed[0], tee_to[1], 5, 0) == 5, "tee");
}

static void sends_file(void)
{
    CHECK(sendfile(sent[1], locked_file, &(off_t){0}, 3) == 3, "sendfile");
}

static void reads_event(void)
{
    uint64_t count;
    CHECK(read(event, &count, 8) == 8 && count == 4, "eventfd");
}

static void reads_timer(void)
{
    uint64_t ticks;
    CHECK(read(timer, &ticks, 8) == 8 && ticks == 1, "timerfd");
}

static void reads_signals(void)
{
    struct signalfd_siginfo info;
    CHECK(read(signals, &info, sizeof info) == sizeof info && info.ssi_signo == SIGUSR2, "signalfd");
}

static void reads_watch(void)
{
    char events[512];
    CHECK(read(watch, events, sizeof events) > 0, "inotify");
}

static void accepts(void)
{
    int fd = accept(listener, NULL, NULL);
    CHECK(fd >= 0, "accept");
    close(fd);
}

static void connects(void)
{
    struct sockaddr_un address = address_of("backlog");
    int fd = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    MUST(connect(fd, (struct sockaddr *)&address, sizeof address));
    close(fd);
}

static void receives(void)
{
    char text[8];
    struct iovec part = {text, sizeof text};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    CHECK(recvmsg(datagrams[0], &message, 0) == 4 && !memcmp(text, "data", 4), "recvmsg");
}

static void receives_with_limit(void)
{
    char text[8];
    struct timeval limit = {.tv_sec = 100};
    MUST(setsockopt(stuck[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
    CHECK(recv(stuck[0], text, sizeof text, 0) == 4, "recv with a limit");
}

static void locks_file(void)
{
    int fd = (int)MUST(open(in_control("flocked"), O_RDWR));
    CHECK(flock(fd, LOCK_EX) == 0, "flock");
    close(fd);
}

static void locks_record(void)
{
    struct flock lock = {.l_type = F_WRLCK, .l_len = 10};
    int fd = (int)MUST(open(in_control("recorded"), O_RDWR));
    CHECK(fcntl(fd, F_OFD_SETLKW, &lock) == 0, "fcntl");
    close(fd);
}

static void opens_fifo(void)
{
    int fd = open(in_control("fifo"), O_RDONLY);
    CHECK(fd >= 0, "open of a FIFO");
    close(fd);
}

static void waits_for_child(void)
{
    siginfo_t info;
    CHECK(waitid(P_PID, (id_t)child, &info, WEXITED) == 0 && info.si_status == 4, "waitid");
}

static void locks_pi(void)
{
    CHECK(syscall(SYS_futex, &pi_word, FUTEX_LOCK_PI_PRIVATE, 0, NULL) == 0, "FUTEX_LOCK_PI");
    CHECK((pi_word & FUTEX_TID_MASK) == (uint32_t)gettid_raw(), "owned by %#x", pi_word);
    syscall(SYS_futex, &pi_word, FUTEX_UNLOCK_PI_PRIVATE);
}

static void waits_for_many(void)
{
    struct {
        uint64_t value, address;
        uint32_t flags, reserved;
    } wanted = {0, (uint64_t)&waitv_word, 2 | 128, 0};
    long result = syscall(SYS_futex_waitv, &wanted, 1, 0, NULL, 0);
    CHECK(result == 0 || (errno == EAGAIN && waitv_word) || errno == ENOSYS, "futex_waitv");
}

static void waits_for_condition(void)
{
    pthread_mutex_lock(&mutex);
    while (!signalled)
        pthread_cond_wait(&condition, &mutex);
    pthread_mutex_unlock(&mutex);
}

static void polls_many(void)
{
    struct epoll_event wanted = {.events = EPOLLIN}, found;
    struct timespec limit = {.tv_sec = 100};
    int fd = epoll_create1(0);
    MUST(epoll_ctl(fd, EPOLL_CTL_ADD, lazy, &wanted));
    long result = syscall(SYS_epoll_pwait2, fd, &found, 1, &limit, NULL, 8);
    CHECK(result == 1 || errno == ENOSYS, "epoll_pwait2 returned %ld", result);
}

static void waits_for_signal(void)
{
    sigset_t set;
    struct timespec limit = {.tv_sec = 100};
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 5);
    CHECK(sigtimedwait(&set, NULL, &limit) == SIGRTMIN + 5, "sigtimedwait");
}

static void (*const calls[])(void) = {
    writes,      writes_vector, reads_vector, splices,         tees,       sends_file,
    reads_event, reads_timer,   reads_watch,  accepts,         connects,   receives,
    locks_file,  locks_record,  opens_fifo,   waits_for_child, locks_pi,   receives_with_limit,
    polls_many,  reads_signals, waits_for_many, waits_for_condition, waits_for_signal};
enum { CALLS = sizeof calls / sizeof *calls };

static void *run(void *argument)
{
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    __sync_fetch_and_add(&entered, 1);
    calls[(long)argument]();
    return NULL;
}

static void prepare(void)
{
    int *pipes[] = {full, gone, spliced, splice_to, teed, tee_to, vm, sent};
    for (size_t i = 0; i < sizeof pipes / sizeof *pipes; i++)
        MUST(pipe(pipes[i]));
    fill_pipe(full[1]);
    fill_pipe(vm[1]);
    fill_pipe(sent[1]);
    event = (int)MUST(eventfd(0, 0));
    lazy = (int)MUST(eventfd(0, 0));
    timer = (int)MUST(timerfd_create(CLOCK_MONOTONIC, 0));
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    sigaddset(&set, SIGRTMIN + 5);
    sigprocmask(SIG_BLOCK, &set, NULL);
    sigdelset(&set, SIGRTMIN + 5);
    signals = (int)MUST(signalfd(-1, &set, 0));
    MUST(mkdir(in_control("watched"), 0755));
    watch = (int)MUST(inotify_init1(0));
    MUST(inotify_add_watch(watch, in_control("watched"), IN_CREATE));
    MUST(mkfifo(in_control("fifo"), 0600));
    locked_file = (int)MUST(open(in_control("flocked"), O_RDWR | O_CREAT, 0600));
    record_file = (int)MUST(open(in_control("recorded"), O_RDWR | O_CREAT, 0600));
    CHECK(write(locked_file, "xyz", 3) == 3, "write");
    MUST(flock(locked_file, LOCK_EX));
    struct flock lock = {.l_type = F_WRLCK, .l_len = 10};
    MUST(fcntl(record_file, F_OFD_SETLK, &lock));
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, datagrams));
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, stuck));
    struct sockaddr_un address = address_of("listener");
    listener = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    MUST(bind(listener, (struct sockaddr *)&address, sizeof address));
    MUST(listen(listener, 5));
    address = address_of("backlog");
    backlog = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    MUST(bind(backlog, (struct sockaddr *)&address, sizeof address));
    MUST(listen(backlog, 0));
    int first = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0)); /* fills the queue */
    MUST(connect(first, (struct sockaddr *)&address, sizeof address));
    pi_word = (uint32_t)gettid_raw();
}

static void drain(int fd, size_t size)
{
    static char buffer[PIPE_SIZE];
    for (size_t done = 0; done < size;) {
        ssize_t length = read(fd, buffer, size - done < PIPE_SIZE ? size - done : PIPE_SIZE);
        CHECK(length > 0, "read");
        done += (size_t)length;
    }
}

static void release(void)
{
    char text[8];
    struct sockaddr_un address = address_of("listener");
    mark("child-ends");
    drain(full[0], PIPE_SIZE);
    CHECK(read(full[0], text, 8) == 1 && *text == 'w', "what was written");
    drain(vm[0], PIPE_SIZE);
    CHECK(read(vm[0], text, 8) == 4 && !memcmp(text, "abcd", 4), "what was written");
    drain(sent[0], PIPE_SIZE);
    CHECK(read(sent[0], text, 8) == 3 && !memcmp(text, "xyz", 3), "what was sent");
    CHECK(write(gone[1], "xy", 2) == 2, "write");
    CHECK(write(spliced[1], "12345", 5) == 5, "write");
    CHECK(read(splice_to[0], text, 8) == 5 && !memcmp(text, "12345", 5), "what was spliced");
    CHECK(write(teed[1], "67890", 5) == 5, "write");
    CHECK(read(tee_to[0], text, 8) == 5 && !memcmp(text, "67890", 5), "what was doubled");
    MUST(eventfd_write(event, 4));
    MUST(eventfd_write(lazy, 1));
    struct itimerspec soon = {.it_value.tv_nsec = 1};
    MUST(timerfd_settime(timer, 0, &soon, NULL));
    MUST(kill(getpid(), SIGUSR2));
    MUST(kill(getpid(), SIGRTMIN + 5));
    close((int)MUST(open(in_control("watched/new"), O_CREAT | O_WRONLY, 0600)));
    int fd = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    MUST(connect(fd, (struct sockaddr *)&address, sizeof address));
    MUST(accept(backlog, NULL, NULL));
    CHECK(send(datagrams[1], "data", 4, 0) == 4 && send(stuck[1], "data", 4, 0) == 4, "send");
    MUST(flock(locked_file, LOCK_UN));
    struct flock lock = {.l_type = F_UNLCK, .l_len = 10};
    MUST(fcntl(record_file, F_OFD_SETLK, &lock));
    close((int)MUST(open(in_control("fifo"), O_WRONLY)));
    syscall(SYS_futex, &pi_word, FUTEX_UNLOCK_PI_PRIVATE);
    waitv_word = 1;
    syscall(SYS_futex, &waitv_word, FUTEX_WAKE_PRIVATE, 1);
    pthread_mutex_lock(&mutex);
    signalled = true;
    pthread_cond_signal(&condition);
    pthread_mutex_unlock(&mutex);
}

int main(int argc, char **argv)
{
    pthread_t threads[CALLS];
    begin(argc, argv);
    prepare();
    child = (pid_t)MUST(fork());
    if (child == 0) {
        await("child-ends");
        _exit(4);
    }
    for (long i = 0; i < CALLS; i++)
        pthread_create(&threads[i], NULL, run, (void *)i);
    while (entered < CALLS)
        nap();
    for (int i = 0; i < 30; i++)
        nap(); /* entered, and now blocked */
    ready_then_go();
    for (int i = 0; i < 20; i++)
        nap(); /* a wrong early return would show before anything is released */
    release();
    for (int i = 0; i < CALLS; i++)
        pthread_join(threads[i], NULL);
    pass();
}
