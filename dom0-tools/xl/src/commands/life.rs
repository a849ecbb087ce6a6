//! `shutdown`, `reboot`, `destroy`, `pause`, `unpause`.

use toolstack::lifecycle::{self, Ending, Request};
use toolstack::records;
use xen_abi::DomId;

use crate::args::Args;
use crate::context::{Context, Failure, Result};

fn request(context: &mut Context, args: &Args, request: Request) -> Result {
    let domains: Vec<DomId> = if args.has('a') {
        let all = context.xen()?.domains()?;
        all.iter()
            .map(xencall::DomainInfo::domain)
            .filter(|d| d.0 != 0)
            .collect()
    } else if args.operands.is_empty() {
        return Err(Failure::new("name a domain, or say -a for all"));
    } else {
        vec![context.domain(args.operand(0))?]
    };
    let word = match request {
        Request::Poweroff => "Shutting down",
        Request::Reboot => "Rebooting",
    };
    for &d in &domains {
        // What is no result goes to stderr, as of xl.
        eprintln!("{word} domain {}", d.0);
        lifecycle::request(&mut context.machine()?, d, request)?;
    }
    let until = args.count('w');
    if until == 0 {
        return Ok(());
    }
    eprintln!("Waiting for {} domains", domains.len());
    for &d in &domains {
        let ending = lifecycle::wait_for_end(&mut context.machine()?, d, None)?;
        match ending {
            Some(Ending::Stopped(reason)) => {
                eprintln!("Domain {} has been shut down, reason code {reason}", d.0);
                if until > 1 {
                    eprintln!("Domain {} continue waiting for death", d.0);
                    toolstack::wait_until_gone(&mut context.machine()?, d)?;
                    eprintln!("Domain {} has been destroyed", d.0);
                }
            }
            _ => eprintln!("Domain {} has been destroyed", d.0),
        }
    }
    Ok(())
}

/// `shutdown [-aFww] DOMAIN`.
pub(crate) fn shutdown(context: &mut Context, words: &[String]) -> Result {
    let args = super::parse!(
        words,
        "shutdown",
        "aFw",
        &[("all", 'a'), ("wait", 'w')],
        (0, 1)
    );
    request(context, &args, Request::Poweroff)
}

/// `reboot [-aFww] DOMAIN`.
pub(crate) fn reboot(context: &mut Context, words: &[String]) -> Result {
    let args = super::parse!(
        words,
        "reboot",
        "aFw",
        &[("all", 'a'), ("wait", 'w')],
        (0, 1)
    );
    request(context, &args, Request::Reboot)
}

/// `destroy [-f] DOMAIN`.
pub(crate) fn destroy(context: &mut Context, words: &[String]) -> Result {
    let args = super::parse!(words, "destroy", "f", &[], (1, 1));
    let machine = &mut context.machine_soon()?;
    let d = records::find_with_remains(machine, args.operand(0))?;
    Ok(toolstack::destroy(machine, d)?)
}

/// `pause DOMAIN`.
pub(crate) fn pause(context: &mut Context, words: &[String]) -> Result {
    let args = super::parse!(words, "pause", "", &[], (1, 1));
    let d = context.domain(args.operand(0))?;
    Ok(context.xen()?.pause_domain(d)?)
}

/// `unpause DOMAIN`.
pub(crate) fn unpause(context: &mut Context, words: &[String]) -> Result {
    let args = super::parse!(words, "unpause", "", &[], (1, 1));
    let d = context.domain(args.operand(0))?;
    Ok(context.xen()?.unpause_domain(d)?)
}
