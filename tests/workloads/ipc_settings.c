/* The parameters of the IPC namespace, changed from within.
 * needs: privileged, needs: container */
#include "workload.h"
#include <sys/ipc.h>
#include <sys/msg.h>

static const char *const settings[][2] = {
    {"kernel/shmmax", "12345678"},     {"kernel/shmall", "54321"},
    {"kernel/shmmni", "77"},           {"kernel/shm_rmid_forced", "1"},
    {"kernel/sem", "123\t4567\t89\t33"}, {"kernel/msgmax", "5000"},
    {"kernel/msgmnb", "60000"},        {"kernel/msgmni", "22"},
    {"fs/mqueue/queues_max", "99"},    {"fs/mqueue/msg_max", "33"},
    {"fs/mqueue/msgsize_max", "9000"}, {"fs/mqueue/msg_default", "7"},
    {"fs/mqueue/msgsize_default", "700"}};
enum { SETTINGS = sizeof settings / sizeof *settings };

static int open_setting(int i, int flags)
{
    char path[128];
    snprintf(path, sizeof path, "/proc/sys/%s", settings[i][0]);
    return (int)MUST(open(path, flags));
}

int main(int argc, char **argv)
{
    struct msqid_ds info;
    begin(argc, argv);
    for (int i = 0; i < SETTINGS; i++) {
        int fd = open_setting(i, O_WRONLY);
        size_t length = strlen(settings[i][1]);
        CHECK(write(fd, settings[i][1], length) == (ssize_t)length, "%s", settings[i][0]);
        close(fd);
    }
    int large = (int)MUST(msgget(IPC_PRIVATE, 0600));
    ready_then_go();
    for (int i = 0; i < SETTINGS; i++) {
        char line[128] = "";
        int fd = open_setting(i, O_RDONLY);
        MUST(read(fd, line, sizeof line - 1));
        close(fd);
        line[strcspn(line, "\n")] = 0;
        CHECK(!strcmp(line, settings[i][1]), "%s is %s", settings[i][0], line);
    }
    MUST(msgctl(large, IPC_STAT, &info));
    CHECK(info.msg_qbytes == 60000, "the queue's size is %ld", (long)info.msg_qbytes);
    pass();
}
