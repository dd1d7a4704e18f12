//! An opcode's modifiers, each of which some rule must claim.
#![forbid(unsafe_code)]

use crate::parse::Bad;
use crate::parse::ast::Ty;

pub struct Mods<'a> {
    pub root: &'a str,
    opcode: &'a str,
    left: Vec<&'a str>,
    line: u32,
}

impl<'a> Mods<'a> {
    pub fn new(opcode: &'a str, line: u32) -> Self {
        let mut parts = opcode.split('.');
        Self { root: parts.next().unwrap_or(""), opcode, left: parts.collect(), line }
    }

    /// Claims a modifier if it is there.
    pub fn take(&mut self, word: &str) -> bool {
        let found = self.left.iter().position(|w| *w == word);
        if let Some(at) = found {
            self.left.remove(at);
        }
        found.is_some()
    }

    /// Claims the first of these that is there.
    pub fn one_of(&mut self, words: &[&str]) -> Option<&'a str> {
        let at = self.left.iter().position(|w| words.contains(w))?;
        Some(self.left.remove(at))
    }

    /// The first type, left in place.
    pub fn peek_ty(&self) -> Option<Ty> {
        self.left.iter().find_map(|w| Ty::parse(w))
    }

    /// Claims the next modifier that is a type.
    pub fn maybe_ty(&mut self) -> Option<Ty> {
        let at = self.left.iter().position(|w| Ty::parse(w).is_some())?;
        Ty::parse(self.left.remove(at))
    }

    pub fn ty(&mut self) -> Result<Ty, Bad> {
        self.maybe_ty().ok_or_else(|| Bad::new(self.line, format!("`{}` lacks a type", self.opcode)))
    }

    /// Claims modifiers that begin so, such as cache hints.
    pub fn take_prefixed(&mut self, prefixes: &[&str]) -> usize {
        let before = self.left.len();
        self.left.retain(|w| !prefixes.iter().any(|p| w.starts_with(p)));
        before - self.left.len()
    }

    /// A modifier that must be there.
    pub fn need(&mut self, word: &str) -> Result<(), Bad> {
        if self.take(word) { Ok(()) } else { Err(Bad::new(self.line, format!("`{}` lacks `.{word}`", self.opcode))) }
    }

    pub fn need_one(&mut self, words: &[&str]) -> Result<&'a str, Bad> {
        self.one_of(words)
            .ok_or_else(|| Bad::new(self.line, format!("`{}` needs one of .{}", self.opcode, words.join(", ."))))
    }

    /// Nothing may be left over.
    pub fn finish(&self) -> Result<(), Bad> {
        match self.left.first() {
            None => Ok(()),
            Some(word) => Err(Bad::new(self.line, format!("unknown modifier `.{word}` of `{}`", self.opcode))),
        }
    }

    /// The type does not exist for this instruction.
    pub fn wrong_type(&self) -> Bad {
        Bad::new(self.line, format!("`{}` has no form for this type", self.opcode))
    }
}
