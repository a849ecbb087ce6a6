//! Ranked locks: the only locks of the hypervisor, and the one list of their order.
//!
//! A CPU takes locks in ascending [`Rank`]; two locks of one rank only through [`Lock::pair`].
//! Debug builds and host tests check this at every acquisition and panic on the
//! first violation, whether or not it would have deadlocked that time; release
//! builds carry neither the check nor the rank.
//!
//! The hypervisor runs with interrupts off and does not preempt itself, except in
//! explicit windows where [`assert_none_held`] holds, so no lock saves an interrupt
//! state.  NMI handlers take no locks.
//!
//! [`Lock`] is a ticket lock (first come, first served); [`RwLock`] prefers readers
//! and is for tables that are read always and written rarely.
//!
//! `docs/locking.md` explains each rank; a test compares it with [`RANKS`].

pub mod atomic;

use core::ops::{Deref, DerefMut};

pub use spin::Once;

macro_rules! ranks {
    ($($name:ident: $doc:literal,)*) => {
        /// The lock order: a lock may be taken only while every held lock stands before it here.
        ///
        /// Whoever adds a kind of lock adds its line here and in `docs/locking.md`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Rank { $(#[doc = $doc] $name,)* }

        /// All ranks in order, outermost first, with what they guard.
        pub const RANKS: &[(Rank, &str)] = &[$((Rank::$name, $doc),)*];
    };
}

ranks! {
    Sysctl: "One system-wide control operation at a time (sysctl, platform_op).",
    DomainList: "The table of domains: create, look up by id, remove.",
    DomainControl: "One control operation on a domain at a time (domctl, life cycle, teardown).",
    Pci: "PCI devices: assignment, configuration-space traps, MSI state.",
    Pirq: "Physical interrupts: binding to domains and vectors.",
    Hvm: "A domain's emulated platform: IO-APIC, timers, ioreq servers.",
    GrantTable: "A domain's grant table: size, versions, entries in use.",
    Maptrack: "A domain's grant mappings (free handles).",
    Evtchn: "A domain's event-channel table: ports, binding, FIFO control blocks.",
    EvtchnQueue: "One event queue of the FIFO format.",
    PvMmu: "A PV domain's page-table updates.",
    Iommu: "A remapping unit's queue of commands, or its log of events.",
    P2m: "A domain's nested page tables (writers; readers fall back to it).",
    FrameType: "Validation of a PV page-table frame.",
    Heap: "The frame allocator's free lists.",
    SchedPool: "CPU pools and scheduler-wide parameters.",
    SchedQueue: "A run queue.",
    Vcpu: "A vCPU's block, wake and pause state.",
    Timer: "A CPU's timer queue.",
    ConsoleRing: "The console ring and its readers.",
    ConsoleOut: "The serial line.",
    Leaf: "Short locks that take no other lock inside.",
}

/// Which locks this CPU (on the host: this thread) holds. Debug builds only.
#[cfg(debug_assertions)]
mod held {
    use super::Rank;
    use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

    /// CPUs beyond this many are not checked.
    const CHECKED_CPUS: usize = 256;
    static HELD: [AtomicU64; CHECKED_CPUS] = [const { AtomicU64::new(0) }; CHECKED_CPUS];
    pub(super) static CPU_INDEX: spin::Once<fn() -> usize> = spin::Once::new();

    #[cfg(test)]
    std::thread_local! {
        /// By task of the thread; the first is the thread itself where it has none.
        static THREAD_HELD: [AtomicU64; 16] = const { [const { AtomicU64::new(0) }; 16] };
    }

    /// Runs `f` on the set of held ranks, one bit each.
    fn with<R>(f: impl FnOnce(&AtomicU64) -> R) -> Option<R> {
        #[cfg(test)]
        return Some(THREAD_HELD.with(|held| f(&held[crate::testing::interleave::task()])));
        #[cfg(not(test))]
        CPU_INDEX.get().and_then(|index| HELD.get(index())).map(f)
    }

