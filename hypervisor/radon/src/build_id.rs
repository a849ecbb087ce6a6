//! The linker's build id of this image: a hash of what it linked (`.note.gnu.build-id`, ELF gABI).

unsafe extern "C" {
    static __build_id_start: u8;
    static __build_id_end: u8;
}

/// What the note says behind its name; empty when the linker wrote none.
pub(crate) fn build_id() -> &'static [u8] {
    let start = &raw const __build_id_start;
    let len = (&raw const __build_id_end as usize).saturating_sub(start as usize);
    // SAFETY: the linker script puts both symbols around a section that is loaded and read-only.
    let note = unsafe { core::slice::from_raw_parts(start, len) };
    guest_image::elf::build_id(note).unwrap_or(&[])
}
