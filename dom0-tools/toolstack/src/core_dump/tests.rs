use std::os::unix::fs::MetadataExt as _;

use xlcfg::Source;

use super::*;
use crate::lifecycle::{self, Outcome};
use crate::testing::World;
use crate::{Hypervisor as _, create};

const TEXT: &str = "name = 'a'\ntype = 'pvh'\nmemory = 24\nkernel = '/k'\nmaxvcpus = 2\n";

fn config(line: &str) -> Config {
    let text = format!("{TEXT}{line}\n");
    let source = Source::new("t.cfg", &text);
    match xlcfg::load(&source) {
        Ok((config, _)) => config,
        Err(problems) => panic!("{}", problems.render(&source)),
    }
}

fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    let mut word = [0; 8];
    word[..len].copy_from_slice(&bytes[at..at + len]);
    u64::from_le_bytes(word)
}

/// A section as its reader sees it.
#[derive(Debug)]
struct Read {
    name: String,
    kind: u64,
    entry: u64,
    range: std::ops::Range<usize>,
}

/// Reads sections by the ELF specification, and nothing that the writer has.
fn sections(file: &[u8]) -> Vec<Read> {
    assert_eq!(file[..7], *b"\x7fELF\x02\x01\x01");
    // Core file, x86-64, version 1, no segments.
    assert_eq!((number(file, 16, 2), number(file, 18, 2)), (4, 62));
    assert_eq!((number(file, 20, 4), number(file, 56, 2)), (1, 0));
    assert_eq!((number(file, 52, 2), number(file, 58, 2)), (64, 64));
    let start = number(file, 40, 8) as usize;
    let (count, names) = (number(file, 60, 2) as usize, number(file, 62, 2) as usize);
    let header = |at: usize| &file[start + at * 64..start + (at + 1) * 64];
    assert!(header(0).iter().all(|byte| *byte == 0));
    let names = number(header(names), 24, 8) as usize;
    let read = |at| {
        let header = header(at);
        let name = &file[names + number(header, 0, 4) as usize..];
        let end = name.iter().position(|byte| *byte == 0).unwrap();
        let from = number(header, 24, 8) as usize;
        assert_eq!(from as u64 % number(header, 48, 8), 0);
        Read {
            name: String::from_utf8(name[..end].to_vec()).unwrap(),
            kind: number(header, 4, 4),
            entry: number(header, 56, 8),
            range: from..from + number(header, 32, 8) as usize,
        }
    };
    let all: Vec<Read> = (1..count).map(read).collect();
    let mut ranges: Vec<_> = all.iter().map(|section| section.range.clone()).collect();
    ranges.sort_by_key(|range| range.start);
    assert!(ranges[0].start >= start + count * 64);
    assert!(ranges.windows(2).all(|two| two[0].end <= two[1].start));
    assert!(ranges.iter().all(|range| range.end <= file.len()));
    all
}

fn section<'a>(file: &'a [u8], name: &str) -> &'a [u8] {
    let all = sections(file);
    let found = all.into_iter().find(|section| section.name == name);
    &file[found.expect(name).range]
}

/// A made domain, with a page of its own content at frame 5.
fn world(line: &str) -> World {
    let mut world = World::new();
    create(&mut world.machine(), &config(line), TEXT).unwrap();
    let mut domains = world.hypervisor.domains.borrow_mut();
    let domain = domains.get_mut(&1).unwrap();
    domain.memory.clear();
    domain.memory.insert(5 << 12, vec![0xa5; 4096]);
    drop(domains);
    world
}

fn dumped(world: &mut World) -> (u64, Vec<u8>) {
    let path = Path::new("/d");
    let pages = dump(&world.hypervisor, &mut world.host, DomId(1), path).unwrap();
    let file = &world.host.dumps[path];
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    (pages, bytes)
}

