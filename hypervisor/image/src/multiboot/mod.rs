//! What the boot loader left: Multiboot2 and Multiboot1 information in one view.
//!
//! [`BootInfo`] borrows the loader's bytes: nothing is copied and nothing is
//! allocated, so it can be read before there is a heap. [`BootInfo::multiboot2`]
//! takes the information structure as one slice. Multiboot1's structure holds
//! physical addresses of its parts, so [`BootInfo::multiboot1`] takes a
//! [`PhysRead`], usually a closure over the early identity mapping.
//!
//! Command lines are bytes, not text: a user may have typed anything. Two habits of
//! boot loaders are removed from them: under GRUB 2 Debian's scripts put the
//! literal word `placeholder` first, and Multiboot1 loaders other than GRUB 2
//! (QEMU, GRUB Legacy) put the path of the image first.
//!
//! Sources: Multiboot Specification 0.6.96 section 3.3, Multiboot2 Specification
//! 2.0 section 3.6, UEFI Specification 2.10 section 7.2 (memory descriptors).

mod mb1;
mod mb2;
mod memmap;
#[cfg(test)]
mod tests;

pub use mb1::PhysRead;
pub use memmap::MemoryMap;

/// What EAX holds when a Multiboot2 loader starts us.
pub const MULTIBOOT2_MAGIC: u32 = 0x36d7_6289;
/// What EAX holds when a Multiboot1 loader starts us.
pub const MULTIBOOT1_MAGIC: u32 = 0x2bad_b002;
/// More modules than this are counted, not kept ([`BootInfo::modules_left_out`]).
pub const MAX_MODULES: usize = 16;

/// How the loader talked to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Multiboot1.
    Multiboot1,
    /// Multiboot2.
    Multiboot2,
}

/// A file that the loader put into memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Module<'a> {
    /// First byte, machine address.
    pub start: u64,
    /// Byte after the last.
    pub end: u64,
    /// Its command line, cleaned of the loader's additions.
    pub command_line: &'a [u8],
}

impl Module<'_> {
    /// Size in bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.end - self.start
    }
}

/// Position and width of a colour in a pixel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ColorField {
    /// Lowest bit.
    pub position: u8,
    /// Number of bits.
    pub size: u8,
}

/// How pixels (or characters) are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PixelFormat {
    /// A palette index per pixel.
    Indexed,
    /// Direct colour.
    Rgb {
        /// Red.
        red: ColorField,
        /// Green.
        green: ColorField,
        /// Blue.
        blue: ColorField,
    },
    /// VGA text: `width` and `height` count characters.
    Text,
    /// A type that the specification does not define.
    Other(u8),
}

/// The screen as the loader set it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framebuffer {
    /// Machine address of the first pixel.
    pub address: u64,
    /// Bytes from one line to the next.
    pub pitch: u32,
    /// Pixels (text: characters) in a line.
    pub width: u32,
    /// Lines.
    pub height: u32,
    /// Bits per pixel.
    pub bits_per_pixel: u8,
    /// Layout of a pixel.
    pub format: PixelFormat,
}

/// What is known of an EFI machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Efi {
    /// Machine address of the 64-bit system table.
    pub system_table_64: Option<u64>,
    /// Machine address of the 32-bit system table.
    pub system_table_32: Option<u32>,
    /// The loader did not call `ExitBootServices`.
    pub boot_services_alive: bool,
}

/// Everything the loader told us.
#[derive(Clone, Debug)]
pub struct BootInfo<'a> {
    /// The protocol.
    pub protocol: Protocol,
    /// Our own command line, cleaned of the loader's additions.
    pub command_line: &'a [u8],
    /// The loader's name, empty when it gave none.
    pub loader: &'a [u8],
    /// The loader's copy of the RSDP (Multiboot2 tag 15, else 14).
    pub rsdp: Option<&'a [u8]>,
    /// The screen.
    pub framebuffer: Option<Framebuffer>,
    /// EFI's tables, when the machine has them.
    pub efi: Option<Efi>,
    /// The memory map.
    pub memory: MemoryMap<'a>,
    /// EFI's own memory map, when it was given besides or instead of the E820 form.
    pub efi_memory: Option<MemoryMap<'a>>,
    modules: [Module<'a>; MAX_MODULES],
    module_count: usize,
}

