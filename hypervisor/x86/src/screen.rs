//! Text on the screen, until dom0 takes it: VGA text memory, or a linear framebuffer.
//!
//! What is shown is kept in a buffer of characters; only cells that change are drawn, and
//! the screen's memory is never read.  Glyphs are 8 by 8 pixels, drawn 8 by 16.

use font8x8::legacy::BASIC_LEGACY;
use guest_image::multiboot::{Framebuffer, PixelFormat};
use spin::mutex::TicketMutex as Mutex;

/// Largest screen in characters; the rest of a larger one stays black.
const MAX_COLUMNS: usize = 160;
const MAX_ROWS: usize = 64;
const GLYPH_WIDTH: usize = 8;
const GLYPH_HEIGHT: usize = 16;
/// VGA text memory.
pub const TEXT_MEMORY: u64 = 0xb8000;
/// Its size.
pub const TEXT_BYTES: u64 = 80 * 25 * 2;
/// Light grey on black.
const ATTRIBUTE: u16 = 0x0700;

/// How characters get onto the screen.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    Pixels {
        pitch: usize,
        bytes: usize,
        white: u32,
    },
}

struct Screen {
    /// Mapped memory, and its bytes.
    base: usize,
    len: usize,
    kind: Kind,
    columns: usize,
    rows: usize,
    cells: [[u8; MAX_COLUMNS]; MAX_ROWS],
    column: usize,
    row: usize,
}

static SCREEN: Mutex<Option<Screen>> = Mutex::new(None);

/// Bytes of memory that a framebuffer takes; `None` when it is not one that we can draw on.
#[must_use]
pub fn size(f: &Framebuffer) -> Option<u64> {
    let drawable = match f.format {
        PixelFormat::Text => return Some(TEXT_BYTES),
        PixelFormat::Rgb { .. } => matches!(f.bits_per_pixel, 15 | 16 | 24 | 32),
        PixelFormat::Indexed | PixelFormat::Other(_) => false,
    };
    let bytes = u64::from(f.bits_per_pixel.div_ceil(8));
    let fits = u64::from(f.width) * bytes <= u64::from(f.pitch);
    let size = u64::from(f.pitch) * u64::from(f.height);
    (drawable && fits && (1..=256 << 20).contains(&size)).then_some(size)
}

/// Starts output on a screen whose memory is mapped uncached at `base`; `None` for VGA text
/// as the firmware leaves it.
///
/// # Safety
///
/// [`size`] bytes at `base` ([`TEXT_BYTES`] without a description) are the screen's memory, mapped as
/// long as output goes on.
pub unsafe fn init(base: usize, f: Option<&Framebuffer>) {
    let mut screen = Screen {
        base,
        len: TEXT_BYTES as usize,
        kind: Kind::Text,
        columns: 80,
        rows: 25,
        cells: [[b' '; MAX_COLUMNS]; MAX_ROWS],
        column: 0,
        row: 0,
    };
    if let Some(f) = f
        && let PixelFormat::Rgb { red, green, blue } = f.format
    {
        let Some(len) = size(f) else { return };
        // Two thirds of full intensity in each colour.
        let level = |c: guest_image::multiboot::ColorField| {
            let full = (1u64 << c.size.min(32)) - 1;
            ((full * 2 / 3) << c.position.min(31)) as u32
        };
        screen.len = len as usize;
        screen.kind = Kind::Pixels {
            pitch: f.pitch as usize,
            bytes: usize::from(f.bits_per_pixel.div_ceil(8)),
            white: level(red) | level(green) | level(blue),
        };
        screen.columns = (f.width as usize / GLYPH_WIDTH).min(MAX_COLUMNS);
        screen.rows = (f.height as usize / GLYPH_HEIGHT).min(MAX_ROWS);
    }
    if screen.columns == 0 || screen.rows == 0 {
        return;
    }
    for row in 0..screen.rows {
        for column in 0..screen.columns {
            screen.draw(row, column);
        }
    }
    *SCREEN.lock() = Some(screen);
}

/// Leaves the screen to somebody else.
pub fn stop() {
    *SCREEN.lock() = None;
}

/// Whether output goes to a screen.
#[must_use]
pub fn is_used() -> bool {
    SCREEN.lock().is_some()
}

/// Writes text.
pub fn write(bytes: &[u8]) {
    if let Some(s) = SCREEN.lock().as_mut() {
        bytes.iter().for_each(|b| s.put(*b));
    }
}

/// Writes, unless another CPU died with the lock: the serial line has it then.
pub fn write_forced(bytes: &[u8]) {
    if let Some(mut s) = SCREEN.try_lock()
        && let Some(s) = s.as_mut()
    {
        bytes.iter().for_each(|b| s.put(*b));
    }
}

