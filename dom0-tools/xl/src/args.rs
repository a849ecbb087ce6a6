//! Options as getopt reads them: letters may be joined, values may follow at once,
//! options may stand between operands, `--` ends them.

use crate::context::{Failure, Result};

/// A command's options.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spec {
    /// Letters; one with a value is followed by a colon, one whose value may be missing by two.
    pub(crate) letters: &'static str,
    /// Long names and the letters they stand for.
    pub(crate) long: &'static [(&'static str, char)],
    /// Fewest and most operands.
    pub(crate) operands: (usize, usize),
}

/// Any number of operands.
pub(crate) const MANY: usize = usize::MAX;

/// Letter of `--json`, which every command with output has.
pub(crate) const JSON: char = 'j';

/// Options and operands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Args {
    options: Vec<(char, String)>,
    /// What is no option.
    pub(crate) operands: Vec<String>,
}

impl Args {
    /// Is an option given?
    pub(crate) fn has(&self, letter: char) -> bool {
        self.options.iter().any(|(given, _)| *given == letter)
    }

    /// How often is it given?
    pub(crate) fn count(&self, letter: char) -> usize {
        let given = self.options.iter();
        given.filter(|(given, _)| *given == letter).count()
    }

    /// The last value of an option.
    pub(crate) fn value(&self, letter: char) -> Option<&str> {
        let mut found = self.options.iter().rev();
        found
            .find(|(given, _)| *given == letter)
            .map(|(_, value)| value.as_str())
    }

    /// A numeric value of an option; `None` when the option has no value.
    pub(crate) fn number<T: std::str::FromStr>(&self, letter: char) -> Result<Option<T>> {
        let bad = |text: &str| Failure::new(format!("'{text}' is no valid number for -{letter}"));
        self.value(letter)
            .filter(|text| !text.is_empty())
            .map(|text| text.parse().map_err(|_| bad(text)))
            .transpose()
    }

    /// An operand; those that the specification requires are there.
    pub(crate) fn operand(&self, at: usize) -> &str {
        self.operands.get(at).map_or("", String::as_str)
    }
}

/// Does an option take a value?
#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    Nothing,
    Value,
    MaybeValue,
}

impl Takes {
    /// The value that is not written in the same word, if there is one.
    fn next(self, words: &mut std::slice::Iter<'_, String>) -> Option<String> {
        let next = words.as_slice().first();
        match next {
            Some(word) if self == Self::MaybeValue && word.starts_with('-') => Some(String::new()),
            None if self == Self::MaybeValue => Some(String::new()),
            _ => words.next().cloned(),
        }
    }
}

impl Spec {
    fn takes(&self, letter: char) -> Option<Takes> {
        let at = self.letters.find(letter).filter(|_| letter != ':')?;
        let rest = self.letters.get(at + letter.len_utf8()..)?;
        Some(match rest {
            _ if rest.starts_with("::") => Takes::MaybeValue,
            _ if rest.starts_with(':') => Takes::Value,
            _ => Takes::Nothing,
        })
    }

