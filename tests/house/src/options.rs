//! The options of the hypervisor's command line, as its parser knows them, and the page that
//! explains them.

use std::path::Path;

use anyhow::{Context, Result};
use proc_macro2::{TokenStream, TokenTree};

use crate::source::sources;

/// The page with a line per option.
pub const PAGE: &str = "docs/boot.md";

/// Functions of the parser whose patterns are names of options.
const FUNCTIONS: &[&str] = &["set", "set_switch"];

/// Names that the parser matches.
///
/// # Errors
/// When the parser's source cannot be read.
pub fn names(top: &Path) -> Result<Vec<String>> {
    let sources = sources(top, "hypervisor/core")?;
    let parser = sources
        .iter()
        .find(|source| source.module == ["cmdline"])
        .context("no cmdline in core")?;
    let mut out = Vec::new();
    functions(&parser.tokens, &mut out);
    out.sort();
    out.dedup();
    Ok(out)
}

fn functions(tokens: &TokenStream, out: &mut Vec<String>) {
    let list: Vec<TokenTree> = tokens.clone().into_iter().collect();
    let mut is_wanted = false;
    for (at, token) in list.iter().enumerate() {
        match token {
            TokenTree::Ident(word) if word == "fn" => {
                is_wanted = matches!(list.get(at + 1), Some(TokenTree::Ident(name))
                    if FUNCTIONS.iter().any(|f| name == f));
            }
            TokenTree::Group(group) if is_wanted => patterns(&group.stream(), out),
            TokenTree::Group(group) => functions(&group.stream(), out),
            _ => {}
        }
    }
}

/// Byte strings that are followed by `=>`, `|` or `if`: patterns of a match.
fn patterns(tokens: &TokenStream, out: &mut Vec<String>) {
    let list: Vec<TokenTree> = tokens.clone().into_iter().collect();
    for (at, token) in list.iter().enumerate() {
        match token {
            TokenTree::Literal(literal) => {
                let text = literal.to_string();
                let is_pattern = match list.get(at + 1) {
                    Some(TokenTree::Punct(p)) => matches!(p.as_char(), '=' | '|'),
                    Some(TokenTree::Ident(word)) => word == "if",
                    _ => false,
                };
                if let Some(name) = text.strip_prefix("b\"").and_then(|t| t.strip_suffix('"'))
                    && is_pattern
                {
                    out.push(name.to_owned());
                }
            }
            TokenTree::Group(group) => patterns(&group.stream(), out),
            _ => {}
        }
    }
}

/// Options that the page does not mention.
///
/// # Errors
/// When page or parser cannot be read.
pub fn check(top: &Path) -> Result<Vec<String>> {
    let page =
        std::fs::read_to_string(top.join(PAGE)).with_context(|| format!("reading {PAGE}"))?;
    let names = names(top)?;
    Ok(names
        .into_iter()
        .filter(|name| !page.contains(&format!("`{name}`")) && !page.contains(&format!("`{name}=")))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_every_option() {
        let missing = check(&crate::top()).unwrap();
        assert!(
            missing.is_empty(),
            "{PAGE} does not mention {}",
            missing.join(", ")
        );
    }

    #[test]
    fn the_parser_is_read() {
        let names = names(&crate::top()).unwrap();
        for known in ["dom0_mem", "noreboot", "iommu", "sched"] {
            assert!(
                names.iter().any(|name| name == known),
                "{known} in {names:?}"
            );
        }
        assert!(!names.iter().any(|name| name == "verbose"), "{names:?}");
    }
}
