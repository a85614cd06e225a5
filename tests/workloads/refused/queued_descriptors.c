/* refused: unix-queued-fds
 * A descriptor on its way through a socket. */
#include "../workload.h"
#include <sys/socket.h>

int main(int argc, char **argv)
{
    int pair[2], passed = (int)MUST(open("/dev/null", O_RDWR));
    char byte = 'x', control_data[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec data = {&byte, 1};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control_data,
                             .msg_controllen = sizeof control_data};
    begin(argc, argv);
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &passed, sizeof passed);
    CHECK(sendmsg(pair[0], &message, 0) == 1, "sendmsg");
    ready_then_go();
    memset(control_data, 0, sizeof control_data);
    CHECK(recvmsg(pair[1], &message, 0) == 1, "recvmsg");
    header = CMSG_FIRSTHDR(&message);
    CHECK(header && header->cmsg_type == SCM_RIGHTS, "the descriptor is lost");
    pass();
}
