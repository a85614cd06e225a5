/* Memory that is changed in every way while a lazy restore fills it.
 *
 * Blocks of pages are unmapped, dropped, moved, protected and written to, threads read at random,
 * and children are forked in between, which check all of what they were born with. Every page knows
 * what it has to hold.
 */
#include "../workload.h"
#include <pthread.h>

enum { PAGE = 4096, PAGES = 48, BLOCK = PAGE * PAGES, BLOCKS = 384, THREADS = 4, CHILDREN = 6 };
static const size_t SPARSE = 64 << 20;
enum { SAVED, ZERO, GONE, WRITTEN };

static char *area;             /* BLOCKS blocks, each followed by one page that nobody touches */
static char *where[BLOCKS];    /* where a block is now */
static char state[BLOCKS];     /* what it has to hold */
static char *sparse;
static char *calm;             /* as much again, which only threads read */

static uint64_t word(uint64_t block, uint64_t page, uint64_t index, uint64_t salt)
{
    uint64_t x = block * 1000003 + page * 131 + index + salt * 0x9e3779b97f4a7c15ull;
    x = (x ^ x >> 31) * 0xbf58476d1ce4e5b9ull;
    return x ^ x >> 27;
}

static void write_block(char *at, uint64_t block, uint64_t salt)
{
    for (int page = 0; page < PAGES; page++)
        if ((block + (uint64_t)page) % 7)  /* some pages are never touched */
            for (int index = 0; index < PAGE / 8; index += 16)
                ((uint64_t *)(at + page * PAGE))[index] = word(block, (uint64_t)page, (uint64_t)index, salt);
}

static void check_page(const char *at, uint64_t block, int page, int what, const char *who)
{
    const uint64_t *words = (const uint64_t *)(at + page * PAGE);
    for (int index = 0; index < PAGE / 8; index++) {
        uint64_t wanted = 0;
        if (what != ZERO && (block + (uint64_t)page) % 7 && index % 16 == 0)
            wanted = word(block, (uint64_t)page, (uint64_t)index, what == WRITTEN);
        CHECK(words[index] == wanted, "%s: block %lu page %d word %d at %p is %lx, not %lx", who,
              block, page, index, (void *)&words[index], words[index], wanted);
    }
}

static void check_all(const char *who, uint64_t seed)
{
    for (int i = 0; i < BLOCKS; i++) {
        int block = (int)((seed + (uint64_t)i * 331) % BLOCKS);
        if (state[block] != GONE)
            for (int page = 0; page < PAGES; page++)
                check_page(where[block], (uint64_t)block, page, state[block], who);
    }
}

static void *read_at_random(void *argument)
{
    uint64_t x = (uint64_t)(uintptr_t)argument * 7919 + 1;
    for (int i = 0; i < 10000; i++) {
        x = x * 6364136223846793005ull + 1442695040888963407ull;
        uint64_t block = (x >> 33) % BLOCKS;
        int page = (int)((x >> 20) % PAGES);
        check_page(calm + block * BLOCK, block + BLOCKS, page, SAVED, "thread");
    }
    return NULL;
}

