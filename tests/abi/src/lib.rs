//! Writes the C program that compares [`xen_abi`] with Xen's own public headers.
//!
//! The program is generated from [`xen_abi::headers::HEADERS`], so everything that
//! crate declares is compared. It prints one line per difference and exits with
//! 1 when there is any; a name that the headers do not have fails to compile.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use xen_abi::Errno;
use xen_abi::headers::HEADERS;
use xen_abi::layout::{Header, Layout};

/// The checking function of the generated program.
const PROLOGUE: &str = r#"
static unsigned long checks, bad;

static void check(const char *what, __int128 theirs, __int128 ours)
{
    checks++;
    if (theirs == ours)
        return;
    bad++;
    printf("%s: the headers say %lld, xen-abi %lld\n", what, (long long)theirs, (long long)ours);
}

int main(void)
{
"#;

/// Does C have a member of this name?
fn is_c_field(name: &str) -> bool {
    !name.starts_with("_fill") && !name.starts_with("bits")
}

fn check(c: &mut String, what: &str, theirs: &str, ours: i128) {
    // i128 has no literals in C: all values fit in 64 bits of either sign.
    let ours = match u64::try_from(ours) {
        Ok(unsigned) => format!("{unsigned}ull"),
        Err(_) => format!("{ours}ll"),
    };
    writeln!(c, "    check(\"{what}\", {theirs}, {ours});").expect("writing to a string");
}

fn check_layout(c: &mut String, layout: &Layout) {
    let Layout {
        c_type,
        size,
        fields,
    } = layout;
    check(
        c,
        &format!("sizeof({c_type})"),
        &format!("sizeof({c_type})"),
        *size as i128,
    );
    for field in fields.iter().filter(|field| is_c_field(field.name)) {
        let name = field.name.trim_start_matches("r#");
        let member = format!("{c_type}.{name}");
        check(
            c,
            &format!("offset of {member}"),
            &format!("offsetof({c_type}, {name})"),
            field.offset as i128,
        );
        check(
            c,
            &format!("size of {member}"),
            &format!("sizeof((({c_type} *)0)->{name})"),
            field.size as i128,
        );
    }
}

/// A C program that compares `headers` and the errno values with what it includes.
#[must_use]
pub fn program(headers: &[Header]) -> String {
    let mut c = String::from(
        "#define __XEN_TOOLS__ 1\n#include <stddef.h>\n#include <stdint.h>\n#include <stdio.h>\n",
    );
    let errno = ["xen/errno.h"];
    // xen.h first: several headers rely on it.
    for path in ["xen/xen.h"]
        .iter()
        .chain(headers.iter().flat_map(|h| h.paths))
        .chain(&errno)
    {
        writeln!(c, "#include <{path}>").expect("writing to a string");
    }
    c.push_str(PROLOGUE);
    for header in headers {
        for layout in header.layouts.iter().copied().flatten() {
            check_layout(&mut c, layout);
        }
        for number in header.consts.iter().copied().flatten() {
            check(&mut c, number.name, number.name, number.value);
        }
    }
    // ERESTART never leaves the hypervisor: the headers hide it from everybody else.
    for errno in Errno::ALL.iter().filter(|&&errno| errno != Errno::ERESTART) {
        let name = format!("XEN_{errno:?}");
        check(&mut c, &name, &name, *errno as i128);
    }
    c.push_str(
        "    printf(\"%lu checks, %lu differences\\n\", checks, bad);\n    return bad != 0;\n}\n",
    );
    c
}

/// The program for the whole of `xen-abi`.
#[must_use]
pub fn whole() -> String {
    program(HEADERS)
}
