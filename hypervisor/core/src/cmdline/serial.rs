//! `com1=` and `com2=`: a serial port and how it is set.

use super::value::{Bad, number, number_prefix};

/// Parity of a serial line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parity {
    /// No parity bit.
    None,
    /// Odd.
    Odd,
    /// Even.
    Even,
    /// Always 1.
    Mark,
    /// Always 0.
    Space,
}

/// A 16550-compatible port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SerialConfig {
    /// Bits a second; `None` leaves the speed as the firmware set it.
    pub baud: Option<u32>,
    /// Frequency of the port's clock divided by 16.
    pub base_baud: u32,
    /// Data bits, 5 to 8.
    pub data_bits: u8,
    /// Parity.
    pub parity: Parity,
    /// Stop bits, 1 or 2.
    pub stop_bits: u8,
    /// First I/O port.
    pub io_base: u16,
    /// Its interrupt; `None` to poll.
    pub irq: Option<u8>,
}

const FORM: Bad =
    Bad("write <speed>|auto[,<data><parity><stop>[,<port>[,<irq>]]], such as 115200,8n1,0x3f8,4");
const SPEED: Bad =
    Bad("the speed must divide the port's clock: write 115200, 57600, 38400, 19200 or 9600");

impl SerialConfig {
    /// The PC's port `number` (1 or 2) at 115200 8n1.
    #[must_use]
    pub const fn pc(number: u8) -> Self {
        let (io_base, irq) = match number {
            2 => (0x2f8, 3),
            _ => (0x3f8, 4),
        };
        Self {
            baud: Some(115_200),
            base_baud: 115_200,
            data_bits: 8,
            parity: Parity::None,
            stop_bits: 1,
            io_base,
            irq: Some(irq),
        }
    }

    /// The value of the divisor latch; `None` to leave it alone.
    #[must_use]
    pub fn divisor(&self) -> Option<u16> {
        let divisor = self.base_baud.checked_div(self.baud?)?;
        u16::try_from(divisor).ok().filter(|&divisor| divisor != 0)
    }

    pub(super) fn parse(port: u8, text: &[u8]) -> Result<Self, Bad> {
        let mut config = Self::pc(port);
        for (at, part) in text.split(|&byte| byte == b',').enumerate() {
            if part.is_empty() {
                continue;
            }
            match at {
                0 => config.set_speed(part)?,
                1 => config.set_format(part)?,
                2 => {
                    config.io_base = number(part)
                        .and_then(|port| u16::try_from(port).ok())
                        .filter(|port| (0x100..=0xfff8).contains(port))
                        .ok_or(Bad("write the first I/O port, such as 0x3f8; ports on PCI cards cannot be used"))?;
                }
                3 => {
                    let irq = number(part).ok_or(FORM)?;
                    let irq = u8::try_from(irq).map_err(|_| FORM)?;
                    config.irq = Some(irq).filter(|&irq| irq != 0);
                }
                _ => return Err(FORM),
            }
        }
        Ok(config)
    }

    /// `<baud>[/<clock in Hz>]` or `auto`.
    fn set_speed(&mut self, text: &[u8]) -> Result<(), Bad> {
        if text == b"auto" {
            self.baud = None;
            return Ok(());
        }
        let (baud, rest) = number_prefix(text).ok_or(FORM)?;
        self.baud = Some(u32::try_from(baud).map_err(|_| SPEED)?);
        match rest {
            [] => {}
            [b'/', clock @ ..] => {
                let clock = number(clock).ok_or(FORM)?;
                self.base_baud = u32::try_from(clock / 16).map_err(|_| SPEED)?;
            }
            _ => return Err(FORM),
        }
        self.divisor().map(drop).ok_or(SPEED)
    }

    fn set_format(&mut self, text: &[u8]) -> Result<(), Bad> {
        let &[data @ b'5'..=b'8', parity, stop @ (b'1' | b'2')] = text else {
            return Err(FORM);
        };
        self.data_bits = data - b'0';
        self.stop_bits = stop - b'0';
        self.parity = match parity {
            b'n' => Parity::None,
            b'o' => Parity::Odd,
            b'e' => Parity::Even,
            b'm' => Parity::Mark,
            b's' => Parity::Space,
            _ => return Err(FORM),
        };
        Ok(())
    }
}