impl Screen {
    fn put(&mut self, byte: u8) {
        match byte {
            b'\n' => self.new_line(),
            b'\r' => self.column = 0,
            b'\t' => self.column = (self.column + 8) & !7,
            b' '..=b'~' => {
                if self.column >= self.columns {
                    self.new_line();
                }
                self.set(self.row, self.column, byte);
                self.column += 1;
            }
            _ => {}
        }
    }

    fn new_line(&mut self) {
        self.column = 0;
        if self.row + 1 < self.rows {
            self.row += 1;
            return;
        }
        for row in 1..self.rows {
            for column in 0..self.columns {
                self.set(row - 1, column, self.cells[row][column]);
            }
        }
        for column in 0..self.columns {
            self.set(self.rows - 1, column, b' ');
        }
    }

    fn set(&mut self, row: usize, column: usize, byte: u8) {
        if self.cells[row][column] != byte {
            self.cells[row][column] = byte;
            self.draw(row, column);
        }
    }

    fn draw(&self, row: usize, column: usize) {
        let byte = self.cells[row][column];
        match self.kind {
            Kind::Text => {
                let cell = (ATTRIBUTE | u16::from(byte)).to_le_bytes();
                let at = (row * self.columns + column) * 2;
                self.store(at, cell[0]);
                self.store(at + 1, cell[1]);
            }
            Kind::Pixels {
                pitch,
                bytes,
                white,
            } => {
                let glyph = BASIC_LEGACY.get(usize::from(byte)).unwrap_or(&[0; 8]);
                for y in 0..GLYPH_HEIGHT {
                    let bits = glyph[y / 2];
                    let line = (row * GLYPH_HEIGHT + y) * pitch;
                    for x in 0..GLYPH_WIDTH {
                        let color = if bits >> x & 1 == 0 { 0 } else { white };
                        let at = line + (column * GLYPH_WIDTH + x) * bytes;
                        self.pixel(at, bytes, color);
                    }
                }
            }
        }
    }

    fn pixel(&self, at: usize, bytes: usize, color: u32) {
        if bytes == 4 && at + 4 <= self.len {
            // SAFETY: inside the screen's memory (`init`); pixels of 4 bytes are aligned to them.
            unsafe { ((self.base + at) as *mut u32).write_volatile(color) };
            return;
        }
        for (i, b) in color.to_le_bytes().into_iter().take(bytes).enumerate() {
            self.store(at + i, b);
        }
    }

    fn store(&self, at: usize, byte: u8) {
        if at < self.len {
            // SAFETY: inside the screen's memory (`init`).
            unsafe { ((self.base + at) as *mut u8).write_volatile(byte) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use guest_image::multiboot::ColorField;

    fn rgb(width: u32, height: u32) -> Framebuffer {
        let field = |position| ColorField { position, size: 8 };
        Framebuffer {
            address: 0,
            pitch: width * 4,
            width,
            height,
            bits_per_pixel: 32,
            format: PixelFormat::Rgb {
                red: field(16),
                green: field(8),
                blue: field(0),
            },
        }
    }

    #[test]
    fn sizes_are_checked() {
        assert_eq!(size(&rgb(64, 32)), Some(64 * 32 * 4));
        assert_eq!(
            size(&Framebuffer {
                pitch: 63 * 4,
                ..rgb(64, 32)
            }),
            None
        );
        assert_eq!(
            size(&Framebuffer {
                height: 0,
                ..rgb(64, 32)
            }),
            None
        );
        let indexed = PixelFormat::Indexed;
        assert_eq!(
            size(&Framebuffer {
                format: indexed,
                ..rgb(64, 32)
            }),
            None
        );
        assert_eq!(size(&rgb(u32::MAX / 4, u32::MAX)), None);
    }

    #[test]
    fn text_is_drawn_wraps_and_scrolls() {
        // 4 by 2 characters.
        let f = rgb(32, 32);
        let mut memory = vec![0x55u32; 32 * 32];
        // SAFETY: the vector is the screen's memory and outlives its use below.
        unsafe { init(memory.as_mut_ptr() as usize, Some(&f)) };
        assert!(memory.iter().all(|p| *p == 0));
        let shown = || {
            let s = SCREEN.lock();
            let s = s.as_ref().unwrap();
            (0..2)
                .map(|r| String::from_utf8(s.cells[r][..4].to_vec()).unwrap())
                .collect::<Vec<_>>()
        };
        write(b"ab\x1b\ncdefg");
        assert_eq!(shown(), ["cdef", "g   "]);
        let lit = |memory: &[u32]| memory.iter().filter(|p| **p == 0x00aa_aaaa).count();
        assert!(lit(&memory) > 0 && memory.iter().all(|p| *p == 0 || *p == 0x00aa_aaaa));
        write(b"\n\n");
        assert_eq!(shown(), ["    ", "    "]);
        assert_eq!(lit(&memory), 0);
        stop();
        assert!(!is_used());
        write(b"more");
        assert_eq!(lit(&memory), 0);
    }
}
