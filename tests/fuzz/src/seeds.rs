//! Well-formed inputs of each target.

use guest_image::payload::Format;
use guest_image::testing::{
    build_bzimage, build_kernel, build_memory_map, build_module, build_multiboot2, pack,
};
use xenstore::{Kind, Message, TxId};

pub(crate) fn multiboot2() -> Vec<Vec<u8>> {
    let mut efi_map = [40u32, 1].map(u32::to_le_bytes).as_flattened().to_vec();
    efi_map.extend([7, 0, 0, 0, 0, 0, 0, 0]);
    for word in [0x10_0000u64, 0, 16, 8] {
        efi_map.extend(word.to_le_bytes());
    }
    let mut screen = vec![0; 22];
    screen[20..22].copy_from_slice(&[32, 1]);
    screen.extend([0, 0, 16, 8, 8, 8, 0, 8]);
    vec![
        build_multiboot2(&[
            (1, b"placeholder com1=115200 console=com1\0".to_vec()),
            (2, b"GRUB 2.12\0".to_vec()),
            (
                3,
                build_module(0x10_0000, 0x20_0000, "placeholder root=/dev/sda"),
            ),
            (3, build_module(0x20_0000, 0x30_0000, "")),
            (4, vec![0; 8]),
            (
                6,
                build_memory_map(&[(0, 0x9_f000, 1), (0x10_0000, 0x100_0000, 1)]),
            ),
            (14, vec![1; 20]),
            (15, vec![2; 36]),
        ]),
        build_multiboot2(&[
            (12, vec![3; 8]),
            (11, vec![3; 4]),
            (17, efi_map),
            (8, screen),
            (18, vec![]),
        ]),
    ]
}

/// Physical memory from 0: the information at 0, its parts behind it.
pub(crate) fn multiboot1() -> Vec<Vec<u8>> {
    let mut memory = vec![0u8; 0x300];
    let mut put = |at: usize, words: &[u32]| {
        let bytes = words.iter().flat_map(|word| word.to_le_bytes());
        for (to, from) in memory[at..].iter_mut().zip(bytes) {
            *to = from;
        }
    };
    put(0, &[0x1247 | 8, 639, 0x1_0000, 0, 0x100, 2, 0x140]);
    put(44, &[48, 0x180]);
    put(64, &[0x1c0]);
    put(0x140, &[0x1000, 0x2000, 0x200, 0, 0x3000, 0x4000, 0, 0]);
    put(
        0x180,
        &[20, 0, 0, 0x9_f000, 0, 1, 20, 0x10_0000, 0, 0x100_0000, 0, 1],
    );
    memory[0x100..0x110].copy_from_slice(b"radon console=x\0");
    memory[0x1c0..0x1c5].copy_from_slice(b"qemu\0");
    memory[0x200..0x20d].copy_from_slice(b"vmlinuz root\0");
    vec![memory]
}

pub(crate) fn elf() -> Vec<Vec<u8>> {
    vec![build_kernel()]
}

/// Text that compresses, but not to nothing.
fn text() -> Vec<u8> {
    let line = |i: u32| format!("{i} line of a kernel {}\n", i.wrapping_mul(2_654_435_761));
    (0..300).flat_map(|i| line(i).into_bytes()).collect()
}

const PACKERS: [Format; 4] = [Format::Gzip, Format::Zstd, Format::Lz4, Format::Elf];

/// 200 lines of text by `xz --check=crc32 --x86`.
const XZ: &[u8] = include_bytes!("lines.xz");

pub(crate) fn payload() -> Vec<Vec<u8>> {
    let mut seeds: Vec<_> = PACKERS.map(|format| pack(format, &text())).to_vec();
    let mut xz = XZ.to_vec();
    xz.extend(4490u32.to_le_bytes());
    seeds.push(xz);
    seeds
}

pub(crate) fn bzimage() -> Vec<Vec<u8>> {
    let kernel = build_kernel();
    PACKERS
        .map(|format| build_bzimage(&pack(format, &kernel)))
        .to_vec()
}

