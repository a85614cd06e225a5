/* refused: *
 * System V shared memory. */
#include "../workload.h"
#include <sys/ipc.h>
#include <sys/shm.h>

int main(int argc, char **argv)
{
    begin(argc, argv);
    int id = (int)MUST(shmget(IPC_PRIVATE, 1 << 20, IPC_CREAT | 0600));
    char *memory = shmat(id, NULL, 0);
    CHECK(memory != (char *)-1, "shmat");
    memory[5] = 6;
    ready_then_go();
    CHECK(memory[5] == 6, "content");
    shmdt(memory);
    MUST(shmctl(id, IPC_RMID, NULL));
    pass();
}
