//! The part of `docs/user/xl.md` that the table of commands gives.

use std::fmt::Write as _;
use std::path::Path;

use crate::table::{COMMANDS, REFUSED};

/// What stands behind it is written by the test below.
const MARK: &str = "<!-- From here on: RADON_WRITE_DOCS=1 cargo test -p xl manual -->\n";

fn page() -> String {
    let mut out = String::from("\n## Commands\n");
    for command in COMMANDS {
        let usage = format!("xl {} {}", command.name, command.usage);
        // Writing to a string cannot fail.
        _ = write!(
            out,
            "\n### {}\n\n    {}\n\n{}.\n",
            command.name,
            usage.trim_end(),
            command.what
        );
        if !command.options.is_empty() {
            out.push('\n');
            for line in command.options.lines() {
                _ = writeln!(out, "    {line}");
            }
        }
    }
    out.push_str("\n## Commands of Xen's xl that are refused\n\n| commands | why | instead |\n| --- | --- | --- |\n");
    for refused in REFUSED {
        let names: Vec<String> = refused.names.iter().map(|n| format!("`{n}`")).collect();
        _ = writeln!(
            out,
            "| {} | {} | {} |",
            names.join(", "),
            refused.why,
            refused.instead
        );
    }
    out
}

#[test]
fn the_page_says_what_the_table_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/user/xl.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (head, there) = text.split_once(MARK).expect("the mark is in the page");
    if std::env::var_os("RADON_WRITE_DOCS").is_some() {
        std::fs::write(&path, format!("{head}{MARK}{}", page())).unwrap();
        return;
    }
    assert!(
        there == page(),
        "docs/user/xl.md is old: RADON_WRITE_DOCS=1 cargo test -p xl manual"
    );
}
