//! The register state that a PVH guest starts with (the PVH boot ABI:
//! flat 32-bit protected mode, no paging, EBX points to the start info).

use xen_abi::hvm_save::{
    HVM_FILE_MAGIC, HVM_FILE_VERSION, HVM_SAVE_CODE_CPU, HVM_SAVE_CODE_END, HVM_SAVE_CODE_HEADER,
    HvmHwCpu, HvmSaveDescriptor, HvmSaveHeader,
};
use zerocopy::{FromZeros, IntoBytes};

/// Present, code, readable, accessed, 32 bits, pages.
const CODE: u32 = 0xc9b;
/// Present, data, writable, accessed, 32 bits, pages.
const DATA: u32 = 0xc93;
/// Present, busy TSS of 32 bits.
const TSS: u32 = 0x8b;
const TSS_LIMIT: u32 = 0x67;
/// Protection enabled, extension type.
const CR0: u64 = 0x11;
const DR6: u64 = 0xffff_0ff0;
const DR7: u64 = 0x400;
/// The bit that is always one.
const RFLAGS: u64 = 2;

fn record<T: IntoBytes + zerocopy::Immutable>(out: &mut Vec<u8>, typecode: u16, data: &T) {
    let descriptor = HvmSaveDescriptor {
        typecode,
        instance: 0,
        // Records are some hundred bytes.
        length: u32::try_from(size_of::<T>()).unwrap_or(0),
    };
    out.extend_from_slice(descriptor.as_bytes());
    out.extend_from_slice(data.as_bytes());
}

/// The records for vCPU 0: header, CPU, end.
#[must_use]
pub fn start_context(entry: u64, start_info: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let header = HvmSaveHeader {
        magic: HVM_FILE_MAGIC,
        version: HVM_FILE_VERSION,
        ..HvmSaveHeader::new_zeroed()
    };
    record(&mut out, HVM_SAVE_CODE_HEADER, &header);
    let cpu = HvmHwCpu {
        rip: entry,
        rbx: start_info,
        rflags: RFLAGS,
        cr0: CR0,
        dr6: DR6,
        dr7: DR7,
        cs_limit: u32::MAX,
        ds_limit: u32::MAX,
        es_limit: u32::MAX,
        fs_limit: u32::MAX,
        gs_limit: u32::MAX,
        ss_limit: u32::MAX,
        tr_limit: TSS_LIMIT,
        cs_arbytes: CODE,
        ds_arbytes: DATA,
        es_arbytes: DATA,
        fs_arbytes: DATA,
        gs_arbytes: DATA,
        ss_arbytes: DATA,
        tr_arbytes: TSS,
        ..HvmHwCpu::new_zeroed()
    };
    record(&mut out, HVM_SAVE_CODE_CPU, &cpu);
    let end = HvmSaveDescriptor {
        typecode: HVM_SAVE_CODE_END,
        instance: 0,
        length: 0,
    };
    out.extend_from_slice(end.as_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_records_one_after_the_other() {
        let bytes = start_context(0x100_0000, 0x200_0000);
        let head = 8 + size_of::<HvmSaveHeader>();
        let cpu = 8 + size_of::<HvmHwCpu>();
        assert_eq!(bytes.len(), head + cpu + 8);
        assert_eq!(bytes[..2], HVM_SAVE_CODE_HEADER.to_le_bytes());
        assert_eq!(bytes[head..head + 2], HVM_SAVE_CODE_CPU.to_le_bytes());
        assert_eq!(bytes[head + cpu..], [0; 8]);
    }
}
