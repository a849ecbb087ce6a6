//! Unsafe code by module, and the page that says why it is there.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use proc_macro2::{Delimiter, TokenStream, TokenTree};

use crate::source::sources;

/// Where the page lies.
pub const PAGE: &str = "docs/unsafe.md";

/// Where unsafe code is counted.
const CRATES: &[&str] = &[
    "hypervisor/abi",
    "hypervisor/x86-defs",
    "hypervisor/image",
    "hypervisor/x86-emul",
    "hypervisor/core",
    "hypervisor/x86",
    "hypervisor/radon",
    "boot/image",
    "boot/xtask",
    "dom0-tools/xencall",
    "tests/guests/agent",
    "tests/harness",
    "tests/system",
];

/// What of a module is unsafe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// `unsafe { }`.
    pub blocks: usize,
    /// `unsafe fn`, declared or called for by a trait.
    pub functions: usize,
    /// `unsafe impl`, `unsafe trait`, `unsafe extern`.
    pub claims: usize,
    /// `#[unsafe(...)]`.
    pub attributes: usize,
}

impl Count {
    fn is_zero(self) -> bool {
        self == Self::default()
    }

    fn exceeds(self, page: Self) -> bool {
        self.blocks > page.blocks
            || self.functions > page.functions
            || self.claims > page.claims
            || self.attributes > page.attributes
    }
}

/// Counts in tokens.
#[must_use]
pub fn count(tokens: &TokenStream) -> Count {
    let mut total = Count::default();
    let list: Vec<TokenTree> = tokens.clone().into_iter().collect();
    for (at, token) in list.iter().enumerate() {
        match token {
            TokenTree::Ident(word) if word == "unsafe" => match list.get(at + 1) {
                Some(TokenTree::Group(g)) if g.delimiter() == Delimiter::Brace => total.blocks += 1,
                Some(TokenTree::Group(_)) => total.attributes += 1,
                Some(TokenTree::Ident(next)) if next == "fn" => total.functions += 1,
                Some(TokenTree::Ident(next)) if next == "extern" => {
                    // `unsafe extern "C" fn` or a block of foreign items.
                    let is_fn = matches!(list.get(at + 3), Some(TokenTree::Ident(f)) if f == "fn");
                    if is_fn {
                        total.functions += 1;
                    } else {
                        total.claims += 1;
                    }
                }
                _ => total.claims += 1,
            },
            TokenTree::Group(group) => {
                let inner = count(&group.stream());
                total.blocks += inner.blocks;
                total.functions += inner.functions;
                total.claims += inner.claims;
                total.attributes += inner.attributes;
            }
            _ => {}
        }
    }
    total
}

/// Modules with unsafe code, by path.
///
/// # Errors
/// When the sources cannot be read.
pub fn tally(top: &Path) -> Result<BTreeMap<String, Count>> {
    let mut out = BTreeMap::new();
    for krate in CRATES {
        for source in sources(top, krate)? {
            let count = count(&source.tokens);
            if !count.is_zero() {
                out.insert(source.path, count);
            }
        }
    }
    Ok(out)
}

/// A row of the page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Row {
    count: Count,
    why: String,
}

/// The rows of the page: `| path | blocks | functions | claims | attributes | why |`.
fn parse(page: &str) -> BTreeMap<String, Row> {
    page.lines()
        .filter_map(|line| {
            let cells: Vec<&str> = line
                .strip_prefix("| `")?
                .split('|')
                .map(str::trim)
                .collect();
            let [path, blocks, functions, claims, attributes, why, ""] = cells.as_slice() else {
                return None;
            };
            let count = Count {
                blocks: blocks.parse().ok()?,
                functions: functions.parse().ok()?,
                claims: claims.parse().ok()?,
                attributes: attributes.parse().ok()?,
            };
            let row = Row {
                count,
                why: (*why).to_owned(),
            };
            Some((path.trim_end_matches('`').to_owned(), row))
        })
        .collect()
}

/// What the page does not say, one line each: modules that it does not explain, and counts
/// that have risen. Falls are no offence; `write` brings them in.
fn compare(found: &BTreeMap<String, Count>, page: &BTreeMap<String, Row>) -> Vec<String> {
    let mut offences = Vec::new();
    for (path, count) in found {
        match page.get(path) {
            None => offences.push(format!(
                "{path} has unsafe code that the page does not list"
            )),
            Some(row) if row.why.is_empty() => {
                offences.push(format!("{path}: the page does not say why"));
            }
            Some(row) if count.exceeds(row.count) => offences.push(format!(
                "{path}: more unsafe code ({count:?}) than the page says ({:?})",
                row.count
            )),
            Some(_) => {}
        }
    }
    offences
}