    /// Reads `words`; `Ok(None)` when help is asked for.
    pub(crate) fn parse(&self, command: &str, words: &[String]) -> Result<Option<Args>> {
        let mut args = Args::default();
        let mut words = words.iter();
        let help = |what: String| format!("{what}\n  help: xl help {command}");
        let fail = |what| Failure::usage(help(what));
        while let Some(word) = words.next() {
            if word == "--" {
                args.operands.extend(words.cloned());
                break;
            }
            if let Some(long) = word.strip_prefix("--") {
                let (name, inline) = match long.split_once('=') {
                    Some((name, value)) => (name, Some(value.to_owned())),
                    None => (long, None),
                };
                let letter = match name {
                    "help" => return Ok(None),
                    "json" => JSON,
                    _ => {
                        let known = self.long.iter().find(|(known, _)| *known == name);
                        known
                            .ok_or_else(|| fail(format!("unknown option '--{name}'")))?
                            .1
                    }
                };
                let value = match (self.takes(letter), inline) {
                    (None | Some(Takes::Nothing), None) => String::new(),
                    (None | Some(Takes::Nothing), Some(_)) => {
                        return Err(fail(format!("'--{name}' takes no value")));
                    }
                    (Some(_), Some(value)) => value,
                    (Some(takes), None) => takes
                        .next(&mut words)
                        .ok_or_else(|| fail(format!("'--{name}' needs a value")))?,
                };
                args.options.push((letter, value));
            } else if let Some(letters) = word.strip_prefix('-').filter(|rest| !rest.is_empty()) {
                if self.is_operand(letters) {
                    args.operands.push(word.clone());
                    continue;
                }
                let mut rest = letters.chars();
                while let Some(letter) = rest.next() {
                    match self.takes(letter) {
                        None if letter == 'h' => return Ok(None),
                        None => return Err(fail(format!("unknown option '-{letter}'"))),
                        Some(Takes::Nothing) => args.options.push((letter, String::new())),
                        Some(takes) => {
                            let joined = rest.as_str().trim_start_matches('=').to_owned();
                            let value = match joined.as_str() {
                                "" => takes
                                    .next(&mut words)
                                    .ok_or_else(|| fail(format!("'-{letter}' needs a value")))?,
                                _ => joined,
                            };
                            args.options.push((letter, value));
                            break;
                        }
                    }
                }
            } else {
                args.operands.push(word.clone());
            }
        }
        let (least, most) = self.operands;
        let count = args.operands.len();
        if count < least {
            let s = if least == 1 { "" } else { "s" };
            return Err(fail(format!(
                "'xl {command}' requires at least {least} argument{s}"
            )));
        }
        if count > most {
            // xl takes no notice of most of them; where it does, it is a failure like others.
            return Err(Failure::new(help(format!(
                "'xl {command}' has no use for '{}'",
                args.operand(most)
            ))));
        }
        Ok(Some(args))
    }

    /// Negative numbers are no options.
    fn is_operand(&self, letters: &str) -> bool {
        letters.bytes().all(|b| b.is_ascii_digit())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: Spec = Spec {
        letters: "cpf:w:",
        long: &[("defconfig", 'f'), ("pause", 'p')],
        operands: (1, 2),
    };

    fn parse(text: &str) -> Result<Option<Args>> {
        let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        SPEC.parse("x", &words)
    }

    fn good(text: &str) -> Args {
        parse(text).unwrap().unwrap()
    }

    #[test]
    fn all_forms_of_options() {
        for text in [
            "-cp -f a b",
            "b -c -p -fa",
            "--defconfig=a b -pc",
            "-c --pause --defconfig a -- b",
            "-cpf=a b",
        ] {
            let args = good(text);
            assert!(args.has('c') && args.has('p'), "{text}");
            assert_eq!(args.value('f'), Some("a"), "{text}");
            assert_eq!(args.operands, ["b"], "{text}");
        }
        for text in ["-cc b", "-c b --pause -c"] {
            assert_eq!(good(text).count('c'), 2, "{text}");
        }
    }

    #[test]
    fn values_may_be_missing_where_the_command_says_so() {
        let spec = Spec {
            letters: "d:w::c::",
            long: &[("weight", 'w')],
            operands: (0, 0),
        };
        let parse = |text: &str| {
            let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
            spec.parse("x", &words).unwrap().unwrap()
        };
        for text in ["-d a -w", "-w -d a", "--weight -d a"] {
            let args = parse(text);
            assert!(args.has('w') && args.value('d') == Some("a"), "{text}");
            assert_eq!(args.number::<u16>('w').unwrap(), None, "{text}");
        }
        for text in ["-w 5 -c", "-w5 -c", "-w=5 -c", "--weight=5 -c", "-c -w 5"] {
            assert_eq!(parse(text).number::<u16>('w').unwrap(), Some(5), "{text}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (text, what) in [
            ("-x a", "unknown option '-x'"),
            ("--nope a", "unknown option '--nope'"),
            ("a -f", "'-f' needs a value"),
            ("--pause=1 a", "takes no value"),
            ("-c", "requires at least 1 argument"),
            ("a b c", "no use for 'c'"),
        ] {
            let Err(Failure::Usage(message) | Failure::Message(message)) = parse(text) else {
                panic!("{text} was taken");
            };
            assert!(
                message.contains(what) && message.contains("xl help x"),
                "{message}"
            );
        }
        assert!(parse("-h").unwrap().is_none() && parse("a --help").unwrap().is_none());
    }
}
