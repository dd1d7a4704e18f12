//! Reads PTX text into a `Unit`; whatever it does not know is an error with its line.
#![forbid(unsafe_code)]

pub mod ast;
mod body;
pub mod lex;
mod variable;

use ast::{Function, Param, Resources, Space, Ty, Unit};
use lex::{Tok, Token};

/// Why a file cannot be taken, before its name is known.
#[derive(Clone, Debug)]
pub struct Bad {
    pub line: u32,
    pub message: String,
}

impl Bad {
    pub fn new(line: u32, message: impl Into<String>) -> Self {
        Self { line, message: message.into() }
    }
}

/// The last instruction set that is understood, and the oldest that has all that the grammar assumes.
const NEWEST: (u32, u32) = (9, 5);

/// Parses a whole file.
pub fn parse(text: &str) -> Result<Unit<'_>, Bad> {
    let tokens = lex::lex(text)?;
    let mut parser = Parser { text, tokens, at: 0 };
    let mut unit = Unit { resources: resources(text), ..Unit::default() };
    parser.module(&mut unit)?;
    Ok(unit)
}

/// The `// resources` lines of a file's head.
fn resources(text: &str) -> Vec<Resources> {
    let mut found = Vec::new();
    for line in text.lines() {
        let Some(rest) = line.trim().strip_prefix("//") else {
            if line.trim().is_empty() {
                continue;
            }
            break;
        };
        let mut words = rest.split_whitespace();
        if words.next() != Some("resources") {
            continue;
        }
        let (Some(entry), Some(chip)) = (words.next(), words.next()) else { continue };
        let Some(sm) = chip.strip_prefix("sm_").and_then(|d| d.trim_end_matches(['a', 'f']).parse().ok()) else {
            continue;
        };
        let registers = words.filter_map(|w| w.strip_prefix("registers=")).find_map(|n| n.parse().ok());
        if let Some(registers) = registers {
            found.push(Resources { entry: entry.to_string(), sm, registers });
        }
    }
    found
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<Token<'a>>,
    at: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Tok<'a> {
        self.tokens[self.at].tok
    }

    fn peek_second(&self) -> Tok<'a> {
        self.tokens[(self.at + 1).min(self.tokens.len() - 1)].tok
    }

    fn line(&self) -> u32 {
        self.tokens[self.at].line
    }

    fn next(&mut self) -> Token<'a> {
        let token = self.tokens[self.at];
        if self.at + 1 < self.tokens.len() {
            self.at += 1;
        }
        token
    }

    fn bad<T>(&self, message: impl Into<String>) -> Result<T, Bad> {
        Err(Bad::new(self.line(), message))
    }

    /// What stands here, for messages.
    fn shown(&self) -> String {
        let token = self.tokens[self.at];
        match token.tok {
            Tok::End => "the end of the file".into(),
            _ => format!("`{}`", &self.text[token.start..token.end]),
        }
    }

    fn accept(&mut self, c: u8) -> bool {
        let found = self.peek() == Tok::Punct(c);
        if found {
            self.next();
        }
        found
    }

    fn expect(&mut self, c: u8) -> Result<(), Bad> {
        if self.accept(c) { Ok(()) } else { self.bad(format!("expected `{}`, found {}", c as char, self.shown())) }
    }

    fn accept_word(&mut self, word: &str) -> bool {
        let found = self.peek() == Tok::Word(word);
        if found {
            self.next();
        }
        found
    }

    /// A name, that is a word that is no directive.
    fn name(&mut self, what: &str) -> Result<&'a str, Bad> {
        match self.peek() {
            Tok::Word(word) if !word.starts_with('.') => {
                self.next();
                Ok(word)
            }
            _ => self.bad(format!("expected {what}, found {}", self.shown())),
        }
    }

    fn integer(&mut self, what: &str) -> Result<i64, Bad> {
        let negative = self.accept(b'-');
        if let Tok::Number(text) = self.peek()
            && let Some(lex::Number::Int(v)) = lex::number(text)
        {
            self.next();
            return Ok(if negative { (v as i64).wrapping_neg() } else { v as i64 });
        }
        self.bad(format!("expected {what}, found {}", self.shown()))
    }

    fn count(&mut self, what: &str) -> Result<u32, Bad> {
        let value = self.integer(what)?;
        u32::try_from(value).or_else(|_| self.bad(format!("{what} of {value} is out of range")))
    }

    /// `.align`: a power of two up to 1 MiB.
    fn align(&mut self) -> Result<u32, Bad> {
        let value = self.count("an alignment")?;
        if !value.is_power_of_two() || value > 1 << 20 {
            return self.bad(format!("alignment {value} is no power of two up to 1048576"));
        }
        Ok(value)
    }

    fn module(&mut self, unit: &mut Unit<'a>) -> Result<(), Bad> {
        self.head(unit)?;
        loop {
            let line = self.line();
            match self.peek() {
                Tok::End => return Ok(()),
                Tok::Word(".file") => {
                    self.next();
                    let number = self.count("a file number")?;
                    let Tok::Text(name) = self.peek() else {
                        return self.bad("`.file` needs a name in quotes");
                    };
                    self.next();
                    while self.accept(b',') {
                        self.integer("a time or size of the file")?;
                    }
                    unit.files.insert(number, name.to_string());
                }
                Tok::Word(".section") => self.section()?,
                Tok::Word(".pragma") => self.pragma()?,
                Tok::Word(".alias") => return self.bad("`.alias` is not supported"),
                Tok::Word(".visible" | ".weak" | ".common" | ".extern" | ".entry" | ".func") => {
                    let external = self.linkage();
                    match self.peek() {
                        Tok::Word(".entry") => {
                            let function = self.function(true)?;
                            self.keep(unit, function)?;
                        }
                        Tok::Word(".func") => {
                            let function = self.function(false)?;
                            self.keep(unit, function)?;
                        }
                        _ => self.module_variable(unit, external)?,
                    }
                }
                Tok::Word(".global" | ".const" | ".shared") => self.module_variable(unit, false)?,
                Tok::Punct(b';') => {
                    self.next();
                }
                Tok::Word(word) => return Err(Bad::new(line, format!("unknown directive `{word}` at module scope"))),
                _ => return self.bad(format!("expected a directive, found {}", self.shown())),
            }
        }
    }

    fn keep(&mut self, unit: &mut Unit<'a>, function: Function<'a>) -> Result<(), Bad> {
        if let Some(old) = unit.functions.iter_mut().find(|f| f.name == function.name) {
            if old.body.is_some() && function.body.is_some() {
                return Err(Bad::new(function.line, format!("`{}` is defined twice", function.name)));
            }
            if function.body.is_some() {
                *old = function;
            }
            return Ok(());
        }
        unit.functions.push(function);
        Ok(())
    }

    /// `.version`, `.target` and `.address_size`, which every file begins with.
    fn head(&mut self, unit: &mut Unit<'a>) -> Result<(), Bad> {
        if !self.accept_word(".version") {
            return self.bad(format!("a PTX file begins with `.version`, this one with {}", self.shown()));
        }
        let shown = self.shown();
        let Tok::Number(text) = self.next().tok else {
            return self.bad("`.version` needs a number such as 7.8");
        };
        let (major, minor) = text.split_once('.').unwrap_or((text, ""));
        let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else {
            return self.bad(format!("`.version` needs a number such as 7.8, not {shown}"));
        };
        unit.version = (major, minor);
        if unit.version > NEWEST || major < 3 {
            return self.bad(format!("PTX version {major}.{minor} is not supported (3.0 to 9.5 are)"));
        }
        if !self.accept_word(".target") {
            return self.bad(format!("expected `.target`, found {}", self.shown()));
        }
        loop {
            let word = self.name("a target such as sm_80")?;
            if let Some(chip) = word.strip_prefix("sm_") {
                let digits = chip.trim_end_matches(['a', 'f']);
                let Ok(number) = digits.parse::<u32>() else {
                    return self.bad(format!("unknown target `{word}`"));
                };
                unit.target = number;
                unit.target_exact = digits.len() < chip.len();
            } else if !matches!(word, "debug" | "texmode_independent" | "texmode_unified") {
                return self.bad(format!("unknown target `{word}`"));
            }
            if !self.accept(b',') {
                break;
            }
        }
        if unit.target == 0 {
            return self.bad("`.target` names no sm_NN");
        }
        if self.accept_word(".address_size") {
            let size = self.integer("an address size")?;
            if size != 64 {
                return self.bad(format!("`.address_size {size}` is not supported (64 is)"));
            }
        }
        Ok(())
    }

    /// `.visible`, `.weak`, `.common`, `.extern`; true for the last.
    fn linkage(&mut self) -> bool {
        let mut external = false;
        while let Tok::Word(".visible" | ".weak" | ".common" | ".extern") = self.peek() {
            external |= self.peek() == Tok::Word(".extern");
            self.next();
        }
        external
    }

    fn module_variable(&mut self, unit: &mut Unit<'a>, external: bool) -> Result<(), Bad> {
        let space = match self.peek() {
            Tok::Word(".global") => Space::Global,
            Tok::Word(".const") => Space::Const,
            Tok::Word(".shared") => Space::Shared,
            _ => return self.bad(format!("expected a variable or a function, found {}", self.shown())),
        };
        self.next();
        for variable in self.variables(space, external)? {
            match unit.variables.iter().position(|v| v.name == variable.name) {
                Some(old) if unit.variables[old].external => unit.variables[old] = variable,
                Some(_) if external => {}
                Some(_) => {
                    return Err(Bad::new(variable.line, format!("`{}` is declared twice", variable.name)));
                }
                None => unit.variables.push(variable),
            }
        }
        Ok(())
    }

    /// Debug sections hold nothing that execution needs.
    fn section(&mut self) -> Result<(), Bad> {
        let opened = self.line();
        self.next();
        while self.peek() != Tok::Punct(b'{') {
            match self.peek() {
                Tok::Word(_) | Tok::Text(_) | Tok::Punct(b',' | b'@') => self.next(),
                _ => return self.bad(format!("malformed `.section`: found {}", self.shown())),
            };
        }
        let mut depth = 0;
        loop {
            match self.next().tok {
                Tok::Punct(b'{') => depth += 1,
                Tok::Punct(b'}') => depth -= 1,
                Tok::End => return Err(Bad::new(opened, "`.section` never ends")),
                _ => {}
            }
            if depth == 0 {
                return Ok(());
            }
        }
    }

    /// Hints to the compiler: checked for form only.
    fn pragma(&mut self) -> Result<(), Bad> {
        self.next();
        loop {
            let Tok::Text(_) = self.peek() else {
                return self.bad("`.pragma` needs text in quotes");
            };
            self.next();
            if !self.accept(b',') {
                break;
            }
        }
        self.expect(b';')
    }

    fn function(&mut self, entry: bool) -> Result<Function<'a>, Bad> {
        let line = self.line();
        self.next();
        let returns = if !entry && self.peek() == Tok::Punct(b'(') { self.params()? } else { Vec::new() };
        let name = self.name("a function's name")?;
        let params = if self.peek() == Tok::Punct(b'(') { self.params()? } else { Vec::new() };
        let mut function = Function {
            name,
            entry,
            line,
            returns,
            params,
            body: None,
            max_threads: None,
            required_threads: None,
            max_registers: None,
        };
        loop {
            match self.peek() {
                Tok::Word(".maxntid") => function.max_threads = Some(self.three()?),
                Tok::Word(".reqntid") => function.required_threads = Some(self.three()?),
                Tok::Word(".maxnreg") => {
                    self.next();
                    function.max_registers = Some(self.count("a register count")?);
                }
                Tok::Word(".minnctapersm" | ".maxnctapersm") => {
                    self.next();
                    self.count("a block count")?;
                }
                Tok::Word(".noreturn") => {
                    self.next();
                }
                Tok::Word(".pragma") => self.pragma()?,
                Tok::Punct(b';') => {
                    self.next();
                    return Ok(function);
                }
                Tok::Punct(b'{') => {
                    function.body = Some(self.body()?);
                    return Ok(function);
                }
                Tok::Word(word) => return self.bad(format!("unknown directive `{word}` of function `{name}`")),
                _ => return self.bad(format!("expected the body of `{name}`, found {}", self.shown())),
            }
        }
    }

    fn three(&mut self) -> Result<[u32; 3], Bad> {
        self.next();
        let mut sizes = [1; 3];
        for (i, size) in sizes.iter_mut().enumerate() {
            if i > 0 && !self.accept(b',') {
                break;
            }
            *size = self.count("a thread count")?;
        }
        Ok(sizes)
    }

    /// `( .param .u64 name, … )`, laid out in order with each at its alignment.
    fn params(&mut self) -> Result<Vec<Param<'a>>, Bad> {
        self.expect(b'(')?;
        let mut params: Vec<Param<'a>> = Vec::new();
        if self.accept(b')') {
            return Ok(params);
        }
        let mut end = 0u32;
        loop {
            let line = self.line();
            let register = match self.peek() {
                Tok::Word(".param") => false,
                Tok::Word(".reg") => true,
                _ => return self.bad(format!("expected `.param`, found {}", self.shown())),
            };
            self.next();
            let (mut align, mut ty) = (None, None);
            while let Tok::Word(word) = self.peek() {
                match word {
                    ".align" => {
                        self.next();
                        let value = self.align()?;
                        if ty.is_none() {
                            align = Some(value);
                        }
                    }
                    // What a pointer points to is a hint.
                    ".ptr" | ".global" | ".shared" | ".const" | ".local" | ".generic" => {
                        self.next();
                    }
                    _ if word.starts_with('.') => match Ty::parse(&word[1..]) {
                        Some(found) if ty.is_none() => {
                            ty = Some(found);
                            self.next();
                        }
                        _ => return self.bad(format!("unknown directive `{word}` of a parameter")),
                    },
                    _ => break,
                }
            }
            let Some(ty) = ty else { return self.bad("a parameter without a type") };
            let name = self.name("a parameter's name")?;
            let elements = if self.accept(b'[') {
                let n = if self.peek() == Tok::Punct(b']') { 0 } else { self.count("an array size")? };
                self.expect(b']')?;
                n
            } else {
                1
            };
            let align = align.unwrap_or(ty.bytes().max(1));
            let offset = end.checked_next_multiple_of(align);
            let size = ty.bytes().checked_mul(elements);
            let (Some(offset), Some(size)) = (offset, size.filter(|s| *s <= 1 << 20)) else {
                return Err(Bad::new(line, format!("parameter `{name}` is too large")));
            };
            end = offset + size;
            if end > 1 << 21 {
                return Err(Bad::new(line, format!("parameter `{name}` is too large")));
            }
            params.push(Param { name, ty, size, offset, register, line });
            if !self.accept(b',') {
                break;
            }
        }
        self.expect(b')')?;
        Ok(params)
    }
}
