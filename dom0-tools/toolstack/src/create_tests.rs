use super::*;
use crate::lifecycle::{self, Outcome};
use crate::testing::World;
use crate::{Hypervisor as _, Store as _, destroy_abandoned};
use xen_abi::Gfn;
use xen_abi::hvm_params::{HVM_PARAM_CONSOLE_PFN, HVM_PARAM_STORE_EVTCHN, HVM_PARAM_STORE_PFN};

const TEXT: &str = "name = 'a'\ntype = 'pvh'\nmemory = 64\nkernel = '/k'\nramdisk = '/r'\nextra = 'x=1'\n\
    vcpus = 1\nmaxvcpus = 2\ncpu_weight = 512\ncpus = '0-1'\n\
    disk = ['/a.img,raw,xvda,rw', '/a.img,raw,xvdb,ro']\nvif = ['bridge=xenbr0', '']\n";

fn config(text: &str) -> Config {
    let source = xlcfg::Source::new("t.cfg", text);
    match xlcfg::load(&source) {
        Ok((config, _)) => config,
        Err(problems) => panic!("{}", problems.render(&source)),
    }
}

fn make(world: &mut World, text: &str) -> Result<Created> {
    create(&mut world.machine(), &config(text), text)
}

#[test]
fn a_guest_has_memory_rings_nodes_and_devices() {
    let mut world = World::new();
    let created = make(&mut world, TEXT).unwrap();
    assert_eq!(created.d, DomId(1));
    {
        let domains = world.hypervisor.domains.borrow();
        let domain = &domains[&1];
        // RAM, eight special pages, one of ACPI tables.
        assert_eq!(domain.frames.len(), (64 << 8) + 8 + 1);
        assert_eq!(domain.params[&HVM_PARAM_STORE_PFN], STORE_GFN.0);
        assert_eq!(domain.params[&HVM_PARAM_CONSOLE_PFN], CONSOLE_GFN.0);
        assert_eq!(domain.params[&HVM_PARAM_STORE_EVTCHN], 1);
        assert_eq!(domain.grants.len(), 2);
        assert!(domain.is_paused && !domain.context.is_empty());
        assert!(domain.frames.contains(&STORE_GFN.0) && domain.frames.contains(&CONSOLE_GFN.0));
    }
    assert!(world.store.introduced.contains(&1));
    let mut node = |path: &str| world.store.read(path).unwrap().unwrap_or_default();
    assert_eq!(node("/local/domain/1/name"), "a");
    assert_eq!(node("/local/domain/1/memory/target"), "65536");
    assert_eq!(node("/local/domain/1/cpu/0/availability"), "online");
    assert_eq!(node("/local/domain/1/cpu/1/availability"), "offline");
    assert_eq!(node("/local/domain/1/console/port"), "2");
    assert_eq!(
        node("/local/domain/0/backend/vbd/1/51712/physical-device"),
        "7:1"
    );
    assert_eq!(node("/local/domain/0/backend/vbd/1/51728/mode"), "r");
    assert_eq!(node("/local/domain/1/device/vbd/51712/state"), "1");
    assert_eq!(
        node("/local/domain/0/backend/vif/1/1/hotplug-status"),
        "connected"
    );
    assert_eq!(
        node("/local/domain/1/device/vif/0/mac"),
        "00:16:3e:56:56:56"
    );
    assert_eq!(world.host.ports["vif1.0"], "xenbr0");
    assert_eq!(world.host.files.len(), 4);

    destroy(&mut world.machine(), created.d).unwrap();
    world.assert_clean("after destroy");
}

#[test]
fn an_error_at_any_step_leaves_nothing() {
    for seam in 0..4 {
        let mut at = 0;
        loop {
            let mut world = World::new();
            world.blow(seam, at);
            let outcome = make(&mut world, TEXT);
            if !world.has_blown(seam) {
                outcome.unwrap();
                break;
            }
            let error = outcome.expect_err("a call failed unnoticed");
            assert!(error.to_string().starts_with("creating a"), "{error}");
            world.assert_clean(&format!("seam {seam}, call {at}, {error}"));
            at += 1;
        }
        assert!(at > 2, "seam {seam} was hardly used");
    }
}

