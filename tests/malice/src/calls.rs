//! The hypercalls: noise, and plots that know the ABI.

#![expect(
    non_upper_case_globals,
    reason = "operations keep the names that Xen's headers give them"
)]
#![allow(
    clippy::wildcard_imports,
    reason = "the headers are imported whole, as C does; the lint does not look at test builds"
)]

use xen_abi::event_channel::*;
use xen_abi::grant_table::*;
use xen_abi::memory::*;
use xen_abi::xen as n;
use xen_abi::{DomId, Gfn, GrantHandle, GrantRef, Handle, Union};
use zerocopy::{FromZeros, Immutable, IntoBytes};

use crate::{ARGS, ARGS_PAGES, GRANTS, Guest, PAGES, SHARED, SPARE, STATUS, Sequence, TABLE};

const ALL_CALLS: [u32; 24] = [
    n::__HYPERVISOR_set_timer_op,
    n::__HYPERVISOR_memory_op,
    n::__HYPERVISOR_multicall,
    n::__HYPERVISOR_xen_version,
    n::__HYPERVISOR_console_io,
    n::__HYPERVISOR_grant_table_op,
    n::__HYPERVISOR_vm_assist,
    n::__HYPERVISOR_vcpu_op,
    n::__HYPERVISOR_sched_op,
    n::__HYPERVISOR_event_channel_op,
    n::__HYPERVISOR_physdev_op,
    n::__HYPERVISOR_hvm_op,
    n::__HYPERVISOR_sysctl,
    n::__HYPERVISOR_domctl,
    n::__HYPERVISOR_platform_op,
    n::__HYPERVISOR_mmu_update,
    n::__HYPERVISOR_update_va_mapping,
    n::__HYPERVISOR_mmuext_op,
    n::__HYPERVISOR_kexec_op,
    n::__HYPERVISOR_tmem_op,
    n::__HYPERVISOR_dm_op,
    n::__HYPERVISOR_argo_op,
    n::__HYPERVISOR_xenpmu_op,
    n::__HYPERVISOR_iret,
];

impl<G: Guest> Sequence<G> {
    /// Where this vCPU has its arguments.
    fn arg(&self) -> u64 {
        (ARGS + u64::from(self.vcpu) * ARGS_PAGES) << 12
    }

    fn put<T: IntoBytes + Immutable>(&mut self, value: &T) -> u64 {
        let at = self.arg();
        self.poke(at, value.as_bytes());
        at
    }

    fn list(&self) -> u64 {
        self.arg() + 0x1000
    }

    pub(crate) fn domid(&mut self) -> DomId {
        let [a, b] = self.cast.hostile;
        let ids = [
            DomId::SELF,
            self.cast.own,
            a,
            b,
            a,
            b,
            DomId(0),
            self.cast.victim,
            DomId(0x7ff1),
            DomId(0x7ff4),
            DomId(999),
        ];
        self.rng.pick(&ids)
    }

    /// An address that may or may not be its own.
    fn pointer(&mut self) -> u64 {
        match self.rng.below(8) {
            0..4 => self.arg() + self.rng.below(0x4000),
            4 => (PAGES << 12) - self.rng.below(64),
            5 => self.rng.below(PAGES << 12),
            6 => (TABLE << 12) + self.rng.below(4096),
            _ => self.odd_number(),
        }
    }

    fn word(&mut self) -> u64 {
        match self.rng.below(8) {
            0..2 => u64::from(self.domid().0) | self.rng.draw() << 32,
            2..4 => self.pointer(),
            4 => self.rng.below(64),
            5 => self.rng.below(8) << 32 | self.rng.below(8),
            _ => self.odd_number(),
        }
    }

    /// A call by nothing but its number.
    pub(crate) fn noise(&mut self) -> bool {
        let at = self.arg();
        for i in 0..16 {
            let word = self.word();
            self.poke(at + 8 * i, word.as_bytes());
        }
        let nr = if self.rng.once_in(20) {
            self.odd_number()
        } else {
            u64::from(self.rng.pick(&ALL_CALLS))
        };
        let op = if self.rng.once_in(20) {
            self.odd_number()
        } else {
            self.rng.below(40)
        };
        let mut args = [op, at, self.rng.below(4), self.word(), self.word()];
        if self.rng.once_in(4) {
            let i = self.rng.below(5) as usize;
            args[i] = self.word();
        }
        // A shutdown ends the generation: plots see to it.
        if nr == u64::from(n::__HYPERVISOR_sched_op) && op == 2 && !self.rng.once_in(200) {
            return true;
        }
        self.hypercall(nr, args)
    }