    #[cfg(test)]
    #[expect(dead_code, reason = "keeps the metal's variant compiled in tests")]
    fn metal() -> Option<&'static AtomicU64> {
        HELD.get(CPU_INDEX.get()?())
    }

    /// Proof that a rank was entered; leaving is its drop.
    #[derive(Debug)]
    pub(super) struct Held(Option<Rank>);

    impl Held {
        #[track_caller]
        pub(super) fn enter(rank: Rank) -> Self {
            let bit = rank as u32;
            let before = with(|held| held.fetch_or(1 << bit, Relaxed)).unwrap_or(0);
            assert!(
                before >> bit == 0,
                "lock order: {rank:?} while holding ranks {before:#x}"
            );
            Self(Some(rank))
        }
        /// For the second lock of a pair and for `try_lock`, which cannot deadlock.
        pub(super) fn enter_unordered(rank: Rank) -> Self {
            let bit = 1 << (rank as u32);
            match with(|held| held.fetch_or(bit, Relaxed)) {
                Some(before) if before & bit != 0 => Self(None),
                _ => Self(Some(rank)),
            }
        }
    }
    impl Drop for Held {
        fn drop(&mut self) {
            if let Some(rank) = self.0 {
                with(|held| held.fetch_and(!(1 << (rank as u32)), Relaxed));
            }
        }
    }

    pub(super) fn none() -> bool {
        with(|held| held.load(Relaxed) == 0).unwrap_or(true)
    }
}

#[cfg(not(debug_assertions))]
mod held {
    use super::Rank;

    #[derive(Debug)]
    pub(super) struct Held;
    impl Held {
        #[inline(always)]
        pub(super) fn enter(_: Rank) -> Self {
            Self
        }
        #[inline(always)]
        pub(super) fn enter_unordered(_: Rank) -> Self {
            Self
        }
    }
}

use held::Held;

/// Turns the order check on: `cpu_index` says which CPU runs this code.
///
/// Called once at boot when per-CPU data stands; locks taken before are not checked.
/// Release builds ignore it.
pub fn set_cpu_index(cpu_index: fn() -> usize) {
    #[cfg(debug_assertions)]
    held::CPU_INDEX.call_once(|| cpu_index);
    #[cfg(not(debug_assertions))]
    let _ = cpu_index;
}

/// Checks (debug builds) that this CPU holds no lock: before it enables interrupts, enters a guest or idles.
#[inline]
#[track_caller]
pub fn assert_none_held() {
    #[cfg(debug_assertions)]
    assert!(held::none(), "a lock is held where none may be");
}

/// The rank where it is checked, nothing where it is not.
#[derive(Clone, Copy, Debug)]
struct RankTag(#[cfg(debug_assertions)] Rank);

impl RankTag {
    const fn new(rank: Rank) -> Self {
        #[cfg(not(debug_assertions))]
        let _ = rank;
        Self(
            #[cfg(debug_assertions)]
            rank,
        )
    }
    #[inline(always)]
    const fn get(self) -> Rank {
        #[cfg(debug_assertions)]
        return self.0;
        #[cfg(not(debug_assertions))]
        Rank::Leaf
    }
}

/// What a CPU does while it waits for a lock.
#[cfg(not(test))]
type Relax = spin::relax::Spin;

/// A thread that plays a CPU lets the others run: the one that holds the lock may be among them.
#[cfg(test)]
struct Relax;

#[cfg(test)]
impl spin::relax::RelaxStrategy for Relax {
    fn relax() {
        crate::testing::interleave::relax();
    }
}

/// A ticket lock with a place in the order.
#[derive(Debug)]
pub struct Lock<T: ?Sized> {
    rank: RankTag,
    inner: spin::mutex::TicketMutex<T, Relax>,
}

/// The right to use what a [`Lock`] guards; dropping it unlocks.
#[derive(Debug)]
pub struct LockGuard<'a, T: ?Sized> {
    // Unlocked first, then taken off the list: fields drop in this order.
    inner: spin::mutex::TicketMutexGuard<'a, T, Relax>,
    _held: Held,
}

impl<T> Lock<T> {
    /// A free lock around `value`.
    pub const fn new(rank: Rank, value: T) -> Self {
        Self {
            rank: RankTag::new(rank),
            inner: spin::mutex::TicketMutex::new(value),
        }
    }

