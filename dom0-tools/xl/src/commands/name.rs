//! `domid`, `domname`, `rename`, `uptime`.

use toolstack::{lifecycle, records};
use xen_abi::DomId;
use xlcfg::Uuid;

use crate::context::{Context, Failure, Result};
use crate::json::{Json, object};
use crate::output::say;

/// `domid NAME`.
pub(crate) fn domid(context: &mut Context, words: &[String]) -> Result {
    let args = super::parse!(words, "domid", "", &[], (1, 1));
    let name = args.operand(0);
    match records::by_name(&mut context.machine()?, name)? {
        Some(d) => say!("{}", d.0),
        None => {
            return Err(Failure::new(format!(
                "Can't get domid of domain name '{name}', maybe this domain does not exist."
            )));
        }
    }
    Ok(())
}

/// `domname ID`.
pub(crate) fn domname(context: &mut Context, words: &[String]) -> Result {
    let args = super::parse!(words, "domname", "", &[], (1, 1));
    let text = args.operand(0);
    let d = text.parse().map(DomId);
    let d = d.map_err(|_| Failure::new(format!("Invalid domain id '{text}'.")))?;
    let machine = context.machine()?;
    match records::name(machine.store, d)? {
        Some(name) => say!("{name}"),
        None => {
            return Err(Failure::new(format!(
                "Can't get domain name of domain id '{text}', maybe this domain does not exist."
            )));
        }
    }
    Ok(())
}

/// `rename DOMAIN NAME`.
pub(crate) fn rename(context: &mut Context, words: &[String]) -> Result {
    let args = super::parse!(words, "rename", "", &[], (2, 2));
    let d = context.domain(args.operand(0))?;
    Ok(lifecycle::rename(
        &mut context.machine()?,
        d,
        args.operand(1),
    )?)
}

/// As xl writes a time: days, hours, minutes, and seconds unless `is_short`.
fn duration(seconds: u64, is_short: bool) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let (minutes, seconds) = (seconds / 60 % 60, seconds % 60);
    let days = match days {
        0 => String::new(),
        1 => "1 day, ".to_owned(),
        _ => format!("{days} days, "),
    };
    if is_short {
        format!("{days}{hours:>2}:{minutes:02}")
    } else {
        format!("{days}{hours:>2}:{minutes:02}:{seconds:02}")
    }
}

/// `uptime [-s] [DOMAIN]`.
pub(crate) fn uptime(context: &mut Context, words: &[String]) -> Result {
    let args = super::parse!(words, "uptime", "s", &[], (0, crate::args::MANY));
    let domains = super::list::chosen(context, &args.operands)?;
    let is_short = args.has('s');
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_secs());
    let mut all = Vec::new();
    if !is_short && !args.has(crate::args::JSON) {
        say!("{:<33} {:>4} {}", "Name", "ID", "Uptime");
    }
    for info in &domains {
        let d = info.domain();
        let seconds = if d.0 == 0 {
            let text = std::fs::read_to_string("/proc/uptime")?;
            let whole = text.split('.').next().and_then(|text| text.parse().ok());
            whole.unwrap_or(0)
        } else {
            let machine = context.machine()?;
            let start = records::start_time(machine.store, Uuid(info.0.handle))?;
            now.saturating_sub(start.unwrap_or(now))
        };
        let name = context.name(d)?;
        if args.has(crate::args::JSON) {
            all.push(object! {"domid": d.0, "name": name, "uptime_s": seconds});
        } else if is_short {
            let time = format!(
                "{:02}:{:02}:{:02}",
                now / 3600 % 24,
                now / 60 % 60,
                now % 60
            );
            say!(" {time} up {}, {name} ({})", duration(seconds, true), d.0);
        } else {
            say!("{name:<33} {:>4} {}", d.0, duration(seconds, false));
        }
    }
    if args.has(crate::args::JSON) {
        say!("{}", Json::List(all));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_xl_does() {
        assert_eq!(duration(59, false), " 0:00:59");
        assert_eq!(duration(86_400 + 3_661, false), "1 day,  1:01:01");
        assert_eq!(duration(2 * 86_400 + 36_000, true), "2 days, 10:00");
    }
}
