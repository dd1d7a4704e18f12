//! Bodies of functions: scopes, declarations, labels, instructions and their operands.
#![forbid(unsafe_code)]

use super::ast::{Instruction, Item, Operand, Space, Ty};
use super::lex::{self, Tok};
use super::{Bad, Parser};

/// More registers than this in one declaration is no program.
const MOST_REGISTERS: u32 = 1 << 20;

impl<'a> Parser<'a> {
    /// `{ … }` of a function; inner scopes are kept as `Open` and `Close`.
    pub(super) fn body(&mut self) -> Result<Vec<Item<'a>>, Bad> {
        let opened = self.line();
        self.expect(b'{')?;
        let mut items = Vec::new();
        let mut depth = 1;
        loop {
            let line = self.line();
            match self.peek() {
                Tok::End => return Err(Bad::new(opened, "the function's body never ends")),
                Tok::Punct(b'{') => {
                    self.next();
                    depth += 1;
                    items.push(Item::Open);
                }
                Tok::Punct(b'}') => {
                    self.next();
                    depth -= 1;
                    if depth == 0 {
                        return Ok(items);
                    }
                    items.push(Item::Close);
                }
                Tok::Punct(b';') => {
                    self.next();
                }
                Tok::Punct(b'@') => items.push(self.instruction()?),
                Tok::Word(word) if word.starts_with('.') => self.directive(word, &mut items)?,
                Tok::Word(word) if self.peek_second() == Tok::Punct(b':') => {
                    self.next();
                    self.next();
                    if self.peek() == Tok::Word(".branchtargets") {
                        self.next();
                        let mut labels = vec![self.name("a label")?];
                        while self.accept(b',') {
                            labels.push(self.name("a label")?);
                        }
                        self.expect(b';')?;
                        items.push(Item::Targets(word, labels, line));
                    } else {
                        items.push(Item::Label(word, line));
                    }
                }
                Tok::Word(_) => items.push(self.instruction()?),
                _ => return self.bad(format!("expected an instruction, found {}", self.shown())),
            }
        }
    }

    fn directive(&mut self, word: &'a str, items: &mut Vec<Item<'a>>) -> Result<(), Bad> {
        let space = match word {
            ".reg" => return self.registers(items),
            ".loc" => return self.loc(items),
            ".pragma" => return self.pragma(),
            ".shared" => Space::Shared,
            ".local" => Space::Local,
            ".param" => Space::Param,
            ".global" => Space::Global,
            ".const" => Space::Const,
            _ => return self.bad(format!("unknown directive `{word}` in a function")),
        };
        self.next();
        for variable in self.variables(space, false)? {
            items.push(Item::Variable(variable));
        }
        Ok(())
    }

    fn registers(&mut self, items: &mut Vec<Item<'a>>) -> Result<(), Bad> {
        self.next();
        let ty = match self.peek() {
            Tok::Word(word) if word.starts_with('.') => Ty::parse(&word[1..]),
            _ => None,
        };
        let Some(ty) = ty else { return self.bad(format!("{} is no type of registers", self.shown())) };
        self.next();
        loop {
            let line = self.line();
            let name = self.name("a register's name")?;
            let count = if self.accept(b'<') {
                let count = self.count("a register count")?;
                if count > MOST_REGISTERS {
                    return self.bad(format!("{count} registers are too many"));
                }
                self.expect(b'>')?;
                Some(count)
            } else {
                None
            };
            items.push(Item::Registers { ty, name, count, line });
            if !self.accept(b',') {
                break;
            }
        }
        self.expect(b';')
    }

    /// `.loc file line column[, function_name label[+n], inlined_at file line column]`.
    fn loc(&mut self, items: &mut Vec<Item<'a>>) -> Result<(), Bad> {
        self.next();
        let file = self.count("a file number")?;
        let line = self.count("a line number")?;
        self.count("a column")?;
        while self.accept(b',') {
            match self.peek() {
                Tok::Word("function_name") => {
                    self.next();
                    self.name("a label")?;
                    if self.accept(b'+') {
                        self.count("an offset")?;
                    }
                }
                Tok::Word("inlined_at") => {
                    self.next();
                    for _ in 0..3 {
                        self.count("a place")?;
                    }
                }
                _ => return self.bad(format!("malformed `.loc`: found {}", self.shown())),
            }
        }
        items.push(Item::Loc { file, line });
        Ok(())
    }

    fn instruction(&mut self) -> Result<Item<'a>, Bad> {
        let first = self.tokens[self.at];
        let guard = if self.accept(b'@') {
            let negated = self.accept(b'!');
            Some((self.name("a predicate")?, negated))
        } else {
            None
        };
        let line = self.line();
        let opcode = self.name("an opcode")?;
        let mut operands = Vec::new();
        if self.peek() != Tok::Punct(b';') {
            loop {
                operands
                    .push(self.operand(0).map_err(|bad| Bad::new(bad.line, format!("`{opcode}`: {}", bad.message)))?);
                if !self.accept(b',') {
                    // `call (r), f, (a);` separates by commas as well; nothing else may follow.
                    break;
                }
            }
        }
        let end = self.tokens[self.at].end;
        self.expect(b';')?;
        let text = &self.text[first.start..end];
        Ok(Item::Instruction(Instruction { line, opcode, guard, operands, text }))
    }

    fn operand(&mut self, depth: u32) -> Result<Operand<'a>, Bad> {
        if depth > 2 {
            return self.bad("operands are nested too deeply");
        }
        match self.peek() {
            Tok::Punct(b'[') => {
                self.next();
                let operand = match self.peek() {
                    Tok::Word(_) => {
                        let base = self.name("an address")?;
                        Operand::Memory(Some(base), self.offset()?)
                    }
                    _ => Operand::Memory(None, self.integer("an address")?),
                };
                self.expect(b']')?;
                Ok(operand)
            }
            Tok::Punct(open @ (b'{' | b'(')) => {
                self.next();
                let close = if open == b'{' { b'}' } else { b')' };
                let mut inner = Vec::new();
                if !self.accept(close) {
                    loop {
                        inner.push(self.operand(depth + 1)?);
                        if !self.accept(b',') {
                            break;
                        }
                    }
                    self.expect(close)?;
                }
                Ok(if open == b'{' { Operand::Vector(inner) } else { Operand::List(inner) })
            }
            Tok::Punct(b'!') => {
                self.next();
                Ok(Operand::Not(self.name("a predicate")?))
            }
            Tok::Word("_") => {
                self.next();
                Ok(Operand::Sink)
            }
            Tok::Word(word) if !word.starts_with('.') => {
                self.next();
                if self.accept(b'|') {
                    return Ok(Operand::Pair(word, self.name("the second destination")?));
                }
                Ok(Operand::Name(word, self.offset()?))
            }
            Tok::Number(_) | Tok::Punct(b'-') => {
                let negative = self.accept(b'-');
                let Tok::Number(text) = self.peek() else {
                    return self.bad(format!("expected a number, found {}", self.shown()));
                };
                let Some(number) = lex::number(text) else {
                    return self.bad(format!("malformed number {}", self.shown()));
                };
                self.next();
                Ok(match number {
                    lex::Number::Int(v) if negative => Operand::Int((v as i64).wrapping_neg()),
                    lex::Number::Int(v) => Operand::Int(v as i64),
                    lex::Number::F32(b) => Operand::F32(if negative { b ^ 1 << 31 } else { b }),
                    lex::Number::F64(v) => Operand::F64(if negative { -v } else { v }),
                })
            }
            _ => self.bad(format!("malformed operand: found {}", self.shown())),
        }
    }

    fn offset(&mut self) -> Result<i64, Bad> {
        if self.accept(b'+') || self.peek() == Tok::Punct(b'-') { self.integer("an offset") } else { Ok(0) }
    }
}
