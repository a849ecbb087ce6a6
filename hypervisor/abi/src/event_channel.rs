//! Event channels: operations, the 2-level and the FIFO formats (`public/event_channel.h`).
//!
//! `EVTCHN_FIFO_PENDING` and its kin are bit numbers within an event word.

use crate::layout::{Union, abi_consts, abi_structs};
use crate::types::{DomId, EvtchnPort, Pirq, VcpuId, Virq};

abi_consts! {
    CONSTS: u32;
    /// Connects to another domain's unbound port.
    EVTCHNOP_bind_interdomain = 0,
    /// A port for a virq of a vCPU.
    EVTCHNOP_bind_virq = 1,
    /// A port for a physical interrupt.
    EVTCHNOP_bind_pirq = 2,
    /// Frees a port; the other end becomes unbound.
    EVTCHNOP_close = 3,
    /// Makes the other end pending.
    EVTCHNOP_send = 4,
    /// What a port of any domain is.
    EVTCHNOP_status = 5,
    /// A port that a named domain may connect to.
    EVTCHNOP_alloc_unbound = 6,
    /// A port for events from vCPU to vCPU.
    EVTCHNOP_bind_ipi = 7,
    /// Chooses the vCPU that a port notifies.
    EVTCHNOP_bind_vcpu = 8,
    /// Clears the mask and raises what is pending.
    EVTCHNOP_unmask = 9,
    /// Closes all ports of a domain.
    EVTCHNOP_reset = 10,
    /// FIFO: a vCPU's control block.
    EVTCHNOP_init_control = 11,
    /// FIFO: another page of event words.
    EVTCHNOP_expand_array = 12,
    /// FIFO: a port's queue.
    EVTCHNOP_set_priority = 13,

    /// The interrupt line may be shared.
    BIND_PIRQ__WILL_SHARE = 1,

    EVTCHNSTAT_closed = 0,
    EVTCHNSTAT_unbound = 1,
    EVTCHNSTAT_interdomain = 2,
    EVTCHNSTAT_pirq = 3,
    EVTCHNSTAT_virq = 4,
    EVTCHNSTAT_ipi = 5,

    /// Ports of the 2-level ABI, 64-bit layout.
    EVTCHN_2L_NR_CHANNELS = 0x1000,
    /// The highest.
    EVTCHN_FIFO_PRIORITY_MAX = 0,
    EVTCHN_FIFO_PRIORITY_DEFAULT = 7,
    /// The lowest.
    EVTCHN_FIFO_PRIORITY_MIN = 15,
    EVTCHN_FIFO_MAX_QUEUES = 16,
    /// Bit number: the event is pending.
    EVTCHN_FIFO_PENDING = 31,
    /// Bit number: the guest does not want to be told.
    EVTCHN_FIFO_MASKED = 30,
    /// Bit number: the event is in a queue.
    EVTCHN_FIFO_LINKED = 29,
    /// Bit number: the guest is unlinking the event.
    EVTCHN_FIFO_BUSY = 28,
    /// Width of the link to the next port of the queue.
    EVTCHN_FIFO_LINK_BITS = 17,
    EVTCHN_FIFO_LINK_MASK = 0x1_ffff,
    EVTCHN_FIFO_NR_CHANNELS = 0x2_0000,
}

abi_structs! {
    LAYOUTS:
    EvtchnAllocUnbound("struct evtchn_alloc_unbound") {
        dom: DomId,
        remote_dom: DomId,
        port: EvtchnPort,
    }
    EvtchnBindInterdomain("struct evtchn_bind_interdomain") {
        remote_dom: DomId,
        _fill0: [u8; 2],
        remote_port: EvtchnPort,
        local_port: EvtchnPort,
    }
    EvtchnBindVirq("struct evtchn_bind_virq") {
        virq: Virq,
        vcpu: VcpuId,
        port: EvtchnPort,
    }
    EvtchnBindPirq("struct evtchn_bind_pirq") {
        pirq: Pirq,
        flags: u32,
        port: EvtchnPort,
    }
    EvtchnBindIpi("struct evtchn_bind_ipi") {
        vcpu: VcpuId,
        port: EvtchnPort,
    }
    EvtchnClose("struct evtchn_close") {
        port: EvtchnPort,
    }
    EvtchnSend("struct evtchn_send") {
        port: EvtchnPort,
    }
    EvtchnStatusUnbound("__typeof__(((struct evtchn_status *)0)->u.unbound)") {
        dom: DomId,
    }
    EvtchnStatusInterdomain("__typeof__(((struct evtchn_status *)0)->u.interdomain)") {
        dom: DomId,
        _fill0: [u8; 2],
        port: EvtchnPort,
    }
    /// `u` holds one of the structs above, a pirq or a virq, as `status` says.
    EvtchnStatus("struct evtchn_status") {
        dom: DomId,
        _fill0: [u8; 2],
        port: EvtchnPort,
        status: u32,
        vcpu: VcpuId,
        u: Union<[u32; 2]>,
    }
    EvtchnBindVcpu("struct evtchn_bind_vcpu") {
        port: EvtchnPort,
        vcpu: VcpuId,
    }
    EvtchnUnmask("struct evtchn_unmask") {
        port: EvtchnPort,
    }
    EvtchnReset("struct evtchn_reset") {
        dom: DomId,
    }
    EvtchnInitControl("struct evtchn_init_control") {
        control_gfn: u64,
        offset: u32,
        vcpu: VcpuId,
        link_bits: u8,
        _pad: [u8; 7],
    }
    EvtchnExpandArray("struct evtchn_expand_array") {
        array_gfn: u64,
    }
    EvtchnSetPriority("struct evtchn_set_priority") {
        port: EvtchnPort,
        priority: u32,
    }
    EvtchnOp("struct evtchn_op") {
        cmd: u32,
        u: Union<[u32; 6]>,
    }
    /// `ready` has a bit for each priority whose queue is not empty; `head` is the first port of each.
    EvtchnFifoControlBlock("struct evtchn_fifo_control_block") {
        ready: u32,
        _rsvd: u32,
        head: [u32; 16],
    }
}
