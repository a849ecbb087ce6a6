//! Words of the grammar.

use crate::source::{Problems, Span};

/// A word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    Name,
    /// Digits as they stand.
    Number,
    /// A string without its quotes, escapes resolved.
    Text(String),
    Comma,
    Open,
    Close,
    Assign,
    Add,
    Semicolon,
    Newline,
    /// Something that is no word; already reported.
    Bad,
}

pub(crate) struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    fn peek(&self) -> Option<char> {
        self.text.get(self.at..)?.chars().next()
    }

    fn skip_while(&mut self, wanted: impl Fn(char) -> bool) {
        while let Some(c) = self.peek().filter(|&c| wanted(c)) {
            self.at += c.len_utf8();
        }
    }

    /// The next word and where it stands; `None` at the end.
    pub(crate) fn next(&mut self, problems: &mut Problems) -> Option<(Token, Span)> {
        self.skip_while(|c| matches!(c, ' ' | '\t' | '\r'));
        if self.peek() == Some('#') {
            self.skip_while(|c| c != '\n');
        }
        let start = self.at;
        let first = self.peek()?;
        self.at += first.len_utf8();
        let token = match first {
            '\n' => Token::Newline,
            ',' => Token::Comma,
            '[' => Token::Open,
            ']' => Token::Close,
            '=' => Token::Assign,
            ';' => Token::Semicolon,
            '+' if self.peek() == Some('=') => {
                self.at += 1;
                Token::Add
            }
            'a'..='z' | 'A'..='Z' | '_' => {
                self.skip_while(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'));
                Token::Name
            }
            '0'..='9' => {
                self.skip_while(|c| c.is_ascii_alphanumeric());
                Token::Number
            }
            '"' | '\'' => self.string(start, first, problems),
            _ => self.bad(start, first, problems),
        };
        Some((token, Span::new(start, self.at)))
    }

    fn bad(&mut self, start: usize, first: char, problems: &mut Problems) -> Token {
        self.skip_while(|c| !matches!(c, '\n' | ' ' | '\t' | ',' | ';' | ']'));
        let help = match first {
            '(' | ')' | '{' | '}' | ':' | '-' | '.' | '+' => {
                "a configuration is not Python: only strings in quotes, numbers, and lists in [ ] are values"
            }
            '\u{2018}' | '\u{2019}' | '\u{201c}' | '\u{201d}' => {
                "use the plain quotes ' or \" instead of typographic ones"
            }
            '/' => "put the path in quotes",
            _ => "remove it, or put the value in quotes",
        };
        let span = Span::new(start, self.at);
        problems.error(span, format!("'{first}' cannot stand here"), help);
        Token::Bad
    }

    fn string(&mut self, start: usize, quote: char, problems: &mut Problems) -> Token {
        let mut out: Vec<u8> = Vec::new();
        let mut buffer = [0; 4];
        loop {
            let at = self.at;
            let Some(c) = self.peek().filter(|&c| c != '\n') else {
                problems.error(
                    Span::new(start, self.at),
                    "the string does not end on its line",
                    format!("add the closing {quote}"),
                );
                return Token::Bad;
            };
            self.at += c.len_utf8();
            match c {
                _ if c == quote => break,
                '\\' => match self.escape() {
                    Some(byte) => out.push(byte),
                    None => problems.error(
                        Span::new(at, self.at.max(at + 1)),
                        "unknown escape in a string",
                        "write \\\\ for a backslash; \\n, \\t, \\\" and \\x41 are known",
                    ),
                },
                _ => out.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes()),
            }
        }
        match String::from_utf8(out) {
            Ok(text) => Token::Text(text),
            Err(_) => {
                let span = Span::new(start, self.at);
                problems.error(
                    span,
                    "the string's escapes give no UTF-8",
                    "write the characters as they are",
                );
                Token::Bad
            }
        }
    }

    /// What follows a backslash.
    fn escape(&mut self) -> Option<u8> {
        let c = self.peek().filter(|&c| c != '\n')?;
        self.at += c.len_utf8();
        Some(match c {
            'a' => 7,
            'b' => 8,
            'f' => 12,
            'n' => b'\n',
            'r' => b'\r',
            't' => b'\t',
            'v' => 11,
            '\\' | '"' | '\'' => u8::try_from(c).ok()?,
            'x' => self.digits(16, 2, 0)?,
            '0'..='7' => {
                let first = u8::try_from(c.to_digit(8)?).ok()?;
                // Up to three octal digits with the one that was read.
                self.digits(8, 2, first).unwrap_or(first)
            }
            _ => return None,
        })
    }

    fn digits(&mut self, radix: u32, most: usize, value: u8) -> Option<u8> {
        let mut value = u32::from(value);
        let mut count = 0;
        while count < most
            && let Some(digit) = self.peek().and_then(|c| c.to_digit(radix))
        {
            value = value * radix + digit;
            self.at += 1;
            count += 1;
        }
        (count > 0).then(|| u8::try_from(value).ok()).flatten()
    }
}
