//! Turns a parsed kernel, with the functions it calls put in place, into warp instructions.
#![forbid(unsafe_code)]

mod arith;
mod control;
mod convert;
mod float;
mod logic;
mod memory;
mod mods;
mod operands;
mod regs;
mod tensor;
mod warp;

use std::collections::{HashMap, HashSet};

use crate::inst::{Class, Inst, Op, Origin, Program, Reg};
use crate::parse::Bad;
use crate::parse::ast::{Function, Instruction, Item, Operand, Space, Ty, Unit, Var};
use mods::Mods;

/// Calls put in place may not blow a kernel up beyond this.
const MOST_INSTRUCTIONS: usize = 1 << 20;
const DEEPEST_CALL: usize = 64;

/// What a name means.
#[derive(Clone, Copy, Debug)]
enum Binding<'a> {
    Register(Reg, Ty),
    /// `%r<n>`: the first register and how many.
    Family(Reg, Ty, u32),
    Label(u32),
    /// A variable at an offset of its window, or at an address for global and const.
    Place(Space, u64),
    /// A kernel's parameter: its offset in the block.
    Param(u32),
    Targets(&'a [&'a str]),
}

/// Addresses of module-scope variables.
pub type Addresses<'a> = HashMap<&'a str, u64>;

pub struct Decoder<'a, 'u> {
    unit: &'u Unit<'a>,
    addresses: &'u Addresses<'a>,
    scopes: Vec<HashMap<&'a str, Binding<'u>>>,
    code: Vec<Inst>,
    origins: Vec<Origin>,
    opcodes: Vec<String>,
    opcode_ids: HashMap<&'a str, u32>,
    texts: Vec<String>,
    labels: Vec<Option<u32>>,
    n32: u32,
    n64: u32,
    n_pred: u32,
    constants32: Vec<u32>,
    constants64: Vec<u64>,
    constant_ids: HashMap<(bool, u64), Reg>,
    shared: u32,
    /// Where the shared variables of function scope lie; a function put in place twice shares them.
    shared_places: HashMap<(&'a str, u32), u64>,
    /// The carry flag of `add.cc`.
    carry: Option<Reg>,
    local: u32,
    calls: Vec<&'a str>,
    /// Label after an inlined call; none in the kernel itself.
    returns: Vec<u32>,
    source: Option<(u32, u32)>,
    line: u32,
    text: u32,
    opcode: Option<u32>,
    guard: (Reg, bool),
}

/// Constants are numbered from here until the registers are counted.
const CONSTANT_BASE: u32 = 1 << 29;

/// Decodes one kernel.
pub fn decode<'a>(unit: &Unit<'a>, kernel: &Function<'a>, addresses: &Addresses<'a>) -> Result<Program, Bad> {
    let mut decoder = Decoder {
        unit,
        addresses,
        scopes: vec![HashMap::new()],
        code: Vec::new(),
        origins: Vec::new(),
        opcodes: Vec::new(),
        opcode_ids: HashMap::new(),
        texts: Vec::new(),
        labels: Vec::new(),
        n32: 0,
        n64: 0,
        n_pred: 0,
        constants32: Vec::new(),
        constants64: Vec::new(),
        constant_ids: HashMap::new(),
        shared: 0,
        shared_places: HashMap::new(),
        carry: None,
        local: 0,
        calls: vec![kernel.name],
        returns: Vec::new(),
        source: None,
        line: kernel.line,
        text: 0,
        opcode: None,
        guard: (Reg::NONE, false),
    };
    decoder.kernel(kernel)?;
    Ok(decoder.finish())
}

impl<'a, 'u> Decoder<'a, 'u> {
    fn kernel(&mut self, kernel: &'u Function<'a>) -> Result<(), Bad> {
        self.shared_variables(kernel)?;
        self.scopes.push(HashMap::new());
        for param in &kernel.params {
            self.bind(param.name, Binding::Param(param.offset), param.line)?;
        }
        self.items(kernel.body.as_deref().unwrap_or(&[]))?;
        self.opcode = None;
        self.guard = (Reg::NONE, false);
        self.push(Op::Exit, &[], &[]);
        self.link()
    }

