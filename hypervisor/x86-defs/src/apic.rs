//! Local APIC and IO-APIC registers (Intel SDM volume 3, chapter 11; 82093AA data sheet).
//!
//! Local registers are named by their offset in the xAPIC page; the x2APIC MSR of a register is
//! `0x800 + offset / 16`.

/// Local APIC registers as offsets into the xAPIC page.
pub mod reg {
    /// Identifier.
    pub const ID: u16 = 0x20;
    /// Version and number of LVT entries.
    pub const VERSION: u16 = 0x30;
    /// Task priority.
    pub const TPR: u16 = 0x80;
    /// Arbitration priority (P6 only).
    pub const APR: u16 = 0x90;
    /// Processor priority.
    pub const PPR: u16 = 0xa0;
    /// End of interrupt.
    pub const EOI: u16 = 0xb0;
    /// Remote read (P6 only).
    pub const RRD: u16 = 0xc0;
    /// Logical destination.
    pub const LDR: u16 = 0xd0;
    /// Destination format (xAPIC only).
    pub const DFR: u16 = 0xe0;
    /// Spurious-interrupt vector and software enable.
    pub const SVR: u16 = 0xf0;
    /// In service, first of eight.
    pub const ISR: u16 = 0x100;
    /// Trigger mode, first of eight.
    pub const TMR: u16 = 0x180;
    /// Requested, first of eight.
    pub const IRR: u16 = 0x200;
    /// Error status.
    pub const ESR: u16 = 0x280;
    /// LVT: corrected machine checks.
    pub const LVT_CMCI: u16 = 0x2f0;
    /// Interrupt command.
    pub const ICR: u16 = 0x300;
    /// Interrupt command, destination half (xAPIC only).
    pub const ICR2: u16 = 0x310;
    /// LVT: timer.
    pub const LVT_TIMER: u16 = 0x320;
    /// LVT: thermal sensor.
    pub const LVT_THERMAL: u16 = 0x330;
    /// LVT: performance counters.
    pub const LVT_PMC: u16 = 0x340;
    /// LVT: pin LINT0.
    pub const LVT_LINT0: u16 = 0x350;
    /// LVT: pin LINT1.
    pub const LVT_LINT1: u16 = 0x360;
    /// LVT: errors.
    pub const LVT_ERROR: u16 = 0x370;
    /// Timer: initial count.
    pub const TMICT: u16 = 0x380;
    /// Timer: current count.
    pub const TMCCT: u16 = 0x390;
    /// Timer: divide configuration.
    pub const TDCR: u16 = 0x3e0;
    /// Interrupt to oneself (x2APIC only).
    pub const SELF_IPI: u16 = 0x3f0;
}

/// `reg::SVR`: software enable.
pub const SVR_ENABLE: u32 = 1 << 8;
/// `reg::DFR`: flat model.
pub const DFR_FLAT: u32 = 0xffff_ffff;

/// Bits of LVT entries.
pub mod lvt {
    /// Vector.
    pub const VECTOR_MASK: u32 = 0xff;
    /// Delivery mode, three bits from here.
    pub const MODE_SHIFT: u32 = 8;
    /// Delivery mode.
    pub const MODE_MASK: u32 = 7 << 8;
    /// Delivery status (read-only).
    pub const SEND_PENDING: u32 = 1 << 12;
    /// Pin polarity: active low.
    pub const ACTIVE_LOW: u32 = 1 << 13;
    /// Remote IRR (read-only).
    pub const REMOTE_IRR: u32 = 1 << 14;
    /// Level-triggered pin.
    pub const LEVEL: u32 = 1 << 15;
    /// Masked.
    pub const MASKED: u32 = 1 << 16;
    /// Timer mode, two bits.
    pub const TIMER_MODE_MASK: u32 = 3 << 17;
    /// Timer mode: fires once.
    pub const TIMER_ONESHOT: u32 = 0 << 17;
    /// Timer mode: restarts by itself.
    pub const TIMER_PERIODIC: u32 = 1 << 17;
    /// Timer mode: fires at a TSC value.
    pub const TIMER_TSC_DEADLINE: u32 = 2 << 17;
}