/// Why boot information could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootInfoError {
    /// The structure is shorter than its own header or size field says.
    Truncated {
        /// Bytes that should be there.
        wanted: u64,
        /// Bytes that are there.
        have: u64,
    },
    /// A Multiboot2 tag is smaller than its type needs, or leaves the structure.
    BadTag {
        /// The tag's type.
        kind: u32,
        /// Where it is, from the start of the structure.
        offset: u64,
    },
    /// Multiboot1 information points to memory that cannot be read.
    Unreadable {
        /// What is there.
        what: &'static str,
        /// The address.
        address: u64,
    },
    /// A module ends before it starts.
    BadModule {
        /// Which one, from 0.
        index: usize,
    },
    /// There is no memory map of any kind.
    NoMemoryMap,
}

impl core::fmt::Display for BootInfoError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            Self::Truncated { wanted, have } => write!(
                f,
                "the boot information has {have} bytes of {wanted}: the boot loader is broken, use GRUB 2"
            ),
            Self::BadTag { kind, offset } => write!(
                f,
                "tag {kind} at offset {offset} of the boot information does not fit: the boot loader is broken, use GRUB 2"
            ),
            Self::Unreadable { what, address } => write!(
                f,
                "the boot loader's {what} at {address:#x} cannot be read: use GRUB 2 with the multiboot2 command"
            ),
            Self::BadModule { index } => write!(
                f,
                "boot module {index} ends before it starts: the boot loader is broken, use GRUB 2"
            ),
            Self::NoMemoryMap => {
                f.write_str("the boot loader gave no memory map: use one that does, such as GRUB 2")
            }
        }
    }
}

impl core::error::Error for BootInfoError {}

impl<'a> BootInfo<'a> {
    /// An empty view, to be filled by one of the two readers.
    fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            command_line: &[],
            loader: &[],
            rsdp: None,
            framebuffer: None,
            efi: None,
            memory: MemoryMap::EMPTY,
            efi_memory: None,
            modules: [Module::default(); MAX_MODULES],
            module_count: 0,
        }
    }

    /// The modules in the loader's order: dom0's kernel first.
    #[must_use]
    pub fn modules(&self) -> &[Module<'a>] {
        let kept = self.module_count.min(MAX_MODULES);
        self.modules.get(..kept).unwrap_or(&self.modules)
    }

    /// How many modules came after the first [`MAX_MODULES`].
    #[must_use]
    pub fn modules_left_out(&self) -> usize {
        self.module_count.saturating_sub(MAX_MODULES)
    }

    fn add_module(&mut self, module: Module<'a>) -> Result<(), BootInfoError> {
        let index = self.module_count;
        if module.end < module.start {
            return Err(BootInfoError::BadModule { index });
        }
        if let Some(slot) = self.modules.get_mut(index) {
            *slot = module;
        }
        self.module_count += 1;
        Ok(())
    }
}

/// Splits the first word off.
fn split_word(line: &[u8]) -> (&[u8], &[u8]) {
    let line = line.trim_ascii();
    match line.iter().position(u8::is_ascii_whitespace) {
        Some(end) => {
            let (word, rest) = line.split_at(end);
            (word, rest.trim_ascii_start())
        }
        None => (line, &[]),
    }
}

/// Removes the word that Debian's GRUB scripts put first.
fn without_placeholder(line: &[u8]) -> &[u8] {
    match split_word(line) {
        (b"placeholder", rest) => rest,
        _ => line.trim_ascii(),
    }
}

/// Removes what this loader adds to a command line.
fn clean(line: &[u8], starts_with_path: bool) -> &[u8] {
    without_placeholder(if starts_with_path {
        split_word(line).1
    } else {
        line
    })
}
