//! The part of `docs/user/xl.cfg.md` that the table of options gives.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use xlcfg::options::{Accepts, OPTIONS, Treatment};

/// What stands behind it is written by the test below.
const MARK: &str = "<!-- From here on: RADON_WRITE_DOCS=1 cargo test -p xlcfg manual -->\n";

fn values(accepts: Accepts) -> String {
    match accepts {
        Accepts::Nothing => String::new(),
        Accepts::Zero => "0".into(),
        Accepts::One => "1".into(),
        Accepts::Truth => "0, 1".into(),
        Accepts::Empty => "empty".into(),
        Accepts::Words(words) => words
            .iter()
            .filter(|word| !word.is_empty())
            .map(|word| format!("`{word}`"))
            .collect::<Vec<_>>()
            .join(", "),
    }
}

fn page() -> String {
    let mut out = String::from("\n## Applied\n\n| option | values |\n| --- | --- |\n");
    let mut refused: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
    for info in OPTIONS {
        match info.treatment {
            // Writing to a string cannot fail.
            Treatment::Applied { what } => _ = writeln!(out, "| `{}` | {what} |", info.name),
            Treatment::Fixed {
                accepts,
                why,
                instead,
            } => {
                let values = values(accepts);
                let name = match values.is_empty() {
                    true => format!("`{}`", info.name),
                    false => format!("`{}` (but {values})", info.name),
                };
                refused.entry((why, instead)).or_default().push(name);
            }
        }
    }
    out.push_str(
        "\n## Refused\n\nIn brackets: values that ask for what is the case anyway, and are taken.\n\n\
         | options | why | instead |\n| --- | --- | --- |\n",
    );
    for ((why, instead), names) in &refused {
        _ = writeln!(out, "| {} | {why} | {instead} |", names.join(", "));
    }
    out
}

#[test]
fn the_manual_says_what_the_table_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/user/xl.cfg.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (head, there) = text.split_once(MARK).expect("the mark is in the page");
    if std::env::var_os("RADON_WRITE_DOCS").is_some() {
        std::fs::write(&path, format!("{head}{MARK}{}", page())).unwrap();
        return;
    }
    assert!(
        there == page(),
        "docs/user/xl.cfg.md is old: RADON_WRITE_DOCS=1 cargo test -p xlcfg manual"
    );
}
