//! Decoded warp instructions: what the executor runs.
#![forbid(unsafe_code)]

use crate::parse::ast::Space;

/// A register: its file in the top two bits, its index in the rest; `NONE` stands for no operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reg(u32);

/// Register files; 8- and 16-bit values live zero-extended in 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    None,
    R32,
    R64,
    Pred,
}

impl Reg {
    pub const NONE: Reg = Reg(0);

    pub fn new(class: Class, index: u32) -> Reg {
        Reg((class as u32) << 30 | index)
    }

    pub fn class(self) -> Class {
        [Class::None, Class::R32, Class::R64, Class::Pred][(self.0 >> 30) as usize]
    }

    #[inline(always)]
    pub fn index(self) -> usize {
        (self.0 & 0x3fff_ffff) as usize
    }

    #[inline(always)]
    pub fn is_none(self) -> bool {
        self.0 >> 30 == 0
    }

    #[inline(always)]
    pub fn is_64(self) -> bool {
        self.0 >> 30 == 2
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Un32 {
    Mov,
    Not,
    Neg,
    Abs,
    Popc,
    Clz,
    Brev,
    /// Sign or zero extension of the low bits.
    Sext8,
    Sext16,
    Low8,
    Low16,
    High16,
    F32FromF16,
    F16FromF32,
    F32FromBf16,
    Bf16FromF32,
    F32FromS32,
    F32FromU32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bin32 {
    Add,
    Sub,
    Mul,
    MulHiS,
    MulHiU,
    And,
    Or,
    Xor,
    Shl,
    ShrU,
    ShrS,
    MinS,
    MaxS,
    MinU,
    MaxU,
    DivS,
    DivU,
    RemS,
    RemU,
    /// Low halves of two registers side by side: `mov.b32 d, {a, b}`.
    Pack16,
    /// `cvt.rn.f16x2.f32 d, a, b`: `a` goes to the upper half.
    F16x2FromF32,
    Bf16x2FromF32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tri32 {
    MadLo,
    /// The truth table of `lop3`.
    Lop3(u8),
    Bfi,
    Prmt,
    ShfL,
    ShfR,
}

/// f32 arithmetic rounded to nearest even.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Float {
    Add,
    Sub,
    Mul,
    Div,
    Min,
    Max,
    Fma,
    Neg,
    Abs,
    CopySign,
    Sqrt,
    Rcp,
    Rsqrt,
    Ex2,
    Lg2,
    Sin,
    Cos,
    Tanh,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Double {
    Add,
    Sub,
    Mul,
    Div,
    Min,
    Max,
    Fma,
    Neg,
    Abs,
    Sqrt,
    Rcp,
    CopySign,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Int64 {
    Mov,
    Not,
    Neg,
    Abs,
    Add,
    Sub,
    Mul,
    MulHiS,
    MulHiU,
    And,
    Or,
    Xor,
    MinS,
    MaxS,
    MinU,
    MaxU,
    DivS,
    DivU,
    RemS,
    RemU,
    MadLo,
    /// Shifts take their amount from a 32-bit register.
    Shl,
    ShrU,
    ShrS,
}

/// Between the 32- and the 64-bit file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wide {
    MulS,
    MulU,
    MadS,
    MadU,
    Sext,
    Zext,
    Trunc,
    /// `mov.b64 d, {lo, hi}` and back.
    Pack,
    Unpack,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cmp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    /// True as well when an operand is NaN.
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    /// Both are numbers; one is NaN.
    Num,
    Nan,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum CmpType {
    U32,
    S32,
    F32,
    F32Ftz,
    U64,
    S64,
    F64,
    S16,
    F16,
    Bf16,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bool {
    And,
    Or,
    Xor,
}

/// `f16x2` and its kin: lanes of a register, and how results are treated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Half {
    pub op: HalfOp,
    pub bf16: bool,
    pub packed: bool,
    pub sat: bool,
    pub relu: bool,
    pub ftz: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum HalfOp {
    Add,
    Sub,
    Mul,
    Fma,
    Min,
    Max,
    MinNan,
    MaxNan,
    Neg,
    Abs,
    Ex2,
    Tanh,
}

/// How the value of a narrow load fills its register.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fill {
    Zero,
    Sign,
}

/// A load or store, and the access of an atomic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Access {
    pub space: Space,
    /// Bytes of an element, and how many a lane moves.
    pub width: u8,
    pub count: u8,
    pub fill: Fill,
    /// Volatile, relaxed or stronger: takes part in no data race with its like.
    pub strong: bool,
    /// `.acquire` or `.release`.
    pub ordering: bool,
    /// `.nc`: the memory does not change while the kernel runs.
    pub constant: bool,
    pub offset: i32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum AtomOp {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exch,
    Cas,
    Inc,
    Dec,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum AtomType {
    U32,
    S32,
    U64,
    S64,
    F32,
    F32Ftz,
    F64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    B16,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Atom {
    pub access: Access,
    pub op: AtomOp,
    pub ty: AtomType,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    NWarpId,
    SmId,
    NSmId,
    GridId,
    LaneMaskEq,
    LaneMaskLt,
    LaneMaskLe,
    LaneMaskGt,
    LaneMaskGe,
    Clock,
    DynamicShared,
    TotalShared,
}

/// What a barrier does beside waiting.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum BarKind {
    Sync,
    Arrive,
    RedAnd,
    RedOr,
    RedPopc,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bar {
    pub kind: BarKind,
    /// All lanes of a warp come together.
    pub aligned: bool,
    /// The reduced predicate is negated.
    pub negated: bool,
    /// Whether `s[1]` holds the thread count.
    pub counted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shfl {
    Up,
    Down,
    Bfly,
    Idx,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Vote {
    All,
    Any,
    Uni,
    Ballot,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Redux {
    Add,
    MinS,
    MaxS,
    MinU,
    MaxU,
    And,
    Or,
    Xor,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mma {
    /// 8 or 16: the depth of the product.
    pub k: u8,
    pub bf16: bool,
    /// Accumulators in f16 (two to a register) and not in f32.
    pub half_in: bool,
    pub half_out: bool,
}

/// Plain function of one lane: operands, and a word of its own.
pub type LaneFn = fn([u64; 3], u32) -> u64;

#[derive(Clone, Debug)]
pub enum Op {
    Nop,
    Un32(Un32),
    Bin32(Bin32),
    Tri32(Tri32),
    Float(Float, bool),
    Double(Double),
    Int64(Int64),
    Wide(Wide),
    Half(Half),
    /// Anything rare, a lane at a time.
    Lane(LaneFn, u32),
    /// `d0 = a cmp b [bool c]`, `d1 = !(a cmp b) [bool c]`; the flag negates `c`.
    Setp(Cmp, CmpType, Option<Bool>, bool),
    Select,
    PredAnd,
    PredOr,
    PredXor,
    PredNot,
    PredMov,
    /// `add.cc` and its kin on 32 bits: subtract, take the carry in, give it out.
    Carry {
        subtract: bool,
        carry_in: bool,
        carry_out: bool,
    },
    Special(Special),
    Ld(Access),
    LdParam {
        offset: u32,
        width: u8,
        count: u8,
        fill: Fill,
    },
    St(Access),
    Atom(Atom),
    CpAsync {
        size: u8,
        bytes: CpBytes,
        offset_to: i32,
        offset_from: i32,
    },
    CpCommit,
    CpWait(u32),
    Ldmatrix {
        count: u8,
        transposed: bool,
        access: Access,
    },
    Stmatrix {
        count: u8,
        transposed: bool,
        access: Access,
    },
    Movmatrix,
    Mma(Mma),
    Bra(u32),
    Brx(Box<[u32]>),
    Exit,
    Trap,
    Bar(Bar),
    BarWarp,
    /// Whether it reaches beyond the block.
    Fence(bool),
    Shfl(Shfl),
    Vote(Vote, bool),
    /// All lanes, not any.
    Match(bool),
    ActiveMask,
    Redux(Redux),
    Unsupported(Box<str>),
}

/// How many bytes of a `cp.async` come from its source; the rest are zeros.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum CpBytes {
    All,
    /// A register holds the number.
    Size,
    /// A predicate: none when it is true.
    Ignore,
}

/// One warp instruction: destinations, sources and guard.
#[derive(Clone, Debug)]
pub struct Inst {
    pub op: Op,
    pub guard: Reg,
    pub negated: bool,
    pub d: [Reg; 4],
    pub s: [Reg; 4],
    /// Sources beyond four.
    pub more: Option<Box<[Reg]>>,
}

impl Inst {
    pub fn new(op: Op, d: &[Reg], s: &[Reg]) -> Inst {
        let mut inst = Inst { op, guard: Reg::NONE, negated: false, d: [Reg::NONE; 4], s: [Reg::NONE; 4], more: None };
        inst.d[..d.len()].copy_from_slice(d);
        let near = s.len().min(4);
        inst.s[..near].copy_from_slice(&s[..near]);
        if s.len() > 4 {
            inst.more = Some(s[4..].into());
        }
        inst
    }
}

/// Where an instruction comes from.
#[derive(Clone, Debug)]
pub struct Origin {
    pub line: u32,
    /// Index into the program's opcode names; none for a helper of another instruction.
    pub opcode: Option<u32>,
    /// Index into the program's texts.
    pub text: u32,
    /// File and line of the `.loc` before it.
    pub source: Option<(u32, u32)>,
}

/// A decoded kernel.
#[derive(Clone, Debug)]
pub struct Program {
    pub code: Vec<Inst>,
    pub origins: Vec<Origin>,
    pub opcodes: Vec<String>,
    pub texts: Vec<String>,
    /// Registers of each file, constants last.
    pub count32: usize,
    pub count64: usize,
    pub count_pred: usize,
    pub constants32: Vec<u32>,
    pub constants64: Vec<u64>,
    pub static_shared: u32,
    pub local_bytes: u32,
    /// 32-bit registers that live at once, an estimate of what a card would need.
    pub pressure: u32,
}