#[test]
fn a_guest_that_cannot_start_does_not_stay_paused() {
    let mut world = World::new();
    let d = make(&mut world, TEXT).unwrap().d;
    start(&mut world.machine(), d).unwrap();
    assert!(!world.hypervisor.domains.borrow()[&d.0].is_paused);
    world.blow(0, 0);
    let error = start(&mut world.machine(), d).unwrap_err().to_string();
    assert!(error.starts_with("starting domain 1"), "{error}");
    world.assert_clean("not started");
}

#[test]
fn what_cannot_work_is_refused_with_a_remedy() {
    let cases: &[(&str, &str, &str)] = &[
        ("type = 'pv'", "PV guests", "type = \"pvh\""),
        ("type = 'hvm'", "HVM guests", "type = \"pvh\""),
        ("kernel = '/none'", "kernel = \"/none\"", "dom0's"),
        ("kernel = '/r'", "loading the kernel /r", ""),
        (
            "memory = 2000",
            "needs 2001 MiB, 1024 MiB are free",
            "xl mem-set",
        ),
        ("memory = 1", "need", "set memory ="),
        ("disk = ['/none,raw,xvda']", "not found", ""),
        ("disk = ['/a.img,qcow2,xvda']", "qcow2", "qemu-img"),
        ("vif = ['bridge=other']", "no bridge other", "xenbr0"),
        ("vif = ['bridge=eth0']", "eth0 is no bridge", "xenbr0"),
        ("vif = ['script=/x/mine']", "/x/mine is not run", "script="),
        ("cpus = '7'", "none of these CPUs", "0 to 1"),
        ("pool = 'x'", "Pool-0", "remove pool"),
    ];
    for (line, what, help) in cases {
        let mut world = World::new();
        let error = make(&mut world, &format!("{TEXT}{line}\n")).unwrap_err();
        let text = error.to_string().to_lowercase();
        let has = |part: &str| text.contains(&part.to_lowercase());
        assert!(has(what) && has(help), "{line}: {error}");
        world.assert_clean(line);
    }
}

#[test]
fn silent_backends_and_missing_drivers_are_told_apart() {
    let mut world = World::new();
    world.host.answers = false;
    let error = make(&mut world, TEXT).unwrap_err().to_string();
    assert!(error.contains("did not answer"), "{error}");
    world.assert_clean("silent");
    world.host.has_drivers = false;
    let error = make(&mut world, TEXT).unwrap_err().to_string();
    assert!(error.contains("modprobe xen-blkback"), "{error}");
    world.assert_clean("no driver");
}

#[test]
fn names_are_unique() {
    let mut world = World::new();
    make(&mut world, TEXT).unwrap();
    let error = make(&mut world, TEXT).unwrap_err().to_string();
    assert!(error.contains("domain 1 has this name"), "{error}");
    make(&mut world, &format!("{TEXT}name = 'b'\ndisk = []\n")).unwrap();
    let error = lifecycle::rename(&mut world.machine(), DomId(2), "a").unwrap_err();
    assert!(error.to_string().contains("domain 1"), "{error}");
    lifecycle::rename(&mut world.machine(), DomId(2), "c").unwrap();
    let d = crate::records::find(&mut world.machine(), "c").unwrap();
    assert_eq!(d, DomId(2));
}

