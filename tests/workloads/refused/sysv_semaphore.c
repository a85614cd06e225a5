/* refused: *
 * A System V semaphore, to which no descriptor and no mapping points. */
#include "../workload.h"
#include <sys/ipc.h>
#include <sys/sem.h>

int main(int argc, char **argv)
{
    begin(argc, argv);
    int id = (int)MUST(semget(IPC_PRIVATE, 1, IPC_CREAT | 0600));
    MUST(semctl(id, 0, SETVAL, 5));
    ready_then_go();
    CHECK(semctl(id, 0, GETVAL) == 5, "its value");
    MUST(semctl(id, 0, IPC_RMID));
    pass();
}
