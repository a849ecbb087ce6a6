//! `create`.

use toolstack::Created;

use super::config::{as_json, load};
use super::{console, monitor};
use crate::context::{Context, Failure, Result};
use crate::json::{Json, object};
use crate::output::say;

/// `create [-pcdeFinq] [-f] FILE [key=value ...]`.
pub(crate) fn create(context: &mut Context, words: &[String]) -> Result {
    let args = super::parse!(
        words,
        "create",
        "cdeFf:inpqVA",
        &[
            ("dryrun", 'n'),
            ("quiet", 'q'),
            ("defconfig", 'f'),
            ("vncviewer", 'V'),
            ("vncviewer-autopass", 'A'),
            // There are no global masks.
            ("ignore-global-affinity-masks", 'i'),
        ],
        (0, crate::args::MANY)
    );
    if args.has('V') || args.has('A') {
        return Err(Failure::new(
            "guests have no graphical display\n  help: use the text console: xl create -c",
        ));
    }
    // Operands with '=' are settings; the other one is the file.
    let (settings, files): (Vec<String>, Vec<String>) = args
        .operands
        .iter()
        .cloned()
        .partition(|word| word.contains('='));
    let path = match (args.value('f'), files.as_slice()) {
        (Some(path), []) => path,
        (None, [path]) => path.as_str(),
        (None, []) => {
            return Err(Failure::new(
                "no configuration is named\n  help: xl create /etc/xen/guest.cfg",
            ));
        }
        (_, [.., other]) => {
            return Err(Failure::usage(format!(
                "one configuration at a time: '{other}' is one too many\n  help: settings are written name=value"
            )));
        }
    };
    if !args.has('q') {
        eprintln!("Parsing config from {path}");
    }
    let loaded = load(path, &settings)?;
    for warning in toolstack::warn_unsupported(&loaded.config) {
        eprintln!("xl: warning: {warning}");
    }
    if args.has('n') || context.is_dry_run {
        say!("{}", as_json(&loaded.config));
        return Ok(());
    }
    if args.has('d') {
        eprintln!("{}", as_json(&loaded.config));
    }
    // Known beforehand, so that the domain is found should this be killed.
    let mark = toolstack::random_uuid(context.host())?;
    let mut guard = monitor::Guard::start(mark, &loaded.config)?;
    let mut machine = match context.machine() {
        Ok(machine) => machine,
        Err(error) => {
            guard.dismiss();
            return Err(error);
        }
    };
    let made =
        toolstack::create_marked(&mut machine, &loaded.config, &loaded.text, mark, &mut |d| {
            guard.born(d)
        });
    let Created { d, uuid } = match made {
        Ok(created) => created,
        // The guard removes what could not be undone, when there is a store again.
        Err(error) if error.is_store_lost() => return Err(error.into()),
        Err(error) => {
            guard.dismiss();
            return Err(error.into());
        }
    };
    // Before it runs, so that nothing that it says is missed.
    let terminal = match args.has('c') {
        true => or_warning(console::open(context, d)),
        false => None,
    };
    if !args.has('p') {
        // The guard still destroys what this may leave.
        toolstack::start(&mut context.machine()?, d)?;
    }
    let is_foreground = args.has('F');
    if args.has('e') || is_foreground {
        guard.dismiss();
    } else if let Err(error) = guard.made(d) {
        toolstack::destroy(&mut context.machine()?, d)?;
        return Err(error);
    }
    if args.has(crate::args::JSON) {
        let json: Json = object! {
            "domid": d.0, "uuid": uuid.to_string(), "name": loaded.config.name.as_str(),
        };
        say!("{json}");
    }
    if let Some(terminal) = terminal {
        console::connect(context, d, terminal, console::ESCAPE)?;
    }
    if is_foreground {
        monitor::follow(context, d)?;
    }
    Ok(())
}

/// What there is, or a warning: the guest runs without it.
fn or_warning<T>(outcome: Result<T>) -> Option<T> {
    match outcome {
        Ok(value) => Some(value),
        Err(failure) => {
            if let Failure::Message(message) = failure {
                eprintln!("xl: warning: the guest goes on without its console here: {message}");
            }
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_runs_without_its_console() {
        assert_eq!(or_warning(Ok(1)), Some(1));
        assert_eq!(or_warning::<u8>(Err(Failure::new("no terminal"))), None);
        assert_eq!(or_warning::<u8>(Err(Failure::Told)), None);
    }
}