    /// Places what shared memory the kernel and the functions it calls use; external arrays begin after it.
    fn shared_variables(&mut self, kernel: &'u Function<'a>) -> Result<(), Bad> {
        let mut names: HashSet<&str> = HashSet::new();
        let mut todo = vec![kernel];
        let mut seen: HashSet<&str> = [kernel.name].into();
        while let Some(function) = todo.pop() {
            for item in function.body.as_deref().unwrap_or(&[]) {
                let Item::Instruction(inst) = item else { continue };
                for operand in &inst.operands {
                    let (Operand::Name(name, _) | Operand::Memory(Some(name), _)) = operand else { continue };
                    names.insert(name);
                    if inst.opcode.starts_with("call")
                        && seen.insert(name)
                        && let Some(called) = self.unit.functions.iter().find(|f| f.name == *name)
                    {
                        todo.push(called);
                    }
                }
                for operand in &inst.operands {
                    let Operand::List(list) = operand else { continue };
                    names.extend(list.iter().filter_map(|o| if let Operand::Name(n, _) = o { Some(*n) } else { None }));
                }
            }
        }
        let unit = self.unit;
        let shared = unit.variables.iter().filter(|v| v.space == Space::Shared && names.contains(v.name));
        let (dynamic, fixed): (Vec<_>, Vec<_>) = shared.partition(|v| v.external);
        for var in fixed {
            let at = self.place_shared(var)?;
            self.bind(var.name, Binding::Place(Space::Shared, at), var.line)?;
        }
        let bodies = unit.functions.iter().filter(|f| seen.contains(f.name)).filter_map(|f| f.body.as_deref());
        for item in bodies.flatten() {
            if let Item::Variable(var) = item
                && var.space == Space::Shared
            {
                let at = self.place_shared(var)?;
                self.shared_places.insert((var.name, var.line), at);
            }
        }
        if let Some(align) = dynamic.iter().map(|v| v.align).max() {
            self.shared = self.shared.next_multiple_of(align.max(1));
        }
        for var in dynamic {
            self.bind(var.name, Binding::Place(Space::Shared, self.shared as u64), var.line)?;
        }
        Ok(())
    }

    fn place_shared(&mut self, var: &Var<'a>) -> Result<u64, Bad> {
        let at = (self.shared as u64).next_multiple_of(var.align.max(1) as u64);
        let end = at + var.size;
        if end > u32::MAX as u64 / 2 {
            return Err(Bad::new(var.line, format!("shared variable `{}` is too large", var.name)));
        }
        self.shared = end as u32;
        Ok(at)
    }

    fn place_local(&mut self, size: u64, align: u32, line: u32) -> Result<u64, Bad> {
        let at = (self.local as u64).next_multiple_of(align.max(1) as u64);
        let end = at + size;
        if end > 512 << 10 {
            return Err(Bad::new(line, "a thread has at most 512 KiB of local memory"));
        }
        self.local = end as u32;
        Ok(at)
    }

    fn bind(&mut self, name: &'a str, binding: Binding<'u>, line: u32) -> Result<(), Bad> {
        let scope = self.scopes.last_mut().expect("there is always a scope");
        if scope.insert(name, binding).is_some() {
            return Err(Bad::new(line, format!("`{name}` is declared twice in one scope")));
        }
        Ok(())
    }

    fn new_label(&mut self) -> u32 {
        self.labels.push(None);
        self.labels.len() as u32 - 1
    }