    /// Takes two locks of one rank without deadlock, in the order of their addresses.
    /// `None` in the second place when both are the same lock.
    #[track_caller]
    pub fn pair<'a>(a: &'a Self, b: &'a Self) -> (LockGuard<'a, T>, Option<LockGuard<'a, T>>) {
        if core::ptr::eq(a, b) {
            return (a.lock(), None);
        }
        if core::ptr::from_ref(a) < core::ptr::from_ref(b) {
            let first = a.lock();
            let second = b.lock_second();
            (first, Some(second))
        } else {
            let second = b.lock();
            let first = a.lock_second();
            (first, Some(second))
        }
    }

    fn lock_second(&self) -> LockGuard<'_, T> {
        let held = Held::enter_unordered(self.rank.get());
        LockGuard {
            inner: self.inner.lock(),
            _held: held,
        }
    }

    /// The value, when nobody else can have it.
    pub fn into_inner(self) -> T {
        self.inner.into_inner()
    }
}

impl<T: ?Sized> Lock<T> {
    /// Waits for the lock.
    #[inline]
    #[track_caller]
    pub fn lock(&self) -> LockGuard<'_, T> {
        #[cfg(test)]
        crate::testing::step();
        let held = Held::enter(self.rank.get());
        LockGuard {
            inner: self.inner.lock(),
            _held: held,
        }
    }

    /// Takes the lock if it is free; not bound to the order, because it does not wait.
    #[inline]
    pub fn try_lock(&self) -> Option<LockGuard<'_, T>> {
        self.inner.try_lock().map(|inner| LockGuard {
            inner,
            _held: Held::enter_unordered(self.rank.get()),
        })
    }

    /// Waits for the lock, but not for ever: for reports about a hypervisor that may be stuck.
    pub fn lock_patiently(&self) -> Option<LockGuard<'_, T>> {
        patiently(|| self.try_lock())
    }

    /// The value, when nobody else can have it.
    pub fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut()
    }

    /// Whether anybody holds it; only a hint.
    pub fn is_locked(&self) -> bool {
        self.inner.is_locked()
    }
}

impl<T: ?Sized> Deref for LockGuard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        &self.inner
    }
}
impl<T: ?Sized> DerefMut for LockGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

/// A readers-writer lock with a place in the order.
#[derive(Debug)]
pub struct RwLock<T: ?Sized> {
    rank: RankTag,
    inner: spin::rwlock::RwLock<T, Relax>,
}

/// Shared use of what an [`RwLock`] guards.
#[derive(Debug)]
pub struct ReadGuard<'a, T: ?Sized> {
    inner: spin::rwlock::RwLockReadGuard<'a, T, Relax>,
    _held: Held,
}

/// Exclusive use of what an [`RwLock`] guards.
#[derive(Debug)]
pub struct WriteGuard<'a, T: ?Sized> {
    inner: spin::rwlock::RwLockWriteGuard<'a, T, Relax>,
    _held: Held,
}

impl<T> RwLock<T> {
    /// A free lock around `value`.
    pub const fn new(rank: Rank, value: T) -> Self {
        Self {
            rank: RankTag::new(rank),
            inner: spin::rwlock::RwLock::new(value),
        }
    }
}

impl<T: ?Sized> RwLock<T> {
    /// Waits until no writer holds the lock.
    #[inline]
    #[track_caller]
    pub fn read(&self) -> ReadGuard<'_, T> {
        #[cfg(test)]
        crate::testing::step();
        let held = Held::enter(self.rank.get());
        ReadGuard {
            inner: self.inner.read(),
            _held: held,
        }
    }

    /// Waits until nobody holds the lock.
    #[inline]
    #[track_caller]
    pub fn write(&self) -> WriteGuard<'_, T> {
        #[cfg(test)]
        crate::testing::step();
        let held = Held::enter(self.rank.get());
        WriteGuard {
            inner: self.inner.write(),
            _held: held,
        }
    }
}

impl<T: ?Sized> RwLock<T> {
    /// Waits until no writer holds the lock, but not for ever: see [`Lock::lock_patiently`].
    pub fn read_patiently(&self) -> Option<ReadGuard<'_, T>> {
        let inner = patiently(|| self.inner.try_read())?;
        Some(ReadGuard {
            inner,
            _held: Held::enter_unordered(self.rank.get()),
        })
    }
}

