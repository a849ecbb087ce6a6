//! `xenstore-read` and its kin in one program: by the name that it is called by, or the first
//! word (`xenstore read /path`). Options and output are those of Xen's xenstore-utils.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::process::ExitCode;

use xenstore::{Client, Permission, Store, Transaction};

const USAGE: &str = "\
usage: xenstore COMMAND [option]... ARGUMENT...
  read [-p] PATH...             values; -p with their paths
  write PATH VALUE...           sets values, all at once
  list [-p] PATH...             names of the children
  ls [-f] [-p] [PATH]           the tree; -f whole paths, -p permissions
  rm [-t] PATH...               removes; -t also parents left empty
  exists PATH...                exit status 0 when all are there
  chmod [-r] PATH PERMISSION... sets permissions; -r of all below as well
  watch [-n COUNT] PATH...      prints the paths of events
";

/// Why it failed: a sentence, or only an exit status.
enum Failure {
    Text(String),
    Quiet,
}

impl From<xenstore::Error> for Failure {
    fn from(error: xenstore::Error) -> Self {
        Self::Text(error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(_: io::Error) -> Self {
        // Nobody reads the output any more.
        Self::Quiet
    }
}

type Done = Result<(), Failure>;

fn usage<T>() -> Result<T, Failure> {
    Err(Failure::Text(USAGE.to_owned()))
}

/// Options before the arguments, of the letters that are allowed.
fn options<'a>(words: &'a [String], allowed: &str) -> Result<(String, &'a [String]), Failure> {
    let mut letters = String::new();
    let mut rest = words;
    while let Some((word, later)) = rest.split_first() {
        let Some(new) = word.strip_prefix('-').filter(|new| !new.is_empty()) else {
            break;
        };
        if !new.chars().all(|letter| allowed.contains(letter)) {
            return usage();
        }
        letters.push_str(new);
        rest = later;
    }
    Ok((letters, rest))
}

/// A value as text: what is no plain character becomes `\xNN` and the like.
fn shown(value: &[u8]) -> String {
    let mut out = String::new();
    for byte in value {
        match byte {
            b'\t' => out.push_str("\\t"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\\' => out.push_str("\\\\"),
            b' '..=b'~' => out.push(char::from(*byte)),
            _ => out.push_str(&format!("\\x{byte:02x}")),
        }
    }
    out
}

fn below(path: &str, name: &str) -> String {
    format!("{}/{name}", path.trim_end_matches('/'))
}

fn list(permissions: &[Permission]) -> String {
    let list: Vec<String> = permissions.iter().map(ToString::to_string).collect();
    list.join(",")
}

fn ls(out: &mut dyn Write, store: &mut Client, path: &str, depth: usize, letters: &str) -> Done {
    for name in store.directory(path)? {
        let path = below(path, &name);
        let value = match store.read(&path) {
            Ok(value) => value,
            // Gone in between, or not for us.
            Err(error) if error.store_error().is_some() => continue,
            Err(error) => return Err(error.into()),
        };
        if letters.contains('f') {
            write!(out, "{path} = \"{}\"", shown(&value))?;
        } else {
            write!(out, "{:depth$}{name} = \"{}\"", "", shown(&value))?;
        }
        if letters.contains('p') {
            let permissions = store.permissions(&path).unwrap_or_default();
            write!(out, "   ({})", list(&permissions))?;
        }
        writeln!(out)?;
        ls(out, store, &path, depth + 1, letters)?;
    }
    Ok(())
}

/// Removes nodes above `path` that have neither value nor children.
fn tidy(transaction: &mut Transaction<'_>, path: &str) -> xenstore::Result<()> {
    let mut path = path;
    while let Some((parent, _)) = path.rsplit_once('/').filter(|(p, _)| !p.is_empty()) {
        if !transaction.read(parent)?.is_empty() || !transaction.directory(parent)?.is_empty() {
            break;
        }
        transaction.rm(parent)?;
        path = parent;
    }
    Ok(())
}

fn chmod(
    transaction: &mut Transaction<'_>,
    path: &str,
    permissions: &[Permission],
    is_deep: bool,
) -> xenstore::Result<()> {
    transaction.set_permissions(path, permissions)?;
    if is_deep {
        for name in transaction.directory(path)? {
            chmod(transaction, &below(path, &name), permissions, true)?;
        }
    }
    Ok(())
}

fn watch(out: &mut dyn Write, store: &mut Client, words: &[String]) -> Done {
    let (count, paths) = match words {
        [flag, count, paths @ ..] if flag == "-n" => {
            let Ok(count) = count.parse::<u64>() else {
                return usage();
            };
            (count, paths)
        }
        paths => (u64::MAX, paths),
    };
    if paths.is_empty() {
        return usage();
    }
    for path in paths {
        store.watch(path, path)?;
    }
    for _ in 0..count {
        if let Some(event) = store.next_event(None)? {
            writeln!(out, "{}", event.path)?;
            out.flush()?;
        }
    }
    Ok(())
}

fn run(command: &str, words: &[String]) -> Done {
    let mut store = Client::open()?;
    let store = &mut store;
    let out = &mut io::stdout().lock();
    match command {
        "read" | "list" => {
            let (letters, paths) = options(words, "p")?;
            if paths.is_empty() {
                return usage();
            }
            for path in paths {
                let lines = if command == "read" {
                    vec![shown(&store.read(path)?)]
                } else {
                    store.directory(path)?
                };
                for line in lines {
                    match (letters.is_empty(), command) {
                        (true, _) => writeln!(out, "{line}")?,
                        (false, "read") => writeln!(out, "{path}: {line}")?,
                        (false, _) => writeln!(out, "{}", below(path, &line))?,
                    }
                }
            }
            Ok(())
        }
        "write" => {
            let (pairs, rest) = words.as_chunks::<2>();
            if pairs.is_empty() || !rest.is_empty() {
                return usage();
            }
            store.transaction(|transaction| {
                pairs
                    .iter()
                    .try_for_each(|[path, value]| transaction.write_string(path, value))
            })?;
            Ok(())
        }
        "ls" => {
            let (letters, paths) = options(words, "fp")?;
            let path = paths.first().map_or("/", String::as_str);
            ls(out, store, path, 0, &letters)
        }
        "rm" => {
            let (letters, paths) = options(words, "t")?;
            if paths.is_empty() {
                return usage();
            }
            store.transaction(|transaction| {
                paths.iter().try_for_each(|path| {
                    transaction.rm(path)?;
                    if letters.is_empty() {
                        Ok(())
                    } else {
                        tidy(transaction, path)
                    }
                })
            })?;
            Ok(())
        }
        "exists" => {
            for path in words {
                if !store.exists(path)? {
                    return Err(Failure::Quiet);
                }
            }
            if words.is_empty() { usage() } else { Ok(()) }
        }
        "chmod" => {
            let (letters, words) = options(words, "r")?;
            let [path, entries @ ..] = words else {
                return usage();
            };
            let entries: Option<Vec<Permission>> = entries
                .iter()
                .map(|entry| Permission::parse(entry.as_bytes()))
                .collect();
            let Some(permissions) = entries.filter(|entries| !entries.is_empty()) else {
                return usage();
            };
            let is_deep = !letters.is_empty();
            store.transaction(|transaction| chmod(transaction, path, &permissions, is_deep))?;
            Ok(())
        }
        "watch" => watch(out, store, words),
        _ => usage(),
    }
}

fn main() -> ExitCode {
    let mut words = std::env::args();
    let called = words.next().unwrap_or_default();
    let name = called.rsplit('/').next().unwrap_or_default();
    let command = name.strip_prefix("xenstore-").map(str::to_owned);
    let Some(command) = command.or_else(|| words.next()) else {
        eprint!("{USAGE}");
        return ExitCode::FAILURE;
    };
    let words: Vec<String> = words.collect();
    match run(&command, &words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Quiet) => ExitCode::FAILURE,
        Err(Failure::Text(text)) => {
            eprintln!("{}", text.trim_end());
            ExitCode::FAILURE
        }
    }
}
