//! `console_io` (18): dom0's console, and log lines of other domains.

use xen_abi::Errno;
use xen_abi::xen::{CONSOLEIO_read, CONSOLEIO_write};

use super::{Ctx, Flow, OK, OpResult, ops};
use crate::access::{Granted, Hook, Priv};
use crate::machine::Machine;

ops! { "console_io":
    CONSOLEIO_write = Hook => write;
    CONSOLEIO_read = Priv => read;
}

/// Bytes moved before the hypercall is executed again.
const CHUNK: usize = 256;

fn write<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    let (count, at) = (a[0], a[1]);
    if count > 1 << 31 {
        return Err(Errno::EINVAL);
    }
    let n = usize::try_from(count).unwrap_or(CHUNK).min(CHUNK);
    let mut buf = [0u8; CHUNK];
    c.copy_in(at, &mut buf[..n])?;
    c.hv.guest_console(c.d, &buf[..n]);
    let left = count - n as u64;
    if left > 0 {
        (c.args[1], c.args[2]) = (left, at.wrapping_add(n as u64));
        return Ok(Flow::Again);
    }
    OK
}

fn read<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Priv>, a: [u64; 3]) -> OpResult {
    let (count, at) = (a[0], a[1]);
    if count > 1 << 31 {
        return Err(Errno::EINVAL);
    }
    let n = usize::try_from(count).unwrap_or(CHUNK).min(CHUNK);
    let mut buf = [0u8; CHUNK];
    let got = c.hv.console.take_input(&mut buf[..n]);
    c.copy_out(at, &buf[..got])?;
    Ok(Flow::Done(got as u64))
}
