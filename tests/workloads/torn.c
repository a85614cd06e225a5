/* Memory that a thread writes to without end, page by page, round by round: at any moment the pages
 * up to some place have the number of this round and the rest have that of the one before. */
#include "workload.h"
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>

enum { PAGES = 4096, WORDS = 4096 / sizeof(long) };
static volatile long (*pages)[WORDS];
static volatile long *apart[2]; /* one page that children do not get, one that is wiped for them */
static atomic_bool ended;

static void *writer(void *argument)
{
    for (long round = 1; !ended; round++)
        for (int page = 0; page < PAGES; page++) {
            volatile long *word = &pages[page][page % WORDS];
            CHECK(*word == round - 1, "page %d: %ld in round %ld", page, *word, round);
            *word = round;
            for (int i = 0; i < 2 && page == PAGES / 2; i++) {
                CHECK(*apart[i] == round - 1, "apart %d: %ld in round %ld", i, *apart[i], round);
                *apart[i] = round;
            }
        }
    return argument;
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    pages = mmap(NULL, PAGES * 4096L, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(pages != MAP_FAILED, "mmap");
    unsigned long noise = 88172645463325252UL; /* so that the pages cannot be compressed */
    for (int page = 0; page < PAGES; page++) {
        for (size_t word = 0; word < WORDS; word++) {
            noise ^= noise << 13, noise ^= noise >> 7, noise ^= noise << 17;
            pages[page][word] = (long)noise;
        }
        pages[page][page % WORDS] = 0;
    }
    int advice[2] = {MADV_DONTFORK, MADV_WIPEONFORK};
    for (int i = 0; i < 2; i++) {
        apart[i] = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        MUST(madvise((void *)apart[i], 4096, advice[i]));
    }
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, writer, NULL) == 0, "no thread");
    ready_then_go();
    ended = true;
    pthread_join(thread, NULL);
    long last = pages[0][0];
    for (int page = 0; page < PAGES; page++)
        CHECK(pages[page][page % WORDS] == last, "page %d: %ld, not %ld", page,
              pages[page][page % WORDS], last);
    for (int i = 0; i < 2; i++)
        CHECK(*apart[i] == last, "page apart %d: %ld, not %ld", i, *apart[i], last);
    CHECK(waitpid(-1, NULL, WNOHANG | __WALL) == -1 && errno == ECHILD, "a child");
    pass();
}