    /// A call that is nearly right.
    pub(crate) fn plot(&mut self) -> bool {
        match self.rng.below(16) {
            0..2 => self.lend(),
            2..5 => self.map(),
            5..7 => self.unmap(),
            7 => self.copy(),
            8 => self.table(),
            9..11 => self.memory(),
            11..14 => self.ports(),
            14 => self.vcpus(),
            _ => self.multicall(),
        }
    }

    /// Writes over what it shares with the hypervisor.
    pub(crate) fn scribble(&mut self) -> bool {
        let frame = match self.rng.below(8) {
            0..4 => SHARED,
            4 => STATUS,
            5 => TABLE + self.rng.below(4),
            _ => self.spare(),
        };
        for _ in 0..1 + self.rng.below(8) {
            let at = (frame << 12) + self.rng.below(512) * 8;
            let word = match self.rng.below(4) {
                0 => 0,
                1 => u64::MAX,
                _ => self.word(),
            };
            self.poke(at, word.as_bytes());
        }
        true
    }

    fn grant(&mut self, op: u32, list: u64, count: u64) -> bool {
        let nr = n::__HYPERVISOR_grant_table_op.into();
        self.hypercall(nr, [op.into(), list, count, 0, 0])
    }

    fn spare(&mut self) -> u64 {
        SPARE.start + self.rng.below(SPARE.end - SPARE.start)
    }

    /// Grants, by writing them, in either version's layout or none.
    fn lend(&mut self) -> bool {
        let frame = match self.rng.below(6) {
            0 => self.rng.below(0x200),
            1 => self.odd_number(),
            _ => self.spare(),
        };
        let flags = match self.rng.below(6) {
            0 => self.rng.draw() as u16,
            1 => GTF_permit_access | GTF_readonly,
            2 => 0,
            _ => GTF_permit_access,
        };
        let domid = self.domid();
        let r = self.rng.below(64);
        if self.rng.once_in(2) {
            let entry = GrantEntryV1 {
                flags,
                domid,
                frame: frame as u32,
            };
            self.poke((TABLE << 12) + 8 * r, entry.as_bytes());
        } else {
            let half = u64::from(flags) | u64::from(domid.0) << 16 | self.rng.draw() << 32;
            self.poke((TABLE << 12) + 16 * r, [half, frame].as_bytes());
            let status = self.rng.draw() as u16;
            self.poke((STATUS << 12) + 2 * r, status.as_bytes());
        }
        true
    }

    fn host_addr(&mut self) -> u64 {
        match self.rng.below(12) {
            0 => self.pointer(),
            1 => self.spare() << 12,
            _ => (GRANTS + self.rng.below(64)) << 12,
        }
    }

    fn grant_ref(&mut self) -> GrantRef {
        match self.rng.below(12) {
            0 => GrantRef(self.odd_number() as u32),
            _ => GrantRef(self.rng.below(64) as u32),
        }
    }

    fn count(&mut self) -> u64 {
        match self.rng.below(24) {
            0 => self.odd_number(),
            1 => 60 + self.rng.below(80),
            _ => 1 + self.rng.below(6),
        }
    }

    fn map(&mut self) -> bool {
        let count = self.count();
        let at = self.list();
        for i in 0..count.min(80) {
            let op = GnttabMapGrantRef {
                host_addr: self.host_addr(),
                flags: match self.rng.below(8) {
                    0 => self.rng.draw() as u32,
                    1..3 => GNTMAP_host_map | GNTMAP_readonly,
                    _ => GNTMAP_host_map,
                },
                r#ref: self.grant_ref(),
                dom: self.domid(),
                status: 0,
                handle: GrantHandle(0),
                dev_bus_addr: 0,
            };
            self.poke(at + i * size_of_val(&op) as u64, op.as_bytes());
        }
        self.grant(GNTTABOP_map_grant_ref, at, count)
    }

    fn unmap(&mut self) -> bool {
        let count = self.count();
        let at = self.list();
        for i in 0..count.min(80) {
            let op = GnttabUnmapGrantRef {
                host_addr: self.host_addr(),
                dev_bus_addr: if self.rng.once_in(8) { self.word() } else { 0 },
                handle: GrantHandle(match self.rng.below(16) {
                    0 => self.odd_number() as u32,
                    _ => self.rng.below(64) as u32,
                }),
                status: 0,
                _fill0: [0; 2],
            };
            self.poke(at + i * size_of_val(&op) as u64, op.as_bytes());
        }
        self.grant(GNTTABOP_unmap_grant_ref, at, count)
    }

