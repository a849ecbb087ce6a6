//! `house arch|unsafe|coverage`: see the library.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::{Result, bail};

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("house: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool> {
    let top = house::top();
    let offences = match std::env::args().nth(1).as_deref() {
        Some("arch") => house::arch::check(&top)?,
        Some("unsafe") => {
            house::unsafety::write(&top)?;
            house::unsafety::check(&top)?
        }
        Some("coverage") => {
            house::coverage::write(&top)?;
            Vec::new()
        }
        _ => bail!("usage: house arch|unsafe|coverage"),
    };
    for offence in &offences {
        println!("{offence}");
    }
    Ok(offences.is_empty())
}
