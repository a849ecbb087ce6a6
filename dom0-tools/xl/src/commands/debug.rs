//! `dmesg`, `debug-keys`, `dump-core`, `sysrq`, `trigger`.

use std::io::Write;
use std::path::Path;

use toolstack::core_dump;
use xen_abi::VcpuId;
use xen_abi::domctl::{
    XEN_DOMCTL_SENDTRIGGER_INIT, XEN_DOMCTL_SENDTRIGGER_NMI, XEN_DOMCTL_SENDTRIGGER_POWER,
    XEN_DOMCTL_SENDTRIGGER_RESET, XEN_DOMCTL_SENDTRIGGER_SLEEP, XenDomctlSendtrigger,
};
use xencall::Clear;

use crate::context::{Context, Failure, Result};

/// `dmesg [-c]`.
pub(crate) fn dmesg(context: &mut Context, words: &[String]) -> Result {
    let args = super::parse!(words, "dmesg", "c", &[("clear", 'c')], (0, 0));
    // A call that clears forgets what it returns and nothing else, so that nothing is lost.
    let clear = if args.has('c') { Clear::Yes } else { Clear::No };
    let xen = context.xen()?;
    print_messages(&mut std::io::stdout(), |index| {
        Ok(xen.read_console(index, clear)?)
    })
}

/// Prints all that `read` returns from an index on, until there is no more.
fn print_messages(
    out: &mut dyn Write,
    mut read: impl FnMut(u32) -> Result<(Vec<u8>, u32)>,
) -> Result {
    let mut index = 0;
    loop {
        let (text, next) = read(index)?;
        out.write_all(&text)?;
        // Nothing more, or nothing that is new.
        if text.is_empty() || next == index {
            return Ok(());
        }
        index = next;
    }
}

/// `debug-keys KEYS`.
pub(crate) fn debug_keys(context: &mut Context, words: &[String]) -> Result {
    let args = super::parse!(words, "debug-keys", "", &[], (1, 1));
    Ok(context.xen()?.debug_keys(args.operand(0).as_bytes())?)
}

/// `dump-core DOMAIN FILE`.
pub(crate) fn dump_core(context: &mut Context, words: &[String]) -> Result {
    let args = super::parse!(words, "dump-core", "", &[], (2, 2));
    let d = context.domain(args.operand(0))?;
    let machine = context.machine()?;
    let path = Path::new(args.operand(1));
    core_dump::dump(machine.hypervisor, machine.host, d, path)?;
    Ok(())
}

/// `sysrq DOMAIN LETTER`.
pub(crate) fn sysrq(context: &mut Context, words: &[String]) -> Result {
    let args = super::parse!(words, "sysrq", "", &[], (2, 2));
    let d = context.domain(args.operand(0))?;
    let mut letters = args.operand(1).chars();
    match (letters.next(), letters.next()) {
        (Some(letter), None) => Ok(toolstack::lifecycle::sysrq(
            &mut context.machine()?,
            d,
            letter,
        )?),
        _ => Err(Failure::new("Invalid sysrq: give one letter")),
    }
}

/// `trigger DOMAIN TRIGGER [VCPU]`.
pub(crate) fn trigger(context: &mut Context, words: &[String]) -> Result {
    let args = super::parse!(words, "trigger", "", &[], (2, 3));
    let d = context.domain(args.operand(0))?;
    let name = args.operand(1);
    let trigger = match name {
        "nmi" => XEN_DOMCTL_SENDTRIGGER_NMI,
        "reset" => XEN_DOMCTL_SENDTRIGGER_RESET,
        "init" => XEN_DOMCTL_SENDTRIGGER_INIT,
        "power" => XEN_DOMCTL_SENDTRIGGER_POWER,
        "sleep" => XEN_DOMCTL_SENDTRIGGER_SLEEP,
        "s3resume" => {
            return Err(Failure::new(
                "guests cannot sleep, so there is nothing to resume",
            ));
        }
        _ => {
            return Err(Failure::new(format!(
                "Invalid trigger \"{name}\"\n  help: nmi, reset, init, power, sleep"
            )));
        }
    };
    let vcpu = match args.operands.get(2) {
        None => 0,
        Some(text) => text
            .parse()
            .map_err(|_| Failure::new(format!("'{text}' is no number of a vCPU")))?,
    };
    let argument = XenDomctlSendtrigger {
        trigger,
        vcpu: VcpuId(vcpu),
    };
    Ok(context.xen()?.send_trigger(d, argument)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_that_come_while_they_are_read_are_printed() {
        let mut batches = [&b"one\n"[..], b"came since\n", b""].into_iter();
        let mut out = Vec::new();
        let read = |index: u32| {
            let text = batches.next().unwrap_or_default().to_vec();
            let next = index + u32::try_from(text.len()).unwrap();
            Ok((text, next))
        };
        assert!(print_messages(&mut out, read).is_ok());
        assert_eq!(out, b"one\ncame since\n");
        assert_eq!(batches.next(), None);
    }
}
