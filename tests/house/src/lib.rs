//! Checks of the house rules that neither compiler nor clippy knows, and the pages that are
//! generated from the sources.
//!
//! - [`arch`]: what may depend on what, between crates and between rooms.
//! - [`unsafety`]: unsafe code by module, compared with `docs/unsafe.md`.
//! - [`coverage`]: `docs/abi-coverage.md`, from the hypercall tables.
//! - [`options`]: the command line as `docs/boot.md` explains it.
//!
//! Sources are read as tokens: no macro is expanded, so code inside of macros counts too.
//! `cargo test -p house` checks all of it; `cargo xtask arch|unsafe|coverage` run one, and
//! the last two write their page.
#![forbid(unsafe_code)]

pub mod arch;
pub mod coverage;
pub mod options;
pub mod source;
pub mod unsafety;

use std::path::{Path, PathBuf};

/// The root of the checkout.
#[must_use]
pub fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .unwrap_or(Path::new("."))
        .to_path_buf()
}
