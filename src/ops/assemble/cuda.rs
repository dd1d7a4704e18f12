//! How the kernels of ptx/assemble.cu are called: their arguments and their grids.
#![allow(unsafe_code)]

use crate::device::cpu::gemm::Write;
use crate::device::cuda::{Entry, Geometry, Gpu, Kind, Slice, Values, counts, lengths};
use crate::error::{Error, Result};
use crate::ops::ptx;

const FORWARD: &[(&str, Kind)] = &[
    ("tokens", Kind::U64),
    ("cls", Kind::U64),
    ("pos", Kind::U64),
    ("rows", Kind::U64),
    ("y", Kind::U64),
    ("k", Kind::U32),
    ("d", Kind::U32),
];
const TOKENS: &[(&str, Kind)] = &[("dy", Kind::U64), ("dtokens", Kind::U64), ("k", Kind::U32), ("d", Kind::U32)];
const TABLE: &[(&str, Kind)] = &[
    ("dy", Kind::U64),
    ("rows", Kind::U64),
    ("dcls", Kind::U64),
    ("dpos", Kind::U64),
    ("b", Kind::U32),
    ("k", Kind::U32),
    ("d", Kind::U32),
    ("add_cls", Kind::U32),
    ("add_pos", Kind::U32),
];

/// The kernels of ptx/assemble.cu.
pub const ENTRIES: &[Entry] = &[
    Entry { name: "assemble_fwd_f32", args: FORWARD, since: 75 },
    Entry { name: "assemble_fwd_f16", args: FORWARD, since: 75 },
    Entry { name: "assemble_fwd_bf16", args: FORWARD, since: 80 },
    Entry { name: "assemble_bwd_tokens_f32", args: TOKENS, since: 75 },
    Entry { name: "assemble_bwd_tokens_f16", args: TOKENS, since: 75 },
    Entry { name: "assemble_bwd_tokens_bf16", args: TOKENS, since: 80 },
    Entry { name: "assemble_bwd_table_f32", args: TABLE, since: 75 },
    Entry { name: "assemble_bwd_table_f16", args: TABLE, since: 75 },
    Entry { name: "assemble_bwd_table_bf16", args: TABLE, since: 80 },
];

/// Launch of any of the kernels: a block for each of `rows` rows that it writes.
pub fn shape(rows: usize, d: usize) -> Result<Geometry> {
    if d == 0 || !d.is_multiple_of(4) {
        return Err(Error::shape("assemble", format!("rows of {d}; the kernels take multiples of 4")));
    }
    Geometry::row("assemble", rows, 128, 0)
}

/// y (b, 1 + k, d) of tokens (b, k, d), cls (d), the table pos (rows, d) and `rows` (b, k), each within the table.
pub fn forward(
    gpu: &Gpu,
    tokens: Values,
    cls: Slice<f32>,
    pos: Slice<f32>,
    rows: Slice<u32>,
    k: usize,
    y: Values,
) -> Result<()> {
    let (d, b) = (cls.len(), rows.len().checked_div(k).unwrap_or(0));
    lengths(
        "assemble",
        &[
            ("tokens", tokens.len(), b * k * d),
            ("rows", rows.len(), b * k),
            ("pos", pos.len() % d.max(1), 0),
            ("y", y.len(), b * (1 + k) * d),
        ],
    )?;
    Values::common("assemble", &[tokens, y])?;
    let (geometry, [k, d]) = (shape(b * (1 + k), d)?, counts("assemble", [k, d])?);
    let kernel = gpu.kernel(&ptx::ASSEMBLE, Entry::named(ENTRIES, &format!("assemble_fwd_{}", y.store().name())))?;
    let args = [tokens.into(), cls.into(), pos.into(), rows.into(), y.into(), k.into(), d.into()];
    // SAFETY: the lengths are those of the kernel's contract, checked above; the op has checked every row.
    unsafe { gpu.stream().launch(&kernel, geometry, &args) }
}

/// dtokens (b, k, d) is set; dcls (d) and dpos (rows, d) are set or added to, as each says.
pub fn backward(
    gpu: &Gpu,
    dy: Values,
    rows: Slice<u32>,
    k: usize,
    dtokens: Values,
    (dcls, write_cls): (Slice<f32>, Write),
    (dpos, write_pos): (Slice<f32>, Write),
) -> Result<()> {
    let (d, b) = (dcls.len(), rows.len().checked_div(k).unwrap_or(0));
    lengths(
        "assemble",
        &[
            ("dy", dy.len(), b * (1 + k) * d),
            ("rows", rows.len(), b * k),
            ("dtokens", dtokens.len(), b * k * d),
            ("dpos", dpos.len() % d.max(1), 0),
        ],
    )?;
    Values::common("assemble", &[dy, dtokens])?;
    let (tokens_shape, table_shape) = (shape(b * k, d)?, shape(dpos.len() / d, d)?);
    let [b, k, d, _] = counts("assemble", [b, k, d, b * k])?;
    let store = dy.store().name();
    let kernel = gpu.kernel(&ptx::ASSEMBLE, Entry::named(ENTRIES, &format!("assemble_bwd_tokens_{store}")))?;
    // SAFETY: the lengths are those of the kernel's contract, checked above.
    unsafe { gpu.stream().launch(&kernel, tokens_shape, &[dy.into(), dtokens.into(), k.into(), d.into()])? };
    let kernel = gpu.kernel(&ptx::ASSEMBLE, Entry::named(ENTRIES, &format!("assemble_bwd_table_{store}")))?;
    let add = |write: Write| u32::from(write == Write::Add);
    let args = [
        dy.into(),
        rows.into(),
        dcls.into(),
        dpos.into(),
        b.into(),
        k.into(),
        d.into(),
        add(write_cls).into(),
        add(write_pos).into(),
    ];
    // SAFETY: as above; each block owns a row of the table.
    unsafe { gpu.stream().launch(&kernel, table_shape, &args) }
}