/// Bits of the interrupt command register.
pub mod icr {
    /// Vector.
    pub const VECTOR_MASK: u32 = 0xff;
    /// Delivery mode, three bits from here.
    pub const MODE_SHIFT: u32 = 8;
    /// Delivery mode.
    pub const MODE_MASK: u32 = 7 << 8;
    /// Logical destination.
    pub const LOGICAL: u32 = 1 << 11;
    /// Delivery status (xAPIC, read-only).
    pub const SEND_PENDING: u32 = 1 << 12;
    /// Level: assert.
    pub const ASSERT: u32 = 1 << 14;
    /// Level-triggered.
    pub const LEVEL: u32 = 1 << 15;
    /// Shorthand, two bits from here.
    pub const SHORTHAND_SHIFT: u32 = 18;
    /// Shorthand.
    pub const SHORTHAND_MASK: u32 = 3 << 18;
}

/// Bits of the error status register.
pub mod esr {
    /// An IPI with a vector below 16 was sent.
    pub const SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
    /// An interrupt with a vector below 16 came.
    pub const RECEIVED_ILLEGAL_VECTOR: u32 = 1 << 6;
    /// A register was accessed that does not exist.
    pub const ILLEGAL_REGISTER: u32 = 1 << 7;
}

/// Delivery modes, as numbered in ICR, LVT, IO-APIC entries and MSI data.
pub mod delivery {
    /// The vector.
    pub const FIXED: u32 = 0;
    /// The vector, at the least busy of the destinations.
    pub const LOWEST_PRIORITY: u32 = 1;
    /// System management interrupt.
    pub const SMI: u32 = 2;
    /// Non-maskable interrupt.
    pub const NMI: u32 = 4;
    /// INIT.
    pub const INIT: u32 = 5;
    /// Start-up IPI.
    pub const STARTUP: u32 = 6;
    /// As from an 8259.
    pub const EXT_INT: u32 = 7;
}

/// IO-APIC: memory-mapped window and indexed registers.
pub mod ioapic {
    /// Offset of the index register.
    pub const IOREGSEL: u16 = 0x00;
    /// Offset of the data window.
    pub const IOWIN: u16 = 0x10;
    /// Offset of the EOI register (version 0x20 and up).
    pub const EOI: u16 = 0x40;
    /// Index: identifier, bits 27:24.
    pub const ID: u8 = 0x00;
    /// Index: version, and the highest pin in bits 23:16.
    pub const VERSION: u8 = 0x01;
    /// Index: arbitration id.
    pub const ARBITRATION: u8 = 0x02;
    /// Index: first redirection entry, two indices each.
    pub const REDIRECTION: u8 = 0x10;

    /// Redirection entry: vector.
    pub const RTE_VECTOR_MASK: u64 = 0xff;
    /// Redirection entry: delivery mode, three bits from here.
    pub const RTE_MODE_SHIFT: u32 = 8;
    /// Redirection entry: logical destination.
    pub const RTE_LOGICAL: u64 = 1 << 11;
    /// Redirection entry: delivery status (read-only).
    pub const RTE_SEND_PENDING: u64 = 1 << 12;
    /// Redirection entry: active low.
    pub const RTE_ACTIVE_LOW: u64 = 1 << 13;
    /// Redirection entry: a level interrupt was accepted and not ended (read-only).
    pub const RTE_REMOTE_IRR: u64 = 1 << 14;
    /// Redirection entry: level-triggered.
    pub const RTE_LEVEL: u64 = 1 << 15;
    /// Redirection entry: masked.
    pub const RTE_MASKED: u64 = 1 << 16;
    /// Redirection entry: destination, eight bits from here.
    pub const RTE_DEST_SHIFT: u32 = 56;
}

/// MSI address and data (Intel SDM volume 3, 11.11).
pub mod msi {
    /// Address bits 31:20 of every message.
    pub const ADDRESS_BASE: u32 = 0xfee0_0000;
    /// Mask of those bits.
    pub const ADDRESS_BASE_MASK: u32 = 0xfff0_0000;
    /// Destination, eight bits from here.
    pub const ADDRESS_DEST_SHIFT: u32 = 12;
    /// Redirection hint.
    pub const ADDRESS_REDIRECTION: u32 = 1 << 3;
    /// Logical destination.
    pub const ADDRESS_LOGICAL: u32 = 1 << 2;
    /// Data: delivery mode, three bits from here.
    pub const DATA_MODE_SHIFT: u32 = 8;
    /// Data: level assert.
    pub const DATA_ASSERT: u32 = 1 << 14;
    /// Data: level-triggered.
    pub const DATA_LEVEL: u32 = 1 << 15;
}
