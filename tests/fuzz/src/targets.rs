//! What is done with the bytes, and what must then hold.

use guest_image::elf::{ElfImage, LoadSink};
use guest_image::kernel::Kernel;
use guest_image::multiboot::{BootInfo, MemoryMap};
use guest_image::payload::Payload;
use radon_core::cmdline;
use radon_core::dom0::acpi::{AcpiSource, AcpiTables, HostTable, IoApicEntry, ProcessorEntries};
use radon_core::dom0::memory_map::{HostMap, MAX_ENTRIES};
use radon_core::iommu::Description;
use std::ops::Range;
use xen_abi::{DomId, EvtchnPort, Gfn};
use xenstore::wire::{Decoder, PAYLOAD_MAX, join};
use xenstore::{Kind, Message, StoreError, TxId};
use xenstored::journal::{replay, snapshot};
use xenstored::state::{ConnId, Host, Input, RingStart, State};

/// Kernels may unpack to this much here.
const LIMIT: usize = 1 << 20;

fn check_map(map: &MemoryMap<'_>) {
    let ranges: Vec<_> = map.iter().take(4096).collect();
    assert!(ranges.iter().all(|range| range.start < range.end));
    let host = HostMap::new(&ranges, &[], &[]);
    let half = host.free_bytes() / 2;
    if let Ok(dom0) = host.dom0(half, &[]) {
        assert!(dom0.e820.len() <= MAX_ENTRIES);
        let given: u64 = dom0.ram.iter().map(|range| range.count).sum();
        assert_eq!(given, half >> 12);
    }
}

fn check_info(info: &BootInfo<'_>) {
    check_map(&info.memory);
    if let Some(map) = &info.efi_memory {
        check_map(map);
    }
    for module in info.modules() {
        assert!(module.start <= module.end);
    }
    command_line(info.command_line);
}

pub(crate) fn multiboot2(data: &[u8]) {
    match BootInfo::multiboot2(data) {
        Ok(info) => check_info(&info),
        Err(error) => check_message(&error.to_string()),
    }
}

pub(crate) fn multiboot1(data: &[u8]) {
    let read = |address: u64, len: usize| {
        let start = usize::try_from(address).ok()?;
        data.get(start..start.checked_add(len)?)
    };
    match BootInfo::multiboot1(0, &read) {
        Ok(info) => check_info(&info),
        Err(error) => check_message(&error.to_string()),
    }
}

/// Every error is one line that says what to do.
fn check_message(text: &str) {
    assert!(text.contains(": ") && !text.contains('\n'), "{text}");
}

/// Takes anything within a range.
struct Bounds(Range<u64>);

impl LoadSink for Bounds {
    type Error = ();
    fn write(&mut self, paddr: u64, data: &[u8]) -> Result<(), ()> {
        self.zero(paddr, data.len() as u64)
    }
    fn zero(&mut self, paddr: u64, len: u64) -> Result<(), ()> {
        let end = paddr.checked_add(len).ok_or(())?;
        (self.0.start <= paddr && end <= self.0.end)
            .then_some(())
            .ok_or(())
    }
}

pub(crate) fn elf(data: &[u8]) {
    let image = match ElfImage::parse(data) {
        Ok(image) => image,
        Err(error) => return check_message(&error.to_string()),
    };
    let linked = image.linked_placement();
    let mut sink = Bounds(linked.range.clone());
    assert!(
        image.load(&linked, &mut sink).is_ok(),
        "outside of its range"
    );
    let free = [
        0x1000..0x9_f000,
        0x10_0000..0x80_0000,
        0x300_0000..0x8000_0000,
    ];
    if let Some(placement) = image.place(&free) {
        let inside = |range: &Range<u64>| {
            range.start <= placement.range.start && placement.range.end <= range.end
        };
        assert!(free.iter().any(inside));
        let mut sink = Bounds(placement.range.clone());
        assert!(
            image.load(&placement, &mut sink).is_ok(),
            "outside of its placement"
        );
    }
}

pub(crate) fn payload(data: &[u8]) {
    let payload = Payload::new(data);
    match payload.unpack(LIMIT) {
        Ok(out) => assert_eq!(out.len() as u64, payload.unpacked_size()),
        Err(error) => check_message(&error.to_string()),
    }
}