/// How often a patient caller asks again: somewhat below a second.
const PATIENCE: u32 = if cfg!(test) { 1 << 8 } else { 1 << 24 };

fn patiently<R>(ask: impl Fn() -> Option<R>) -> Option<R> {
    for _ in 0..PATIENCE {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        core::hint::spin_loop();
    }
    None
}

impl<T: ?Sized> Deref for ReadGuard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        &self.inner
    }
}
impl<T: ?Sized> Deref for WriteGuard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        &self.inner
    }
}
impl<T: ?Sized> DerefMut for WriteGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_fit_the_held_set() {
        assert!(RANKS.len() <= 64);
        assert!(RANKS.windows(2).all(|w| w[0].0 < w[1].0));
    }

    #[test]
    fn the_page_lists_the_same_ranks() {
        let page = include_str!("../../../docs/locking.md");
        let table: String = RANKS
            .iter()
            .map(|&(rank, doc)| format!("| {} | `{rank:?}` | {doc} |\n", rank as u8))
            .collect();
        assert!(
            page.contains(&table),
            "docs/locking.md should have:\n{table}"
        );
    }

    #[test]
    fn ascending_order_passes_and_unlocks() {
        let (outer, inner) = (Lock::new(Rank::P2m, 1), Lock::new(Rank::Heap, 2));
        {
            let a = outer.lock();
            let b = inner.lock();
            assert_eq!(*a + *b, 3);
        }
        assert_none_held();
        assert!(!outer.is_locked() && !inner.is_locked());
    }

    #[test]
    #[should_panic(expected = "lock order")]
    fn descending_order_panics() {
        let (outer, inner) = (Lock::new(Rank::P2m, 1), Lock::new(Rank::Heap, 2));
        let _b = inner.lock();
        let _a = outer.lock();
    }

    #[test]
    #[should_panic(expected = "lock order")]
    fn same_rank_twice_panics() {
        let (a, b) = (RwLock::new(Rank::P2m, 1), Lock::new(Rank::P2m, 2));
        let _a = a.read();
        let _b = b.lock();
    }

    #[test]
    fn a_pair_is_taken_in_one_order_and_released() {
        let (a, b) = (
            Lock::new(Rank::GrantTable, 'a'),
            Lock::new(Rank::GrantTable, 'b'),
        );
        for (x, y) in [(&a, &b), (&b, &a)] {
            let (gx, gy) = Lock::pair(x, y);
            assert!(a.is_locked() && b.is_locked());
            assert_ne!(Some(*gx), gy.as_deref().copied());
        }
        let (_, second) = Lock::pair(&a, &a);
        assert!(second.is_none());
        drop(second);
        assert_none_held();
    }

    #[test]
    fn try_lock_is_outside_the_order_but_counts_as_held() {
        let (outer, inner) = (Lock::new(Rank::P2m, ()), Lock::new(Rank::Heap, ()));
        let b = inner.lock();
        let a = outer.try_lock().expect("it is free");
        assert!(outer.try_lock().is_none());
        drop((a, b));
        assert_none_held();
    }

    #[test]
    fn patience_ends() {
        let lock = Lock::new(Rank::Heap, 1);
        assert_eq!(lock.lock_patiently().as_deref(), Some(&1));
        let table = RwLock::new(Rank::Leaf, 2);
        assert_eq!(table.read_patiently().as_deref(), Some(&2));
        let (held, writer) = (lock.lock(), table.write());
        std::thread::scope(|s| {
            s.spawn(|| {
                assert!(lock.lock_patiently().is_none());
                assert!(table.read_patiently().is_none());
            });
        });
        drop((held, writer));
        assert_none_held();
    }

    #[test]
    fn writers_exclude_each_other() {
        let counter = RwLock::new(Rank::Leaf, 0u32);
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    for _ in 0..1000 {
                        *counter.write() += 1;
                    }
                });
            }
        });
        assert_eq!(*counter.read(), 4000);
    }
}