pub(crate) fn command_line() -> Vec<Vec<u8>> {
    [
        "placeholder dom0_mem=2G,max:2G dom0_max_vcpus=1-4 com1=115200,8n1,0x3f8,4 console=com1,vga",
        "loglvl=all/debug guest_loglvl=none console_timestamps=boot iommu=verbose,no-intremap,force",
        "watchdog=30 reboot=k,w noreboot no-smt sched=null dom0=pvh,verbose cpuid=\"a b\" -- quiet",
        "dom0_mem=-1G+5%,min:64M maxcpus=0x2 mem=4g conring_size=64k no-real-mode edd=off nonsense",
    ]
    .map(|line| line.as_bytes().to_vec())
    .to_vec()
}

/// RSDP, then a root table, then tables one after the other: what `targets::acpi` cuts apart.
pub(crate) fn acpi() -> Vec<Vec<u8>> {
    let table = |name: &[u8; 4], body: &[u8]| {
        let mut bytes = name.to_vec();
        bytes.extend(u32::try_from(36 + body.len()).unwrap_or(0).to_le_bytes());
        bytes.resize(36, 1);
        bytes.extend(body);
        with_checksum(bytes, 9)
    };
    let mut rsdp = b"RSD PTR \0OEMOEM\x02".to_vec();
    rsdp.resize(20, 0);
    let mut rsdp = with_checksum(rsdp, 8);
    rsdp.resize(36, 0);
    let mut all = with_checksum(rsdp, 32);
    all.extend(table(b"XSDT", &[]));
    let mut madt = vec![0; 8];
    madt.extend([0, 8, 0, 0, 1, 0, 0, 0, 2, 10, 0, 0, 2, 0, 0, 0, 0, 0]);
    for (name, body) in [
        (b"FACP", &[9; 40][..]),
        (b"APIC", &madt),
        (b"SSDT", &[1; 8]),
        (b"HPET", &[]),
    ] {
        all.extend(table(name, body));
    }
    vec![all]
}

/// Two units, a reserved region, and a structure of no interest.
pub(crate) fn dmar() -> Vec<Vec<u8>> {
    let mut table = b"DMAR".to_vec();
    table.resize(48, 0);
    table[36] = 38;
    let graphics = [1, 8, 0, 0, 0, 0, 2, 0];
    let controllers = [3, 8, 0, 0, 2, 0xf0, 0x1f, 0, 2, 10, 0, 0, 0, 0, 1, 0, 2, 1];
    for (base, flags, scopes) in [
        (0xfed9_0000u64, 0, &graphics[..]),
        (0xfed9_1000, 1, &controllers),
    ] {
        let length = u8::try_from(16 + scopes.len()).unwrap_or(0);
        table.extend([0, 0, length, 0, flags, 0, 0, 0]);
        table.extend(base.to_le_bytes());
        table.extend(scopes);
    }
    table.extend([1, 0, 32, 0, 0, 0, 0, 0]);
    table.extend(0x7c00_0000u64.to_le_bytes());
    table.extend(0x7c0f_ffffu64.to_le_bytes());
    table.extend(graphics);
    table.extend([2, 0, 8, 0, 1, 0, 0, 0]);
    vec![table]
}