#[test]
fn a_dump_is_read_back() {
    let mut world = world("");
    let frames: Vec<u64> = {
        let mut domains = world.hypervisor.domains.borrow_mut();
        let domain = domains.get_mut(&1).unwrap();
        // A hole, and one that comes about between the question and the answer.
        domain.frames.remove(&3);
        domain.ballooned.insert(7);
        // More than one window and one probe.
        let last = *domain.frames.last().unwrap();
        domain.memory.insert((last << 12) + 4095, vec![1]);
        domain.shared_info = Some(5);
        domain.frames.iter().copied().filter(|f| *f != 7).collect()
    };
    assert!(frames.len() > PROBE as usize + WINDOW as usize);
    let (pages, file) = dumped(&mut world);
    assert_eq!(pages, frames.len() as u64);
    let all = sections(&file);
    let seen: Vec<_> = all.iter().map(|s| (&*s.name, s.kind, s.entry)).collect();
    assert_eq!(
        seen,
        [
            (".shstrtab", 3, 0),
            (".note.Xen", 7, 0),
            (".xen_prstatus", 1, 5168),
            (".xen_shared_info", 1, 4096),
            (".xen_pages", 1, 4096),
            (".xen_pfn", 1, 8),
        ]
    );

    let pfns = section(&file, ".xen_pfn");
    let pfns: Vec<u64> = pfns.chunks(8).map(|pfn| number(pfn, 0, 8)).collect();
    assert_eq!(pfns, frames);
    let content: Vec<&[u8]> = section(&file, ".xen_pages").chunks(4096).collect();
    assert_eq!(content.len(), frames.len());
    // Without 3 and 7.
    assert_eq!((pfns[4], content[4]), (5, &[0xa5; 4096][..]));
    assert_eq!(content.last().unwrap()[4094..], [0, 1]);
    let zero = content.iter().filter(|page| page.iter().all(|b| *b == 0));
    assert_eq!(zero.count(), frames.len() - 2);

    // One of the two vCPUs was started.
    let context = section(&file, ".xen_prstatus");
    assert_eq!(context.len(), 5168);
    let rip = std::mem::offset_of!(VcpuGuestContext, user_regs)
        + std::mem::offset_of!(xen_abi::arch_x86::CpuUserRegs, rip);
    assert_eq!(number(context, rip, 8), 0x1234_5678);
    assert_eq!(section(&file, ".xen_shared_info"), [0xa5; 4096]);
}

#[test]
fn notes_say_what_it_is() {
    let (pages, file) = dumped(&mut world(""));
    let mut notes = section(&file, ".note.Xen");
    let mut seen = Vec::new();
    while !notes.is_empty() {
        assert_eq!((number(notes, 0, 4), &notes[12..16]), (4, &b"Xen\0"[..]));
        let len = number(notes, 4, 4) as usize;
        seen.push((number(notes, 8, 4), &notes[16..16 + len]));
        notes = &notes[16 + len..];
    }
    let kinds: Vec<u64> = seen.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [0x200_0000, 0x200_0001, 0x200_0002, 0x200_0003]);
    let header: Vec<u64> = seen[1].1.chunks(8).map(|word| number(word, 0, 8)).collect();
    assert_eq!(header, [0xf00f_ebee, 1, pages, 4096]);
    let version = seen[2].1;
    assert_eq!(version.len(), 1280);
    assert_eq!((number(version, 0, 8), number(version, 8, 8)), (4, 20));
    // Cut, and ended all the same.
    assert_eq!(version[16..32], *b".0-fake-and-lon\0");
    assert_eq!(version[32..38], *b"rustc\0");
    assert_eq!(version[176..180], *b"hvm-");
    assert_eq!(version[1200..1202], *b"c\0");
    assert_eq!(number(version, 1264, 8), 0xffff_8000_0000_0000);
    assert_eq!(number(version, 1272, 8), 4096);
    assert_eq!(number(seen[3].1, 0, 8), 1);
    assert!(sections(&file).iter().all(|s| s.name != ".xen_shared_info"));
}

#[test]
fn zeros_take_no_room() {
    let mut world = world("");
    let (_, file) = dumped(&mut world);
    assert!(file.len() > 24 << 20);
    let used = world.host.dumps[Path::new("/d")].metadata().unwrap();
    // Head, registers, numbers of frames, one page.
    assert!(used.blocks() * 512 < 1 << 18, "{} blocks", used.blocks());
}

