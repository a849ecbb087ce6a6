//! The MSI capability.

use super::{MsiHost, MsiMessage, MsiSource, PciHost, Sbdf, Width};

const ENABLE: u32 = 1 << 0;
/// Multiple Message Capable.
const MMC_SHIFT: u32 = 1;
const MMC: u32 = 7 << MMC_SHIFT;
/// Multiple Message Enable.
const MME_SHIFT: u32 = 4;
const MME: u32 = 7 << MME_SHIFT;
const WIDE: u32 = 1 << 7;
/// Extended message data, capable and enable: not offered.
const EXTENDED_DATA: u32 = 0b11 << 9;
/// More than 32 vectors is reserved.
const MAX_LOG2: u32 = 5;

const CONTROL: u16 = 2;
const ADDRESS: u16 = 4;
const ADDRESS_HIGH: u16 = 8;

#[derive(Debug)]
pub(super) struct Msi {
    /// Offset of the capability.
    at: u16,
    wide: bool,
    /// log2 of the vectors that the function can send.
    capable: u8,
    /// log2 of the vectors that the guest chose.
    log2_vectors: u8,
    guest: MsiMessage,
    bound: Option<MsiSource>,
}

impl Msi {
    pub(super) fn new(at: u16, control: u32) -> Self {
        Self {
            at,
            wide: control & WIDE != 0,
            capable: ((control & MMC) >> MMC_SHIFT).min(MAX_LOG2) as u8,
            log2_vectors: 0,
            guest: MsiMessage::default(),
            bound: None,
        }
    }

    const fn data_reg(&self) -> u16 {
        self.at + if self.wide { 12 } else { 8 }
    }

    /// Whether a dword register holds something virtual; mask and pending bits do not.
    pub(super) fn covers(&self, reg: u16) -> bool {
        (self.at..=self.data_reg()).contains(&reg)
    }

    fn limit<H: MsiHost>(&self, host: &H) -> u8 {
        self.capable.min(host.max_msi_log2())
    }

    /// A dword register as the guest sees it.
    pub(super) fn read<H: PciHost>(&self, host: &H, sbdf: Sbdf, reg: u16) -> u32 {
        let hardware = host.read(sbdf, reg, Width::Dword);
        if reg == self.at {
            // The enable bit is the function's own: a reset clears it.
            let control = (hardware >> 16) & !(MMC | MME | EXTENDED_DATA)
                | u32::from(self.limit(host)) << MMC_SHIFT
                | u32::from(self.log2_vectors) << MME_SHIFT;
            hardware & 0xffff | control << 16
        } else if reg == self.data_reg() {
            self.guest.data & 0xffff
        } else if reg == self.at + ADDRESS {
            self.guest.address as u32
        } else {
            (self.guest.address >> 32) as u32
        }
    }

    /// The guest wrote; `value` is the dword merged with what it read before,
    /// `mask` tells which bits it wrote.
    pub(super) fn write<H: PciHost>(
        &mut self,
        host: &H,
        sbdf: Sbdf,
        reg: u16,
        value: u32,
        mask: u32,
    ) {
        if reg == self.at {
            if mask >> 16 != 0 {
                self.write_control(host, sbdf, value >> 16);
            }
            return;
        }
        if reg == self.data_reg() {
            self.guest.data = value & 0xffff;
        } else if reg == self.at + ADDRESS {
            self.guest.address = self.guest.address & !0xffff_ffff | u64::from(value & !3);
        } else if reg == self.at + ADDRESS_HIGH {
            self.guest.address = u64::from(value) << 32 | self.guest.address & 0xffff_ffff;
        }
        if self.bound.is_some() && !self.program(host, sbdf) {
            self.disable(host, sbdf);
        }
    }

    fn write_control<H: PciHost>(&mut self, host: &H, sbdf: Sbdf, value: u32) {
        let log2 = ((value & MME) >> MME_SHIFT).min(self.limit(host).into()) as u8;
        if self.bound.is_some() && (value & ENABLE == 0 || log2 != self.log2_vectors) {
            self.disable(host, sbdf);
        }
        self.log2_vectors = log2;
        let mut control = u32::from(log2) << MME_SHIFT;
        if value & ENABLE != 0 && self.program(host, sbdf) {
            control |= ENABLE;
        }
        host.write(sbdf, self.at + CONTROL, Width::Word, control);
    }

    /// Binds the guest's message and puts the host's into the function; whether that worked.
    fn program<H: PciHost>(&mut self, host: &H, sbdf: Sbdf) -> bool {
        let source = MsiSource::Msi {
            log2_vectors: self.log2_vectors,
        };
        let message = match host.bind(sbdf, source, self.guest) {
            Ok(message) if self.wide || message.address >> 32 == 0 => message,
            Ok(_) => {
                host.unbind(sbdf, source);
                self.bound = None;
                return false;
            }
            Err(error) => {
                log::warn!("{sbdf}: no vectors for MSI: {error:?}");
                return false;
            }
        };
        self.bound = Some(source);
        host.write(
            sbdf,
            self.at + ADDRESS,
            Width::Dword,
            message.address as u32,
        );
        if self.wide {
            let high = (message.address >> 32) as u32;
            host.write(sbdf, self.at + ADDRESS_HIGH, Width::Dword, high);
        }
        host.write(sbdf, self.data_reg(), Width::Word, message.data & 0xffff);
        true
    }

    /// Stops the function, then gives its vectors back.
    pub(super) fn disable<H: PciHost>(&mut self, host: &H, sbdf: Sbdf) {
        let control = host.read(sbdf, self.at + CONTROL, Width::Word);
        host.write(sbdf, self.at + CONTROL, Width::Word, control & !ENABLE);
        self.release(host, sbdf);
    }

    /// Gives the vectors back without touching the function.
    pub(super) fn release<H: MsiHost>(&mut self, host: &H, sbdf: Sbdf) {
        if let Some(source) = self.bound.take() {
            host.unbind(sbdf, source);
        }
    }
}