pub(crate) fn bzimage(data: &[u8]) {
    let kernel = match Kernel::open(data, LIMIT) {
        Ok(kernel) => kernel,
        Err(error) => return check_message(&error.to_string()),
    };
    elf(&kernel.elf);
    if let Err(error) = kernel.dom0_image() {
        check_message(&error.to_string());
    }
}

pub(crate) fn command_line(data: &[u8]) {
    let (options, complaints) = cmdline::parse(data);
    for complaint in complaints.iter() {
        let text = complaint.to_string();
        assert!(
            text.bytes().all(|byte| (b' '..=b'~').contains(&byte)),
            "{text:?}"
        );
    }
    if let Ok(memory) = options.dom0_mem.resolve(8 << 30, 7 << 30) {
        assert!(memory.initial <= 7 << 30 && memory.initial != 0);
    }
    assert!((1..=128).contains(&options.dom0_max_vcpus.resolve(4, 128)));
    for serial in [options.com1, options.com2].into_iter().flatten() {
        assert!(serial.baud.is_none() || serial.divisor().is_some());
    }
}

pub(crate) fn acpi(data: &[u8]) {
    let (rsdp, mut rest) = data.split_at(data.len().min(36));
    let mut tables = Vec::new();
    while !rest.is_empty() && tables.len() < 64 {
        let length = rest
            .get(4..8)
            .and_then(|field| field.try_into().ok())
            .map_or(1, u32::from_le_bytes);
        let cut = usize::try_from(length).unwrap_or(1).clamp(1, rest.len());
        let (bytes, tail) = rest.split_at(cut);
        let maddr = tables.len() as u64 * 4096;
        tables.push(HostTable { maddr, bytes });
        rest = tail;
    }
    let Some((&root, tables)) = tables.split_first() else {
        return;
    };
    let source = AcpiSource {
        rsdp,
        root,
        tables,
        io_apics: &[IoApicEntry {
            id: 1,
            address: 0xfec0_0000,
            gsi_base: 0,
        }],
        vcpus: 3,
        processors: ProcessorEntries::Both,
    };
    match AcpiTables::build(&source, 0x7000_0000) {
        Ok(built) => {
            assert!(built.bytes.len() <= AcpiTables::size_bound(&source));
            let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
            assert_eq!(sum(&built.bytes[..20]), 0);
            assert_eq!(sum(&built.bytes[..36]), 0);
        }
        Err(error) => check_message(&error.to_string()),
    }
}

pub(crate) fn dmar(data: &[u8]) {
    match Description::parse(*b"DMAR", data).expect("known") {
        Ok(Description::Vtd(dmar)) => {
            assert!(!dmar.units.is_empty());
            for unit in &dmar.units {
                assert!(unit.base.0 != 0 && unit.base.0 & 0xfff == 0 && unit.base.0 >> 52 == 0);
                // A scope has 8 bytes at least.
                assert!(unit.devices <= data.len() / 8);
            }
            for region in &dmar.reserved {
                assert!(region.frames.start < region.frames.end && region.frames.end <= 1 << 40);
            }
        }
        Ok(other) => panic!("{other:?}"),
        Err(error) => check_message(&error),
    }
}

pub(crate) fn ivrs(data: &[u8]) {
    match Description::parse(*b"IVRS", data).expect("known") {
        Ok(Description::AmdVi(ivrs)) => {
            assert!(!ivrs.units.is_empty());
            for unit in &ivrs.units {
                let base = unit.base.0;
                assert!(base != 0 && base & 0x3fff == 0 && base >> 52 == 0);
                assert!((0x40..=0xec).contains(&unit.capability) && unit.capability & 3 == 0);
                // An entry has 4 bytes at least, and gives two settings at most.
                assert!(unit.devices <= data.len() / 4 && unit.settings.len() <= data.len() / 2);
                for setting in &unit.settings {
                    assert!(setting.bits != 0 && !setting.devices.is_empty());
                }
            }
            for region in &ivrs.reserved {
                assert!(region.frames.start < region.frames.end && region.frames.end <= 1 << 40);
            }
        }
        Ok(other) => panic!("{other:?}"),
        Err(error) => check_message(&error),
    }
}

