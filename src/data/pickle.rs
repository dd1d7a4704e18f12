//! A reader of Python pickles that hold dicts, lists, numbers, texts and numpy byte arrays, and that can run nothing.
//!
//! A pickle is a program for a stack machine, which in Python may import and call whatever it names. This machine knows
//! the instructions that CIFAR's files are made of, under Python 2 and under Python 3 up to protocol 4. Of the two that
//! call (REDUCE, BUILD) it accepts one pattern: numpy putting together an array of bytes, which stays a range of the file.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

/// Most values that a file may hold, so that a small file cannot ask for much memory; CIFAR-100 needs 200,000.
const MOST_VALUES: usize = 4_000_000;
/// Longest name of a global that is looked at, in bytes.
const LONGEST_NAME: usize = 256;

/// A value's number.
pub type Id = usize;

/// A numpy array of unsigned bytes in C order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Array {
    pub shape: Vec<usize>,
    /// Where its bytes lie in the file; as many as the shape says.
    pub bytes: Range<usize>,
}

/// What a global may be; any other is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Global {
    Reconstruct,
    Ndarray,
    Dtype,
}

#[derive(Clone, Debug)]
enum Value {
    Null,
    Bool(bool),
    Int(i64),
    /// A text or a byte string: Python 2 made no difference.
    Bytes(Range<usize>),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    /// A dtype, by its name in the file.
    Dtype(Range<usize>),
    Array(Option<Array>),
}

/// A pickle that has been read. Values are numbered, so that one that holds itself is no danger.
#[derive(Debug)]
pub struct Pickle<'a> {
    bytes: &'a [u8],
    values: Vec<Value>,
    root: Id,
}

impl<'a> Pickle<'a> {
    /// Reads `bytes`; `path` is only named in errors, which also name the instruction and the byte it stands at.
    pub fn read(bytes: &'a [u8], path: &Path) -> Result<Self> {
        let mut machine =
            Machine { bytes, at: 0, values: Vec::new(), stack: Vec::new(), marks: Vec::new(), memo: HashMap::new() };
        loop {
            let (at, code) = (machine.at, bytes.get(machine.at).copied());
            let done = machine.step().map_err(|reason| {
                let what = code.map_or("the file ends".to_string(), |code| format!("opcode {}", opcode(code)));
                let remedy = "use the file of the official archive, or the binary version of CIFAR-100";
                Error::data(path, format!("byte {at}: {what}: {reason}"), remedy)
            })?;
            if let Some(root) = done {
                return Ok(Pickle { bytes, values: machine.values, root });
            }
        }
    }

    /// The value under `key` in the dict that the file holds.
    pub fn get(&self, key: &str) -> Option<Id> {
        let Value::Dict(pairs) = &self.values[self.root] else { return None };
        pairs.iter().rev().find(|(k, _)| self.text(*k) == Some(key.as_bytes())).map(|(_, value)| *value)
    }

    /// The integers of a list.
    pub fn integers(&self, id: Id) -> Option<Vec<i64>> {
        let integer = |id: &Id| if let Value::Int(i) = self.values[*id] { Some(i) } else { None };
        self.list(id)?.iter().map(integer).collect()
    }

    /// The texts of a list, as the file has them.
    pub fn texts(&self, id: Id) -> Option<Vec<&'a [u8]>> {
        self.list(id)?.iter().map(|id| self.text(*id)).collect()
    }

    /// The array, if `id` is one.
    pub fn array(&self, id: Id) -> Option<&Array> {
        if let Value::Array(array) = &self.values[id] { array.as_ref() } else { None }
    }

    fn text(&self, id: Id) -> Option<&'a [u8]> {
        if let Value::Bytes(range) = &self.values[id] { Some(&self.bytes[range.clone()]) } else { None }
    }

    fn list(&self, id: Id) -> Option<&[Id]> {
        if let Value::List(items) = &self.values[id] { Some(items) } else { None }
    }
}

