//! Words of a master file with their places: quotes, parentheses, comments, escapes (RFC 1035, section 5.1).

use super::Problem;

/// A word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    /// As it is written, escapes and all, without quotes.
    pub text: String,
    /// It stood in quotes.
    pub quoted: bool,
    pub line: u64,
    pub column: u64,
}

impl Token {
    pub fn wrong(&self, message: impl Into<String>) -> Problem {
        Problem { line: self.line, column: self.column, message: message.into() }
    }

    /// The bytes that a character string stands for.
    pub fn bytes(&self) -> Result<Vec<u8>, Problem> {
        let mut bytes = Vec::new();
        let mut rest = self.text.as_bytes();
        while let Some((byte, after)) = rest.split_first() {
            rest = after;
            if *byte != b'\\' {
                bytes.push(*byte);
                continue;
            }
            let digits = rest.get(..3).filter(|digits| digits.iter().all(u8::is_ascii_digit));
            if let Some(digits) = digits {
                let value = digits.iter().fold(0u16, |value, digit| value * 10 + u16::from(digit - b'0'));
                let byte = u8::try_from(value).map_err(|_| {
                    self.wrong(format!("not a byte: \\{value}; write three digits from 000 to 255"))
                })?;
                bytes.push(byte);
                rest = &rest[3..];
            } else if let Some((byte, after)) = rest.split_first() {
                bytes.push(*byte);
                rest = after;
            }
        }
        Ok(bytes)
    }
}

/// The words of a record or directive.
#[derive(Clone, Debug, Default)]
pub(super) struct Entry {
    pub tokens: Vec<Token>,
    /// It begins with a blank, so that its owner is the last one.
    pub indented: bool,
}

impl Entry {
    /// Something is missing at the end.
    pub fn end(&self, message: impl Into<String>) -> Problem {
        match self.tokens.last() {
            Some(last) => {
                let length = last.text.chars().count() as u64 + if last.quoted { 2 } else { 0 };
                Problem { line: last.line, column: last.column + length, message: message.into() }
            }
            None => Problem { line: 1, column: 1, message: message.into() },
        }
    }
}

/// Splits a text into entries; what is wrong with quotes and parentheses is reported beside them.
pub(super) fn entries(text: &str) -> (Vec<Entry>, Vec<Problem>) {
    let mut scanner = Scanner { chars: text.chars().peekable(), line: 1, column: 1, problems: Vec::new() };
    let mut found = Vec::new();
    while scanner.chars.peek().is_some() {
        let entry = scanner.entry();
        if !entry.tokens.is_empty() {
            found.push(entry);
        }
    }
    (found, scanner.problems)
}

struct Scanner<'t> {
    chars: std::iter::Peekable<std::str::Chars<'t>>,
    line: u64,
    column: u64,
    problems: Vec<Problem>,
}

impl Scanner<'_> {
    fn next(&mut self) -> Option<char> {
        let c = self.chars.next()?;
        if c == '\n' {
            self.line += 1;
            self.column = 1;
        } else {
            self.column += 1;
        }
        Some(c)
    }

    fn wrong(&mut self, (line, column): (u64, u64), message: &str) {
        self.problems.push(Problem { line, column, message: message.to_owned() });
    }

    /// The words up to the end of the line, or of the lines within parentheses.
    fn entry(&mut self) -> Entry {
        let indented = matches!(self.chars.peek(), Some(' ' | '\t'));
        let mut entry = Entry { tokens: Vec::new(), indented };
        let mut open: Option<(u64, u64)> = None;
        while let Some(c) = self.chars.peek().copied() {
            let place = (self.line, self.column);
            match c {
                '\n' => {
                    self.next();
                    if open.is_none() {
                        return entry;
                    }
                }
                ';' => while self.chars.peek().is_some_and(|c| *c != '\n') && self.next().is_some() {},
                '(' => {
                    self.next();
                    if open.replace(place).is_some() {
                        self.wrong(place, "a parenthesis within another; remove one");
                    }
                }
                ')' => {
                    self.next();
                    if open.take().is_none() {
                        self.wrong(place, "a parenthesis that was never opened; remove it");
                    }
                }
                c if c.is_whitespace() => {
                    self.next();
                }
                _ => {
                    let token = self.token(place);
                    entry.tokens.push(token);
                }
            }
        }
        if let Some(place) = open {
            self.wrong(place, "a parenthesis that is never closed; close it");
        }
        entry
    }

    fn token(&mut self, place: (u64, u64)) -> Token {
        let mut text = String::new();
        let quoted = self.chars.peek() == Some(&'"');
        if quoted {
            self.next();
        }
        loop {
            match self.chars.peek().copied() {
                Some('"') if quoted => {
                    self.next();
                    break;
                }
                None | Some('\n') if quoted => {
                    self.wrong(place, "a quote that is never closed; close it on the same line");
                    break;
                }
                None => break,
                Some(c) if !quoted && (c.is_whitespace() || matches!(c, '"' | ';' | '(' | ')')) => break,
                Some('\\') => {
                    text.extend(self.next());
                    if self.chars.peek().is_some_and(|c| *c != '\n') {
                        text.extend(self.next());
                    }
                }
                Some(_) => text.extend(self.next()),
            }
        }
        Token { text, quoted, line: place.0, column: place.1 }
    }
}