/// A guest decides how far up it maps something.
#[test]
fn the_end_of_the_search_is_not_the_guests_to_choose() {
    let mut world = world("");
    let mut domains = world.hypervisor.domains.borrow_mut();
    domains.get_mut(&1).unwrap().frames.insert(1 << 35);
    drop(domains);
    let (pages, file) = dumped(&mut world);
    let frames = world.hypervisor.domains.borrow()[&1].frames.len();
    assert_eq!(pages, frames as u64 - 1);
    assert!(file.len() < 40 << 20);
}

#[test]
fn a_failed_dump_says_why_and_leaves_nothing() {
    let path = Path::new("/d");
    let fail = |world: &mut World, d| {
        let error = dump(&world.hypervisor, &mut world.host, DomId(d), path).unwrap_err();
        assert!(world.host.dumps.is_empty(), "{error}");
        error.to_string()
    };
    let mut world = world("");
    world.host.is_full = true;
    let error = fail(&mut world, 1);
    assert!(error.starts_with("dumping domain 1 to /d: "), "{error}");
    assert!(error.contains("'df'"), "{error}");
    world.host.is_full = false;
    assert!(fail(&mut world, 9).contains("no such domain"));
    // Hypercalls at the beginning, in the middle and near the end.
    for at in [0, 1, 2, 3, 4, 10, 500, 1000] {
        world.blow(0, at);
        fail(&mut world, 1);
        assert!(world.has_blown(0));
    }
}

#[test]
fn configurations_choose() {
    let wanted_by = |line: &str, reason| wanted(&config(line), reason);
    let path = Some(PathBuf::from("/var/lib/xen/dump/a"));
    assert_eq!(wanted_by("on_crash = 'coredump-destroy'", 3), path);
    assert_eq!(wanted_by("on_crash = 'coredump-restart'", 3), path);
    assert_eq!(wanted_by("on_watchdog = 'coredump-restart'", 4), path);
    assert_eq!(wanted_by("on_poweroff = 'coredump-destroy'", 0), path);
    assert_eq!(wanted_by("on_crash = 'coredump-destroy'", 0), None);
    assert_eq!(wanted_by("on_crash = 'preserve'", 3), None);
    assert_eq!(wanted_by("", 5), None);
}

#[test]
fn after_a_dump_comes_the_action() {
    let cases = [
        ("on_crash = 'coredump-destroy'", Outcome::Gone),
        (
            "on_crash = 'coredump-restart'",
            Outcome::Restarted(DomId(2)),
        ),
    ];
    for (line, outcome) in cases {
        let (mut world, config) = (world(line), config(line));
        world.hypervisor.remote_shutdown(DomId(1), 3).unwrap();
        let path = wanted(&config, 3).unwrap();
        dump_to_folder(&world.hypervisor, &mut world.host, DomId(1), &path).unwrap();
        assert!(world.host.folders.contains(Path::new(FOLDER)));
        let acted = lifecycle::act(&mut world.machine(), DomId(1), 3, &config, TEXT).unwrap();
        assert_eq!(acted, outcome, "{line}");
        assert!(world.host.dumps.contains_key(&path));
    }
}

#[test]
fn nobody_else_reads_a_dump() {
    use crate::linux::Linux;
    let folder = std::env::temp_dir().join(format!("dump-{}", std::process::id()));
    let file = folder.join("a");
    Linux.make_private_folder(&folder).unwrap();
    Linux.make_private_folder(&folder).unwrap();
    std::fs::write(&file, "what was there, for all to read").unwrap();
    drop(Linux.create_private_file(&file).unwrap());
    let (of_folder, of_file) = (folder.metadata().unwrap(), file.metadata().unwrap());
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(
        (of_folder.mode() & 0o777, of_file.mode() & 0o777),
        (0o700, 0o600)
    );
    assert_eq!(of_file.len(), 0);
    let error = Linux
        .create_private_file(Path::new("/dev/null"))
        .unwrap_err();
    assert!(error.to_string().contains("it is no file"), "{error}");
}
