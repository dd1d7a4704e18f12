//! Branches, calls, barriers and the end of threads.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use super::mods::Mods;
use super::operands::Width::Exact;
use super::{Binding, DEEPEST_CALL, Decoder};
use crate::inst::{Bar, BarKind, Int64, Op, Reg, Un32};
use crate::parse::Bad;
use crate::parse::ast::{Instruction, Operand, Param, Space, Ty};

impl<'a, 'u> Decoder<'a, 'u> {
    pub(super) fn control(&mut self, inst: &'u Instruction<'a>, m: &mut Mods<'a>) -> Result<bool, Bad> {
        match m.root {
            "bra" => {
                m.take("uni");
                self.need_operands(inst, &[1])?;
                let label = self.label(&inst.operands[0])?;
                self.push(Op::Bra(label), &[], &[]);
            }
            "brx" => {
                m.need("idx")?;
                m.take("uni");
                self.need_operands(inst, &[2])?;
                let index = self.src(&inst.operands[0], Ty::U32, Exact)?;
                let Operand::Name(name, 0) = inst.operands[1] else { return self.bad("`brx.idx` names its targets") };
                let Some(Binding::Targets(names)) = self.lookup(name) else {
                    return self.bad(format!("`{name}` is no list of targets"));
                };
                let labels: Result<Vec<u32>, Bad> = names.iter().map(|n| self.label(&Operand::Name(n, 0))).collect();
                self.push(Op::Brx(labels?.into()), &[], &[index]);
            }
            "call" => self.call(inst, m)?,
            "ret" => {
                m.take("uni");
                self.need_operands(inst, &[0])?;
                match self.returns.last() {
                    Some(label) => self.push(Op::Bra(*label), &[], &[]),
                    None => self.push(Op::Exit, &[], &[]),
                }
            }
            "exit" => {
                self.need_operands(inst, &[0])?;
                self.push(Op::Exit, &[], &[]);
            }
            "trap" | "brkpt" => {
                self.need_operands(inst, &[0])?;
                self.push(if m.root == "trap" { Op::Trap } else { Op::Nop }, &[], &[]);
            }
            "bar" | "barrier" => self.barrier(inst, m)?,
            "membar" => {
                let level = m.need_one(&["cta", "gl", "sys"])?;
                self.push(Op::Fence(level != "cta"), &[], &[]);
            }
            "fence" => {
                if m.take("proxy") {
                    return self.bad("proxy fences are not supported");
                }
                m.one_of(&["sc", "acq_rel", "acquire", "release"]);
                let scope = m.need_one(&["cta", "cluster", "gpu", "sys"])?;
                self.push(Op::Fence(scope != "cta"), &[], &[]);
            }
            "nanosleep" => {
                if m.ty()? != Ty::U32 {
                    return Err(m.wrong_type());
                }
                self.need_operands(inst, &[1])?;
                self.src(&inst.operands[0], Ty::U32, Exact)?;
                self.push(Op::Nop, &[], &[]);
            }
            "pmevent" => self.push(Op::Nop, &[], &[]),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn label(&self, operand: &Operand<'a>) -> Result<u32, Bad> {
        match operand {
            Operand::Name(name, 0) => match self.lookup(name) {
                Some(Binding::Label(label)) => Ok(label),
                _ => self.bad(format!("`{name}` is no label of this function")),
            },
            _ => self.bad("a branch names a label"),
        }
    }

    fn barrier(&mut self, inst: &Instruction<'a>, m: &mut Mods<'a>) -> Result<(), Bad> {
        let cta = m.take("cta");
        if m.root == "bar" && m.take("warp") {
            m.need("sync")?;
            self.need_operands(inst, &[1])?;
            let mask = self.src(&inst.operands[0], Ty::B32, Exact)?;
            self.push(Op::BarWarp, &[], &[mask]);
            return Ok(());
        }
        let _ = cta;
        let word = m.need_one(&["sync", "arrive", "red"])?;
        let aligned = m.take("aligned") || m.root == "bar";
        let mut operands: &[Operand<'a>] = &inst.operands;
        let (mut d, mut kind, mut predicate) = (Reg::NONE, BarKind::Sync, None);
        match word {
            "arrive" => kind = BarKind::Arrive,
            "red" => {
                let op = m.need_one(&["and", "or", "popc"])?;
                let ty = m.ty()?;
                kind = match op {
                    "and" => BarKind::RedAnd,
                    "or" => BarKind::RedOr,
                    _ => BarKind::RedPopc,
                };
                if (kind == BarKind::RedPopc) != (ty == Ty::U32) || operands.len() < 3 {
                    return Err(m.wrong_type());
                }
                d = self.dst(&operands[0], ty, Exact)?;
                predicate = Some(self.predicate(&operands[operands.len() - 1])?);
                operands = &operands[1..operands.len() - 1];
            }
            _ => {}
        }
        if operands.is_empty() || operands.len() > 2 || kind == BarKind::Arrive && operands.len() != 2 {
            return self.bad("a barrier takes its number and perhaps a count of threads");
        }
        if let Operand::Int(number) = operands[0]
            && !(0..16).contains(&number)
        {
            return self.bad("barriers are numbered from 0 to 15");
        }
        let number = self.src(&operands[0], Ty::U32, Exact)?;
        let counted = operands.len() == 2;
        let count = if counted { self.src(&operands[1], Ty::U32, Exact)? } else { Reg::NONE };
        let (p, negated) = predicate.unwrap_or((Reg::NONE, false));
        self.push(Op::Bar(Bar { kind, aligned, negated, counted }), &[d], &[number, count, p]);
        Ok(())
    }

    /// Puts the called function's body in place of the call.
    fn call(&mut self, inst: &'u Instruction<'a>, m: &mut Mods<'a>) -> Result<(), Bad> {
        m.take("uni");
        let (mut returns, mut name, mut arguments): (&'u [Operand<'a>], _, &'u [Operand<'a>]) = (&[], None, &[]);
        for operand in &inst.operands {
            match operand {
                Operand::List(list) if name.is_none() => returns = list,
                Operand::Name(called, 0) if name.is_none() => name = Some(*called),
                Operand::List(list) => arguments = list,
                _ => return self.bad("calls through a pointer are not supported"),
            }
        }
        let Some(name) = name else { return self.bad("a call without a function") };
        let unit = self.unit;
        let Some(function) = unit.functions.iter().find(|f| f.name == name && !f.entry) else {
            return self.bad(format!("`{name}` is no function of this file"));
        };
        self.push(Op::Nop, &[], &[]);
        let Some(body) = function.body.as_deref() else {
            // printf is not carried out; it answers that nothing was printed.
            let op = match name {
                "vprintf" => Op::Nop,
                "__assertfail" => Op::Trap,
                _ => Op::Unsupported(format!("`{name}` is declared but not defined in this file").into()),
            };
            if name == "vprintf"
                && let Some(Operand::Name(result, _)) = returns.first()
                && let Some(Binding::Place(Space::Local, at)) = self.lookup(result)
            {
                let zero = self.constant(0, false);
                let access = crate::inst::Access {
                    space: Space::Local,
                    width: 4,
                    count: 1,
                    fill: crate::inst::Fill::Zero,
                    strong: false,
                    ordering: false,
                    constant: false,
                    offset: at as i32,
                };
                self.push(Op::St(access), &[], &[Reg::NONE, zero]);
            }
            self.push(op, &[], &[]);
            return Ok(());
        };
        if self.calls.contains(&name) {
            return self.bad(format!("`{name}` calls itself: recursion is not supported"));
        }
        if self.calls.len() > DEEPEST_CALL {
            return self.bad("calls are nested too deeply");
        }
        if function.params.len() != arguments.len() || function.returns.len() != returns.len() {
            return self.bad(format!("`{name}` is called with another number of parameters than it has"));
        }
        let mut bindings = HashMap::new();
        let mut results = Vec::new();
        for (formal, actual) in function.params.iter().zip(arguments) {
            let binding = self.argument(formal, actual)?;
            bindings.insert(formal.name, binding);
        }
        for (formal, actual) in function.returns.iter().zip(returns) {
            if formal.register {
                let t = self.temporary(if formal.ty == Ty::Pred { 1 } else { formal.ty.bits() });
                bindings.insert(formal.name, Binding::Register(t, formal.ty));
                results.push((self.dst(actual, formal.ty, Exact)?, t));
            } else {
                let binding = self.argument(formal, actual)?;
                bindings.insert(formal.name, binding);
            }
        }
        // A guarded call skips the body where its guard is false.
        let end = self.new_label();
        let (guard, source) = (self.guard, self.source);
        if !guard.0.is_none() {
            self.guard = (guard.0, !guard.1);
            self.opcode = None;
            self.push(Op::Bra(end), &[], &[]);
        }
        self.guard = (Reg::NONE, false);
        // The callee sees its own names only.
        let inner = vec![self.scopes[0].clone(), bindings];
        let outer = std::mem::replace(&mut self.scopes, inner);
        let (line, text) = (self.line, self.text);
        self.calls.push(name);
        self.returns.push(end);
        self.items(body)?;
        self.returns.pop();
        self.calls.pop();
        self.scopes = outer;
        self.labels[end as usize] = Some(self.code.len() as u32);
        (self.line, self.text, self.source, self.guard, self.opcode) = (line, text, source, guard, None);
        for (to, from) in results {
            self.move_register(to, from);
        }
        Ok(())
    }

    fn move_register(&mut self, to: Reg, from: Reg) {
        let op = match from.class() {
            crate::inst::Class::R64 => Op::Int64(Int64::Mov),
            crate::inst::Class::Pred => Op::PredMov,
            _ => Op::Un32(Un32::Mov),
        };
        self.push(op, &[to], &[from]);
    }

    /// What a formal parameter means inside a function put in place.
    fn argument(&mut self, formal: &Param<'a>, actual: &Operand<'a>) -> Result<Binding<'u>, Bad> {
        if !formal.register
            && let Operand::Name(name, 0) = actual
            && let Some(binding @ Binding::Place(Space::Local, _)) = self.lookup(name)
        {
            return Ok(binding);
        }
        if !formal.register {
            return self.bad(format!("`{}` needs an argument in .param space", formal.name));
        }
        let value =
            if formal.ty == Ty::Pred { self.plain_predicate(actual)? } else { self.src(actual, formal.ty, Exact)? };
        // A copy: the callee may write to its parameter.
        let copy = self.temporary(if formal.ty == Ty::Pred { 1 } else { formal.ty.bits() });
        self.move_register(copy, value);
        Ok(Binding::Register(copy, formal.ty))
    }
}