static void unmap(int block)
{
    MUST(munmap(where[block], BLOCK));
    if (block % 2) {
        /* Something new at the same place is empty. */
        char *again = mmap(where[block], BLOCK, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        CHECK(again == where[block], "mmap where nothing is");
        state[block] = ZERO;
    } else {
        state[block] = GONE;
    }
}

static void move(int block)
{
    char *to = mmap(NULL, BLOCK * 2, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(to != MAP_FAILED, "mmap");
    char *moved = mremap(where[block], BLOCK, BLOCK * 2, MREMAP_MAYMOVE | MREMAP_FIXED, to);
    CHECK(moved == to, "mremap");
    where[block] = moved;
    for (int page = 0; page < PAGES; page += 5)
        check_page(moved + BLOCK, 0, page, ZERO, "behind a moved block");
}

/* Two pages far from each other, and nothing between them; moved as one, as realloc(3) does. */
static void move_sparse(void)
{
    char *moved = mremap(sparse, SPARSE, SPARSE * 2, MREMAP_MAYMOVE);
    CHECK(moved != MAP_FAILED, "mremap of sparse memory");
    CHECK(moved[1] == 'a' && moved[SPARSE - 2] == 'z', "the ends of sparse memory");
    for (size_t at = PAGE; at < SPARSE - PAGE; at += SPARSE / 64)
        CHECK(moved[at] == 0, "sparse memory at %zu", at);
    CHECK(moved[SPARSE + PAGE] == 0, "behind moved sparse memory");
}

static void change(int block)
{
    switch (block % 8) {
    case 0:
        unmap(block);
        break;
    case 1:
        MUST(madvise(where[block], BLOCK, MADV_DONTNEED));
        state[block] = ZERO;
        break;
    case 2:
        move(block);
        break;
    case 3:
        MUST(mprotect(where[block], BLOCK / 2, PROT_READ));
        check_page(where[block], (uint64_t)block, 3, SAVED, "read-only");
        MUST(mprotect(where[block], BLOCK / 2, PROT_READ | PROT_WRITE));
        break;
    case 4:
        write_block(where[block], (uint64_t)block, 1);
        state[block] = WRITTEN;
        break;
    case 5: /* moved, and then dropped there */
        move(block);
        MUST(madvise(where[block], BLOCK, MADV_DONTNEED));
        state[block] = ZERO;
        break;
    case 6: /* replaced at one stroke */
        CHECK(mmap(where[block], BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
                   -1, 0) == where[block], "mmap over it");
        state[block] = ZERO;
        break;
    default:
        break;
    }
}

/* What is there already: written to as far as the kernel can tell, all over the place. */
static void write_some_again(void)
{
    for (int block = 0; block < BLOCKS; block++)
        for (int page = block % 3; page < PAGES; page += 3)
            if ((block + page) % 7) {
                volatile uint64_t *word = (uint64_t *)(where[block] + page * PAGE);
                *word = *word;
            }
}

static void child(int number)
{
    char who[32];
    snprintf(who, sizeof who, "child %d", number);
    if (number % 3 == 1) {
        /* Its memory goes while it waits for content. */
        execl("/bin/true", "true", NULL);
        CHECK(0, "execl");
    }
    for (int block = 7; block < BLOCKS; block += 8) {
        /* Of what its parent leaves alone. */
        if (block / 8 % 3 == number % 3) {
            MUST(madvise(where[block], BLOCK, MADV_DONTNEED));
            state[block] = ZERO;
        } else if (block / 8 % 3 == (number + 1) % 3) {
            write_block(where[block], (uint64_t)block, 1);
            state[block] = WRITTEN;
        }
    }
    pid_t grandchild = fork();
    CHECK(grandchild >= 0, "fork");
    check_all(who, (uint64_t)number * 97);
    for (int block = 0; block < BLOCKS; block += 97)
        for (int page = 0; page < PAGES; page++)
            check_page(calm + block * BLOCK, (uint64_t)(block + BLOCKS), page, SAVED, who);
    if (grandchild)
        reap(grandchild);
    _exit(0);
}

int main(int argc, char **argv)
{
    pthread_t threads[THREADS];
    pid_t children[CHILDREN];
    begin(argc, argv);
    const size_t size = (size_t)BLOCKS * (BLOCK + PAGE);
    area = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    calm = mmap(NULL, (size_t)BLOCKS * BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(area != MAP_FAILED && calm != MAP_FAILED, "mmap");
    for (int block = 0; block < BLOCKS; block++) {
        where[block] = area + (size_t)block * (BLOCK + PAGE);
        write_block(where[block], (uint64_t)block, 0);
        write_block(calm + (size_t)block * BLOCK, (uint64_t)(block + BLOCKS), 0);
    }
    sparse = mmap(NULL, SPARSE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(sparse != MAP_FAILED, "mmap");
    sparse[1] = 'a';
    sparse[SPARSE - 2] = 'z';
    mark("ready");
    while (access(in_control("go"), F_OK)) {
        if (!access(in_control("restless"), F_OK))
            write_some_again();
        nap();
    }
    move_sparse();
    for (uintptr_t i = 0; i < THREADS; i++)
        CHECK(!pthread_create(&threads[i], NULL, read_at_random, (void *)i), "pthread_create");
    for (int step = 0; step < BLOCKS; step++) {
        if (step % (BLOCKS / CHILDREN) == 0) {
            int number = step / (BLOCKS / CHILDREN);
            children[number] = fork();
            CHECK(children[number] >= 0, "fork");
            if (!children[number])
                child(number);
        }
        change((int)((unsigned)step * 331u % BLOCKS));
    }
    check_all("parent", 5);
    for (int i = 0; i < THREADS; i++)
        CHECK(!pthread_join(threads[i], NULL), "pthread_join");
    for (int i = 0; i < CHILDREN; i++)
        reap(children[i]);
    check_all("parent", 50);
    pass();
}
