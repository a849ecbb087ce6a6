use super::*;
use crate::lifecycle::{self, Outcome};
use crate::testing::World;
use crate::{Hypervisor as _, Store as _, create, destroy};

const TEXT: &str = "name = 'a'\ntype = 'pvh'\nmemory = 64\nkernel = '/k'\nvcpus = 1\nmaxvcpus = 2\n\
    disk = ['/a.img,raw,xvda,rw', '/a.img,raw,xvdb,ro']\nvif = ['bridge=xenbr0', '']\n";
const REBOOT: u32 = 1;

fn load(text: &str) -> Config {
    let source = xlcfg::Source::new("t.cfg", text);
    match xlcfg::load(&source) {
        Ok((config, _)) => config,
        Err(problems) => panic!("{}", problems.render(&source)),
    }
}

/// A machine where domain 1 is made from `text`.
fn world(text: &str) -> World {
    let mut world = World::new();
    let created = create(&mut world.machine(), &load(text), text).unwrap();
    assert_eq!(created.d, DomId(1));
    world
}

/// What the domain is now.
fn now(world: &mut World, d: DomId) -> Config {
    let machine = &mut world.machine();
    let uuid = records::uuid(machine.hypervisor, d).unwrap();
    let text = records::config(machine.host, d, uuid).unwrap();
    config(machine, d, uuid, &load(&text)).unwrap()
}

