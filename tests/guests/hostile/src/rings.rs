//! What is shared with domain 0: the rings of store and console, and those of a disk and a card,
//! which are connected as any front end's are before garbage goes into them.
// UNSAFETY: pages that others write too, by volatile accesses.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use malice::{Rng, TABLE};
use xen_abi::event_channel::{EVTCHNOP_alloc_unbound, EVTCHNOP_send, EvtchnAllocUnbound};
use xen_abi::hvm_params::{
    HVM_PARAM_CONSOLE_EVTCHN, HVM_PARAM_CONSOLE_PFN, HVM_PARAM_STORE_EVTCHN, HVM_PARAM_STORE_PFN,
};
use xen_abi::xen::{__HYPERVISOR_event_channel_op, __HYPERVISOR_hvm_op};
use xen_abi::xs_wire::{XS_TYPE_COUNT, XS_WRITE};
use xen_abi::{DomId, EvtchnPort};

use crate::arch::poke;
use crate::xen::call;

/// The pages of the rings, behind those of the game: disk, card out, card in, data.
const FIRST: u64 = 0x30;
const PAGES: u64 = 8;
/// Their grants, beyond those that the sequences write.
const GRANT: u64 = 100;

static STORE: AtomicU64 = AtomicU64::new(0);
static CONSOLE: AtomicU64 = AtomicU64::new(0);
/// Ports of store, console, disk and card.
static PORTS: [AtomicU32; 4] = [const { AtomicU32::new(0) }; 4];

fn parameter(index: u32) -> u64 {
    let words = [u64::from(DomId::SELF.0) | u64::from(index) << 32, 0];
    let at = (&raw const words) as u64;
    call(__HYPERVISOR_hvm_op.into(), [1, at, 0, 0, 0]);
    // SAFETY: the hypervisor wrote the value behind the compiler's back.
    unsafe { (&raw const words[1]).read_volatile() }
}

fn port() -> u32 {
    let ask = EvtchnAllocUnbound {
        dom: DomId::SELF,
        remote_dom: DomId(0),
        port: EvtchnPort(0),
    };
    let at = (&raw const ask) as u64;
    let op = EVTCHNOP_alloc_unbound.into();
    call(__HYPERVISOR_event_channel_op.into(), [op, at, 0, 0, 0]);
    // SAFETY: as above.
    unsafe { (&raw const ask.port).read_volatile().0 }
}

fn send(port: u32) {
    let at = (&raw const port) as u64;
    call(
        __HYPERVISOR_event_channel_op.into(),
        [EVTCHNOP_send.into(), at, 0, 0, 0],
    );
}

fn word(at: u64) -> u32 {
    // SAFETY: mapped by the identity tables.
    unsafe { (at as *const u32).read_volatile() }
}

/// Puts bytes into the store's ring, however full it is.
fn push(at: &mut u32, bytes: &[u8]) {
    let ring = STORE.load(Ordering::Relaxed);
    for byte in bytes {
        poke(ring + u64::from(*at % 1024), &[*byte]);
        *at = at.wrapping_add(1);
    }
}

/// Sends a message to the store.
fn tell(kind: u32, parts: &[&[u8]]) {
    let ring = STORE.load(Ordering::Relaxed);
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let mut at = word(ring + 2052);
    for number in [kind, 0, 0, len as u32] {
        push(&mut at, &number.to_le_bytes());
    }
    for part in parts {
        push(&mut at, part);
    }
    poke(ring + 2052, &at.to_le_bytes());
    send(PORTS[0].load(Ordering::Relaxed));
}

/// Throws answers away, until some have come or patience is over.
fn drain() {
    let ring = STORE.load(Ordering::Relaxed);
    for _ in 0..2000 {
        let produced = word(ring + 2060);
        if produced != word(ring + 2056) && word(ring + 2048) == word(ring + 2052) {
            poke(ring + 2056, &produced.to_le_bytes());
            send(PORTS[0].load(Ordering::Relaxed));
            return;
        }
        crate::xen::yields();
    }
}

