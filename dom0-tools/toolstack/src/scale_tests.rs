//! A thousand domains: how many questions to hypervisor and store an operation takes.

use xen_abi::DomId;

use crate::testing::{FakeDomain, World};
use crate::{Hypervisor as _, create, destroy, records};

/// A machine with so many domains that run already.
fn machine(domains: u16) -> World {
    let mut world = World::new();
    // Numbers above that of the domain that the test makes.
    for d in 1000..1000 + domains {
        let domain = FakeDomain::default();
        world.hypervisor.domains.borrow_mut().insert(d, domain);
        let path = format!("/local/domain/{d}/name");
        world.store.nodes.insert(path, format!("guest-{d}"));
        let path = format!("/local/domain/0/backend/vbd/{d}/51712/physical-device");
        world.store.nodes.insert(path, "8:1".to_owned());
    }
    world
}

/// Hypercalls and requests to the store that `work` takes.
fn asked(world: &mut World, work: impl FnOnce(&mut World)) -> u32 {
    let calls = |world: &World| {
        let changes = world.store.fuse.calls.get();
        world.hypervisor.fuse.calls.get() + world.store.reads + changes
    };
    let before = calls(world);
    work(world);
    calls(world) - before
}

/// To list, to make one more, and to destroy that, with so many domains beside it.
fn costs(domains: u16) -> [u32; 3] {
    let mut world = machine(domains);
    let listed = asked(&mut world, |world| {
        let all = world.hypervisor.domains().expect("allowed");
        let named = all.iter().filter(|info| {
            let name = records::name(&mut world.store, info.domain());
            name.expect("allowed").is_some()
        });
        assert_eq!(named.count(), usize::from(domains));
    });
    let text = "name = 'a'\ntype = 'pvh'\nmemory = 64\nkernel = '/k'\n\
        disk = ['/a.img,raw,xvda,rw']\nvif = ['bridge=xenbr0']\n";
    let Ok((config, _)) = xlcfg::load(&xlcfg::Source::new("t.cfg", text)) else {
        panic!("it is well-formed");
    };
    let made = asked(&mut world, |world| {
        let created = create(&mut world.machine(), &config, text).expect("room");
        assert_eq!(created.d, DomId(1));
    });
    let destroyed = asked(&mut world, |world| {
        destroy(&mut world.machine(), DomId(1)).expect("it is there");
    });
    assert_eq!(
        world.hypervisor.domains.borrow().len(),
        usize::from(domains)
    );
    [listed, made, destroyed]
}

#[test]
fn questions_grow_no_faster_than_domains() {
    let [none, few, many] = [0, 100, 1000].map(costs);
    // A name each, and of the fake a hypercall each, where a real one lists 256 domains at a time.
    assert_eq!([none[0], few[0], many[0]], [0, 200, 2000]);
    // To make one asks for each name, since the store has no other way to find one, and for each
    // disk, of which domain and device it is.
    assert!(few[1] <= none[1] + 301, "{none:?} {few:?}");
    assert!(many[1] <= none[1] + 3001, "{none:?} {many:?}");
    assert_eq!((few[2], many[2]), (none[2], none[2]), "to destroy one");
}