    fn end(&mut self) -> GnttabCopyPtr {
        let u = match self.rng.below(2) {
            0 => u64::from(self.grant_ref().0),
            _ => self.spare(),
        };
        GnttabCopyPtr {
            u: Union::new(&u),
            domid: self.domid(),
            offset: match self.rng.below(4) {
                0 => self.rng.draw() as u16,
                _ => self.rng.below(4096) as u16,
            },
            _fill0: [0; 4],
        }
    }

    fn copy(&mut self) -> bool {
        let count = self.count();
        let at = self.list();
        for i in 0..count.min(80) {
            let op = GnttabCopy {
                source: self.end(),
                dest: self.end(),
                len: match self.rng.below(4) {
                    0 => self.rng.draw() as u16,
                    _ => self.rng.below(512) as u16,
                },
                flags: self.rng.below(4) as u16,
                status: 0,
                _fill0: [0; 2],
            };
            self.poke(at + i * size_of_val(&op) as u64, op.as_bytes());
        }
        self.grant(GNTTABOP_copy, at, count)
    }

    /// Operations on the whole grant table.
    fn table(&mut self) -> bool {
        let op = self.rng.pick(&[
            GNTTABOP_setup_table,
            GNTTABOP_query_size,
            GNTTABOP_set_version,
            GNTTABOP_set_version,
            GNTTABOP_get_status_frames,
            GNTTABOP_get_version,
            GNTTABOP_swap_grant_ref,
            GNTTABOP_transfer,
            GNTTABOP_cache_flush,
            GNTTABOP_dump_table,
            GNTTABOP_unmap_and_replace,
        ]);
        let id = self.domid();
        let at = match op {
            GNTTABOP_setup_table | GNTTABOP_get_status_frames => {
                let it = [self.rng.below(6) << 32 | u64::from(id.0), 0, self.list()];
                self.put(&it)
            }
            GNTTABOP_set_version => {
                let it = self.rng.below(4) as u32;
                self.put(&it)
            }
            GNTTABOP_swap_grant_ref => {
                let it = [self.grant_ref().0, self.grant_ref().0, 0];
                self.put(&it)
            }
            _ => {
                let it = [u64::from(id.0), self.word(), self.word()];
                self.put(&it)
            }
        };
        self.grant(op, at, 1)
    }

    fn memory_op(&mut self, op: u32, at: u64) -> bool {
        let nr = n::__HYPERVISOR_memory_op.into();
        let mut cmd = u64::from(op);
        if self.rng.once_in(16) {
            cmd |= self.rng.below(16) << MEMOP_EXTENT_SHIFT;
        }
        self.hypercall(nr, [cmd, at, 0, 0, 0])
    }

    fn memory(&mut self) -> bool {
        let domid = if self.rng.once_in(8) {
            self.domid()
        } else {
            DomId::SELF
        };
        match self.rng.below(8) {
            0..3 => {
                for i in 0..8 {
                    let gfn = match self.rng.below(6) {
                        0 => GRANTS + self.rng.below(64),
                        1 => self.odd_number(),
                        _ => self.spare(),
                    };
                    self.poke(self.list() + 8 * i, gfn.as_bytes());
                }
                let r = XenMemoryReservation {
                    extent_start: Handle::new(self.list()),
                    nr_extents: self.count(),
                    extent_order: if self.rng.once_in(8) {
                        self.word() as u32
                    } else {
                        0
                    },
                    mem_flags: if self.rng.once_in(8) {
                        self.word() as u32
                    } else {
                        0
                    },
                    domid,
                    _fill0: [0; 6],
                };
                let at = self.put(&r);
                let op = self.rng.pick(&[
                    XENMEM_populate_physmap,
                    XENMEM_decrease_reservation,
                    XENMEM_increase_reservation,
                    XENMEM_exchange,
                ]);
                self.memory_op(op, at)
            }
            3..6 => {
                let a = XenAddToPhysmap {
                    domid,
                    size: self.rng.below(3) as u16,
                    space: self.rng.below(6) as u32,
                    idx: match self.rng.below(6) {
                        0 => self.word(),
                        1 => u64::from(XENMAPIDX_grant_table_status) | self.rng.below(3),
                        2 => self.spare(),
                        _ => self.rng.below(5),
                    },
                    gpfn: Gfn(match self.rng.below(7) {
                        0 => self.spare(),
                        1 => STATUS,
                        6 => SHARED,
                        2 => TABLE + self.rng.below(4),
                        3 => GRANTS + self.rng.below(64),
                        _ => 0x200 + self.rng.below(16),
                    }),
                };
                let at = self.put(&a);
                self.memory_op(XENMEM_add_to_physmap, at)
            }
            6 => {
                let mut r = XenRemoveFromPhysmap::new_zeroed();
                r.domid = domid;
                r.gpfn = Gfn(match self.rng.below(4) {
                    0 => self.spare(),
                    1 => TABLE + self.rng.below(32),
                    2 => GRANTS + self.rng.below(64),
                    _ => 0x200 + self.rng.below(16),
                });
                let at = self.put(&r);
                self.memory_op(XENMEM_remove_from_physmap, at)
            }
            _ => {
                let b = XenAddToPhysmapBatch {
                    domid,
                    space: self.rng.below(6) as u16,
                    size: self.rng.below(300) as u16,
                    u: Union::new(&self.domid()),
                    idxs: Handle::new(self.pointer()),
                    gpfns: Handle::new(self.pointer()),
                    errs: Handle::new(self.pointer()),
                };
                let at = self.put(&b);
                self.memory_op(XENMEM_add_to_physmap_batch, at)
            }
        }
    }