/// Writes a number to a node.
fn write(path: &[u8], number: u64) {
    let mut digits = [0; 20];
    let mut from = digits.len();
    let mut rest = number;
    loop {
        from -= 1;
        digits[from] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    tell(XS_WRITE, &[path, b"\0", &digits[from..]]);
    drain();
}

/// Connects the disk and the card.
pub(crate) extern "C" fn connect() {
    STORE.store(parameter(HVM_PARAM_STORE_PFN) << 12, Ordering::Relaxed);
    CONSOLE.store(parameter(HVM_PARAM_CONSOLE_PFN) << 12, Ordering::Relaxed);
    for (slot, number) in PORTS.iter().zip([
        parameter(HVM_PARAM_STORE_EVTCHN) as u32,
        parameter(HVM_PARAM_CONSOLE_EVTCHN) as u32,
        port(),
        port(),
    ]) {
        slot.store(number, Ordering::Relaxed);
    }
    for page in 0..PAGES {
        // Frame, domain 0, GTF_permit_access.
        let entry = (FIRST + page) << 32 | 1;
        poke((TABLE << 12) + 8 * (GRANT + page), &entry.to_le_bytes());
    }
    for ring in FIRST..FIRST + 3 {
        // Producers and consumers are at 0, events are wanted from 1 on.
        poke(ring << 12, &[0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1]);
    }
    let [_, _, disk, card] = &PORTS;
    let disk = u64::from(disk.load(Ordering::Relaxed));
    let card = u64::from(card.load(Ordering::Relaxed));
    for (path, number) in [
        (&b"device/vbd/51712/ring-ref"[..], GRANT),
        (b"device/vbd/51712/event-channel", disk),
        (b"device/vbd/51712/state", 3),
        (b"device/vif/0/tx-ring-ref", GRANT + 1),
        (b"device/vif/0/rx-ring-ref", GRANT + 2),
        (b"device/vif/0/event-channel", card),
        (b"device/vif/0/request-rx-copy", 1),
        (b"device/vif/0/state", 4),
        (b"device/vbd/51712/state", 4),
    ] {
        write(path, number);
    }
}

/// Garbage, a little of it well-formed, into one of the rings; then an event.
pub(crate) fn spoil(rng: &mut Rng) {
    match rng.below(8) {
        0 => spoil_store(rng),
        1 => {
            let ring = CONSOLE.load(Ordering::Relaxed);
            for _ in 0..rng.below(32) {
                poke(ring + rng.below(3088), &rng.draw().to_le_bytes());
            }
            send(PORTS[1].load(Ordering::Relaxed));
        }
        2 => {
            let port = PORTS[rng.below(4) as usize].load(Ordering::Relaxed);
            for _ in 0..1 + rng.below(64) {
                send(port);
            }
        }
        3..6 => spoil_disk(rng),
        _ => spoil_card(rng),
    }
}

/// Moves the producer of a ring a little, or far.
fn produce(rng: &mut Rng, ring: u64) {
    let step = match rng.below(16) {
        0 => rng.draw() as u32,
        _ => 1 + rng.below(4) as u32,
    };
    poke(ring, &word(ring).wrapping_add(step).to_le_bytes());
    if rng.once_in(16) {
        poke(ring + rng.below(16), &rng.draw().to_le_bytes());
    }
}

fn spoil_disk(rng: &mut Rng) {
    let ring = FIRST << 12;
    // struct blkif_request: operation, segments, device, id, sector, then (gref, first, last).
    let slot = ring + 64 + u64::from(word(ring) % 32) * 112;
    let operation = match rng.below(8) {
        0 => rng.draw() as u8,
        _ => rng.below(7) as u8,
    };
    let segments = match rng.below(8) {
        0 => rng.draw() as u8,
        _ => rng.below(12) as u8,
    };
    poke(slot, &[operation, segments, 0, 0]);
    poke(slot + 8, &rng.draw().to_le_bytes());
    let sector = match rng.below(4) {
        0 => rng.odd_number(1 << 20),
        _ => rng.below(16384),
    };
    poke(slot + 16, &sector.to_le_bytes());
    for segment in 0..11 {
        let gref = match rng.below(8) {
            0 => rng.draw() as u32,
            _ => (GRANT + rng.below(PAGES)) as u32,
        };
        poke(slot + 24 + 8 * segment, &gref.to_le_bytes());
        let sectors = [rng.below(9) as u8, rng.below(9) as u8];
        poke(slot + 28 + 8 * segment, &sectors);
    }
    produce(rng, ring);
    send(PORTS[2].load(Ordering::Relaxed));
}

fn spoil_card(rng: &mut Rng) {
    let ring = (FIRST + 1 + rng.below(2)) << 12;
    // netif_tx_request: gref, offset, flags, id, size; netif_rx_request: id, pad, gref.
    let slot =
        ring + 64 + u64::from(word(ring) % 256) * if ring == (FIRST + 1) << 12 { 12 } else { 8 };
    let gref = (GRANT + rng.below(PAGES + 1)) as u32;
    poke(slot, &gref.to_le_bytes());
    poke(slot + 4, &rng.draw().to_le_bytes());
    if rng.once_in(2) {
        // One that may pass: offset, no flags, id, a size that fits.
        let request = [0u16, 0, 7, 60 + rng.below(1400) as u16];
        for (i, half) in (0..).zip(request) {
            poke(slot + 4 + 2 * i, &half.to_le_bytes());
        }
    }
    produce(rng, ring);
    send(PORTS[3].load(Ordering::Relaxed));
}

fn spoil_store(rng: &mut Rng) {
    if rng.once_in(3) {
        let ring = STORE.load(Ordering::Relaxed);
        for _ in 0..rng.below(16) {
            let at = match rng.below(4) {
                0 => 2048 + rng.below(32),
                _ => rng.below(2048),
            };
            poke(ring + at, &rng.draw().to_le_bytes());
        }
        send(PORTS[0].load(Ordering::Relaxed));
        return;
    }
    let path: &[u8] = rng.pick(&[
        &b"/local/domain/0/backend"[..],
        b"data/x",
        b"device/vbd/51712/state",
        b"device/vif/0/state",
        b"/",
        b"../..",
        b"@releaseDomain",
        b"memory/target",
        b"\xff\xfe",
        b"",
    ]);
    let value: &[u8] = rng.pick(&[&b"4"[..], b"6", b"", b"\0\0\0", b"n0", b"token\0more\0"]);
    let kind = match rng.below(8) {
        0 => rng.draw() as u32,
        _ => rng.below(XS_TYPE_COUNT.into()) as u32,
    };
    tell(kind, &[path, b"\0", value]);
    if rng.once_in(2) {
        drain();
    }
}