/// Compares the sources with the page.
///
/// # Errors
/// When either cannot be read.
pub fn check(top: &Path) -> Result<Vec<String>> {
    let page =
        std::fs::read_to_string(top.join(PAGE)).with_context(|| format!("reading {PAGE}"))?;
    Ok(compare(&tally(top)?, &parse(&page)))
}

/// Brings the counts of the page up to date; reasons stay, new modules get an empty one.
///
/// # Errors
/// When the page or the sources cannot be read, or the page cannot be written.
pub fn write(top: &Path) -> Result<()> {
    let file = top.join(PAGE);
    let page = std::fs::read_to_string(&file).with_context(|| format!("reading {PAGE}"))?;
    std::fs::write(&file, updated(&page, &tally(top)?)?)?;
    Ok(())
}

fn updated(page: &str, found: &BTreeMap<String, Count>) -> Result<String> {
    let known = parse(page);
    let (head, tail) = page
        .split_once("| module |")
        .with_context(|| format!("{PAGE} has no table"))?;
    let tail = tail.split_once("\n\n").map_or("", |(_, tail)| tail);
    let mut table = String::from(
        "| module | blocks | fns | claims | attributes | why |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    let mut sum = Count::default();
    for (path, c) in found {
        let why = known.get(path).map_or("", |row| row.why.as_str());
        writeln!(
            table,
            "| `{path}` | {} | {} | {} | {} | {why} |",
            c.blocks, c.functions, c.claims, c.attributes
        )?;
        sum.blocks += c.blocks;
        sum.functions += c.functions;
        sum.claims += c.claims;
        sum.attributes += c.attributes;
    }
    writeln!(
        table,
        "| all | {} | {} | {} | {} | |",
        sum.blocks, sum.functions, sum.claims, sum.attributes
    )?;
    Ok(format!("{head}{table}\n{tail}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::str::FromStr;

    fn counted(text: &str) -> [usize; 4] {
        let c = count(&TokenStream::from_str(text).unwrap());
        [c.blocks, c.functions, c.claims, c.attributes]
    }

    #[test]
    fn the_page_explains_all_of_it() {
        let offences = check(&crate::top()).unwrap();
        assert!(
            offences.is_empty(),
            "{}\nSay why in {PAGE}; `cargo xtask unsafe` brings in the counts.",
            offences.join("\n")
        );
    }

    #[test]
    fn each_form_is_counted() {
        assert_eq!(
            counted("fn f() { unsafe { g() } unsafe { h() } }"),
            [2, 0, 0, 0]
        );
        assert_eq!(
            counted("unsafe fn f() {} unsafe extern \"C\" fn g() {}"),
            [0, 2, 0, 0]
        );
        assert_eq!(
            counted("unsafe impl Send for X {} unsafe extern \"C\" { static A: u8; }"),
            [0, 0, 2, 0]
        );
        assert_eq!(counted("#[unsafe(no_mangle)] fn f() {}"), [0, 0, 0, 1]);
        assert_eq!(
            counted("macro_rules! m { () => { unsafe { 1 } } }"),
            [1, 0, 0, 0]
        );
        assert_eq!(
            counted("// unsafe { }\nconst A: &str = \"unsafe { }\";"),
            [0; 4]
        );
    }

    #[test]
    fn a_rise_is_seen_and_a_fall_is_brought_in() {
        let page = "head\n\n| module | x |\n| --- | --- |\n| `a.rs` | 2 | 0 | 0 | 0 | ports |\n| all | 2 | 0 | 0 | 0 | |\n\ntail\n";
        let found = |path: &str, blocks| {
            BTreeMap::from([(
                path.to_owned(),
                Count {
                    blocks,
                    ..Count::default()
                },
            )])
        };
        assert_eq!(compare(&found("a.rs", 2), &parse(page)).len(), 0);
        assert_eq!(compare(&found("a.rs", 3), &parse(page)).len(), 1);
        assert_eq!(compare(&found("b.rs", 1), &parse(page)).len(), 1);
        let new = updated(page, &found("a.rs", 1)).unwrap();
        assert!(new.contains("| `a.rs` | 1 | 0 | 0 | 0 | ports |"), "{new}");
        assert!(
            new.starts_with("head\n\n") && new.ends_with("\n\ntail\n"),
            "{new}"
        );
        let unexplained = updated(page, &found("b.rs", 1)).unwrap();
        assert_eq!(compare(&found("b.rs", 1), &parse(&unexplained)).len(), 1);
    }
}
