/* BPF maps: hash, array, LPM trie; read-only descriptors, a frozen map. needs: privileged */
#include "workload.h"
#include <linux/bpf.h>

static long bpf(int command, union bpf_attr *attr)
{
    return syscall(SYS_bpf, command, attr, sizeof *attr);
}

static int make(unsigned int kind, unsigned int key, unsigned int value, unsigned int count, unsigned int flags)
{
    union bpf_attr attr = {.map_type = kind, .key_size = key, .value_size = value,
                           .max_entries = count, .map_flags = flags};
    strcpy(attr.map_name, "wherry");
    return (int)MUST(bpf(BPF_MAP_CREATE, &attr));
}

static long set(int fd, const void *key, const void *value)
{
    union bpf_attr attr = {.map_fd = (unsigned int)fd, .key = (uintptr_t)key, .value = (uintptr_t)value};
    return bpf(BPF_MAP_UPDATE_ELEM, &attr);
}

static long get(int fd, const void *key, void *value)
{
    union bpf_attr attr = {.map_fd = (unsigned int)fd, .key = (uintptr_t)key, .value = (uintptr_t)value};
    return bpf(BPF_MAP_LOOKUP_ELEM, &attr);
}

int main(int argc, char **argv)
{
    uint64_t value;
    uint32_t key;
    begin(argc, argv);
    int hash = make(BPF_MAP_TYPE_HASH, 4, 8, 5000, BPF_F_NO_PREALLOC);
    int array = make(BPF_MAP_TYPE_ARRAY, 4, 8, 10, 0), frozen = make(BPF_MAP_TYPE_ARRAY, 4, 8, 1, 0);
    int reader = make(BPF_MAP_TYPE_HASH, 4, 8, 3, BPF_F_RDONLY);
    int trie = make(BPF_MAP_TYPE_LPM_TRIE, 8, 8, 10, BPF_F_NO_PREALLOC), again = (int)MUST(dup(hash));
    for (key = 0; key < 3000; key++) {
        value = key * 7919ull;
        uint32_t spread = key * 2654435761u;
        MUST(set(hash, &spread, &value));
    }
    for (key = 0; key < 10; key++) {
        value = key + 100;
        MUST(set(array, &key, &value));
    }
    key = 0, value = 42;
    MUST(set(frozen, &key, &value));
    union bpf_attr attr = {.map_fd = (unsigned int)frozen};
    MUST(bpf(BPF_MAP_FREEZE, &attr));
    struct { uint32_t bits; uint8_t address[4]; } prefix = {8, {10, 0, 0, 0}};
    value = 8;
    MUST(set(trie, &prefix, &value));
    prefix.bits = 16, value = 16;
    MUST(set(trie, &prefix, &value));
    ready_then_go();
    for (key = 0; key < 3000; key++) {
        uint32_t spread = key * 2654435761u;
        MUST(get(again, &spread, &value));
        CHECK(value == key * 7919ull, "hash: %u is %lu", key, (unsigned long)value);
    }
    for (key = 0; key < 10; key++)
        CHECK(get(array, &key, &value) == 0 && value == key + 100, "array: %lu", (unsigned long)value);
    CHECK(get(array, &key, &value) == -1, "the array is larger");
    key = 0;
    CHECK(get(frozen, &key, &value) == 0 && value == 42, "frozen: %lu", (unsigned long)value);
    CHECK(set(frozen, &key, &value) == -1 && errno == EPERM, "not frozen");
    CHECK(set(reader, &key, &value) == -1 && errno == EPERM, "not for reading only");
    prefix.bits = 32, prefix.address[3] = 9;
    CHECK(get(trie, &prefix, &value) == 0 && value == 16, "trie: %lu", (unsigned long)value);
    prefix.address[1] = 9;
    CHECK(get(trie, &prefix, &value) == 0 && value == 8, "trie: %lu", (unsigned long)value);
    value = 1;
    MUST(set(again, &key, &value));
    CHECK(get(hash, &key, &value) == 0 && value == 1, "two maps");
    pass();
}
