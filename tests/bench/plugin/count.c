/*
 * QEMU TCG plugin: counts executed instructions into a file that the bench
 * reads while the machine runs (argument count=PATH; host order: the count,
 * the number of marks, then address and count of each mark).
 *
 * A mark is made whenever code at certain addresses is jumped to: in the page
 * marks=ADDRESS, where the agent in a guest calls a return instruction, and at
 * each mark=ADDRESS, the entry of a kernel. Addresses are the guest's, linear.
 *
 * Only functions that all versions of the plugin interface have are used, and
 * declared here because Debian ships no header. API_VERSION: 1 up to QEMU 8,
 * 2 from QEMU 9 on.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, void (*)(unsigned, void *), int, void *);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);

#define PUBLIC __attribute__((visibility("default")))
PUBLIC int qemu_plugin_version = API_VERSION;

enum { MARKS = 4000, ENTRIES = 8, PAGE = 4096 };

static volatile struct {
    uint64_t count;
    uint64_t marked;
    struct {
        uint64_t address;
        uint64_t count;
    } marks[MARKS];
} *shared;

static uint64_t entries[ENTRIES];
static unsigned entry_count;
static uint64_t page;

static void executed(unsigned vcpu, void *instructions)
{
    (void)vcpu;
    shared->count += (uintptr_t)instructions;
}

static void mark(unsigned vcpu, void *address)
{
    (void)vcpu;
    uint64_t at = shared->marked;
    if (at == MARKS)
        return;
    shared->marks[at].address = (uintptr_t)address;
    shared->marks[at].count = shared->count;
    shared->marked = at + 1;
}

static int is_mark(uint64_t address)
{
    if (page && address - page < PAGE)
        return 1;
    for (unsigned at = 0; at < entry_count; at++)
        if (entries[at] == address)
            return 1;
    return 0;
}

static void translated(plugin_id id, struct qemu_plugin_tb *tb)
{
    (void)id;
    uint64_t address = qemu_plugin_tb_vaddr(tb);
    if (is_mark(address))
        qemu_plugin_register_vcpu_tb_exec_cb(tb, mark, 0, (void *)(uintptr_t)address);
    qemu_plugin_register_vcpu_tb_exec_cb(tb, executed, 0, (void *)qemu_plugin_tb_n_insns(tb));
}

PUBLIC int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
    (void)info;
    for (int at = 0; at < argc; at++) {
        if (strncmp(argv[at], "count=", 6) == 0) {
            int fd = open(argv[at] + 6, O_RDWR | O_CREAT | O_TRUNC, 0600);
            if (fd < 0 || ftruncate(fd, sizeof *shared) != 0)
                return -1;
            shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
            if (shared == MAP_FAILED)
                return -1;
        } else if (strncmp(argv[at], "marks=", 6) == 0) {
            page = strtoull(argv[at] + 6, NULL, 0);
        } else if (strncmp(argv[at], "mark=", 5) == 0 && entry_count < ENTRIES) {
            entries[entry_count++] = strtoull(argv[at] + 5, NULL, 0);
        } else {
            return -1;
        }
    }
    if (!shared)
        return -1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    return 0;
}
