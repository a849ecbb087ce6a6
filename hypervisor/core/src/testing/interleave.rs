//! Several vCPUs as tasks of one thread, whose order is drawn from a seed.
//!
//! A *schedule* is one run of a scene. A task is interrupted only where it takes a lock, uses an
//! atomic word ([`crate::sync::atomic`]) or touches the machine's memory: [`point`]. There the seed
//! of the schedule decides who goes on, so the same seed repeats the same interleaving, and each
//! is one that a machine without reordering could show. Shuttle switches the tasks and notices when
//! all of them wait for ever; who comes next is decided here, so that one number is enough to
//! repeat a schedule.
//!
//! `RADON_SCHEDULES=1000000 RADON_SEED=7 cargo test --release -p radon-core interleaved` goes on for
//! longer; a failure says the seed that repeats it.

use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use core::time::Duration;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use malice::Rng;
use shuttle::scheduler::{Schedule, Scheduler, Task, TaskId};

std::thread_local! {
    /// This thread runs tasks.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Another task may run here. Nothing happens outside of [`explore`].
#[inline]
pub(crate) fn point() {
    if INSIDE.get() && !std::thread::panicking() {
        // Shuttle has no time: this is the plain switch.
        shuttle::thread::sleep(Duration::ZERO);
    }
}

/// The task waits for another one, which may be any.
pub(crate) fn relax() {
    if !INSIDE.get() {
        std::thread::yield_now();
    } else if !std::thread::panicking() {
        shuttle::thread::yield_now();
    }
}

/// Number of the task that runs; 0 outside.
pub(crate) fn task() -> usize {
    if INSIDE.get() {
        shuttle::current::try_get_current_task().map_or(0, usize::from)
    } else {
        0
    }
}

/// Who goes on at each point of a schedule.
struct Order {
    seed: Arc<AtomicU64>,
    next: u64,
    end: u64,
    rng: Rng,
    /// The task that runs is interrupted once in so many points; 1 is anybody at each.
    every: u64,
    /// Interruptions to come.
    left: u32,
    /// Of each task; the highest goes on.
    ranks: Vec<u64>,
    last: u64,
}

impl Scheduler for Order {
    fn new_execution(&mut self) -> Option<Schedule> {
        if self.next == self.end {
            return None;
        }
        self.seed.store(self.next, Relaxed);
        self.rng = Rng(self.next);
        self.next += 1;
        // Many interruptions find other faults than a few do, after which the others end first.
        self.every = self.rng.pick(&[1, 3, 10, 30, 100]);
        self.left = self.rng.pick(&[1, 2, 3, u32::MAX]);
        self.ranks.clear();
        self.last = 1 << 32;
        Some(Schedule::new(0))
    }

    fn next_task(
        &mut self,
        runnable: &[&Task],
        current: Option<TaskId>,
        is_yielding: bool,
    ) -> Option<TaskId> {
        if self.every == 1 && !is_yielding {
            return Some(self.rng.pick(runnable).id());
        }
        let is_interrupted = runnable.len() > 1 && self.left > 0 && self.rng.once_in(self.every);
        if let Some(current) = current.map(usize::from)
            && (is_interrupted || is_yielding)
            && let Some(rank) = self.ranks.get_mut(current)
        {
            self.left -= u32::from(is_interrupted);
            self.last -= 1;
            *rank = self.last;
        }
        let highest = runnable.iter().max_by_key(|task| {
            let id = usize::from(task.id());
            while self.ranks.len() <= id {
                self.ranks.push((1 << 33) + self.rng.below(1 << 33));
            }
            self.ranks[id]
        });
        highest.map(|task| task.id())
    }

    fn next_u64(&mut self) -> u64 {
        self.rng.draw()
    }
}

/// Number from the environment.
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs a scene in so many schedules; it is told the seed of each, to draw what happens from it.
pub(crate) fn explore(schedules: u64, scene: impl Fn(u64) + Send + Sync + 'static) {
    let first = setting("RADON_SEED").unwrap_or(1);
    let schedules = setting("RADON_SCHEDULES").unwrap_or(schedules);
    let seed = Arc::new(AtomicU64::new(first));
    let order = Order {
        seed: seed.clone(),
        next: first,
        end: first + schedules,
        rng: Rng(first),
        every: 1,
        left: 0,
        ranks: Vec::new(),
        last: 0,
    };
    let mut config = shuttle::Config::new();
    config.stack_size = 1 << 20;
    config.failure_persistence = shuttle::FailurePersistence::None;
    config.silence_warnings = true;
    config
        .ungraceful_shutdown_config
        .immediately_return_on_panic = true;
    let of_scene = seed.clone();
    let runner = shuttle::Runner::new(order, config);
    INSIDE.set(true);
    let run = AssertUnwindSafe(|| runner.run(move || scene(of_scene.load(Relaxed))));
    let result = catch_unwind(run);
    INSIDE.set(false);
    if let Err(panic) = result {
        let seed = seed.load(Relaxed);
        std::eprintln!("RADON_SEED={seed} RADON_SCHEDULES=1 repeats this schedule");
        resume_unwind(panic);
    }
}

/// Runs some tasks until all of them have ended.
pub(crate) fn together<'a>(tasks: impl IntoIterator<Item = Box<dyn FnOnce() + Send + 'a>>) {
    shuttle::thread::scope(|s| {
        for task in tasks {
            s.spawn(task);
        }
    });
}

mod tests {
    use super::*;
    use crate::sync::atomic::AtomicU32;
    use crate::sync::{Lock, Rank};

    /// Two tasks that read, add and write: what they end with, over some schedules.
    fn sums(add: fn(&AtomicU32, &Lock<()>)) -> Vec<u32> {
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        let ends = seen.clone();
        explore(200, move |_| {
            let (word, lock) = (AtomicU32::new(0), Lock::new(Rank::Leaf, ()));
            together((0..2).map(|_| Box::new(|| add(&word, &lock)) as Box<dyn FnOnce() + Send>));
            ends.lock().unwrap().push(word.load(Relaxed));
        });
        Arc::try_unwrap(seen).unwrap().into_inner().unwrap()
    }

    #[test]
    fn tasks_interrupt_each_other_where_nothing_keeps_them_apart() {
        let racing = sums(|word, _| word.store(word.load(Relaxed) + 1, Relaxed));
        assert!(racing.contains(&1) && racing.contains(&2));
        let locked = sums(|word, lock| {
            let _held = lock.lock();
            word.store(word.load(Relaxed) + 1, Relaxed);
        });
        assert!(locked.iter().all(|&sum| sum == 2));
    }

    #[test]
    fn a_seed_repeats_its_schedule() {
        let racing = || sums(|word, _| word.store(word.load(Relaxed) + 1, Relaxed));
        assert_eq!(racing(), racing());
    }
}