#[test]
fn ends_have_the_consequences_that_the_configuration_names() {
    let cases = [
        ("on_poweroff = 'destroy'", 0, Outcome::Gone),
        ("on_poweroff = 'preserve'", 0, Outcome::Kept),
        ("on_reboot = 'restart'", 1, Outcome::Restarted(DomId(2))),
        (
            "on_crash = 'rename-restart'",
            3,
            Outcome::Restarted(DomId(2)),
        ),
        ("on_watchdog = 'coredump-destroy'", 4, Outcome::Gone),
    ];
    for (line, reason, wanted) in cases {
        let text = format!("{TEXT}{line}\n");
        let config = config(&text);
        let mut world = World::new();
        make(&mut world, &text).unwrap();
        world.hypervisor.remote_shutdown(DomId(1), reason).unwrap();
        let ending = lifecycle::ending(&world.machine(), DomId(1)).unwrap();
        assert_eq!(ending, Some(lifecycle::Ending::Stopped(reason)));
        let mut machine = world.machine();
        let outcome = lifecycle::act(&mut machine, DomId(1), reason, &config, &text).unwrap();
        assert_eq!(outcome, wanted, "{line}");
        let domains = world.hypervisor.domains.borrow();
        let is_old_there = domains.contains_key(&1);
        let is_kept = wanted == Outcome::Kept || line.contains("rename");
        assert_eq!(is_old_there, is_kept, "{line}");
        if let Outcome::Restarted(new) = wanted {
            assert!(!domains[&new.0].is_paused);
        }
    }
}

/// The default of `on_soft_reset` is what cannot be done: that is told when it comes to it.
#[test]
fn a_soft_reset_that_becomes_a_restart_is_told() {
    let told = |line: &str, reason| lifecycle::notice(&config(&format!("{TEXT}{line}\n")), reason);
    let notice = told("", 5).unwrap();
    assert!(
        notice.contains("a is destroyed and created again"),
        "{notice}"
    );
    assert_eq!(told("on_soft_reset = 'restart'", 5), None);
    assert_eq!(told("", 1), None);
    let warnings = |line: &str| warn_unsupported(&config(&format!("{TEXT}{line}\n")));
    assert_eq!(warnings("on_crash = 'coredump-restart'"), [""; 0]);
    assert!(warnings("on_crash = 'soft-reset'")[0].contains("on_crash"));
}

#[test]
fn memory_and_vcpus_have_limits() {
    let mut world = World::new();
    make(&mut world, TEXT).unwrap();
    let d = DomId(1);
    let mut machine = world.machine();
    assert!(lifecycle::set_memory(&mut machine, d, 65 << 10).is_err());
    lifecycle::set_memory(&mut machine, d, 32 << 10).unwrap();
    assert!(lifecycle::set_vcpus(&mut machine, d, 3).is_err());
    assert!(lifecycle::set_vcpus(&mut machine, d, 0).is_err());
    lifecycle::set_vcpus(&mut machine, d, 2).unwrap();
    let max = world.hypervisor.domains.borrow()[&1].max_kib;
    assert_eq!(max, (32 << 10) + SLACK_KIB);
    let target = world.store.read("/local/domain/1/memory/target").unwrap();
    assert_eq!(target.as_deref(), Some("32768"));
    let online = world
        .store
        .read("/local/domain/1/cpu/1/availability")
        .unwrap();
    assert_eq!(online.as_deref(), Some("online"));
    assert!(
        world
            .hypervisor
            .populate(d, &[Gfn(1 << 30)], xen_abi::Order(0))
            .is_ok()
    );
}

#[test]
fn memory_limits_keep_order_and_leave_dom0_alive() {
    let mut world = World::new();
    make(&mut world, TEXT).unwrap();
    let d = DomId(1);
    let mut machine = world.machine();
    let error = lifecycle::set_max_memory(&mut machine, d, 63 << 10).unwrap_err();
    assert!(
        error.to_string().contains("less than the 64 MiB"),
        "{error}"
    );
    lifecycle::set_memory(&mut machine, d, 32 << 10).unwrap();
    lifecycle::set_max_memory(&mut machine, d, 63 << 10).unwrap();
    let dom0 = crate::testing::FakeDomain::default();
    world.hypervisor.domains.borrow_mut().insert(0, dom0);
    let mut machine = world.machine();
    let error = lifecycle::set_memory(&mut machine, DomId(0), 2 << 10).unwrap_err();
    assert!(error.to_string().contains("less than 128 MiB"), "{error}");
    lifecycle::set_memory(&mut machine, DomId(0), 128 << 10).unwrap();
}

#[test]
fn dom0_is_not_destroyed() {
    let mut world = World::new();
    let error = destroy(&mut world.machine(), DomId(0)).unwrap_err();
    assert!(error.to_string().contains("control domain"), "{error}");
}

