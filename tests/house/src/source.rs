//! Source files as tokens, and the paths of rooms in them.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, anyhow};
use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A Rust file of a crate.
pub struct Source {
    /// Its path, from the root of the checkout.
    pub path: String,
    /// Its module path without the crate's name: `["hvm", "vmx", "cap"]`.
    pub module: Vec<String>,
    /// Number of lines.
    pub lines: usize,
    /// What it says.
    pub tokens: TokenStream,
}

/// All Rust files under the `src` of a crate at `krate`, sorted.
///
/// # Errors
/// When one cannot be read or has unbalanced brackets.
pub fn sources(top: &Path, krate: &str) -> Result<Vec<Source>> {
    let src = top.join(krate).join("src");
    let mut files = Vec::new();
    collect(&src, &mut files)?;
    files.sort();
    files
        .into_iter()
        .map(|file| {
            let text = std::fs::read_to_string(&file)
                .with_context(|| format!("reading {}", file.display()))?;
            let relative = file.strip_prefix(top).unwrap_or(&file);
            let path = relative.to_string_lossy().into_owned();
            let tokens = TokenStream::from_str(&text).map_err(|e| anyhow!("{path}: {e}"))?;
            Ok(Source {
                module: module_of(file.strip_prefix(&src).unwrap_or(&file)),
                lines: text.lines().count(),
                path,
                tokens,
            })
        })
        .collect()
}

fn collect(dir: &Path, out: &mut Vec<PathBuf>) -> Result<()> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, out)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
    Ok(())
}

fn module_of(file: &Path) -> Vec<String> {
    let mut module: Vec<String> = file
        .with_extension("")
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    if matches!(
        module.last().map(String::as_str),
        Some("mod" | "lib" | "main")
    ) {
        module.pop();
    }
    module
}

/// Every path in `tokens` that starts in the crate itself, as module names below the root
/// (`crate::p2m::Leaf` gives `["p2m", "Leaf"]`), wherever it stands: `use`, type, call.
#[must_use]
pub fn crate_paths(module: &[String], tokens: &TokenStream) -> Vec<Vec<String>> {
    let mut out = Vec::new();
    walk(&mut module.to_vec(), tokens, &mut out);
    out
}

fn walk(module: &mut Vec<String>, tokens: &TokenStream, out: &mut Vec<Vec<String>>) {
    let list: Vec<TokenTree> = tokens.clone().into_iter().collect();
    let mut at = 0;
    while at < list.len() {
        match &list[at] {
            TokenTree::Ident(word) if word == "mod" => {
                // An inline module: `super` means one level more in there.
                if let (Some(TokenTree::Ident(name)), Some(TokenTree::Group(body))) =
                    (list.get(at + 1), list.get(at + 2))
                    && body.delimiter() == Delimiter::Brace
                {
                    module.push(name.to_string());
                    walk(module, &body.stream(), out);
                    module.pop();
                    at += 3;
                    continue;
                }
            }
            TokenTree::Ident(word) if is_root(word) && !follows_path(&list, at) => {
                at = path(module, &list, at, out);
                continue;
            }
            TokenTree::Group(group) => walk(module, &group.stream(), out),
            _ => {}
        }
        at += 1;
    }
}

fn is_root(word: &proc_macro2::Ident) -> bool {
    word == "crate" || word == "super" || word == "self"
}

fn is_separator(list: &[TokenTree], at: usize) -> bool {
    let colon = |i: usize| matches!(list.get(i), Some(TokenTree::Punct(p)) if p.as_char() == ':');
    colon(at) && colon(at + 1)
}

fn follows_path(list: &[TokenTree], at: usize) -> bool {
    at >= 2 && is_separator(list, at - 2)
}

/// Reads the path that starts at `at`; returns where it ends.
fn path(
    module: &mut Vec<String>,
    list: &[TokenTree],
    mut at: usize,
    out: &mut Vec<Vec<String>>,
) -> usize {
    let mut base: Vec<String> = Vec::new();
    let mut is_first = true;
    loop {
        match list.get(at) {
            Some(TokenTree::Ident(word)) if word == "crate" => base.clear(),
            Some(TokenTree::Ident(word)) if word == "self" => {
                if is_first {
                    base.clone_from(module);
                }
            }
            Some(TokenTree::Ident(word)) if word == "super" => {
                if is_first {
                    base.clone_from(module);
                }
                base.pop();
            }
            Some(TokenTree::Ident(word)) => base.push(word.to_string()),
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace && !is_first => {
                tree(&base, &group.stream(), out);
                return at + 1;
            }
            _ => break,
        }
        is_first = false;
        at += 1;
        if !is_separator(list, at) {
            break;
        }
        at += 2;
    }
    out.push(base);
    at
}

/// `{a, b::c, d::{e}}` after `base::`.
fn tree(base: &[String], tokens: &TokenStream, out: &mut Vec<Vec<String>>) {
    let list: Vec<TokenTree> = tokens.clone().into_iter().collect();
    let is_comma = |t: &TokenTree| matches!(t, TokenTree::Punct(p) if p.as_char() == ',');
    for item in list.split(is_comma).filter(|item| !item.is_empty()) {
        let mut full = base.to_vec();
        let mut at = 0;
        loop {
            match item.get(at) {
                Some(TokenTree::Ident(word)) if word == "self" => {}
                Some(TokenTree::Ident(word)) => full.push(word.to_string()),
                Some(TokenTree::Group(group)) => {
                    tree(&full, &group.stream(), out);
                    break;
                }
                _ => {}
            }
            at += 1;
            if !is_separator(item, at) {
                out.push(full);
                break;
            }
            at += 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(module: &[&str], text: &str) -> Vec<String> {
        let module: Vec<String> = module.iter().map(ToString::to_string).collect();
        let tokens = TokenStream::from_str(text).unwrap();
        let found = crate_paths(&module, &tokens);
        found.iter().map(|path| path.join("::")).collect()
    }

    #[test]
    fn paths_are_found_wherever_they_stand() {
        assert_eq!(
            paths(
                &["a"],
                "use crate::x::{y, z::{self, w}}; fn f() { g(crate::q::h()) }"
            ),
            ["x::y", "x::z", "x::z::w", "q::h"]
        );
        assert_eq!(
            paths(
                &["a", "b"],
                "use super::c; use super::super::d::E; use self::f;"
            ),
            ["a::c", "d::E", "a::b::f"]
        );
        assert_eq!(paths(&["a"], "mod tests { use super::X; }"), ["a::X"]);
        assert_eq!(
            paths(&["a"], "macro_rules! m { () => { crate::h::i() } }"),
            ["h::i"]
        );
        assert_eq!(
            paths(&["a"], "use other::crate_name; // crate::no\n"),
            [""; 0]
        );
    }

    #[test]
    fn files_are_named_as_modules() {
        assert_eq!(module_of(Path::new("hvm/vmx/mod.rs")), ["hvm", "vmx"]);
        assert_eq!(module_of(Path::new("hvm/exit.rs")), ["hvm", "exit"]);
        assert!(module_of(Path::new("lib.rs")).is_empty());
    }
}