pub(crate) fn xl_cfg(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut source = xlcfg::Source::new("fuzz.cfg", &text);
    source.add_override("memory=64");
    let problems = match xlcfg::load(&source) {
        Ok((config, problems)) => {
            assert_eq!(config.memory_mib, 64);
            assert!(!config.name.is_empty() && config.vcpus <= config.max_vcpus);
            problems
        }
        Err(problems) => {
            assert!(problems.has_errors());
            problems
        }
    };
    for problem in problems.iter() {
        assert!(!problem.help.is_empty(), "{}", problem.what);
        assert!(problem.span.end <= source.text().len());
        assert!(problem.render(&source).contains(": "));
    }
}

/// Every ring can be mapped.
struct Willing;

impl Host for Willing {
    fn connect(&mut self, _: DomId, _: Gfn, _: EvtchnPort) -> Result<RingStart, StoreError> {
        Ok(RingStart {
            consumed: 0,
            produced: 0,
        })
    }
}

/// Messages in `bytes`, and whether one announced too much.
fn messages(decoder: &mut Decoder, mut bytes: &[u8]) -> (Vec<Message>, bool) {
    let mut list = Vec::new();
    loop {
        match decoder.feed(&mut bytes) {
            Ok(Some(message)) => {
                assert!(message.payload.len() <= PAYLOAD_MAX);
                list.push(message);
            }
            Ok(None) => return (list, false),
            Err(_) => return (list, true),
        }
    }
}

/// Each request has one reply of its number, in order; events come between them.
fn check_replies(asked: &[Message], out: &[u8]) {
    let (said, is_broken) = messages(&mut Decoder::default(), out);
    assert!(!is_broken);
    let replies = said.iter().filter(|said| said.kind != Kind::WATCH_EVENT);
    let numbers: Vec<_> = replies.map(|reply| (reply.request, reply.tx)).collect();
    let wanted: Vec<_> = asked.iter().map(|ask| (ask.request, ask.tx)).collect();
    assert_eq!(numbers, wanted);
}

/// The daemon reads bytes of a guest's ring, and the same as messages of dom0's clients.
pub(crate) fn xs_wire(data: &[u8]) {
    const SECRET: &str = "/tool/secret";
    const D: DomId = DomId(1);
    let host = &mut Willing;
    let (asked, is_broken) = messages(&mut Decoder::default(), data);
    let mut pieces = Decoder::default();
    let piecewise: Vec<Message> = data
        .chunks(7)
        .map_while(|piece| {
            let (list, is_broken) = messages(&mut pieces, piece);
            (!is_broken || !list.is_empty()).then_some(list)
        })
        .flatten()
        .collect();
    assert_eq!(piecewise, asked);

    let mut state = State::new();
    state.apply(&Input::Connect(ConnId(1)), host);
    let payload = [SECRET.as_bytes(), b"\0value"].concat();
    let mut ask = |kind, payload| {
        let message = Message {
            kind,
            request: 0,
            tx: TxId::NONE,
            payload,
        };
        state.apply(&Input::Message(ConnId(1), message), &mut Willing);
    };
    ask(Kind::WRITE, payload);
    ask(Kind::MKDIR, join(&["/local/domain/1/data"]));
    ask(Kind::SET_PERMS, join(&["/local/domain/1/data", "n1"]));
    ask(Kind::SET_PERMS, join(&["/local/domain/1", "n1"]));
    state.apply(&Input::Attach(D, Gfn(1), EvtchnPort(1)), host);
    let secret = state.tree.get(SECRET).cloned();
    assert!(secret.is_some());
    state.apply(&Input::Bytes(D, data.to_vec()), host);
    assert_eq!(state.tree.get(SECRET).cloned(), secret);
    for path in ["/tool", "/local/domain", "/"] {
        let node = state.tree.get(path);
        assert!(node.is_some_and(|node| node.permissions[0].domain == DomId(0)));
    }
    let id = state.domains.get(&D).map(|domain| domain.conn);
    if let Some(conn) = id.and_then(|id| state.conns.get(&id))
        && !is_broken
    {
        check_replies(&asked, conn.out.bytes());
    }

    state.apply(&Input::Connect(ConnId(9)), host);
    for message in &asked {
        state.apply(&Input::Message(ConnId(9), message.clone()), host);
    }
    if let Some(conn) = state.conns.get(&ConnId(9)) {
        check_replies(&asked, conn.out.bytes());
    }
    let again = replay(&snapshot(&state, "boot"), "boot");
    assert!(again.is_some_and(|(again, _)| again.tree == state.tree));
}
