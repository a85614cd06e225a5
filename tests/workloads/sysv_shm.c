/* System V shared memory, in every state that a segment and an attachment can have. */
#include "workload.h"
#include <sys/ipc.h>
#include <sys/shm.h>

enum { PAGE = 4096, PAGES = 6, ODD = 3 * PAGE + 100 };
static int huge, whole, pieces, unattached, doomed, odd, locked, foreign;
static char *own, *own_again, *reader, *left, *remapped, *dying, *odd_at;

static struct shmid_ds info_of(int id)
{
    struct shmid_ds info;
    MUST(shmctl(id, IPC_STAT, &info));
    return info;
}

static int make(key_t key, size_t size, int mode)
{
    return (int)MUST(shmget(key, size, IPC_CREAT | IPC_EXCL | mode));
}

static char *attach(int id, void *where, int flags)
{
    char *at = shmat(id, where, flags);
    CHECK(at != (char *)-1, "shmat(%d)", id);
    return at;
}

static bool writable(const char *page)
{
    int pipes[2];
    MUST(pipe(pipes));
    CHECK(write(pipes[1], "x", 1) == 1, "write");
    bool can = read(pipes[0], (void *)page, 1) == 1;
    close(pipes[0]);
    close(pipes[1]);
    return can;
}

static void check_in_child(void)
{
    CHECK(own[7] == 'A', "the parent's byte");
    own[8] = 'B';
    mark("child-wrote");
    await("parent-wrote");
    CHECK(own[9] == 'C', "the parent's second byte");
    MUST(shmdt(own));
    _exit(0);
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    int gap = make(IPC_PRIVATE, PAGE, 0600);
    whole = make(0x57484552, PAGES * PAGE, 0640);
    pieces = make(IPC_PRIVATE, PAGES * PAGE, 0600);
    MUST(shmctl(gap, IPC_RMID, NULL));
    unattached = make(-77, 5 << 20, 0666);
    doomed = make(0x600d, PAGE, 0600);
    odd = make(IPC_PRIVATE, ODD, 0600);
    locked = make(IPC_PRIVATE, PAGE, 0600);
    foreign = make(IPC_PRIVATE, PAGE, 0600);
    int locks = shmctl(locked, SHM_LOCK, NULL) == 0; /* needs a privilege or a limit */

    /* Only where the host has huge pages to spare. */
    char *huge_at = NULL;
    huge = shmget(IPC_PRIVATE, 1 << 20, IPC_CREAT | SHM_HUGETLB | 0600);
    if (huge != -1) {
        huge_at = attach(huge, NULL, 0);
        fill(huge_at, 1 << 20, 9);
    }

    own = attach(whole, NULL, 0);
    own_again = attach(whole, NULL, 0);
    reader = attach(whole, NULL, SHM_RDONLY);
    fill(own, PAGES * PAGE, 1);
    own[7] = 'A';

    /* An attachment of which the first page and one in the middle are gone, one page is
     * protected, and the last was moved away. */
    left = attach(pieces, NULL, 0);
    fill(left, PAGES * PAGE, 2);
    MUST(munmap(left, PAGE));
    MUST(munmap(left + 2 * PAGE, PAGE));
    MUST(mprotect(left + 3 * PAGE, PAGE, PROT_READ));
    char *moved = mremap(left + 5 * PAGE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, own + (1l << 32));
    CHECK(moved != MAP_FAILED, "mremap");

    char *place = mmap(NULL, PAGES * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    remapped = attach(whole, place, SHM_REMAP);
    char *filler = attach(unattached, NULL, 0);
    fill(filler + (1 << 20), PAGE, 3);
    MUST(shmdt(filler));
    dying = attach(doomed, NULL, 0);
    strcpy(dying, "to be destroyed");
    MUST(shmctl(doomed, IPC_RMID, NULL));
    odd_at = attach(odd, NULL, 0);
    memset(odd_at, 'o', ODD);
    struct shmid_ds set = info_of(foreign);
    set.shm_perm.mode = 0444;
    MUST(shmctl(foreign, IPC_SET, &set));
    pid_t child = (pid_t)MUST(fork());
    if (child == 0) {
        await("go");
        check_in_child();
    }
    ready_then_go();

    CHECK(!huge_at || filled(huge_at, 1 << 20, 9), "huge pages");
    if (huge_at) {
        MUST(shmdt(huge_at));
        MUST(shmctl(huge, IPC_RMID, NULL));
    }
    CHECK(shmget(0x57484552, 0, 0) == whole, "the key");
    CHECK(shmget(-77, 0, 0) == unattached, "the negative key");
    struct shmid_ds info = info_of(whole);
    CHECK(info.shm_nattch == 8, "%d attachments", (int)info.shm_nattch);
    CHECK(info.shm_perm.mode == 0640 && info.shm_segsz == PAGES * PAGE, "mode %o", info.shm_perm.mode);
    CHECK(info.shm_cpid == getpid(), "made by %d", info.shm_cpid);
    CHECK(own_again[7] == 'A' && remapped[7] == 'A' && reader[7] == 'A', "one memory");
    await("child-wrote");
    CHECK(reader[8] == 'B' && own_again[8] == 'B', "the child's byte");
    own_again[9] = 'C';
    mark("parent-wrote");
    reap(child);
    CHECK(filled(own + 16, PAGES * PAGE - 16, 1 + 2), "content of a whole segment");
    CHECK(!writable(reader), "the read-only attachment can be written to");
    CHECK(mprotect(reader, PAGE, PROT_READ | PROT_WRITE) == -1 && errno == EACCES, "mprotect");
    CHECK(info_of(whole).shm_nattch == 4, "attachments");
    MUST(shmdt(own));
    MUST(shmdt(own_again));
    MUST(shmdt(reader));
    MUST(shmdt(remapped));
    CHECK(info_of(whole).shm_nattch == 0, "attachments at the end");

    CHECK(info_of(pieces).shm_nattch == 4, "%d pieces", (int)info_of(pieces).shm_nattch);
    CHECK(filled(left + PAGE, PAGE, 2 + PAGE / 8), "the first piece");
    CHECK(filled(left + 3 * PAGE, 2 * PAGE, 2 + 3 * PAGE / 8), "the second piece");
    CHECK(!writable(left + 3 * PAGE) && writable(left + 4 * PAGE), "protection of a piece");
    CHECK(filled(moved, PAGE, 2 + 5 * PAGE / 8), "the moved piece");
    CHECK(!writable(left), "what was unmapped is back");
    MUST(shmdt(left)); /* all of it that has not moved */
    CHECK(info_of(pieces).shm_nattch == 1, "%d pieces are left", (int)info_of(pieces).shm_nattch);

    CHECK(info_of(unattached).shm_nattch == 0, "nobody has it attached");
    filler = attach(unattached, NULL, 0);
    CHECK(filled(filler + (1 << 20), PAGE, 3) && filler[0] == 0, "content of an unattached segment");
    CHECK(info_of(doomed).shm_perm.mode & SHM_DEST, "no longer marked for destruction");
    CHECK(!strcmp(dying, "to be destroyed"), "content");
    MUST(shmdt(dying));
    struct shmid_ds gone;
    CHECK(shmctl(doomed, IPC_STAT, &gone) == -1 && errno == EINVAL, "still there after the last");
    CHECK(info_of(odd).shm_segsz == ODD && odd_at[ODD - 1] == 'o' && odd_at[ODD] == 0, "odd size");
    CHECK(!locks || info_of(locked).shm_perm.mode & SHM_LOCKED, "no longer locked");
    CHECK((info_of(foreign).shm_perm.mode & 0777) == 0444, "its mode");
    int all[] = {whole, pieces, unattached, odd, locked, foreign};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        MUST(shmctl(all[i], IPC_RMID, NULL));
    pass();
}
