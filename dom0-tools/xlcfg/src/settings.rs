//! The settings of a document after all assignments, and typed access to them.

use std::collections::BTreeMap;

use crate::options::{self, OPTIONS, Treatment};
use crate::parser::{Atom, Document, Operator, Value};
use crate::source::{Problems, Source, Span};
use crate::suggest::{closest, did_you_mean};

struct Entry {
    value: Value,
    name_span: Span,
}

/// Name to final value. Reading a value reports what is wrong with it.
pub(crate) struct Settings<'a> {
    entries: BTreeMap<String, Entry>,
    pub(crate) problems: &'a mut Problems,
    #[cfg(test)]
    pub(crate) asked: std::collections::BTreeSet<String>,
}

impl<'a> Settings<'a> {
    /// Merges the assignments and reports unknown and refused names.
    pub(crate) fn new(document: &Document, source: &Source, problems: &'a mut Problems) -> Self {
        let mut settings = Self {
            entries: BTreeMap::new(),
            problems,
            #[cfg(test)]
            asked: std::collections::BTreeSet::new(),
        };
        for setting in &document.settings {
            let (name, span) = (setting.name.as_str(), setting.name_span);
            let Some(info) = options::find(name) else {
                settings.unknown(name, span);
                continue;
            };
            let old = settings.entries.remove(info.name);
            let value = match (setting.operator, old) {
                (Operator::Add, Some(old)) => match join(old.value, &setting.value) {
                    Some(value) => value,
                    None => {
                        settings.problems.error(
                            setting.value.span(),
                            format!("a list and a string cannot be added in '{name}'"),
                            "write both as lists or both as strings",
                        );
                        continue;
                    }
                },
                (Operator::Assign, Some(old)) if !source.is_override(span.start) => {
                    let line = source.place(old.name_span.start).line;
                    settings.problems.warning(
                        span,
                        format!("'{name}' was assigned in line {line} already; this value wins"),
                        "remove one of them, or add to the first with '+='",
                    );
                    setting.value.clone()
                }
                _ => setting.value.clone(),
            };
            let entry = Entry {
                value,
                name_span: span,
            };
            settings.entries.insert(info.name.to_owned(), entry);
        }
        settings.refuse();
        settings
    }

    fn unknown(&mut self, name: &str, span: Span) {
        let names = OPTIONS.iter().map(|info| info.name);
        let help = match closest(name, names) {
            Some(near) => format!("did you mean '{near}'?"),
            None => "no option of xl.cfg(5) has this name; remove it".to_owned(),
        };
        self.problems
            .error(span, format!("unknown option '{name}'"), help);
    }

    /// Reports options that are not applied and ask for something.
    fn refuse(&mut self) {
        for (name, entry) in &self.entries {
            if let Some(info) = options::find(name)
                && let Treatment::Fixed {
                    accepts,
                    why,
                    instead,
                } = info.treatment
                && !accepts.takes(&entry.value)
            {
                self.problems.error(
                    entry.name_span.to(entry.value.span()),
                    format!("'{name}' is not supported: {why}"),
                    instead,
                );
            }
        }
    }

    fn value(&mut self, name: &str) -> Option<&Value> {
        debug_assert!(
            options::find(name)
                .is_some_and(|info| matches!(info.treatment, Treatment::Applied { .. })),
            "{name}"
        );
        #[cfg(test)]
        self.asked.insert(name.to_owned());
        self.entries.get(name).map(|entry| &entry.value)
    }

    /// Where an option is set; the start of the text when it is not.
    pub(crate) fn span(&self, name: &str) -> Span {
        self.entries
            .get(name)
            .map_or(Span::default(), |entry| entry.value.span())
    }

