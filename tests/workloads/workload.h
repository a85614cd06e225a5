/* What every workload shares: the three acts and the ways to say what went wrong.
 *
 * A workload is called as `prog CONTROL_DIR`. It prepares some kernel state, calls ready_then_go(),
 * which writes CONTROL_DIR/ready and waits for CONTROL_DIR/go, and then checks from the inside
 * whether it noticed what happened in between. CONTROL_DIR/result says "ok" or what broke; the
 * first result of any of its processes stays.
 *
 * Waiting polls for a file with short sleeps, so that the wait itself needs no kernel state worth
 * saving beyond a sleep.
 */
#ifndef WORKLOAD_H
#define WORKLOAD_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char control[PATH_MAX / 2];

static inline const char *in_control(const char *name)
{
    static __thread char paths[4][PATH_MAX];
    static __thread unsigned int turn;
    char *path = paths[turn++ % 4];
    snprintf(path, PATH_MAX, "%s/%s", control, name);
    return path;
}

/* Write a file whose content appears at once; an existing one of that name stays. */
static inline void put(const char *name, const char *text)
{
    char temporary[64];
    snprintf(temporary, sizeof temporary, ".%s.%ld", name, syscall(SYS_gettid));
    int fd = open(in_control(temporary), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0 || write(fd, text, strlen(text)) < 0)
        _exit(98);
    close(fd);
    if (link(in_control(temporary), in_control(name)) && errno != EEXIST)
        _exit(99);
    unlink(in_control(temporary));
}

__attribute__((noreturn, format(printf, 4, 5))) static inline void
fail_at(const char *file, int line, const char *what, const char *format, ...)
{
    int error = errno;
    char text[2000];
    int length = snprintf(text, sizeof text, "%s:%d: %s: ", file, line, what);
    va_list arguments;
    va_start(arguments, format);
    length += vsnprintf(text + length, sizeof text - length, format, arguments);
    va_end(arguments);
    snprintf(text + length, sizeof text - length, " (errno %d, %s)", error, strerror(error));
    put("result", text);
    _exit(1);
}

#define CHECK(condition, ...)                                                                      \
    do {                                                                                           \
        if (!(condition))                                                                          \
            fail_at(__FILE__, __LINE__, #condition, __VA_ARGS__);                             \
    } while (0)

/* A call that returns -1 on failure and has to succeed. */
#define MUST(call)                                                                                 \
    ({                                                                                             \
        long must_result = (long)(call);                                                           \
        if (must_result == -1)                                                                     \
            fail_at(__FILE__, __LINE__, #call, "failed");                                     \
        must_result;                                                                               \
    })

static inline void nap(void)
{
    struct timespec pause = {.tv_nsec = 5000000};
    nanosleep(&pause, NULL);
}

/* Tell the other processes of this workload something; await() is the other side. */
static inline void mark(const char *name)
{
    put(name, "1");
}

static inline void await(const char *name)
{
    while (access(in_control(name), F_OK))
        nap();
}

static inline void begin(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: %s CONTROL_DIR\n", argv[0]);
        exit(2);
    }
    snprintf(control, sizeof control, "%s", argv[1]);
}

static inline void ready_then_go(void)
{
    mark("ready");
    await("go");
}

__attribute__((noreturn)) static inline void pass(void)
{
    put("result", "ok");
    exit(0);
}

/* Wait for a child that has to exit with 0. */
static inline void reap(pid_t pid)
{
    int status = 0;
    pid_t got;
    do
        got = waitpid(pid, &status, 0);
    while (got == -1 && errno == EINTR);
    CHECK(got == pid, "waitpid(%d) returned %d", (int)pid, (int)got);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "child %d: status %#x", (int)pid, status);
}

static inline pid_t gettid_raw(void)
{
    return (pid_t)syscall(SYS_gettid);
}

/* Seconds of a clock. */
static inline double seconds(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

/* Fill with, or compare with, a pattern that depends on the seed and differs in every word. */
static inline void fill(void *start, size_t size, uint64_t seed)
{
    uint64_t *words = start;
    for (size_t i = 0; i < size / 8; i++)
        words[i] = (seed + i) * 0x9e3779b97f4a7c15ull;
}

static inline bool filled(const void *start, size_t size, uint64_t seed)
{
    const uint64_t *words = start;
    for (size_t i = 0; i < size / 8; i++)
        if (words[i] != (seed + i) * 0x9e3779b97f4a7c15ull)
            return false;
    return true;
}

#endif