/// Restarts it as its kept text says.
fn restart(world: &mut World, d: DomId, reason: u32) -> DomId {
    world.hypervisor.remote_shutdown(d, reason).unwrap();
    let machine = &mut world.machine();
    let uuid = records::uuid(machine.hypervisor, d).unwrap();
    let text = records::config(machine.host, d, uuid).unwrap();
    match lifecycle::act(machine, d, reason, &load(&text), &text).unwrap() {
        Outcome::Restarted(new) => new,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_restart_keeps_what_was_chosen_and_what_was_changed() {
    let mut world = world(TEXT);
    let d = DomId(1);
    let machine = &mut world.machine();
    lifecycle::rename(machine, d, "b").unwrap();
    lifecycle::set_memory(machine, d, 32 << 10).unwrap();
    lifecycle::set_max_memory(machine, d, 48 << 10).unwrap();
    lifecycle::set_vcpus(machine, d, 2).unwrap();
    devices::detach(machine, &DeviceId::vif(d, 0), true).unwrap();
    let old = load(&format!(
        "{TEXT}disk = ['/a.img,raw,xvdc,ro']\nvif = ['devid=7']"
    ));
    devices::attach_disk(machine, d, &old.disks[0]).unwrap();
    devices::attach_vif(machine, d, &old.vifs[0]).unwrap();
    // Somebody else takes its first name meanwhile.
    let text = format!("{TEXT}disk = []\n");
    create(machine, &load(&text), &text).unwrap();

    let before = now(&mut world, d);
    assert_eq!(before.name, "b");
    assert_eq!((before.memory_mib, before.max_memory_mib), (32, 48));
    assert_eq!((before.vcpus, before.max_vcpus), (2, 2));
    let disks: Vec<&str> = before.disks.iter().map(|d| d.vdev.name.as_str()).collect();
    assert_eq!(disks, ["xvda", "xvdb", "xvdc"]);
    let cards: Vec<Option<u32>> = before.vifs.iter().map(|vif| vif.devid).collect();
    assert_eq!(cards, [Some(1), Some(7)]);
    assert!(before.uuid.is_some() && before.vifs.iter().all(|vif| vif.mac.is_some()));

    // Not only once.
    let d = restart(&mut world, d, REBOOT);
    assert_eq!(now(&mut world, d), before);
    let d = restart(&mut world, d, REBOOT);
    assert_eq!(now(&mut world, d), before);
    let mac = world.store.read("/local/domain/4/device/vif/1/mac");
    assert_eq!(d, DomId(4));
    let wanted = before.vifs[0].mac.map(crate::layout::mac_text);
    assert_eq!(mac.unwrap(), wanted);
}

#[test]
fn everything_of_a_device_is_found_again() {
    let text = "name = 'a'\ntype = 'pvh'\nmemory = 64\nkernel = '/k'\n\
        disk = ['vdev=xvda,no-discard,untrusted,target=/a.img', ',raw,hdc,cdrom', '/a.img,,xvdc1,r']\n\
        vif = ['mac=00:16:3e:01:02:0f,bridge=xenbr0,mtu=9000,rate=10Mb/s@20ms,ip=10.0.0.1,vifname=x,untrusted']\n";
    let mut world = world(text);
    let now = now(&mut world, DomId(1));
    let mut said = load(text);
    said.uuid = now.uuid;
    said.vifs[0].devid = Some(0);
    said.disks
        .iter_mut()
        .for_each(|disk| disk.span = Span::default());
    said.vifs
        .iter_mut()
        .for_each(|vif| vif.span = Span::default());
    said.disks.sort_by_key(|disk| disk.vdev.number);
    assert_eq!(now, said);
}

#[test]
fn an_updated_configuration_is_taken_as_it_stands() {
    let mut world = world(TEXT);
    let d = DomId(1);
    let before = now(&mut world, d);
    lifecycle::rename(&mut world.machine(), d, "b").unwrap();
    let other = "name = 'c'\ntype = 'pvh'\nmemory = 80\nkernel = '/k'\nvif = ['', '', '']\n";
    update(&mut world.machine(), d, &load(other), other).unwrap();
    let shown = now(&mut world, d);
    assert_eq!((shown.name.as_str(), shown.memory_mib), ("b", 64));

    let d = restart(&mut world, d, REBOOT);
    let after = now(&mut world, d);
    assert_eq!((after.name.as_str(), after.memory_mib), ("c", 80));
    assert!(after.disks.is_empty());
    // What it leaves open is as it was.
    assert_eq!(after.uuid, before.uuid);
    assert_eq!(after.vifs[..2], before.vifs);
    // It counts once: from here on the domain is kept as it is.
    lifecycle::rename(&mut world.machine(), d, "e").unwrap();
    let d = restart(&mut world, d, REBOOT);
    assert_eq!(now(&mut world, d).name, "e");
}

#[test]
fn an_updated_configuration_takes_nobodys_name() {
    let mut world = world(TEXT);
    let text = format!("{TEXT}name = 'b'\ndisk = []\n");
    create(&mut world.machine(), &load(&text), &text).unwrap();
    let error = update(&mut world.machine(), DomId(1), &load(&text), &text).unwrap_err();
    assert!(
        error.to_string().contains("domain 2 is called b"),
        "{error}"
    );
    let d = restart(&mut world, DomId(1), REBOOT);
    assert_eq!(now(&mut world, d).name, "a");
}

#[test]
fn addresses_of_before_are_not_given_twice() {
    let mut world = world(TEXT);
    let mac = now(&mut world, DomId(1)).vifs[0]
        .mac
        .map(crate::layout::mac_text);
    let text = format!("{TEXT}vif = ['', 'mac={}']\n", mac.unwrap());
    update(&mut world.machine(), DomId(1), &load(&text), &text).unwrap();
    let d = restart(&mut world, DomId(1), REBOOT);
    let now = now(&mut world, d);
    assert_ne!(now.vifs[0].mac, now.vifs[1].mac);
}

#[test]
fn a_domain_that_is_kept_gives_up_name_and_uuid() {
    let text = format!("{TEXT}on_crash = 'rename-restart'\n");
    let mut world = world(&text);
    let before = now(&mut world, DomId(1));
    let new = restart(&mut world, DomId(1), 3);
    assert_eq!(now(&mut world, new), before);
    let old = now(&mut world, DomId(1));
    assert_eq!(old.name, "a-1");
    assert_ne!(old.uuid, before.uuid);
    for d in [DomId(1), new] {
        let vm = world.store.read(&format!("{}/vm", domain_path(d)));
        let vm = vm.unwrap().unwrap();
        let name = world.store.read(&format!("{vm}/name")).unwrap();
        assert_eq!(name, Some(now(&mut world, d).name));
    }
    // The one that is kept can go, and takes nothing of the other's.
    destroy(&mut world.machine(), DomId(1)).unwrap();
    assert_eq!(now(&mut world, new), before);
    destroy(&mut world.machine(), new).unwrap();
    world.assert_clean("both gone");
}

#[test]
fn a_domain_that_cannot_be_set_aside_stays_whole() {
    let text = format!("{TEXT}on_crash = 'rename-restart'\n");
    for seam in 0..3 {
        let mut at = 0;
        loop {
            let mut world = world(&text);
            let before = now(&mut world, DomId(1));
            world.hypervisor.remote_shutdown(DomId(1), 3).unwrap();
            world.blow(seam, at);
            let machine = &mut world.machine();
            let outcome = lifecycle::act(machine, DomId(1), 3, &load(&text), &text);
            if !world.has_blown(seam) {
                outcome.unwrap();
                break;
            }
            let kept = now(&mut world, DomId(1));
            let is_aside = kept.name == "a-1" && kept.uuid != before.uuid;
            assert!(
                kept == before || is_aside,
                "seam {seam}, call {at}: {kept:?}"
            );
            destroy(&mut world.machine(), DomId(1)).unwrap();
            // What of the next one works goes on; what does not was undone.
            if world.hypervisor.domains.borrow().contains_key(&2) {
                destroy(&mut world.machine(), DomId(2)).unwrap();
            }
            world.assert_clean(&format!("seam {seam}, call {at}"));
            at += 1;
        }
    }
}

#[test]
fn a_maximum_that_there_is_no_room_for_is_given_up() {
    let mut world = world(TEXT);
    let machine = &mut world.machine();
    lifecycle::set_max_memory(machine, DomId(1), 512 << 10).unwrap();
    lifecycle::set_memory(machine, DomId(1), 100 << 10).unwrap();
    let d = restart(&mut world, DomId(1), REBOOT);
    let shown = now(&mut world, d);
    assert_eq!((shown.memory_mib, shown.max_memory_mib), (100, 512));
    lifecycle::set_max_memory(&mut world.machine(), d, 2048 << 10).unwrap();
    let d = restart(&mut world, d, REBOOT);
    let shown = now(&mut world, d);
    assert_eq!((shown.memory_mib, shown.max_memory_mib), (64, 64));
}

#[test]
fn a_store_that_lost_the_domain_takes_nothing_away() {
    let mut world = world(TEXT);
    world.store.nodes.clear();
    let now = now(&mut world, DomId(1));
    assert!(now.uuid.is_some());
    let said = load(TEXT);
    assert_eq!((now.name, now.disks), (said.name, said.disks));
}