/// The configuration of a guest with this UUID.
fn with_uuid(name: &str) -> String {
    format!("{TEXT}name = '{name}'\nuuid = '01234567-89ab-cdef-0123-456789abcdef'\n")
}

#[test]
fn a_uuid_belongs_to_one_domain() {
    let mut world = World::new();
    let Created { d, uuid } = make(&mut world, &with_uuid("a")).unwrap();
    let before = world.store.nodes.clone();
    let error = make(&mut world, &with_uuid("b")).unwrap_err().to_string();
    assert!(
        error.contains("domain 1 has the UUID") && error.contains("remove uuid"),
        "{error}"
    );
    assert_eq!(world.store.nodes, before);
    // One that is being destroyed has its nodes until it is destroyed, though others may hold
    // its memory for long.
    let zombie = || crate::testing::FakeDomain {
        handle: uuid.0,
        is_dying: true,
        ..Default::default()
    };
    world.hypervisor.domains.borrow_mut().insert(d.0, zombie());
    make(&mut world, &with_uuid("b")).unwrap_err();
    destroy(&mut world.machine(), d).unwrap();
    world.hypervisor.domains.borrow_mut().insert(d.0, zombie());
    make(&mut world, &with_uuid("b")).unwrap();
    // Destroying that again takes nothing from the other.
    destroy(&mut world.machine(), d).unwrap();
    assert!(world.store.nodes.contains_key(&format!("/vm/{uuid}/name")));
}

#[test]
fn what_a_killed_create_has_made_is_destroyed_and_nothing_else() {
    let mark = Uuid([7; 16]);
    let abandon = |world: &mut World, uuid, told| {
        destroy_abandoned(&mut world.machine(), mark, uuid, told).unwrap()
    };
    for text in [TEXT.to_owned(), with_uuid("a")] {
        let mut world = World::new();
        let config = config(&text);
        // Killed before it has made anything.
        assert_eq!(abandon(&mut world, config.uuid, None), None);
        let mut told = None;
        let made = create_marked(&mut world.machine(), &config, &text, mark, &mut |d| {
            told = Some(d);
            Ok(())
        });
        let made = made.unwrap();
        assert_eq!(
            (told, made.uuid),
            (Some(made.d), config.uuid.unwrap_or(mark))
        );
        assert_eq!(abandon(&mut world, config.uuid, told), told);
        world.assert_clean("killed");
        // Killed before it could tell.
        let made = world
            .hypervisor
            .create_domain(&domain_config(&config, mark));
        assert_eq!(abandon(&mut world, config.uuid, None), made.ok());
        world.assert_clean("killed early");
    }
    // Another one that was killed before it was refused.
    let mut world = World::new();
    let Created { d, uuid } = make(&mut world, &with_uuid("a")).unwrap();
    assert_eq!(abandon(&mut world, Some(uuid), None), None);
    assert!(world.hypervisor.domains.borrow().contains_key(&d.0));
}

#[test]
fn a_domain_whose_number_nobody_hears_is_not_made() {
    let mut world = World::new();
    let (config, mark) = (config(TEXT), Uuid([7; 16]));
    let deaf = &mut |_| Err(Error::new("", "nobody listens", ""));
    create_marked(&mut world.machine(), &config, TEXT, mark, deaf).unwrap_err();
    world.assert_clean("deaf");
}

