//! `agent COMMAND ARGUMENTS`: prints findings, one line each, and exits with
//! status 0 when all was well. The harness runs it over the serial line.

mod clock;
mod disk;
mod edu;
mod hostile;
mod lives;
mod mark;
mod net;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};

const HELP: &str = "\
usage: agent disk DEVICE MIB THREADS        write, read back and verify in parallel
       agent send ADDRESS:PORT BYTES SEED   stream to the harness
       agent receive ADDRESS:PORT BYTES SEED
       agent serve ADDRESS:PORT             the other end of these two, until it is killed
       agent monotonic SECONDS [busy]       clocks of all CPUs never step back
       agent sleeps                         sleeps are neither short nor long
       agent tsc                            the time stamp counter
       agent idle SECONDS                   how long this CPU runs in a second of rest, in ns
       agent mark N                         a mark for the counting plugin of ./radon bench
       agent run N COMMAND...               COMMAND between marks N and N + 1
       agent rest N SECONDS                 rest between them
       agent blocks N DEVICE                read and write a disk, four phases between marks
       agent sink ADDRESS:PORT              the other end of this:
       agent stream N ADDRESS:PORT send|receive BYTES
       agent edu ADDRESS...                 DMA of QEMU's edu device to a page of ours, then there
       agent hypercalls | msrs | cpuid | ports   misbehave
       agent lives NAME SEED CALLS LIFE VICTIM SECONDS [LINE]   hostile guests, LIFE calls each
       agent clocks                         answers each line with CLOCK_MONOTONIC and
                                            CLOCK_REALTIME in ns, until a line says end";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<()> {
    match *words {
        ["disk", device, mib, threads] => disk::exercise(device, mib.parse()?, threads.parse()?),
        ["send", server, bytes, seed] => net::send(server, bytes.parse()?, seed.parse()?),
        ["receive", server, bytes, seed] => net::receive(server, bytes.parse()?, seed.parse()?),
        ["serve", address] => net::serve(address),
        ["monotonic", seconds] => clock::monotonic(seconds.parse()?, 0),
        ["monotonic", seconds, "busy"] => clock::monotonic(seconds.parse()?, 1 << 16),
        ["sleeps"] => clock::sleeps(),
        ["tsc"] => clock::tsc(),
        ["idle", seconds] => clock::idle(seconds.parse()?),
        ["mark", number] => mark::one(number.parse()?),
        ["run", number, ref command @ ..] => mark::run(number.parse()?, command),
        ["rest", number, seconds] => mark::rest(number.parse()?, seconds.parse()?),
        ["blocks", number, device] => mark::blocks(number.parse()?, device),
        ["sink", address] => mark::sink(address),
        ["stream", number, address, way, bytes] => {
            mark::stream(number.parse()?, address, way, bytes.parse()?)
        }
        ["edu", ref targets @ ..] => edu::dma(targets),
        ["hypercalls"] => hostile::hypercalls(),
        ["msrs"] => hostile::msrs(),
        ["cpuid"] => hostile::cpuid(),
        ["ports"] => hostile::ports(),
        [
            "lives",
            name,
            seed,
            calls,
            life,
            victim,
            seconds,
            ref more @ ..,
        ] => lives::all(&lives::Plan {
            name: name.to_owned(),
            seed: seed.parse()?,
            calls: calls.parse()?,
            life: life.parse()?,
            victim: victim.parse()?,
            patience: Duration::from_secs(seconds.parse()?),
            more: more.join("\n"),
        }),
        ["clocks"] => clock::answer(),
        _ => bail!("{HELP}"),
    }
}