    /// Decodes the statements of one function in a scope of its own.
    fn items(&mut self, items: &'u [Item<'a>]) -> Result<(), Bad> {
        self.labels_of(items)?;
        let mut at = 0;
        let outer = self.scopes.len();
        while at < items.len() {
            match &items[at] {
                Item::Open => {
                    self.scopes.push(HashMap::new());
                    self.labels_of(&items[at + 1..])?;
                }
                Item::Close => {
                    if self.scopes.len() > outer {
                        self.scopes.pop();
                    }
                }
                Item::Loc { file, line } => self.source = Some((*file, *line)),
                Item::Label(name, line) => {
                    let Some(Binding::Label(label)) = self.scopes.last().and_then(|s| s.get(name)) else {
                        return Err(Bad::new(*line, format!("`{name}` is no label")));
                    };
                    self.labels[*label as usize] = Some(self.code.len() as u32);
                }
                Item::Registers { ty, name, count, line } => self.declare(*ty, name, *count, *line)?,
                Item::Variable(var) => {
                    let place = match var.space {
                        Space::Shared if var.external => {
                            return Err(Bad::new(var.line, "external shared memory is declared at module scope"));
                        }
                        Space::Shared => match self.shared_places.get(&(var.name, var.line)) {
                            Some(at) => Binding::Place(Space::Shared, *at),
                            None => return Err(Bad::new(var.line, "this shared variable was not placed")),
                        },
                        Space::Local | Space::Param => {
                            let at = self.place_local(var.size, var.align, var.line)?;
                            Binding::Place(Space::Local, at)
                        }
                        _ => return Err(Bad::new(var.line, "this variable belongs at module scope")),
                    };
                    self.bind(var.name, place, var.line)?;
                }
                Item::Targets(name, labels, line) => {
                    if self.scopes.last().is_none_or(|s| !s.contains_key(name)) {
                        self.bind(name, Binding::Targets(labels), *line)?;
                    }
                }
                Item::Instruction(inst) => self.instruction(inst)?,
            }
            at += 1;
        }
        Ok(())
    }

    /// Binds the labels that stand directly in the scope that begins here.
    fn labels_of(&mut self, items: &'u [Item<'a>]) -> Result<(), Bad> {
        let mut depth = 0;
        for item in items {
            match item {
                Item::Open => depth += 1,
                Item::Close if depth == 0 => break,
                Item::Close => depth -= 1,
                Item::Label(name, line) if depth == 0 => {
                    let label = self.new_label();
                    self.bind(name, Binding::Label(label), *line)?;
                }
                Item::Targets(name, labels, line) if depth == 0 => {
                    self.bind(name, Binding::Targets(labels), *line)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn declare(&mut self, ty: Ty, name: &'a str, count: Option<u32>, line: u32) -> Result<(), Bad> {
        let n = count.unwrap_or(1);
        let (class, next) = match ty {
            Ty::Pred => (Class::Pred, &mut self.n_pred),
            _ if ty.bytes() == 8 => (Class::R64, &mut self.n64),
            _ => (Class::R32, &mut self.n32),
        };
        let first = Reg::new(class, *next);
        *next += n;
        if *next >= 1 << 24 {
            return Err(Bad::new(line, "too many registers"));
        }
        let binding = match count {
            None => Binding::Register(first, ty),
            Some(n) => Binding::Family(first, ty, n),
        };
        self.bind(name, binding, line)
    }

    fn lookup(&self, name: &str) -> Option<Binding<'u>> {
        for scope in self.scopes.iter().rev() {
            if let Some(found) = scope.get(name) {
                // A family's bare name is no register.
                if !matches!(found, Binding::Family(..)) {
                    return Some(*found);
                }
            }
            let digits = name.len() - name.bytes().rev().take_while(|c| c.is_ascii_digit()).count();
            // `%r1` may belong to `%r<9>` or, read otherwise, to a family whose name ends in digits.
            for cut in digits..name.len() {
                if let Some(Binding::Family(first, ty, n)) = scope.get(&name[..cut])
                    && let Ok(index) = name[cut..].parse::<u32>()
                    && index < *n
                    && (cut + 1 == name.len() || name.as_bytes()[cut] != b'0')
                {
                    return Some(Binding::Register(Reg::new(first.class(), first.index() as u32 + index), *ty));
                }
            }
        }
        None
    }

    fn instruction(&mut self, inst: &'u Instruction<'a>) -> Result<(), Bad> {
        self.line = inst.line;
        self.texts.push(inst.text.split_whitespace().collect::<Vec<_>>().join(" "));
        self.text = self.texts.len() as u32 - 1;
        let opcodes = &mut self.opcodes;
        let id = *self.opcode_ids.entry(inst.opcode).or_insert_with(|| {
            opcodes.push(inst.opcode.to_string());
            opcodes.len() as u32 - 1
        });
        self.guard = match inst.guard {
            None => (Reg::NONE, false),
            Some((name, negated)) => match self.lookup(name) {
                Some(Binding::Register(reg, Ty::Pred)) => (reg, negated),
                _ => return self.bad(format!("`{name}` is no predicate")),
            },
        };
        self.opcode = Some(id);
        let needed = target_of(inst.opcode);
        if self.unit.target < needed {
            return self.bad(format!("`{}` needs sm_{needed}, the file is for sm_{}", inst.opcode, self.unit.target));
        }
        if inst.opcode.contains("::cluster") {
            return self.bad(format!("`{}`: clusters of blocks are not supported", inst.opcode));
        }
        let before = self.code.len();
        let mut mods = Mods::new(inst.opcode, inst.line);
        let known = self.arith(inst, &mut mods)?
            || self.logic(inst, &mut mods)?
            || self.float(inst, &mut mods)?
            || self.convert(inst, &mut mods)?
            || self.memory(inst, &mut mods)?
            || self.control(inst, &mut mods)?
            || self.warp(inst, &mut mods)?
            || self.tensor(inst, &mut mods)?;
        if !known {
            return self.bad(format!("unknown opcode `{}`", inst.opcode));
        }
        mods.finish()?;
        // The last instruction made is the one that the line stands for; those before it only prepare operands.
        if !inst.opcode.starts_with("call") {
            let end = self.origins.len();
            for origin in &mut self.origins[before..end.saturating_sub(1).max(before)] {
                origin.opcode = None;
            }
        }
        if self.code.len() > MOST_INSTRUCTIONS {
            return self.bad("the kernel is too large once its calls are put in place");
        }
        Ok(())
    }

    fn bad<T>(&self, message: impl Into<String>) -> Result<T, Bad> {
        Err(Bad::new(self.line, message))
    }

    fn push(&mut self, op: Op, d: &[Reg], s: &[Reg]) {
        let mut inst = Inst::new(op, d, s);
        (inst.guard, inst.negated) = self.guard;
        self.code.push(inst);
        let origin = Origin { line: self.line, opcode: self.opcode, text: self.text, source: self.source };
        self.origins.push(origin);
    }

    /// A fresh register of the file that holds `bits`; 1 means a predicate.
    fn temporary(&mut self, bits: u32) -> Reg {
        let (class, next) = match bits {
            1 => (Class::Pred, &mut self.n_pred),
            64 => (Class::R64, &mut self.n64),
            _ => (Class::R32, &mut self.n32),
        };
        *next += 1;
        Reg::new(class, *next - 1)
    }

    /// A register that always holds this value.
    fn constant(&mut self, value: u64, is_64: bool) -> Reg {
        let value = if is_64 { value } else { value & 0xffff_ffff };
        let (c32, c64) = (&mut self.constants32, &mut self.constants64);
        *self.constant_ids.entry((is_64, value)).or_insert_with(|| {
            if is_64 {
                c64.push(value);
                Reg::new(Class::R64, CONSTANT_BASE + c64.len() as u32 - 1)
            } else {
                c32.push(value as u32);
                Reg::new(Class::R32, CONSTANT_BASE + c32.len() as u32 - 1)
            }
        })
    }

    /// Puts labels' places into branches.
    fn link(&mut self) -> Result<(), Bad> {
        let labels = &self.labels;
        let place = |label: u32, line: u32| {
            labels[label as usize].ok_or_else(|| Bad::new(line, "a branch to a label that is not in its function"))
        };
        for (inst, origin) in self.code.iter_mut().zip(&self.origins) {
            match &mut inst.op {
                Op::Bra(to) => *to = place(*to, origin.line)?,
                Op::Brx(all) => {
                    for to in all.iter_mut() {
                        *to = place(*to, origin.line)?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Program {
        let files = regs::Virtual { n32: self.n32 as usize, n64: self.n64 as usize, n_pred: self.n_pred as usize };
        let settle = |reg: &mut Reg| {
            if reg.class() != Class::None && reg.index() >= CONSTANT_BASE as usize {
                let base = if reg.is_64() { files.n64 } else { files.n32 };
                *reg = Reg::new(reg.class(), (reg.index() - CONSTANT_BASE as usize + base) as u32);
            }
        };
        for inst in &mut self.code {
            inst.d.iter_mut().chain(inst.s.iter_mut()).for_each(settle);
            inst.more.iter_mut().flat_map(|m| m.iter_mut()).for_each(settle);
        }
        let allocation = regs::allocate(&mut self.code, &files);
        Program {
            code: self.code,
            origins: self.origins,
            opcodes: self.opcodes,
            texts: self.texts,
            count32: allocation.count32,
            count64: allocation.count64,
            count_pred: allocation.count_pred,
            constants32: self.constants32,
            constants64: self.constants64,
            static_shared: self.shared,
            local_bytes: self.local.next_multiple_of(16),
            pressure: allocation.pressure,
        }
    }
}

/// The oldest target that has an instruction, for those that the oldest we take lacks.
fn target_of(opcode: &str) -> u32 {
    let mut parts = opcode.split('.');
    let root = parts.next().unwrap_or("");
    let has = |word: &str| opcode.split('.').any(|p| p == word);
    let bf16 = has("bf16") || has("bf16x2");
    match root {
        "redux" | "createpolicy" => 80,
        "cp" if has("async") => 80,
        "mma" if bf16 || has("m16n8k16") => 80,
        "fma" | "neg" | "abs" | "min" | "max" if bf16 => 80,
        "min" | "max" if has("f16") || has("f16x2") || has("NaN") => 80,
        "add" | "sub" | "mul" | "ex2" | "tanh" | "setp" | "set" if bf16 => 90,
        "atom" | "red" if bf16 => 90,
        "cvt" if bf16 || has("tf32") || has("relu") || has("f16x2") => 80,
        "stmatrix" => 90,
        "ldmatrix" | "movmatrix" | "mma" | "tanh" => 75,
        "ex2" if has("f16") || has("f16x2") => 75,
        _ => 0,
    }
}
