//! The ELF notes of owner "Xen".

use crate::bytes::{u32_at, u64_at, until_nul};
use elf::endian::LittleEndian;
use elf::file::Class;
use elf::note::{Note, NoteIterator};
use xen_abi::elfnote::{
    XEN_ELFNOTE_BSD_SYMTAB, XEN_ELFNOTE_ENTRY, XEN_ELFNOTE_FEATURES, XEN_ELFNOTE_GUEST_OS,
    XEN_ELFNOTE_GUEST_VERSION, XEN_ELFNOTE_HV_START_LOW, XEN_ELFNOTE_HYPERCALL_PAGE,
    XEN_ELFNOTE_INIT_P2M, XEN_ELFNOTE_LOADER, XEN_ELFNOTE_MOD_START_PFN, XEN_ELFNOTE_PADDR_OFFSET,
    XEN_ELFNOTE_PAE_MODE, XEN_ELFNOTE_PHYS32_ENTRY, XEN_ELFNOTE_PHYS32_RELOC,
    XEN_ELFNOTE_SUPPORTED_FEATURES, XEN_ELFNOTE_SUSPEND_CANCEL, XEN_ELFNOTE_VIRT_BASE,
    XEN_ELFNOTE_XEN_VERSION,
};
use xen_abi::features::XENFEAT_dom0;

/// At most this many notes are looked at in one segment or section.
const MAX_NOTES: usize = 256;

/// PHYS32_RELOC: the kernel may be loaded elsewhere, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phys32Reloc {
    /// The load address must be a multiple of this, a power of two.
    pub align: u64,
    /// Lowest load address.
    pub min: u64,
    /// Highest address that the image may reach, inclusive.
    pub max: u64,
}

/// What a kernel's notes say. Absent notes are `None`, or empty, or 0 where 0 means absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct XenNotes<'a> {
    /// PVH entry point, physical; its presence says that the kernel can be a PVH guest.
    pub phys32_entry: Option<u64>,
    /// How the kernel may be moved.
    pub phys32_reloc: Option<Phys32Reloc>,
    /// Bitmap of `XENFEAT_*` that the kernel can cope with.
    pub supported_features: Option<u64>,
    /// Feature words (`name`, `!name` for required ones, `|` between them).
    pub features: &'a [u8],
    /// PV entry point, virtual.
    pub entry: Option<u64>,
    /// PV: virtual address of the hypercall page.
    pub hypercall_page: Option<u64>,
    /// PV: virtual address of physical address 0.
    pub virt_base: Option<u64>,
    /// PV: what to subtract from physical addresses.
    pub paddr_offset: Option<u64>,
    /// PV: where the p2m list is to be mapped.
    pub init_p2m: Option<u64>,
    /// PV: lowest address that the kernel leaves to the hypervisor.
    pub hv_start_low: Option<u64>,
    /// PV: modules may be given by frame number.
    pub mod_start_pfn: bool,
    /// The kernel can resume after a cancelled suspend.
    pub suspend_cancel: bool,
    /// PV, 32 bit: "yes", "no", "bimodal" and the like.
    pub pae_mode: &'a [u8],
    /// "linux", for instance.
    pub guest_os: &'a [u8],
    /// The guest's version.
    pub guest_version: &'a [u8],
    /// "xen-3.0".
    pub xen_version: &'a [u8],
    /// "generic".
    pub loader: &'a [u8],
    /// The kernel wants its symbols to be loaded after it.
    pub bsd_symtab: bool,
    count: u32,
}

impl<'a> XenNotes<'a> {
    /// Was there no Xen note at all?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Does the kernel say that it can be the control domain?
    ///
    /// A kernel without the note of features is given the benefit of the doubt,
    /// as the older feature string is for PV guests only.
    #[must_use]
    pub fn supports_dom0(&self) -> bool {
        self.supported_features
            .is_none_or(|features| features & (1 << XENFEAT_dom0) != 0)
    }

    /// Takes over what the notes in `data` say; damaged ones end the list.
    pub(super) fn read(&mut self, data: &'a [u8]) {
        // Xen aligns names and descriptions to 4 in both classes, and the header has 32-bit words.
        let notes = NoteIterator::new(LittleEndian, Class::ELF32, 4, data);
        for note in notes.take(MAX_NOTES) {
            if let Note::Unknown(note) = note
                && until_nul(note.name) == b"Xen"
            {
                self.take(note.n_type, note.desc);
            }
        }
    }

    fn take(&mut self, kind: u64, desc: &'a [u8]) {
        self.count = self.count.saturating_add(1);
        // Numbers have 4 or 8 bytes, whatever the file's class.
        let number = match desc.len() {
            4 => u32_at(desc, 0).map(u64::from),
            8.. => u64_at(desc, 0),
            _ => None,
        };
        let text = until_nul(desc);
        let is_set = number.is_some_and(|number| number & 1 != 0);
        match u32::try_from(kind).unwrap_or(u32::MAX) {
            XEN_ELFNOTE_PHYS32_ENTRY => self.phys32_entry = number,
            XEN_ELFNOTE_PHYS32_RELOC => self.phys32_reloc = reloc(desc),
            XEN_ELFNOTE_SUPPORTED_FEATURES => self.supported_features = number,
            XEN_ELFNOTE_FEATURES => self.features = text,
            XEN_ELFNOTE_ENTRY => self.entry = number,
            XEN_ELFNOTE_HYPERCALL_PAGE => self.hypercall_page = number,
            XEN_ELFNOTE_VIRT_BASE => self.virt_base = number,
            XEN_ELFNOTE_PADDR_OFFSET => self.paddr_offset = number,
            XEN_ELFNOTE_INIT_P2M => self.init_p2m = number,
            XEN_ELFNOTE_HV_START_LOW => self.hv_start_low = number,
            XEN_ELFNOTE_MOD_START_PFN => self.mod_start_pfn = is_set,
            XEN_ELFNOTE_SUSPEND_CANCEL => self.suspend_cancel = is_set,
            XEN_ELFNOTE_PAE_MODE => self.pae_mode = text,
            XEN_ELFNOTE_GUEST_OS => self.guest_os = text,
            XEN_ELFNOTE_GUEST_VERSION => self.guest_version = text,
            XEN_ELFNOTE_XEN_VERSION => self.xen_version = text,
            XEN_ELFNOTE_LOADER => self.loader = text,
            XEN_ELFNOTE_BSD_SYMTAB => self.bsd_symtab = text == b"yes",
            _ => {}
        }
    }
}

/// Up to three words: alignment, lowest, highest; missing ones have defaults.
fn reloc(desc: &[u8]) -> Option<Phys32Reloc> {
    let word = |at, default| u32_at(desc, at).map_or(default, u64::from);
    let reloc = Phys32Reloc {
        align: word(0, 0x20_0000),
        min: word(4, 0),
        max: word(8, u32::MAX.into()),
    };
    (reloc.align.is_power_of_two() && reloc.min <= reloc.max).then_some(reloc)
}

/// The build id that a linker left among these notes.
#[must_use]
pub fn build_id(data: &[u8]) -> Option<&[u8]> {
    NoteIterator::new(LittleEndian, Class::ELF32, 4, data)
        .take(MAX_NOTES)
        .find_map(|note| match note {
            Note::GnuBuildId(id) if !id.0.is_empty() => Some(id.0),
            _ => None,
        })
}