/// One unit described three times with all kinds of entries, another, and two regions.
pub(crate) fn ivrs() -> Vec<Vec<u8>> {
    let mut table = b"IVRS".to_vec();
    table.resize(48, 0);
    let mut devices = vec![1, 0, 0, 0, 2, 8, 0, 0x40, 3, 16, 0, 0, 4, 24, 0, 0];
    devices.extend([0x42, 0, 5, 0x82, 0, 0xa0, 0, 0]);
    devices.extend([0x43, 0, 6, 1, 0, 0xa4, 0, 0, 4, 0xff, 6, 0]);
    devices.extend([0x46, 32, 0, 0, 0, 0, 0, 0x80]);
    devices.extend([0x47, 40, 0, 0, 0, 0, 0, 0, 4, 48, 0, 0]);
    devices.extend([0x48, 0, 0, 0xd7, 33, 0xa0, 0, 1, 0, 0, 0, 0]);
    let mut named = devices.clone();
    named.extend([0xf0, 0xa5, 0, 0]);
    named.extend(b"AMDI0020");
    named.extend([0; 8]);
    named.extend([2, 3]);
    named.extend(b"FUR");
    for (kind, function, base, devices) in [
        (0x10, 2u8, 0xfeb8_0000u64, &devices),
        (0x11, 2, 0xfeb8_0000, &devices),
        (0x40, 2, 0xfeb8_0000, &named),
        (0x11, 0x42, 0xfd00_0000, &devices),
    ] {
        let header = if kind == 0x10 { 24 } else { 40 };
        let length = u8::try_from(header + devices.len()).unwrap_or(0);
        table.extend([kind, 0xb0, length, 0, function, 0, 0x40, 0]);
        table.extend(base.to_le_bytes());
        table.resize(table.len() + header - 16, 0);
        table.extend(devices);
    }
    for (kind, flags) in [(0x20, 7), (0x22, 8)] {
        table.extend([kind, flags, 32, 0, 8, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        table.extend(0x7c00_0000u64.to_le_bytes());
        table.extend(0x2000u64.to_le_bytes());
    }
    vec![table]
}

fn with_checksum(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    bytes[at] = 0;
    let sum = bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
    bytes[at] = sum.wrapping_neg();
    bytes
}

pub(crate) fn xl_cfg() -> Vec<Vec<u8>> {
    [
        "name = 'a'\ntype = \"pvh\"; memory = 64 # MiB\nkernel = '/boot/k'\nextra = \"a=\\\"b\\\"\"\n",
        "name='b'\nvcpus=2\nmaxvcpus=4\ncpus=[\"0\",\"all,^1\"]\non_crash='restart'\ncpu_weight=0x200\n",
        "name='c'\ndisk = [ '/a,raw,xvda,rw', # two\n 'format=raw,vdev=hdc,cdrom,access=ro,target=/x,y',\n]\n",
        "name='d'\nvif=['mac=00:16:3e:00:00:01,bridge=b,rate=10Mb/s@20ms','']\nvnc=0\npci=[['x']]\nmemroy += 3",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

/// Whole conversations, one message behind the other.
pub(crate) fn xs_wire() -> Vec<Vec<u8>> {
    let talk = |messages: &[(Kind, u32, &[u8])]| {
        let mut out = Vec::new();
        for (request, (kind, tx, payload)) in (0..).zip(messages) {
            let message = Message {
                kind: *kind,
                request,
                tx: TxId(*tx),
                payload: payload.to_vec(),
            };
            message.encode(&mut out).unwrap_or_default();
        }
        out
    };
    vec![
        talk(&[
            (Kind::WRITE, 0, b"/local/domain/1/name\0guest"),
            (Kind::READ, 0, b"name\0"),
            (Kind::DIRECTORY, 0, b"/local/domain\0"),
            (Kind::GET_PERMS, 0, b"data\0"),
            (Kind::RM, 0, b"data\0"),
        ]),
        talk(&[
            (Kind::WATCH, 0, b"device\0token\0"),
            (Kind::TRANSACTION_START, 0, b"\0"),
            (Kind::WRITE, 1, b"device/vif/0/state\0\x34"),
            (Kind::MKDIR, 1, b"device/vbd\0"),
            (Kind::SET_PERMS, 1, b"device\0n1\0r2\0"),
            (Kind::TRANSACTION_END, 1, b"T\0"),
            (Kind::UNWATCH, 0, b"device\0token\0"),
        ]),
        talk(&[
            (Kind::WATCH, 0, b"@releaseDomain\0t\0"),
            (Kind::INTRODUCE, 0, b"2\x000\x003\0"),
            (Kind::SET_TARGET, 0, b"2\x001\0"),
            (Kind::IS_DOMAIN_INTRODUCED, 0, b"2\0"),
            (Kind::GET_DOMAIN_PATH, 0, b"2\0"),
            (Kind::RELEASE, 0, b"2\0"),
            (Kind::CONTROL, 0, b"quota\0"),
            (Kind::DIRECTORY_PART, 0, b"/\x000\0"),
            (Kind::RESET_WATCHES, 0, b"\0"),
        ]),
    ]
}
