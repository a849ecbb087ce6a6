//! Text with names, and problems that point into it.

use std::fmt::Write;

/// Bytes `start..end` of a [`Source`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// Byte after the last.
    pub end: usize,
}

impl Span {
    /// From two offsets.
    #[must_use]
    pub const fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }
    /// From the beginning of one to the end of another.
    #[must_use]
    pub const fn to(self, end: Self) -> Self {
        Self::new(self.start, end.end)
    }
    /// A part of this span, by offsets from its start, cut off at its end.
    #[must_use]
    pub fn part(self, start: usize, end: usize) -> Self {
        let limit = |offset: usize| self.start.saturating_add(offset).min(self.end);
        Self::new(limit(start), limit(end))
    }
}

#[derive(Clone, Debug)]
struct Piece {
    name: String,
    start: usize,
    is_override: bool,
}

/// A configuration file and the overrides from the command line, as one text.
#[derive(Clone, Debug)]
pub struct Source {
    text: String,
    pieces: Vec<Piece>,
}

/// A place as people count: from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// Name of the file, or "command line".
    pub name: &'a str,
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
}

impl Source {
    /// A file.
    #[must_use]
    pub fn new(name: &str, text: &str) -> Self {
        Self {
            text: text.to_owned(),
            pieces: vec![Piece {
                name: name.to_owned(),
                start: 0,
                is_override: false,
            }],
        }
    }

    /// Adds a `key=value` word of the command line; it wins over what precedes it.
    pub fn add_override(&mut self, text: &str) {
        if !self.text.is_empty() && !self.text.ends_with('\n') {
            self.text.push('\n');
        }
        self.pieces.push(Piece {
            name: "command line".to_owned(),
            start: self.text.len(),
            is_override: true,
        });
        self.text.push_str(text);
        self.text.push('\n');
    }

    /// The whole text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The text of a span; empty where the span lies outside.
    #[must_use]
    pub fn slice(&self, span: Span) -> &str {
        self.text.get(span.start..span.end).unwrap_or_default()
    }

    fn piece(&self, offset: usize) -> &Piece {
        let after = self.pieces.partition_point(|piece| piece.start <= offset);
        &self.pieces[after.saturating_sub(1)]
    }

    /// Does this place come from the command line?
    #[must_use]
    pub fn is_override(&self, offset: usize) -> bool {
        self.piece(offset).is_override
    }

    /// Where an offset lies. Offsets beyond the end name the end.
    #[must_use]
    pub fn place(&self, offset: usize) -> Place<'_> {
        let piece = self.piece(offset);
        let before = self
            .text
            .get(piece.start..offset.min(self.text.len()))
            .unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Place {
            name: &piece.name,
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }

    /// The line around an offset, and the offset of its first byte.
    fn line(&self, offset: usize) -> (&str, usize) {
        let offset = offset.min(self.text.len());
        let start = self.text.as_bytes()[..offset]
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |at| at + 1);
        let rest = self.text.get(start..).unwrap_or_default();
        (rest.lines().next().unwrap_or_default(), start)
    }
}

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The guest can be made, but not everything is as the text says.
    Warning,
    /// No guest can be made from this.
    Error,
}

/// One thing that is wrong, where, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Error or warning.
    pub severity: Severity,
    /// Where.
    pub span: Span,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub help: String,
}

impl Problem {
    /// `file:line:column: error: what`, the line with the place marked, and the help.
    #[must_use]
    pub fn render(&self, source: &Source) -> String {
        let place = source.place(self.span.start);
        let severity = match self.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        let mut out = format!(
            "{}:{}:{}: {severity}: {}",
            place.name, place.line, place.column, self.what
        );
        let (line, start) = source.line(self.span.start);
        if !line.trim().is_empty() {
            let until = self.span.end.min(start + line.len()).max(self.span.start);
            let marked = source.slice(Span::new(self.span.start, until));
            // Tabs stay tabs, so that the mark stands below its text.
            let indent: String = source
                .slice(Span::new(start, self.span.start))
                .chars()
                .map(|c| if c == '\t' { '\t' } else { ' ' })
                .collect();
            let mark = "^".repeat(marked.chars().count().max(1));
            // Writing to a string cannot fail.
            _ = write!(out, "\n    {line}\n    {indent}{mark}");
        }
        if !self.help.is_empty() {
            _ = write!(out, "\n  help: {}", self.help);
        }
        out
    }
}

/// Everything that was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Adds an error.
    pub fn error(&mut self, span: Span, what: impl Into<String>, help: impl Into<String>) {
        self.add(Severity::Error, span, what.into(), help.into());
    }

    /// Adds a warning.
    pub fn warning(&mut self, span: Span, what: impl Into<String>, help: impl Into<String>) {
        self.add(Severity::Warning, span, what.into(), help.into());
    }

    fn add(&mut self, severity: Severity, span: Span, what: String, help: String) {
        self.0.push(Problem {
            severity,
            span,
            what,
            help,
        });
    }

    /// Is there an error among them?
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.0
            .iter()
            .any(|problem| problem.severity == Severity::Error)
    }

    /// Number of errors.
    #[must_use]
    pub fn errors(&self) -> usize {
        let is_error = |problem: &&Problem| problem.severity == Severity::Error;
        self.0.iter().filter(is_error).count()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }

    /// None at all?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn sort(&mut self) {
        self.0.sort_by_key(|problem| problem.span);
        self.0.dedup();
    }

    /// All of them as text, one after the other.
    #[must_use]
    pub fn render(&self, source: &Source) -> String {
        let texts: Vec<String> = self.0.iter().map(|p| p.render(source)).collect();
        texts.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_from_one_and_in_characters() {
        let source = Source::new("a.cfg", "x=1\n\"äö\" y");
        let place = source.place(source.text().find('y').unwrap());
        assert_eq!((place.name, place.line, place.column), ("a.cfg", 2, 6));
    }

    #[test]
    fn overrides_are_places_of_their_own() {
        let mut source = Source::new("a.cfg", "x=1");
        source.add_override("memory=3");
        source.add_override("memory=4");
        let at = source.text().rfind("memory").unwrap();
        let place = source.place(at + 7);
        assert_eq!(
            (place.name, place.line, place.column),
            ("command line", 1, 8)
        );
        assert!(source.is_override(at) && !source.is_override(0));
    }

    #[test]
    fn a_problem_shows_the_line_and_marks_the_place() {
        let source = Source::new("a.cfg", "name = \"x\"\n\tmemroy = 3\n");
        let problem = Problem {
            severity: Severity::Error,
            span: Span::new(12, 18),
            what: "unknown".into(),
            help: "did you mean 'memory'?".into(),
        };
        assert_eq!(
            problem.render(&source),
            "a.cfg:2:2: error: unknown\n    \tmemroy = 3\n    \t^^^^^^\n  help: did you mean 'memory'?"
        );
    }
}
