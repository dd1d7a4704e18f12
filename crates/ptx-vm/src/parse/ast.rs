//! What a PTX file says, before any instruction is judged.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

/// A fundamental type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ty {
    B8,
    B16,
    B32,
    B64,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    F32,
    F64,
    Pred,
}

impl Ty {
    /// The type of a modifier or directive without its dot.
    pub fn parse(word: &str) -> Option<Ty> {
        use Ty::*;
        Some(match word {
            "b8" => B8,
            "b16" => B16,
            "b32" => B32,
            "b64" => B64,
            "u8" => U8,
            "u16" => U16,
            "u32" => U32,
            "u64" => U64,
            "s8" => S8,
            "s16" => S16,
            "s32" => S32,
            "s64" => S64,
            "f16" => F16,
            "f16x2" => F16x2,
            "bf16" => Bf16,
            "bf16x2" => Bf16x2,
            "f32" => F32,
            "f64" => F64,
            "pred" => Pred,
            _ => return None,
        })
    }

    /// Bytes of a value; a predicate has none that memory could hold.
    pub fn bytes(self) -> u32 {
        use Ty::*;
        match self {
            B8 | U8 | S8 => 1,
            B16 | U16 | S16 | F16 | Bf16 => 2,
            B32 | U32 | S32 | F32 | F16x2 | Bf16x2 => 4,
            B64 | U64 | S64 | F64 => 8,
            Pred => 0,
        }
    }

    pub fn bits(self) -> u32 {
        self.bytes() * 8
    }

    pub fn signed(self) -> bool {
        matches!(self, Ty::S8 | Ty::S16 | Ty::S32 | Ty::S64)
    }

    pub fn float(self) -> bool {
        matches!(self, Ty::F16 | Ty::F16x2 | Ty::Bf16 | Ty::Bf16x2 | Ty::F32 | Ty::F64)
    }

    pub fn integer(self) -> bool {
        !self.float() && self != Ty::Pred
    }
}

/// Where a variable lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    Generic,
    Global,
    Const,
    Shared,
    Local,
    Param,
}

/// A number in an initialiser that is another variable's address.
#[derive(Clone, Debug)]
pub struct Fixup<'a> {
    pub at: usize,
    pub bytes: usize,
    pub symbol: &'a str,
    pub addend: i64,
}

/// A variable of module or function scope.
#[derive(Clone, Debug)]
pub struct Var<'a> {
    pub name: &'a str,
    pub space: Space,
    pub align: u32,
    pub size: u64,
    pub init: Vec<u8>,
    pub fixups: Vec<Fixup<'a>>,
    pub external: bool,
    pub line: u32,
}

/// A parameter of a kernel or function, placed in its block.
#[derive(Clone, Debug)]
pub struct Param<'a> {
    pub name: &'a str,
    pub ty: Ty,
    pub size: u32,
    pub offset: u32,
    /// Passed in a register and not in param space.
    pub register: bool,
    pub line: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Operand<'a> {
    /// A register, a variable or a label, with what is added to it.
    Name(&'a str, i64),
    Int(i64),
    F32(u32),
    F64(f64),
    /// `!p` or `-x`.
    Not(&'a str),
    /// `[base+offset]`; no name means an absolute address.
    Memory(Option<&'a str>, i64),
    Vector(Vec<Operand<'a>>),
    /// `d|p`.
    Pair(&'a str, &'a str),
    /// `(a, b)` of a call.
    List(Vec<Operand<'a>>),
    /// `_`.
    Sink,
}

#[derive(Clone, Debug)]
pub struct Instruction<'a> {
    pub line: u32,
    /// The opcode and its modifiers as written.
    pub opcode: &'a str,
    /// The predicate's name and whether it is negated.
    pub guard: Option<(&'a str, bool)>,
    pub operands: Vec<Operand<'a>>,
    /// The whole statement, for messages.
    pub text: &'a str,
}

/// One statement of a body.
#[derive(Clone, Debug)]
pub enum Item<'a> {
    Label(&'a str, u32),
    Instruction(Instruction<'a>),
    Loc {
        file: u32,
        line: u32,
    },
    Open,
    Close,
    /// `.reg`: with a count, names are `name0` to `name(count-1)`.
    Registers {
        ty: Ty,
        name: &'a str,
        count: Option<u32>,
        line: u32,
    },
    Variable(Var<'a>),
    /// A named list of branch targets.
    Targets(&'a str, Vec<&'a str>, u32),
}

/// A kernel or a device function.
#[derive(Clone, Debug)]
pub struct Function<'a> {
    pub name: &'a str,
    pub entry: bool,
    pub line: u32,
    pub returns: Vec<Param<'a>>,
    pub params: Vec<Param<'a>>,
    /// None for a declaration.
    pub body: Option<Vec<Item<'a>>>,
    pub max_threads: Option<[u32; 3]>,
    pub required_threads: Option<[u32; 3]>,
    pub max_registers: Option<u32>,
}

/// A line `// resources ENTRY sm_NN registers=R shared=S spill=P` that ptxas was asked for.
#[derive(Clone, Debug)]
pub struct Resources {
    pub entry: String,
    pub sm: u32,
    pub registers: u32,
}

/// A parsed file.
#[derive(Clone, Debug, Default)]
pub struct Unit<'a> {
    pub version: (u32, u32),
    /// 80 for sm_80; the letter of sm_90a binds to exactly that capability.
    pub target: u32,
    pub target_exact: bool,
    pub files: BTreeMap<u32, String>,
    pub variables: Vec<Var<'a>>,
    pub functions: Vec<Function<'a>>,
    pub resources: Vec<Resources>,
}
