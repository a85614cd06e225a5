/* refused: keyring
 * A key that a program keeps in its session's keyring. */
#include "../workload.h"

int main(int argc, char **argv)
{
    begin(argc, argv);
    long key = MUST(syscall(SYS_add_key, "user", "workload", "secret", 6, -3));
    char payload[16];
    ready_then_go();
    CHECK(syscall(SYS_keyctl, 11, key, payload, sizeof payload) == 6, "the key is gone");
    pass();
}
