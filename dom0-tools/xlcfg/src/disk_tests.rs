use super::*;
use crate::source::Source;

fn atom(text: &str) -> Atom {
    Atom {
        text: text.to_owned(),
        is_quoted: false,
        span: Span::new(0, text.len()),
    }
}

fn read(text: &str) -> Disk {
    let mut problems = Problems::default();
    let disk = parse(&atom(text), &mut problems);
    let source = Source::new("t", text);
    disk.unwrap_or_else(|| panic!("{text}: {}", problems.render(&source)))
}

/// Without the place.
fn facts(text: &str) -> (Option<String>, DiskFormat, u32, bool, bool) {
    let disk = read(text);
    (
        disk.target,
        disk.format,
        disk.vdev.number,
        disk.is_writable,
        disk.is_cdrom,
    )
}

#[test]
fn the_manuals_equivalent_forms_are_equal() {
    let groups: [&[&str]; 3] = [
        &[
            "/dev/vg/guest-volume,,hda",
            "/dev/vg/guest-volume,raw,hda,rw",
            "format=raw, vdev=hda, access=rw, target=/dev/vg/guest-volume",
            "raw:/dev/vg/guest-volume,hda,w",
            "phy:/dev/vg/guest-volume,hda,w",
            "vg/guest-volume,,hda",
        ],
        &[
            "/srv/image.iso,,hdc,cdrom",
            "/srv/image.iso,,hdc,,cdrom",
            "/srv/image.iso,raw,hdc,devtype=cdrom",
            "format=raw, vdev=hdc, access=ro, devtype=cdrom, target=/srv/image.iso",
            "raw:/srv/image.iso,hdc:cdrom,ro",
        ],
        &[
            ",empty,hdc,cdrom",
            "vdev=hdc,cdrom,format=empty",
            ",hdc:cdrom,r",
        ],
    ];
    for group in groups {
        for other in &group[1..] {
            assert_eq!(facts(group[0]), facts(other), "{other}");
        }
    }
}

#[test]
fn a_named_target_takes_the_rest() {
    let disk = read("vdev=xvda,target=/a,b:c=d,rw ");
    assert_eq!(disk.target.as_deref(), Some("/a,b:c=d,rw "));
    assert!(disk.is_writable);
}

#[test]
fn flags_and_keys() {
    let disk = read("/x,raw,xvdb,r,no-discard,untrusted,direct-io-safe,backendtype=qdisk,script=s");
    assert!(!disk.has_discard && !disk.is_trusted && disk.is_direct_io_safe && !disk.is_writable);
    assert_eq!(disk.backend_type, Some(BackendType::Qdisk));
    assert_eq!(disk.script.as_deref(), Some("s"));
}

#[test]
fn mistakes_are_named_at_their_place() {
    let cases = [
        ("/x,rwa,xvda", 4, "disk format 'rwa'"),
        ("/x,raw,xvd", 8, "'xvd' names no virtual disk"),
        ("/x,raw,xvda,rx", 13, "access 'rx'"),
        ("/x,raw,xvda,rw,more", 16, "one word too many"),
        ("/x,raw", 1, "no name in the guest"),
        (",raw,xvda", 1, "no target"),
        ("/x,raw,xvda,formt=raw", 13, "parameter 'formt'"),
        ("/x,raw,xvda,backendtype=phi", 25, "backend type 'phi'"),
        ("/x,,hdc,devtype=dvd", 17, "device type 'dvd'"),
        ("foo:/x,xvda", 1, "prefix 'foo:'"),
    ];
    for (text, column, what) in cases {
        let mut problems = Problems::default();
        assert_eq!(parse(&atom(text), &mut problems), None, "{text}");
        let rendered = problems.render(&Source::new("t", text));
        let wanted = format!("t:1:{column}: error:");
        assert!(
            rendered.starts_with(&wanted) && rendered.contains(what),
            "{text}: {rendered}"
        );
        assert!(rendered.contains("help:"), "{rendered}");
    }
}

proptest::proptest! {
    #[test]
    fn any_text_is_survived(text in "[a-z0-9=,:/ .ä-]{0,60}") {
        let mut problems = Problems::default();
        let disk = parse(&atom(&text), &mut problems);
        proptest::prop_assert_eq!(disk.is_none(), problems.has_errors());
    }
}
