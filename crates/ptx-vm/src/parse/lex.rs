//! Splits PTX text into words, numbers, strings and punctuation, each with its line.
#![forbid(unsafe_code)]

use super::Bad;

/// What a token is; slices point into the source text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tok<'a> {
    /// A name, a directive or an opcode with its modifiers: everything joined by dots and double colons.
    Word(&'a str),
    /// A number, not yet judged.
    Number(&'a str),
    Text(&'a str),
    Punct(u8),
    End,
}

/// A token, the line it stands on (from 1) and where its text begins and ends.
#[derive(Clone, Copy, Debug)]
pub struct Token<'a> {
    pub tok: Tok<'a>,
    pub line: u32,
    pub start: usize,
    pub end: usize,
}

fn word_start(c: u8) -> bool {
    c.is_ascii_alphabetic() || matches!(c, b'_' | b'$' | b'%' | b'.')
}

fn word_part(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$' | b'%' | b'.')
}

/// All tokens of `text`, with an `End` last.
pub fn lex(text: &str) -> Result<Vec<Token<'_>>, Bad> {
    let bytes = text.as_bytes();
    let mut tokens = Vec::with_capacity(bytes.len() / 4);
    let (mut at, mut line) = (0, 1u32);
    while at < bytes.len() {
        let c = bytes[at];
        let start = at;
        if c == b'\n' {
            line += 1;
            at += 1;
        } else if c.is_ascii_whitespace() {
            at += 1;
        } else if bytes[at..].starts_with(b"//") {
            while at < bytes.len() && bytes[at] != b'\n' {
                at += 1;
            }
        } else if bytes[at..].starts_with(b"/*") {
            let opened = line;
            at += 2;
            while !bytes[at..].starts_with(b"*/") {
                match bytes.get(at) {
                    None => return Err(Bad::new(opened, "comment never ends")),
                    Some(b'\n') => line += 1,
                    Some(_) => {}
                }
                at += 1;
            }
            at += 2;
        } else if word_start(c) {
            at += 1;
            loop {
                if at < bytes.len() && word_part(bytes[at]) {
                    at += 1;
                } else if bytes[at..].starts_with(b"::") && bytes.get(at + 2).is_some_and(|c| word_part(*c)) {
                    at += 2;
                } else {
                    break;
                }
            }
            tokens.push(Token { tok: Tok::Word(&text[start..at]), line, start, end: at });
        } else if c.is_ascii_digit() {
            while at < bytes.len() && (bytes[at].is_ascii_alphanumeric() || bytes[at] == b'.') {
                let exponent = matches!(bytes[at], b'e' | b'E') && !text[start..at].starts_with("0");
                at += 1;
                if exponent && matches!(bytes.get(at), Some(b'+' | b'-')) {
                    at += 1;
                }
            }
            tokens.push(Token { tok: Tok::Number(&text[start..at]), line, start, end: at });
        } else if c == b'"' {
            at += 1;
            while at < bytes.len() && bytes[at] != b'"' && bytes[at] != b'\n' {
                at += if bytes[at] == b'\\' && at + 1 < bytes.len() && bytes[at + 1].is_ascii() { 2 } else { 1 };
            }
            if bytes.get(at) != Some(&b'"') {
                return Err(Bad::new(line, "string never ends"));
            }
            tokens.push(Token { tok: Tok::Text(&text[start + 1..at]), line, start, end: at + 1 });
            at += 1;
        } else if b"{}()[]<>,;:+-!@|=*/&~#^?".contains(&c) {
            at += 1;
            tokens.push(Token { tok: Tok::Punct(c), line, start, end: at });
        } else {
            let shown = text[start..].chars().next().unwrap_or('?').escape_default();
            return Err(Bad::new(line, format!("unexpected character '{shown}'")));
        }
    }
    tokens.push(Token { tok: Tok::End, line, start: at, end: at });
    Ok(tokens)
}

/// A number as written in PTX.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    Int(u64),
    /// Exact bits of a 32-bit float (`0f3F800000`).
    F32(u32),
    F64(f64),
}

/// Judges a number token: decimal, hex, octal or binary integers, `0f`/`0d` bits, decimal floats.
pub fn number(text: &str) -> Option<Number> {
    let low = text.to_ascii_lowercase();
    if let Some(hex) = low.strip_prefix("0f") {
        return (hex.len() == 8).then(|| u32::from_str_radix(hex, 16).ok().map(Number::F32))?;
    }
    if let Some(hex) = low.strip_prefix("0d") {
        return (hex.len() == 16).then(|| u64::from_str_radix(hex, 16).ok().map(|b| Number::F64(f64::from_bits(b))))?;
    }
    let int = low.strip_suffix('u').unwrap_or(&low);
    let parsed = if let Some(hex) = int.strip_prefix("0x") {
        u64::from_str_radix(hex, 16)
    } else if let Some(bin) = int.strip_prefix("0b") {
        u64::from_str_radix(bin, 2)
    } else if int.len() > 1 && int.starts_with('0') && int.bytes().all(|c| c.is_ascii_digit()) {
        u64::from_str_radix(int, 8)
    } else {
        int.parse()
    };
    match parsed {
        Ok(v) => Some(Number::Int(v)),
        Err(_) if low.contains('.') || low.contains('e') => low.parse().ok().map(Number::F64),
        Err(_) => None,
    }
}
