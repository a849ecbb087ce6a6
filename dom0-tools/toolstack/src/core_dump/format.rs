//! The parts of Xen's dump-core format, version 0.1, in bytes: ELF header, sections, notes
//! (Xen's `docs/misc/dump-core-format.txt`; ELF-64 object file format, version 1.5).

use xen_abi::PAGE_SIZE;
use xencall::XenVersion;

/// Bytes of the ELF header.
const EHDR: u64 = 64;
/// Bytes of a section's header.
const SHDR: u64 = 64;
/// Bytes of a program header, of which there are none.
const PHDR: u16 = 56;

const ET_CORE: u16 = 4;
const EM_X86_64: u16 = 62;
const SHT_PROGBITS: u32 = 1;
const SHT_STRTAB: u32 = 3;
const SHT_NOTE: u32 = 7;

const NOTE_NONE: u32 = 0x0200_0000;
const NOTE_HEADER: u32 = 0x0200_0001;
const NOTE_XEN_VERSION: u32 = 0x0200_0002;
const NOTE_FORMAT_VERSION: u32 = 0x0200_0003;
/// Magic number of a domain whose frames are translated: PVH or HVM.
const MAGIC_HVM: u64 = 0xf00f_ebee;
/// Major version in the upper half, minor in the lower.
const FORMAT_VERSION: u64 = 1;

/// Most sections that a file has, with the first one, which is none.
const MOST_SECTIONS: u64 = 7;
/// Where the notes begin: behind the headers.
const NOTES_AT: u64 = EHDR + MOST_SECTIONS * SHDR;
/// Where the sections' data may begin: the headers, names and notes fit before it.
pub(super) const DATA_AT: u64 = PAGE_SIZE;

/// A section of data.
#[derive(Clone, Copy, Debug)]
pub(super) struct Section {
    pub(super) name: &'static str,
    pub(super) offset: u64,
    pub(super) size: u64,
    /// Of an element.
    pub(super) entry: u64,
    pub(super) align: u64,
}

/// What the header's note counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counts {
    pub(super) vcpus: u64,
    pub(super) pages: u64,
}

fn put<const N: usize>(out: &mut Vec<u8>, bytes: [u8; N]) {
    out.extend_from_slice(&bytes);
}

/// Text in a field of `len` bytes, which ends with a zero.
fn put_text(out: &mut Vec<u8>, text: &str, len: usize) {
    let end = out.len() + len;
    out.extend(text.bytes().take(len.saturating_sub(1)));
    out.resize(end, 0);
}

fn put_note(out: &mut Vec<u8>, kind: u32, words: &[u8]) {
    let name = *b"Xen\0";
    put(out, 4_u32.to_le_bytes());
    // At most some 1,300 bytes.
    put(out, (words.len() as u32).to_le_bytes());
    put(out, kind.to_le_bytes());
    put(out, name);
    out.extend_from_slice(words);
}

fn version_note(version: &XenVersion) -> Vec<u8> {
    use xen_abi::version as v;
    let mut out = Vec::new();
    put(&mut out, u64::from(version.major).to_le_bytes());
    put(&mut out, u64::from(version.minor).to_le_bytes());
    put_text(&mut out, &version.extra, v::XEN_EXTRAVERSION_LEN as usize);
    // `struct xen_compile_info`.
    for (text, len) in version.compile.iter().zip([64, 16, 32, 32]) {
        put_text(&mut out, text, len);
    }
    let capabilities = v::XEN_CAPABILITIES_INFO_LEN as usize;
    put_text(&mut out, &version.capabilities, capabilities);
    put_text(
        &mut out,
        &version.changeset,
        v::XEN_CHANGESET_INFO_LEN as usize,
    );
    put(&mut out, version.virt_start.to_le_bytes());
    put(&mut out, u64::from(version.page_size).to_le_bytes());
    out
}

fn notes(counts: Counts, version: &XenVersion) -> Vec<u8> {
    let header: Vec<u8> = [MAGIC_HVM, counts.vcpus, counts.pages, PAGE_SIZE]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    let mut out = Vec::new();
    put_note(&mut out, NOTE_NONE, &[]);
    put_note(&mut out, NOTE_HEADER, &header);
    put_note(&mut out, NOTE_XEN_VERSION, &version_note(version));
    put_note(&mut out, NOTE_FORMAT_VERSION, &FORMAT_VERSION.to_le_bytes());
    out
}

fn put_ehdr(out: &mut Vec<u8>, sections: u16) {
    // Class 64, little-endian, version 1, System V; the last is as Xen writes it.
    put(out, [0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 1]);
    put(out, [0; 7]);
    put(out, ET_CORE.to_le_bytes());
    put(out, EM_X86_64.to_le_bytes());
    put(out, 1_u32.to_le_bytes());
    // No entry, no program headers; the sections' headers follow.
    put(out, [0; 16]);
    put(out, EHDR.to_le_bytes());
    put(out, [0; 4]);
    for word in [EHDR as u16, PHDR, 0, SHDR as u16, sections, 1] {
        put(out, word.to_le_bytes());
    }
}

fn put_shdr(out: &mut Vec<u8>, name: usize, kind: u32, section: &Section) {
    // A name's place among some hundred bytes.
    put(out, (name as u32).to_le_bytes());
    put(out, kind.to_le_bytes());
    // No flags, no address.
    put(out, [0; 16]);
    put(out, section.offset.to_le_bytes());
    put(out, section.size.to_le_bytes());
    put(out, [0; 8]);
    put(out, section.align.to_le_bytes());
    put(out, section.entry.to_le_bytes());
}

/// The file's beginning, up to [`DATA_AT`] at most.
pub(super) fn head(counts: Counts, version: &XenVersion, data: &[Section]) -> Vec<u8> {
    const NAMES: &str = ".shstrtab";
    const NOTES: &str = ".note.Xen";
    let notes = notes(counts, version);
    let meta = |name, offset, size| Section {
        name,
        offset,
        size,
        entry: 0,
        align: 1,
    };
    let names_at = NOTES_AT + notes.len() as u64;
    let mut names = vec![0];
    let mut place = |name: &str| {
        let at = names.len();
        names.extend(name.bytes().chain([0]));
        at
    };
    let mut places = vec![place(NAMES), place(NOTES)];
    places.extend(data.iter().map(|section| place(section.name)));
    let own = [
        meta(NAMES, names_at, names.len() as u64),
        meta(NOTES, NOTES_AT, notes.len() as u64),
    ];
    let kinds = [SHT_STRTAB, SHT_NOTE];
    let kinds = kinds.into_iter().chain(std::iter::repeat(SHT_PROGBITS));
    let mut out = Vec::new();
    // A handful, and the first one, which is none.
    put_ehdr(&mut out, places.len() as u16 + 1);
    put(&mut out, [0; SHDR as usize]);
    for ((section, name), kind) in own.iter().chain(data).zip(places).zip(kinds) {
        put_shdr(&mut out, name, kind, section);
    }
    out.resize(NOTES_AT as usize, 0);
    out.extend(notes);
    out.extend(names);
    out
}