#[test]
fn a_guest_that_is_kept_leaves_its_uuid_to_the_next() {
    let text = format!("{}on_crash = 'rename-restart'\n", with_uuid("a"));
    let config = config(&text);
    let mut world = World::new();
    let Created { d, uuid } = make(&mut world, &text).unwrap();
    world.hypervisor.remote_shutdown(d, 3).unwrap();
    let mut machine = world.machine();
    let outcome = lifecycle::act(&mut machine, d, 3, &config, &text).unwrap();
    assert_eq!(outcome, Outcome::Restarted(DomId(2)));
    let handle = |d| records::uuid(&world.hypervisor, DomId(d)).unwrap();
    let kept = handle(1);
    assert_eq!(handle(2), uuid);
    assert_ne!(kept, uuid);
    let nodes = world.store.nodes.clone();
    assert_eq!(nodes["/local/domain/1/vm"], format!("/vm/{kept}"));
    assert_eq!(nodes[&format!("/vm/{kept}/name")], "a-1");
    assert_eq!(nodes[&format!("/vm/{kept}/uuid")], kept.to_string());
    assert!(nodes.contains_key(&format!("/vm/{kept}/start_time")));
    assert_eq!(nodes["/local/domain/2/vm"], format!("/vm/{uuid}"));
    assert_eq!(nodes[&format!("/vm/{uuid}/name")], "a");
    assert_eq!(records::config(&mut world.host, d, kept).unwrap(), text);
    destroy(&mut world.machine(), d).unwrap();
    assert!(world.store.nodes.contains_key(&format!("/vm/{uuid}/name")));
    destroy(&mut world.machine(), DomId(2)).unwrap();
    world.assert_clean("both destroyed");
}

#[test]
fn a_lost_store_leaves_nothing_of_what_is_destroyed() {
    for at in 0.. {
        let mut world = World::new();
        let d = make(&mut world, TEXT).unwrap().d;
        world.blow(3, at);
        world.store.absence = at % 3;
        destroy(&mut world.machine(), d).unwrap();
        world.assert_clean(&format!("request {at}"));
        if !world.has_blown(3) {
            assert!(at > 5, "the store was hardly used");
            break;
        }
    }
}

#[test]
fn what_the_store_has_of_a_dead_domain_shadows_nobody_and_goes() {
    let mut world = World::new();
    let dead = make(&mut world, &with_uuid("a")).unwrap();
    // It is gone, but nobody could tell the store.
    world.hypervisor.destroy_domain(dead.d).unwrap();
    let gone = |world: &mut World, text: &str| records::find(&mut world.machine(), text).is_err();
    assert!(gone(&mut world, "a") && gone(&mut world, "1"));
    let alive = make(&mut world, &with_uuid("a")).unwrap();
    let mut machine = world.machine();
    assert_eq!(records::by_name(&mut machine, "a").unwrap(), Some(alive.d));
    let found = records::find_with_remains(&mut machine, "a").unwrap();
    assert_eq!(found, alive.d);
    let found = records::find_with_remains(&mut machine, "1").unwrap();
    assert_eq!(found, dead.d);
    destroy(&mut machine, dead.d).unwrap();
    assert!(records::find_with_remains(&mut machine, "1").is_err());
    assert!(destroy(&mut machine, dead.d).is_err());
    // What the other has by the same name and UUID is there.
    let vm = format!("/vm/{}/name", alive.uuid);
    assert!(world.store.nodes.contains_key(&vm));
    world.hypervisor.destroy_domain(alive.d).unwrap();
    let mut machine = world.machine();
    let found = records::find_with_remains(&mut machine, "a").unwrap();
    assert_eq!(found, alive.d);
    let destroyed = destroy_abandoned(&mut machine, Uuid([7; 16]), None, Some(alive.d));
    assert_eq!(destroyed.unwrap(), Some(alive.d));
    world.assert_clean("remains");
}

#[test]
fn a_guest_that_keeps_a_device_keeps_nobody_else_waiting() {
    let mut world = World::new();
    let d = make(&mut world, TEXT).unwrap().d;
    let id = devices::DeviceId::vif(d, 0);
    let state = format!("{}/state", id.backend());
    world.store.nodes.insert(state, "4".to_owned());
    let error = devices::detach(&mut world.machine(), &id, false).unwrap_err();
    assert!(error.to_string().contains("did not let go"), "{error}");
    // The guest has it still, and others can have the lock.
    let vif = config(TEXT).vifs.remove(0);
    let other = devices::attach_vif(&mut world.machine(), d, &vif).unwrap();
    assert_eq!(other.devid, 2);
    devices::detach(&mut world.machine(), &id, true).unwrap();
    let left = devices::list(&mut world.machine(), d).unwrap();
    assert!(!left.contains(&id) && left.contains(&other));
    destroy(&mut world.machine(), d).unwrap();
    world.assert_clean("after that");
}
