use super::*;
use crate::testing::{FakeHost, World};
use crate::{Hypervisor as _, Mount, create, destroy};

/// Makes a guest with these disks; what it is refused for.
fn make(world: &mut World, name: &str, disks: &[&str]) -> std::result::Result<DomId, String> {
    let text =
        format!("name = '{name}'\ntype = 'pvh'\nmemory = 32\nkernel = '/k'\ndisk = {disks:?}\n");
    let Ok((config, _)) = xlcfg::load(&xlcfg::Source::new("t.cfg", &text)) else {
        panic!("{text}");
    };
    let created = create(&mut world.machine(), &config, &text);
    created
        .map(|created| created.d)
        .map_err(|error| error.to_string())
}

fn world() -> World {
    let mut world = World::new();
    world.host.files.insert("/a1.img".into(), vec![0; 4096]);
    world.host.files.insert("/b.img".into(), vec![0; 4096]);
    world.host.devices.insert("/dev/sda3".into(), (8, 3));
    world
        .host
        .devices
        .insert("/dev/disk/by-label/x".into(), (8, 3));
    world
}

#[test]
fn guests_share_what_none_of_them_writes() {
    // The fake's /a1.img is a link to /a.img.
    let cases = [
        ("/a.img", "ro", "/a1.img", "ro", None),
        ("/a.img", "rw", "/b.img", "rw", None),
        ("/a.img", "rw", "/a.img", "rw", Some("writes to it")),
        ("/a.img", "rw", "/a1.img", "ro", Some("writes to it")),
        ("/a.img", "ro", "/a1.img", "rw", Some("reads it")),
        ("/dev/sda3", "ro", "/dev/disk/by-label/x", "ro", None),
        (
            "/dev/sda3",
            "rw",
            "/dev/disk/by-label/x",
            "rw",
            Some("writes to it"),
        ),
        (
            "/dev/sda3",
            "ro",
            "/dev/disk/by-label/x",
            "rw",
            Some("reads it"),
        ),
    ];
    for (first, mode, second, second_mode, refused) in cases {
        let mut world = world();
        make(&mut world, "one", &[&format!("{first},raw,xvda,{mode}")]).unwrap();
        let outcome = make(
            &mut world,
            "two",
            &[&format!("{second},raw,xvda,{second_mode}")],
        );
        match refused {
            None => assert_eq!(outcome, Ok(DomId(2)), "{first} {second}"),
            Some(how) => {
                let error = outcome.unwrap_err();
                let wanted = format!("{second} is a disk of guest one (domain 1), which {how}");
                assert!(error.contains(&wanted), "{error}");
                assert!(error.contains("xl block-detach 1 51712"), "{error}");
                assert!(!world.hypervisor.domains.borrow().contains_key(&2));
            }
        }
    }
}

#[test]
fn a_guest_that_has_ended_or_is_gone_uses_nothing() {
    let disk = ["/a.img,raw,xvda,rw"];
    let mut world = world();
    let d = make(&mut world, "one", &disk).unwrap();
    destroy(&mut world.machine(), d).unwrap();
    let d = make(&mut world, "one", &disk).unwrap();
    make(&mut world, "two", &disk).unwrap_err();
    // Kept after its crash.
    world.hypervisor.remote_shutdown(d, 3).unwrap();
    let d = make(&mut world, "two", &disk).unwrap();
    // Nodes that nobody took away.
    world.hypervisor.destroy_domain(d).unwrap();
    make(&mut world, "three", &disk).unwrap();
}

#[test]
fn a_guest_may_have_the_same_disk_twice() {
    let mut world = world();
    make(
        &mut world,
        "one",
        &["/a.img,raw,xvda,rw", "/a.img,raw,xvdb,rw"],
    )
    .unwrap();
}

#[test]
fn a_loop_device_is_the_file_behind_it() {
    let mut world = world();
    let minor = world.host.make_loop("/a.img".as_ref());
    world.host.devices.insert("/dev/loop1".into(), (7, minor));
    make(&mut world, "one", &["/dev/loop1,raw,xvda,rw"]).unwrap();
    let error = make(&mut world, "two", &["/a.img,raw,xvda,rw"]).unwrap_err();
    assert!(error.contains("guest one (domain 1)"), "{error}");
}

#[test]
fn what_dom0_has_mounted_is_not_written_by_guests() {
    let image = FakeHost::storage("/a.img".as_ref());
    let device = Storage::Device { major: 8, minor: 3 };
    for (target, storage) in [("/a.img", image), ("/dev/sda3", device)] {
        for (mode, is_writable, is_refused) in [
            ("rw", true, true),
            ("rw", false, true),
            ("ro", true, true),
            ("ro", false, false),
        ] {
            let mut world = world();
            let mounted = match storage {
                Storage::File { .. } => Storage::Device {
                    major: 7,
                    minor: world.host.make_loop(target.as_ref()),
                },
                Storage::Device { .. } => storage,
            };
            world.host.mounts.push(Mount {
                storage: mounted,
                is_writable,
                point: "/srv".into(),
            });
            make(&mut world, "other", &["/b.img,raw,xvda,rw"]).unwrap();
            let outcome = make(&mut world, "one", &[&format!("{target},raw,xvda,{mode}")]);
            assert_eq!(outcome.is_err(), is_refused, "{target} {mode} {outcome:?}");
            if let Err(error) = outcome {
                let wanted = format!("{target} is mounted in dom0 at /srv");
                assert!(error.contains(&wanted), "{error}");
                assert_eq!(
                    error.contains("or mount it read-only"),
                    mode == "ro",
                    "{error}"
                );
            }
        }
    }
}
