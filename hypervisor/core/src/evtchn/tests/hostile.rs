//! A guest that scribbles over its words while the hypervisor uses them.

use proptest::prelude::*;
use xen_abi::Maddr;

use super::model::{DOMS, World, steps};
use super::{FRAMES, frame};
use crate::machine::FrameMem;

/// What a scribble hits: a word of shared_info, control blocks or event array.
fn scribble(world: &World, dom: u16, place: u32, value: u32) {
    let offset = match place % 4 {
        0 => u64::from(place >> 2) % 4096,
        1 => 4096 + u64::from(place >> 2) % 256,
        _ => 8192 + u64::from(place >> 2) % 200,
    };
    world
        .mem
        .store32(Maddr(frame(dom, 0).maddr().0 + (offset & !3)), value);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Its own events may go astray; the bindings stay right, the others get
    /// all of theirs, and no byte outside the words that it handed over changes.
    #[test]
    fn scribbling_hurts_only_the_scribbler(
        steps in steps(),
        words in proptest::collection::vec(any::<(u32, u32)>(), 250),
        fifo in any::<bool>(),
    ) {
        let mut world = World::new(Some(0));
        for dom in (0..DOMS).filter(|d| *d != 0 || fifo) {
            let table = &world.doms.0[usize::from(dom)];
            world.guests[usize::from(dom)].init_fifo(table, &world.mem);
        }
        for (step, &(place, value)) in steps.iter().zip(&words) {
            scribble(&world, 0, place, value);
            // Small links and single bits do more harm than random numbers.
            scribble(&world, 0, place.rotate_left(7), value & 0xf000_003f);
            world.step(step);
            world.check();
        }
        for dom in 0..DOMS {
            world.deliver(dom);
        }
        world.check();
        for dom in 0..DOMS {
            let mut rest = vec![0; ((FRAMES - 3) * 4096) as usize];
            world.mem.copy_from(frame(dom, 3).maddr(), &mut rest);
            prop_assert!(rest.iter().all(|&b| b == 0));
        }
    }
}
