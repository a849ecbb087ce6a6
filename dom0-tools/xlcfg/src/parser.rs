//! The grammar: assignments, separated by newlines or `;`, of atoms and lists.

use crate::lexer::{Lexer, Token};
use crate::source::{Problems, Source, Span};

/// Lists in lists in lists end somewhere.
const MAX_DEPTH: usize = 32;

/// A string or a number. xl takes either for either, so the text is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Atom {
    /// The text; of a string without quotes and escapes.
    pub text: String,
    /// Was it in quotes?
    pub is_quoted: bool,
    /// Where it stands, with its quotes.
    pub span: Span,
}

impl Atom {
    /// Where the text begins: behind the quote. Offsets into `text` are right from
    /// here on as long as there are no escapes.
    #[must_use]
    pub fn inner(&self) -> Span {
        if self.is_quoted {
            let end = self.span.end.saturating_sub(1);
            Span::new(self.span.start + 1, end.max(self.span.start + 1))
        } else {
            self.span
        }
    }
}

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A string or number.
    Atom(Atom),
    /// `[ ... ]`.
    List(Vec<Value>, Span),
}

impl Value {
    /// Where it stands.
    #[must_use]
    pub fn span(&self) -> Span {
        match self {
            Self::Atom(atom) => atom.span,
            Self::List(_, span) => *span,
        }
    }
}

/// `=` or `+=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// Replaces.
    Assign,
    /// Appends to a string or list.
    Add,
}

/// One assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// What is assigned to.
    pub name: String,
    /// Where the name stands.
    pub name_span: Span,
    /// How.
    pub operator: Operator,
    /// What.
    pub value: Value,
}

/// All assignments in the order of the text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    /// The assignments.
    pub settings: Vec<Setting>,
}

/// Parses; what cannot be parsed is reported and skipped to the end of its line.
#[must_use]
pub fn parse(source: &Source, problems: &mut Problems) -> Document {
    let mut parser = Parser {
        source,
        lexer: Lexer::new(source.text()),
        ahead: None,
        problems,
    };
    let mut document = Document::default();
    while let Some((token, span)) = parser.take() {
        match token {
            Token::Newline | Token::Semicolon => {}
            Token::Name => match parser.setting(span) {
                Some(setting) => document.settings.push(setting),
                None => parser.skip_line(),
            },
            Token::Bad => parser.skip_line(),
            _ => {
                parser.unexpected(&token, span, "the name of an option");
                parser.skip_line();
            }
        }
    }
    document
}

struct Parser<'a> {
    source: &'a Source,
    lexer: Lexer<'a>,
    ahead: Option<(Token, Span)>,
    problems: &'a mut Problems,
}

impl Parser<'_> {
    fn take(&mut self) -> Option<(Token, Span)> {
        self.ahead.take().or_else(|| self.lexer.next(self.problems))
    }

    fn end_span(&self) -> Span {
        let end = self.source.text().trim_end().len();
        Span::new(end, end)
    }

    fn skip_line(&mut self) {
        while let Some((token, _)) = self.take() {
            if token == Token::Newline {
                break;
            }
        }
    }

    fn skip_newlines(&mut self) {
        while let Some(next) = self.take() {
            if next.0 != Token::Newline {
                self.ahead = Some(next);
                break;
            }
        }
    }

    fn unexpected(&mut self, token: &Token, span: Span, wanted: &str) {
        let found = match token {
            // Reported by the lexer.
            Token::Bad => return,
            Token::Newline => "the end of the line".to_owned(),
            _ => format!("'{}'", self.source.slice(span)),
        };
        let help = match token {
            Token::Name => "put strings in quotes",
            Token::Assign => "assign with one '='",
            Token::Newline => "put the value on the same line; only lists may continue on the next",
            _ => "write one 'name = value' per line",
        };
        self.problems
            .error(span, format!("{found} where {wanted} was expected"), help);
    }

    /// After the name.
    fn setting(&mut self, name_span: Span) -> Option<Setting> {
        let name = self.source.slice(name_span).to_owned();
        let operator = match self.take() {
            Some((Token::Assign, _)) => Operator::Assign,
            Some((Token::Add, _)) => Operator::Add,
            Some((token, span)) => {
                self.unexpected(&token, span, &format!("'=' after '{name}'"));
                if token == Token::Newline {
                    self.ahead = Some((token, span));
                }
                return None;
            }
            None => {
                self.problems.error(
                    name_span,
                    format!("'{name}' has no value"),
                    "write name = value",
                );
                return None;
            }
        };
        let value = self.value(0)?;
        match self.take() {
            None | Some((Token::Newline | Token::Semicolon, _)) => {}
            Some((token, span)) => {
                self.unexpected(
                    &token,
                    span,
                    &format!("the end of the line after the value of '{name}'"),
                );
                self.skip_line();
            }
        }
        Some(Setting {
            name,
            name_span,
            operator,
            value,
        })
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        let Some((token, span)) = self.take() else {
            let end = self.end_span();
            self.problems
                .error(end, "the text ends where a value was expected", "add it");
            return None;
        };
        match token {
            Token::Text(text) => Some(Value::Atom(Atom {
                text,
                is_quoted: true,
                span,
            })),
            Token::Number => Some(Value::Atom(Atom {
                text: self.source.slice(span).to_owned(),
                is_quoted: false,
                span,
            })),
            Token::Open if depth < MAX_DEPTH => self.list(span, depth),
            Token::Open => {
                self.problems
                    .error(span, "lists are nested too deeply", "remove brackets");
                None
            }
            _ => {
                self.unexpected(&token, span, "a value");
                if token == Token::Newline {
                    self.ahead = Some((token, span));
                }
                None
            }
        }
    }

    fn list(&mut self, open: Span, depth: usize) -> Option<Value> {
        let mut values = Vec::new();
        loop {
            self.skip_newlines();
            match self.take() {
                Some((Token::Close, span)) => return Some(Value::List(values, open.to(span))),
                None => return self.unclosed(open),
                next => self.ahead = next,
            }
            values.push(self.value(depth + 1)?);
            self.skip_newlines();
            match self.take() {
                Some((Token::Comma, _)) => {}
                Some((Token::Close, span)) => return Some(Value::List(values, open.to(span))),
                None => return self.unclosed(open),
                Some((token, span)) => {
                    self.unexpected(&token, span, "',' or ']'");
                    return None;
                }
            }
        }
    }

    fn unclosed(&mut self, open: Span) -> Option<Value> {
        self.problems
            .error(open, "the list has no end", "add the closing ]");
        None
    }
}

#[cfg(test)]
#[path = "parser_tests.rs"]
mod tests;
