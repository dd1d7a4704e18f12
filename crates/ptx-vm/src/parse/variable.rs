//! Declarations of variables with their dimensions and initial values.
#![forbid(unsafe_code)]

use super::ast::{Fixup, Space, Ty, Var};
use super::lex::{self, Tok};
use super::{Bad, Parser};

/// No variable is larger: an address space of ours holds 4 GiB.
const LARGEST: u64 = 1 << 32;

impl<'a> Parser<'a> {
    /// `.align 4 .b8 name[16] = {…}, other;` after the space.
    pub(super) fn variables(&mut self, space: Space, external: bool) -> Result<Vec<Var<'a>>, Bad> {
        let (mut align, mut ty, mut lanes) = (None, None, 1);
        while let Tok::Word(word) = self.peek() {
            match word {
                ".align" => {
                    self.next();
                    align = Some(self.align()?);
                }
                ".v2" | ".v4" => {
                    self.next();
                    lanes = if word == ".v2" { 2 } else { 4 };
                }
                ".attribute" => {
                    self.next();
                    self.expect(b'(')?;
                    while !self.accept(b')') {
                        if self.peek() == Tok::End {
                            return self.bad("`.attribute` never ends");
                        }
                        self.next();
                    }
                }
                _ if word.starts_with('.') => match Ty::parse(&word[1..]) {
                    Some(found) if ty.is_none() && found != Ty::Pred => {
                        ty = Some(found);
                        self.next();
                    }
                    _ => return self.bad(format!("unknown directive `{word}` of a variable")),
                },
                _ => break,
            }
        }
        let Some(ty) = ty else { return self.bad("a variable without a type") };
        let mut all = Vec::new();
        loop {
            let line = self.line();
            let name = self.name("a variable's name")?;
            let mut elements = Some(lanes as u64);
            let mut open = false;
            while self.accept(b'[') {
                if self.accept(b']') {
                    open = true;
                    continue;
                }
                let n = self.integer("an array size")?;
                elements = elements.and_then(|e| e.checked_mul(u64::try_from(n).ok()?));
                self.expect(b']')?;
            }
            let size = elements.and_then(|e| e.checked_mul(ty.bytes() as u64)).filter(|s| *s <= LARGEST);
            let Some(mut size) = size else {
                return Err(Bad::new(line, format!("variable `{name}` is too large")));
            };
            let (mut init, mut fixups) = (Vec::new(), Vec::new());
            if self.accept(b'=') {
                if !matches!(space, Space::Global | Space::Const) {
                    return self.bad("only .global and .const variables have initial values");
                }
                self.values(ty, &mut init, &mut fixups)?;
                if open {
                    size = size.max(init.len() as u64);
                }
                if init.len() as u64 > size {
                    return Err(Bad::new(line, format!("`{name}` has more initial values than elements")));
                }
            } else if open {
                size = 0;
            }
            let align = align.unwrap_or(ty.bytes() * lanes);
            all.push(Var { name, space, align, size, init, fixups, external, line });
            if !self.accept(b',') {
                break;
            }
        }
        self.expect(b';')?;
        Ok(all)
    }

    fn values(&mut self, ty: Ty, init: &mut Vec<u8>, fixups: &mut Vec<Fixup<'a>>) -> Result<(), Bad> {
        // Braces nest as the dimensions do; the values are flat all the same.
        let mut depth = 0;
        loop {
            while self.accept(b'{') {
                depth += 1;
            }
            if self.peek() != Tok::Punct(b'}') {
                self.value(ty, init, fixups)?;
            }
            while depth > 0 && self.accept(b'}') {
                depth -= 1;
            }
            if depth == 0 {
                return Ok(());
            }
            self.expect(b',')?;
        }
    }

    fn value(&mut self, ty: Ty, init: &mut Vec<u8>, fixups: &mut Vec<Fixup<'a>>) -> Result<(), Bad> {
        let bytes = ty.bytes() as usize;
        if let Tok::Word(word) = self.peek() {
            let generic = word == "generic";
            if generic {
                self.next();
                self.expect(b'(')?;
            }
            let symbol = self.name("a variable's name")?;
            let mut addend = self.addend()?;
            if generic {
                self.expect(b')')?;
                addend = addend.wrapping_add(self.addend()?);
            }
            if bytes != 8 {
                return self.bad("an address needs 8 bytes");
            }
            fixups.push(Fixup { at: init.len(), bytes, symbol, addend });
            init.extend([0; 8]);
            return Ok(());
        }
        let negative = self.accept(b'-');
        let Tok::Number(text) = self.peek() else {
            return self.bad(format!("expected an initial value, found {}", self.shown()));
        };
        let bits: u64 = match (lex::number(text), ty) {
            (Some(lex::Number::Int(v)), Ty::F32) => (v as f32).to_bits() as u64,
            (Some(lex::Number::Int(v)), Ty::F64) => (v as f64).to_bits(),
            (Some(lex::Number::Int(v)), _) => v,
            (Some(lex::Number::F32(b)), Ty::F32 | Ty::B32) => b as u64,
            (Some(lex::Number::F64(v)), Ty::F64 | Ty::B64) => v.to_bits(),
            (Some(lex::Number::F64(v)), Ty::F32) => (v as f32).to_bits() as u64,
            _ => return self.bad(format!("malformed initial value {}", self.shown())),
        };
        let bits = match (negative, ty) {
            (false, _) => bits,
            (true, Ty::F32) => bits ^ 1 << 31,
            (true, Ty::F64) => bits ^ 1 << 63,
            (true, _) => bits.wrapping_neg(),
        };
        self.next();
        init.extend(&bits.to_le_bytes()[..bytes]);
        Ok(())
    }

    fn addend(&mut self) -> Result<i64, Bad> {
        if self.accept(b'+') || self.peek() == Tok::Punct(b'-') { self.integer("an offset") } else { Ok(0) }
    }
}