/// Why an instruction was refused.
type Step<T> = std::result::Result<T, String>;

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    values: Vec<Value>,
    stack: Vec<Id>,
    /// Heights of the stack at the marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl Machine<'_> {
    /// Executes the next instruction; the root, when it was STOP.
    fn step(&mut self) -> Step<Option<Id>> {
        let code = self.take::<1>()?[0];
        match code {
            b'.' => {
                return match self.stack[..] {
                    [root] => Ok(Some(root)),
                    _ => Err(format!("{} values are left, where one belongs", self.stack.len())),
                };
            }
            0x80 => {
                let protocol = self.take::<1>()?[0];
                if !(2..=4).contains(&protocol) {
                    return Err(format!("protocol {protocol} is not read, 2 to 4 are"));
                }
            }
            // The length of a frame helps readers of streams; here the whole file is at hand.
            0x95 => drop(self.take::<8>()?),
            b'(' => self.marks.push(self.stack.len()),
            b'N' => self.push(Value::Null)?,
            0x88 => self.push(Value::Bool(true))?,
            0x89 => self.push(Value::Bool(false))?,
            b'K' => self.integer::<1>()?,
            b'M' => self.integer::<2>()?,
            b'J' => {
                let value = i32::from_le_bytes(self.take()?);
                self.push(Value::Int(value.into()))?;
            }
            b'U' | b'C' | 0x8C => self.text::<1>()?,
            b'T' | b'B' | b'X' => self.text::<4>()?,
            b'}' => self.push(Value::Dict(Vec::new()))?,
            b']' => self.push(Value::List(Vec::new()))?,
            b')' => self.push(Value::Tuple(Vec::new()))?,
            0x85..=0x87 => {
                let items = self.pop_many(usize::from(code - 0x84))?;
                self.push(Value::Tuple(items))?;
            }
            b't' => {
                let items = self.pop_to_mark()?;
                self.push(Value::Tuple(items))?;
            }
            b'a' | b'e' => {
                let items = if code == b'a' { vec![self.pop()?] } else { self.pop_to_mark()? };
                match self.top()? {
                    Value::List(list) => list.extend(items),
                    _ => return Err("what it adds to is no list".into()),
                }
            }
            b's' | b'u' => {
                let items = if code == b's' { self.pop_many(2)? } else { self.pop_to_mark()? };
                let (pairs, odd) = items.as_chunks::<2>();
                match self.top()? {
                    Value::Dict(dict) if odd.is_empty() => dict.extend(pairs.iter().map(|[key, value]| (*key, *value))),
                    _ => return Err("it does not add pairs to a dict".into()),
                }
            }
            b'q' => {
                let key = self.take::<1>()?[0];
                self.remember(key.into())?;
            }
            b'r' => {
                let key = u32::from_le_bytes(self.take()?);
                self.remember(key)?;
            }
            0x94 => self.remember(self.memo.len() as u32)?,
            b'h' => {
                let key = self.take::<1>()?[0];
                self.recall(key.into())?;
            }
            b'j' => {
                let key = u32::from_le_bytes(self.take()?);
                self.recall(key)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(module, name)?;
            }
            0x93 => {
                let names = self.pop_many(2)?;
                match [&self.values[names[0]], &self.values[names[1]]] {
                    [Value::Bytes(module), Value::Bytes(name)] => self.global(module.clone(), name.clone())?,
                    _ => return Err("the names on the stack are no texts".into()),
                }
            }
            b'R' => self.reduce()?,
            b'b' => self.build()?,
            _ => return Err("does not occur in CIFAR's files, and a pickle may run nothing here".into()),
        }
        Ok(None)
    }

    fn take<const W: usize>(&mut self) -> Step<[u8; W]> {
        let taken = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<W>());
        let taken = *taken.ok_or("the file ends inside it")?;
        self.at += W;
        Ok(taken)
    }

    fn push(&mut self, value: Value) -> Step<()> {
        if self.values.len() >= MOST_VALUES {
            return Err(format!("the file holds more than {MOST_VALUES} values"));
        }
        self.stack.push(self.values.len());
        self.values.push(value);
        Ok(())
    }

    /// An unsigned integer of `W` bytes.
    fn unsigned<const W: usize>(&mut self) -> Step<usize> {
        Ok(self.take::<W>()?.iter().rev().fold(0, |sum, &byte| sum << 8 | usize::from(byte)))
    }

    fn integer<const W: usize>(&mut self) -> Step<()> {
        let value = self.unsigned::<W>()? as i64;
        self.push(Value::Int(value))
    }

    /// A text whose length stands before it in `W` bytes.
    fn text<const W: usize>(&mut self) -> Step<()> {
        let length = self.unsigned::<W>()?;
        if length > self.bytes.len() - self.at {
            return Err(format!("the file ends inside its {length} bytes"));
        }
        self.at += length;
        self.push(Value::Bytes(self.at - length..self.at))
    }

    /// A name that ends at a line feed.
    fn line(&mut self) -> Step<Range<usize>> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().take(LONGEST_NAME).position(|&b| b == b'\n').ok_or("its name does not end")?;
        self.at += length + 1;
        Ok(self.at - length - 1..self.at - 1)
    }

    /// The stack down to the newest mark belongs to whoever pops.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop_many(&mut self, count: usize) -> Step<Vec<Id>> {
        if self.stack.len() < self.floor() + count {
            return Err("the stack is empty".into());
        }
        Ok(self.stack.split_off(self.stack.len() - count))
    }

    fn pop(&mut self) -> Step<Id> {
        Ok(self.pop_many(1)?[0])
    }

    fn pop_to_mark(&mut self) -> Step<Vec<Id>> {
        let mark = self.marks.pop().ok_or("there is no mark")?;
        Ok(self.stack.split_off(mark))
    }

    fn top_id(&self) -> Step<Id> {
        match self.stack.last() {
            Some(id) if self.stack.len() > self.floor() => Ok(*id),
            _ => Err("the stack is empty".into()),
        }
    }

    fn top(&mut self) -> Step<&mut Value> {
        let id = self.top_id()?;
        Ok(&mut self.values[id])
    }

    fn remember(&mut self, key: u32) -> Step<()> {
        let id = self.top_id()?;
        self.memo.insert(key, id);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Step<()> {
        let id = *self.memo.get(&key).ok_or_else(|| format!("nothing was stored under {key}"))?;
        if self.stack.len() >= MOST_VALUES {
            return Err(format!("the file holds more than {MOST_VALUES} values"));
        }
        self.stack.push(id);
        Ok(())
    }

    fn global(&mut self, module: Range<usize>, name: Range<usize>) -> Step<()> {
        let global = match (&self.bytes[module.clone()], &self.bytes[name.clone()]) {
            (b"numpy.core.multiarray" | b"numpy._core.multiarray", b"_reconstruct") => Global::Reconstruct,
            (b"numpy", b"ndarray") => Global::Ndarray,
            (b"numpy", b"dtype") => Global::Dtype,
            (module, name) => {
                let shown =
                    |bytes: &[u8]| bytes.iter().take(60).map(|b| b.escape_ascii().to_string()).collect::<String>();
                return Err(format!(
                    "asks for {}.{}, and a pickle may run nothing here but put numpy arrays together",
                    shown(module),
                    shown(name)
                ));
            }
        };
        self.push(Value::Global(global))
    }

    /// A call: `_reconstruct(ndarray, (0,), b'b')` begins an array, `dtype('u1', ...)` names its elements.
    fn reduce(&mut self) -> Step<()> {
        let refused = "calls something that puts no numpy array together";
        let parts = self.pop_many(2)?;
        let (Value::Global(global), Value::Tuple(arguments)) = (&self.values[parts[0]], &self.values[parts[1]]) else {
            return Err(refused.into());
        };
        let first = arguments.first().map(|id| &self.values[*id]);
        let made = match (global, first) {
            (Global::Reconstruct, Some(Value::Global(Global::Ndarray))) => Value::Array(None),
            (Global::Dtype, Some(Value::Bytes(name))) => Value::Dtype(name.clone()),
            _ => return Err(refused.into()),
        };
        self.push(made)
    }

    /// The state of what REDUCE made: nothing of interest for a dtype, (version, shape, dtype, Fortran order, bytes) for
    /// an array.
    fn build(&mut self) -> Step<()> {
        let state = self.pop()?;
        let Value::Tuple(state) = &self.values[state] else { return Err("the state is no tuple".into()) };
        let state: Vec<&Value> = state.iter().map(|id| &self.values[*id]).collect();
        let place = self.top_id()?;
        match (&self.values[place], &state[..]) {
            (Value::Dtype(_), _) => Ok(()),
            (
                Value::Array(None),
                [Value::Int(1), Value::Tuple(shape), Value::Dtype(dtype), Value::Bool(fortran), Value::Bytes(bytes)],
            ) => {
                if &self.bytes[dtype.clone()] != b"u1" || *fortran {
                    return Err("the array is not one of unsigned bytes in C order".into());
                }
                let side = |id: &Id| match self.values[*id] {
                    Value::Int(side) => usize::try_from(side).ok(),
                    _ => None,
                };
                let shape: Option<Vec<usize>> = shape.iter().map(side).collect();
                let shape = shape.ok_or("the array's shape is not made of sizes")?;
                let size = shape.iter().try_fold(1usize, |size, side| size.checked_mul(*side));
                if size != Some(bytes.len()) {
                    return Err(format!("an array of shape {shape:?} has {} bytes", bytes.len()));
                }
                let array = Array { shape, bytes: bytes.clone() };
                self.values[place] = Value::Array(Some(array));
                Ok(())
            }
            _ => Err("sets the state of something that is no numpy array of bytes".into()),
        }
    }
}

