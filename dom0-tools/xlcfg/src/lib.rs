//! `xl.cfg`: text in, a typed [`Config`] or located problems with remedies out.
//!
//! Reading goes in three steps, each of which reports everything it finds instead
//! of stopping at the first problem:
//!
//! 1. [`parse`]: the grammar (strings, numbers, nested lists, `=`, `+=`, `;`,
//!    comments) into a [`Document`] of settings with spans. `key=value` words of
//!    the command line are further pieces of the same [`Source`].
//! 2. [`options`]: every option of xl.cfg(5) of Xen 4.20 is known by name, and is
//!    either applied, or refused with what to do instead. Nothing is ignored
//!    silently; what is not known is an error with a suggestion.
//! 3. [`Config::read`]: typed values, ranges, and the small languages inside
//!    strings: [`disk`], [`vif`], [`cpus`], actions.
//!
//! Sources: xl.cfg(5), xl-disk-configuration(5), xl-network-configuration(5) and
//! xen-vbd-interface(7) of Xen 4.20.
#![forbid(unsafe_code)]

mod config;
pub mod cpus;
pub mod disk;
mod lexer;
pub mod options;
mod parser;
mod settings;
mod source;
mod suggest;
pub mod vdev;
pub mod vif;

pub use config::{Action, Config, GuestKind, TimerMode, TscMode, Uuid, parse_memory_kib};
pub use parser::{Atom, Document, Operator, Setting, Value, parse};
pub use source::{Problem, Problems, Severity, Source, Span};
pub use suggest::closest;

/// Parses and reads a whole configuration: what `xl create` does before it acts.
///
/// # Errors
/// All problems found, in the order of the text; at least one of them is an error.
/// On success the problems are warnings.
pub fn load(source: &Source) -> Result<(Config, Problems), Problems> {
    let mut problems = Problems::default();
    let document = parse(source, &mut problems);
    let config = Config::read(&document, source, &mut problems);
    problems.sort();
    match config {
        Some(config) if !problems.has_errors() => Ok((config, problems)),
        _ => Err(problems),
    }
}
