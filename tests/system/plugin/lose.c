/*
 * QEMU TCG plugin: loses interrupts, as QEMU's SVM does now and then by itself.
 *
 * While an interrupt waits for a CPU that runs code of the hypervisor, the request is
 * cleared in one of so many blocks of code; the local APIC keeps it, and delivers it when
 * it has another reason to look (arguments: one=BLOCKS, lost=PATH, a file to which a dot
 * is written for each).
 *
 * The word of requests is not part of the plugin interface. QEMU exports its functions; where
 * they keep the word is found by letting one clear a bit in a dummy.
 *
 * API_VERSION: 1 up to QEMU 8, 2 from QEMU 9 on.
 */
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, void (*)(unsigned, void *), int, void *);
extern uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);
extern void *qemu_get_cpu(int);
extern void cpu_reset_interrupt(void *, int);

#define PUBLIC __attribute__((visibility("default")))
PUBLIC int qemu_plugin_version = API_VERSION;

/* CPU_INTERRUPT_HARD; the hypervisor's image is linked in the 256 MiB at 0xffff82d040000000. */
enum { HARD = 2, MOST_CPUS = 8, DUMMY = 1 << 16 };
static const uint64_t HYPERVISOR = 0xffff82d04ull;

static uint32_t *requests[MOST_CPUS];
static size_t offset;
static uint64_t one = 100, state = 88172645463325252ull;
static int lost = -1;

static uint64_t random_number(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static void executed(unsigned cpu, void *unused)
{
    (void)unused;
    if (cpu >= MOST_CPUS)
        return;
    if (!requests[cpu])
        requests[cpu] = (uint32_t *)((char *)qemu_get_cpu(cpu) + offset);
    if (!(__atomic_load_n(requests[cpu], __ATOMIC_RELAXED) & HARD) || random_number() % one)
        return;
    __atomic_and_fetch(requests[cpu], ~HARD, __ATOMIC_SEQ_CST);
    if (write(lost, ".", 1) != 1)
        abort();
}

static void translated(plugin_id id, struct qemu_plugin_tb *tb)
{
    (void)id;
    if (qemu_plugin_tb_vaddr(tb) >> 28 == HYPERVISOR)
        qemu_plugin_register_vcpu_tb_exec_cb(tb, executed, 0, NULL);
}

/* Offset of the word of requests in QEMU's record of a CPU, 0 if it is not found. */
static size_t find(void)
{
    static uint32_t dummy[DUMMY / 4];
    memset(dummy, 0xff, sizeof dummy);
    cpu_reset_interrupt(dummy, HARD);
    for (size_t at = 0; at < DUMMY / 4; at++)
        if (dummy[at] != UINT32_MAX)
            return dummy[at] == (uint32_t)~HARD ? at * 4 : 0;
    return 0;
}

PUBLIC int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
    (void)info;
    for (int at = 0; at < argc; at++) {
        if (strncmp(argv[at], "one=", 4) == 0)
            one = strtoull(argv[at] + 4, NULL, 0);
        else if (strncmp(argv[at], "lost=", 5) == 0)
            lost = open(argv[at] + 5, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        else
            return -1;
    }
    offset = find();
    if (lost < 0 || !one || !offset)
        return -1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    return 0;
}
