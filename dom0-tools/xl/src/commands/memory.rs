//! `mem-set`, `mem-max`.

use toolstack::lifecycle;

use crate::context::{Context, Failure, Result};

fn amount(text: &str) -> Result<u64> {
    xlcfg::parse_memory_kib(text).ok_or_else(|| {
        Failure::new(format!(
            "invalid memory size: {text}\n  help: give MiB, or a unit: 512, 512m, 2g"
        ))
    })
}

/// `mem-set DOMAIN AMOUNT`.
pub(crate) fn set(context: &mut Context, words: &[String]) -> Result {
    let args = super::parse!(words, "mem-set", "", &[], (2, 2));
    let d = context.domain(args.operand(0))?;
    let kib = amount(args.operand(1))?;
    Ok(lifecycle::set_memory(&mut context.machine()?, d, kib)?)
}

/// `mem-max DOMAIN AMOUNT`.
pub(crate) fn max(context: &mut Context, words: &[String]) -> Result {
    let args = super::parse!(words, "mem-max", "", &[], (2, 2));
    let d = context.domain(args.operand(0))?;
    let kib = amount(args.operand(1))?;
    Ok(lifecycle::set_max_memory(&mut context.machine()?, d, kib)?)
}