    fn ports(&mut self) -> bool {
        let op = self.rng.below(15) as u32;
        let port = match self.rng.below(16) {
            0 => self.odd_number() as u32,
            _ => self.rng.below(48) as u32,
        };
        let id = self.domid().0;
        let small = self.rng.below(3) as u32;
        let at = match op {
            EVTCHNOP_bind_interdomain => {
                let it = [u32::from(id), port, 0];
                self.put(&it)
            }
            EVTCHNOP_bind_virq => {
                let it = [self.rng.below(26) as u32, small, 0];
                self.put(&it)
            }
            EVTCHNOP_alloc_unbound => {
                let remote = self.domid().0;
                {
                    let it = [u32::from(id) | u32::from(remote) << 16, 0];
                    self.put(&it)
                }
            }
            EVTCHNOP_bind_ipi => {
                let it = [small, 0];
                self.put(&it)
            }
            EVTCHNOP_status => {
                let it = [u32::from(id), port, 0, 0, 0, 0];
                self.put(&it)
            }
            EVTCHNOP_reset if !self.rng.once_in(40) => return true,
            EVTCHNOP_reset => self.put(&u32::from(id)),
            EVTCHNOP_init_control => {
                let gfn = self.spare();
                let offset = self.rng.below(512) * 8;
                {
                    let it = [gfn, offset | u64::from(small) << 32, 0];
                    self.put(&it)
                }
            }
            EVTCHNOP_expand_array => self.put(&self.spare_word()),
            _ => {
                let it = [port, small, self.rng.below(20) as u32];
                self.put(&it)
            }
        };
        if self.rng.once_in(4) {
            // What the formats keep in guest memory.
            let (gfn, word, slot) = (self.spare(), self.word(), self.rng.below(512));
            self.poke((gfn << 12) + slot * 8, word.as_bytes());
        }
        let nr = n::__HYPERVISOR_event_channel_op.into();
        self.hypercall(nr, [op.into(), at, 0, 0, 0])
    }

    fn spare_word(&self) -> u64 {
        // A different page each time would use up the frames: one of a few.
        SPARE.start + u64::from(self.vcpu)
    }

    fn vcpus(&mut self) -> bool {
        let (op, id) = (self.rng.below(18), self.rng.below(3));
        // Taking both down ends the domain.
        if op == u64::from(xen_abi::vcpu::VCPUOP_down) && !self.rng.once_in(40) {
            return true;
        }
        let at = self.arg();
        let words = match self.rng.below(3) {
            0 => [self.pointer(), self.word()],
            1 => [self.spare(), self.rng.below(64) * 64],
            _ => [self.word(), self.word()],
        };
        self.poke(at, words.as_bytes());
        self.hypercall(n::__HYPERVISOR_vcpu_op.into(), [op, id, at, 0, 0])
    }

    fn multicall(&mut self) -> bool {
        let at = self.list();
        let count = 1 + self.rng.below(24);
        for i in 0..count {
            let arg = self.arg();
            let entry = [
                u64::from(self.rng.pick(&ALL_CALLS)),
                0,
                self.rng.below(16),
                if self.rng.once_in(4) {
                    self.word()
                } else {
                    arg
                },
                self.rng.below(4),
                self.word(),
                0,
                0,
            ];
            let is_shutdown = entry[0] == u64::from(n::__HYPERVISOR_sched_op) && entry[2] == 2;
            if !is_shutdown {
                self.poke(at + 64 * i, entry.as_bytes());
            }
        }
        let count = if self.rng.once_in(16) {
            self.odd_number()
        } else {
            count
        };
        self.hypercall(n::__HYPERVISOR_multicall.into(), [at, count, 0, 0, 0])
    }
}
