//! `xenstore-read` and its kin in one program: by the name that it is called by, or the first
//! word (`xenstore read /path`). Options and output are those of Xen's xenstore-utils.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::process::ExitCode;

use xenstore::{Client, Permission, Store, Transaction};

const USAGE: &str = "\
usage: xenstore COMMAND [option]... ARGUMENT...
  read [-pR] PATH...            values; -p with their paths, -R as they are
  write [-R] PATH VALUE...      sets values, all at once; -R as they are, else \\n, \\x00 and the like are read
  list [-p] PATH...             names of the children
  ls [-f] [-p] [PATH]           the tree; -f whole paths, -p permissions
  rm [-t] PATH...               removes; -t also parents left empty
  exists PATH...                exit status 0 when all are there
  chmod [-ru] PATH PERMISSION... sets permissions; -r of all below, -u of all above as well
  watch [-n COUNT] PATH...      prints the paths of events
-s (use the socket) and ls -w (whole lines) are the case anyway.
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

fn number(digits: &[u8], radix: u32) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, radix).ok()
}

/// What [`shown`] made a text of; octal numbers are known as well.
fn read_back(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, later)) = rest.split_first() {
        rest = later;
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let &escape = rest.first()?;
        let (value, used) = match escape {
            b't' => (b'\t', 1),
            b'n' => (b'\n', 1),
            b'r' => (b'\r', 1),
            b'\\' => (b'\\', 1),
            b'x' => (number(rest.get(1..3)?, 16)?, 3),
            b'0'..=b'7' => {
                let digits = rest
                    .iter()
                    .take(3)
                    .take_while(|b| (b'0'..=b'7').contains(b));
                let count = digits.count();
                (number(rest.get(..count)?, 8)?, count)
            }
            _ => return None,
        };
        out.push(value);
        rest = rest.get(used..)?;
    }
    Some(out)
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

/// The nodes above an absolute path, without the root.
fn parents(path: &str) -> Vec<&str> {
    let cuts = path.match_indices('/').map(|(at, _)| at);
    cuts.filter(|at| *at != 0)
        .filter_map(|at| path.get(..at))
        .collect()
}

fn watch(out: &mut dyn Write, store: &mut Client, words: &[String]) -> Done {
    let words = match words {
        [flag, rest @ ..] if flag == "-s" => rest,
        words => words,
    };
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
            let allowed = if command == "read" { "psR" } else { "ps" };
            let (letters, paths) = options(words, allowed)?;
            if paths.is_empty() {
                return usage();
            }
            for path in paths {
                if letters.contains('R') {
                    let value = store.read(path)?;
                    if letters.contains('p') {
                        write!(out, "{path}: ")?;
                    }
                    out.write_all(&value)?;
                    continue;
                }
                let lines = if command == "read" {
                    vec![shown(&store.read(path)?)]
                } else {
                    store.directory(path)?
                };
                for line in lines {
                    match (letters.contains('p'), command) {
                        (false, _) => writeln!(out, "{line}")?,
                        (true, "read") => writeln!(out, "{path}: {line}")?,
                        (true, _) => writeln!(out, "{}", below(path, &line))?,
                    }
                }
            }
            Ok(())
        }
        "write" => {
            let (letters, words) = options(words, "Rs")?;
            let (pairs, rest) = words.as_chunks::<2>();
            if pairs.is_empty() || !rest.is_empty() {
                return usage();
            }
            let mut changes = Vec::new();
            for [path, value] in pairs {
                let value = match letters.contains('R') {
                    true => value.clone().into_bytes(),
                    false => read_back(value)
                        .ok_or_else(|| Failure::Text(format!("{value}: a bad escape")))?,
                };
                changes.push((path, value));
            }
            store.transaction(|transaction| {
                changes
                    .iter()
                    .try_for_each(|(path, value)| transaction.write(path, value))
            })?;
            Ok(())
        }
        "ls" => {
            let (letters, paths) = options(words, "fpsw")?;
            let path = paths.first().map_or("/", String::as_str);
            ls(out, store, path, 0, &letters)
        }
        "rm" => {
            let (letters, paths) = options(words, "ts")?;
            if paths.is_empty() {
                return usage();
            }
            store.transaction(|transaction| {
                paths.iter().try_for_each(|path| {
                    transaction.rm(path)?;
                    if letters.contains('t') {
                        tidy(transaction, path)
                    } else {
                        Ok(())
                    }
                })
            })?;
            Ok(())
        }
        "exists" => {
            let words = options(words, "s")?.1;
            for path in words {
                if !store.exists(path)? {
                    return Err(Failure::Quiet);
                }
            }
            if words.is_empty() { usage() } else { Ok(()) }
        }
        "chmod" => {
            let (letters, words) = options(words, "rsu")?;
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
            let is_deep = letters.contains('r');
            let above = match letters.contains('u') {
                true => parents(path),
                false => Vec::new(),
            };
            store.transaction(|transaction| {
                for parent in &above {
                    transaction.set_permissions(parent, &permissions)?;
                }
                chmod(transaction, path, &permissions, is_deep)
            })?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_so_that_they_can_be_read_back() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(read_back(&shown(&all)), Some(all));
        assert_eq!(read_back("a\\0b\\101\\x41"), Some(b"a\0bAA".to_vec()));
        for bad in ["\\", "\\q", "\\x4", "\\xgg", "\\777"] {
            assert_eq!(read_back(bad), None, "{bad}");
        }
    }

    #[test]
    fn options_end_at_the_first_argument() {
        let words = |text: &str| -> Vec<String> { text.split(' ').map(str::to_owned).collect() };
        let all = words("-ps -R /a -p");
        let Ok((letters, rest)) = options(&all, "psR") else {
            panic!("not taken");
        };
        assert_eq!((letters.as_str(), rest), ("psR", &words("/a -p")[..]));
        assert!(options(&words("-x /a"), "psR").is_err());
    }

    #[test]
    fn parents_of_a_path() {
        assert_eq!(parents("/a/b/c"), ["/a", "/a/b"]);
        assert!(parents("/a").is_empty());
    }
}