    pub(crate) fn is_set(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    pub(crate) fn error(&mut self, name: &str, what: impl Into<String>, help: impl Into<String>) {
        let span = self.span(name);
        self.problems.error(span, what, help);
    }

    pub(crate) fn warning(&mut self, name: &str, what: impl Into<String>, help: impl Into<String>) {
        let span = self.span(name);
        self.problems.warning(span, what, help);
    }

    pub(crate) fn atom(&mut self, name: &str) -> Option<Atom> {
        match self.value(name)? {
            Value::Atom(atom) => Some(atom.clone()),
            Value::List(..) => {
                self.error(
                    name,
                    format!("'{name}' takes one value, not a list"),
                    "remove the brackets",
                );
                None
            }
        }
    }

    /// A string; empty ones count as absent.
    pub(crate) fn text(&mut self, name: &str) -> Option<String> {
        let atom = self.atom(name)?;
        if atom.text.contains('\0') {
            self.error(name, "a NUL cannot stand in this text", "remove it");
            return None;
        }
        Some(atom.text).filter(|text| !text.is_empty())
    }

    /// A number from `least` to `most`; C's prefixes for hexadecimal and octal are known.
    pub(crate) fn number(&mut self, name: &str, least: u64, most: u64) -> Option<u64> {
        let atom = self.atom(name)?;
        let Some(number) = parse_number(&atom.text) else {
            let help = if closest(&atom.text, ["True", "False", "yes", "no"]).is_some() {
                "write 1 or 0"
            } else {
                "write digits, without a unit"
            };
            self.error(name, format!("'{}' is no number", atom.text), help);
            return None;
        };
        if number < least || number > most {
            self.error(
                name,
                format!("'{name}' cannot be {number}"),
                format!("give {least} to {most}"),
            );
            return None;
        }
        Some(number)
    }

    /// The same for options that fit 32 bits.
    pub(crate) fn number_u32(&mut self, name: &str, least: u32, most: u32) -> Option<u32> {
        let number = self.number(name, least.into(), most.into())?;
        u32::try_from(number).ok()
    }

    pub(crate) fn boolean(&mut self, name: &str) -> Option<bool> {
        self.number(name, 0, 1).map(|number| number == 1)
    }

    /// One of several words, or the number of its place when `by_number`.
    pub(crate) fn word<T: Copy>(
        &mut self,
        name: &str,
        words: &[(&str, T)],
        by_number: bool,
    ) -> Option<T> {
        let atom = self.atom(name)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == atom.text) {
            return Some(*value);
        }
        if by_number
            && let Some(number) = parse_number(&atom.text)
            && let Some((_, value)) = usize::try_from(number).ok().and_then(|n| words.get(n))
        {
            return Some(*value);
        }
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        self.error(
            name,
            format!("'{name}' cannot be '{}'", atom.text),
            did_you_mean(&atom.text, &names),
        );
        None
    }

    /// A list of strings. A single string is taken for a list of one.
    pub(crate) fn list(&mut self, name: &str) -> Vec<Atom> {
        let mut atoms = Vec::new();
        let mut lists = Vec::new();
        match self.value(name) {
            None => {}
            Some(Value::Atom(atom)) => {
                let span = atom.span;
                self.problems.error(
                    span,
                    format!("'{name}' takes a list"),
                    "put it in brackets: [ '...' ]",
                );
            }
            Some(Value::List(values, _)) => {
                for value in values {
                    match value {
                        Value::Atom(atom) => atoms.push(atom.clone()),
                        Value::List(_, span) => lists.push(*span),
                    }
                }
            }
        }
        for span in lists {
            self.problems.error(
                span,
                format!("'{name}' is a list of strings, not of lists"),
                "put each entry in quotes",
            );
        }
        atoms
    }

    /// Is the value a list?
    pub(crate) fn is_list(&mut self, name: &str) -> bool {
        matches!(self.value(name), Some(Value::List(..)))
    }
}

/// `strtoul` with base 0, without sign and blanks.
pub(crate) fn parse_number(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if text.len() > 1 && text.starts_with('0') => (&text[1..], 8),
        None => (text, 10),
    };
    if digits.starts_with('+') {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

fn join(old: Value, new: &Value) -> Option<Value> {
    match (old, new) {
        (Value::Atom(mut old), Value::Atom(new)) => {
            old.text.push_str(&new.text);
            old.span = new.span;
            old.is_quoted = new.is_quoted;
            Some(Value::Atom(old))
        }
        (Value::List(mut values, _), Value::List(more, span)) => {
            values.extend(more.iter().cloned());
            Some(Value::List(values, *span))
        }
        _ => None,
    }
}
