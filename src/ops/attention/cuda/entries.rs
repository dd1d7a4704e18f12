//! The kernels of attention: their names and arguments, file by file.
#![forbid(unsafe_code)]

use crate::device::cuda::{Entry, Kind};

const FORWARD: &[(&str, Kind)] =
    &[("qkv", Kind::U64), ("y", Kind::U64), ("lse", Kind::U64), ("s", Kind::U32), ("heads", Kind::U32)];

/// The kernels of ptx/attention.cu.
pub const ENTRIES: &[Entry] = &[
    Entry { name: "attention_fwd_f16", args: FORWARD, since: 75 },
    Entry { name: "attention_fwd_online_f16", args: FORWARD, since: 75 },
    Entry { name: "attention_fwd_bf16", args: FORWARD, since: 80 },
    Entry { name: "attention_fwd_online_bf16", args: FORWARD, since: 80 },
];

const BACKWARD: &[(&str, Kind)] = &[
    ("qkv", Kind::U64),
    ("y", Kind::U64),
    ("dy", Kind::U64),
    ("lse", Kind::U64),
    ("dqkv", Kind::U64),
    ("s", Kind::U32),
    ("heads", Kind::U32),
];

const BACKWARD_DQ: &[(&str, Kind)] = &[
    ("qkv", Kind::U64),
    ("y", Kind::U64),
    ("dy", Kind::U64),
    ("lse", Kind::U64),
    ("dqkv", Kind::U64),
    ("delta", Kind::U64),
    ("s", Kind::U32),
    ("heads", Kind::U32),
];

const BACKWARD_DKV: &[(&str, Kind)] = &[
    ("qkv", Kind::U64),
    ("dy", Kind::U64),
    ("lse", Kind::U64),
    ("delta", Kind::U64),
    ("dqkv", Kind::U64),
    ("s", Kind::U32),
    ("heads", Kind::U32),
];

/// The kernels of ptx/attention_bwd.cu.
pub const BACKWARD_ENTRIES: &[Entry] = &[
    Entry { name: "attention_bwd_f16", args: BACKWARD, since: 75 },
    Entry { name: "attention_bwd_dq_f16", args: BACKWARD_DQ, since: 75 },
    Entry { name: "attention_bwd_dkv_f16", args: BACKWARD_DKV, since: 75 },
    Entry { name: "attention_bwd_bf16", args: BACKWARD, since: 80 },
    Entry { name: "attention_bwd_dq_bf16", args: BACKWARD_DQ, since: 80 },
    Entry { name: "attention_bwd_dkv_bf16", args: BACKWARD_DKV, since: 80 },
];

const FORWARD_ROWS: &[(&str, Kind)] = &[
    ("q", Kind::U64),
    ("k", Kind::U64),
    ("v", Kind::U64),
    ("y", Kind::U64),
    ("lse", Kind::U64),
    ("queries", Kind::U32),
    ("keys", Kind::U32),
    ("heads", Kind::U32),
    ("q_row", Kind::U32),
    ("kv_row", Kind::U32),
];

const BACKWARD_ROWS: &[(&str, Kind)] = &[
    ("q", Kind::U64),
    ("k", Kind::U64),
    ("v", Kind::U64),
    ("y", Kind::U64),
    ("dy", Kind::U64),
    ("lse", Kind::U64),
    ("dq", Kind::U64),
    ("dk", Kind::U64),
    ("dv", Kind::U64),
    ("queries", Kind::U32),
    ("keys", Kind::U32),
    ("heads", Kind::U32),
    ("q_row", Kind::U32),
    ("kv_row", Kind::U32),
];

/// The kernels of ptx/attention_rows.cu.
pub const ROWS_ENTRIES: &[Entry] = &[
    Entry { name: "attention_fwd_rows_f16", args: FORWARD_ROWS, since: 75 },
    Entry { name: "attention_bwd_rows_f16", args: BACKWARD_ROWS, since: 75 },
    Entry { name: "attention_fwd_rows_f32", args: FORWARD_ROWS, since: 75 },
    Entry { name: "attention_bwd_rows_f32", args: BACKWARD_ROWS, since: 75 },
    Entry { name: "attention_fwd_rows_bf16", args: FORWARD_ROWS, since: 80 },
    Entry { name: "attention_bwd_rows_bf16", args: BACKWARD_ROWS, since: 80 },
];