/// An opcode as Python's `pickletools` calls it, with its byte.
fn opcode(code: u8) -> String {
    const NAMES: [(u8, &str); 68] = [
        (b'(', "MARK"),
        (b'.', "STOP"),
        (b'0', "POP"),
        (b'1', "POP_MARK"),
        (b'2', "DUP"),
        (b'F', "FLOAT"),
        (b'I', "INT"),
        (b'J', "BININT"),
        (b'K', "BININT1"),
        (b'L', "LONG"),
        (b'M', "BININT2"),
        (b'N', "NONE"),
        (b'P', "PERSID"),
        (b'Q', "BINPERSID"),
        (b'R', "REDUCE"),
        (b'S', "STRING"),
        (b'T', "BINSTRING"),
        (b'U', "SHORT_BINSTRING"),
        (b'V', "UNICODE"),
        (b'X', "BINUNICODE"),
        (b'a', "APPEND"),
        (b'b', "BUILD"),
        (b'c', "GLOBAL"),
        (b'd', "DICT"),
        (b'}', "EMPTY_DICT"),
        (b'e', "APPENDS"),
        (b'g', "GET"),
        (b'h', "BINGET"),
        (b'i', "INST"),
        (b'j', "LONG_BINGET"),
        (b'l', "LIST"),
        (b']', "EMPTY_LIST"),
        (b'o', "OBJ"),
        (b'p', "PUT"),
        (b'q', "BINPUT"),
        (b'r', "LONG_BINPUT"),
        (b's', "SETITEM"),
        (b't', "TUPLE"),
        (b')', "EMPTY_TUPLE"),
        (b'u', "SETITEMS"),
        (b'G', "BINFLOAT"),
        (b'B', "BINBYTES"),
        (b'C', "SHORT_BINBYTES"),
        (0x80, "PROTO"),
        (0x81, "NEWOBJ"),
        (0x82, "EXT1"),
        (0x83, "EXT2"),
        (0x84, "EXT4"),
        (0x85, "TUPLE1"),
        (0x86, "TUPLE2"),
        (0x87, "TUPLE3"),
        (0x88, "NEWTRUE"),
        (0x89, "NEWFALSE"),
        (0x8A, "LONG1"),
        (0x8B, "LONG4"),
        (0x8C, "SHORT_BINUNICODE"),
        (0x8D, "BINUNICODE8"),
        (0x8E, "BINBYTES8"),
        (0x8F, "EMPTY_SET"),
        (0x90, "ADDITEMS"),
        (0x91, "FROZENSET"),
        (0x92, "NEWOBJ_EX"),
        (0x93, "STACK_GLOBAL"),
        (0x94, "MEMOIZE"),
        (0x95, "FRAME"),
        (0x96, "BYTEARRAY8"),
        (0x97, "NEXT_BUFFER"),
        (0x98, "READONLY_BUFFER"),
    ];
    let name = NAMES.iter().find(|(byte, _)| *byte == code).map_or("unknown", |(_, name)| *name);
    format!("{name} (0x{code:02x})")
}

#[cfg(test)]
#[path = "pickle_tests.rs"]
pub(super) mod tests;
