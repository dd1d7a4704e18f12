//! The entries of ptx/matmul.cu, ptx/matmul_bwd.cu and ptx/matmul_scalar.cu, with their arguments.
#![forbid(unsafe_code)]

use crate::device::cuda::{Entry, Kind};

type Args = &'static [(&'static str, Kind)];

/// Pointers by name, then counts by name.
macro_rules! args {
    ($($pointer:literal)*; $($count:literal)*) => { &[$(($pointer, Kind::U64),)* $(($count, Kind::U32),)*] };
}

const BIAS: Args = args!("x" "weight" "bias" "y"; "m" "n" "k");
const BIAS_GELU: Args = args!("x" "weight" "bias" "pre" "y"; "m" "n" "k");
const BIAS_RESIDUAL: Args = args!("x" "weight" "bias" "residual" "y"; "m" "n" "k");
const DX: Args = args!("g" "weight" "dx"; "m" "n" "k");
const DX_GELU: Args = args!("g" "weight" "pre" "dx" "partial"; "m" "n" "k");
const DWEIGHT: Args = args!("g" "x" "out"; "m" "n" "k" "part_rows");
const DBIAS: Args = args!("g" "partial"; "m" "n" "part_rows");
const REDUCE: Args = args!("partial" "out"; "parts" "len");

/// A table: each name with its arguments, for the types after it; bf16 from sm_80 on.
macro_rules! table {
    ($($name:literal $args:ident: $($store:ident)+;)*) => {
        &[$($(Entry {
            name: concat!($name, "_", stringify!($store)),
            args: $args,
            since: since(stringify!($store)),
        },)+)*]
    };
}

const fn since(store: &str) -> u32 {
    // "bf16" is the one name with four letters.
    if store.len() == 4 { 80 } else { 75 }
}

/// The kernels of ptx/matmul.cu.
pub const ENTRIES: &[Entry] = table! {
    "matmul_fwd_bias" BIAS: f16 bf16;
    "matmul_fwd_bias_gelu" BIAS_GELU: f16 bf16;
    "matmul_fwd_bias_residual" BIAS_RESIDUAL: f16 bf16;
    "matmul_fwd_bias_tile64" BIAS: f16 bf16;
    "matmul_fwd_bias_gelu_tile64" BIAS_GELU: f16 bf16;
    "matmul_fwd_bias_residual_tile64" BIAS_RESIDUAL: f16 bf16;
};

/// The kernels of ptx/matmul_bwd.cu.
pub const BACKWARD: &[Entry] = table! {
    "matmul_bwd_dx" DX: f16 bf16;
    "matmul_bwd_dx_gelu" DX_GELU: f16 bf16;
    "matmul_bwd_dweight" DWEIGHT: f16 bf16;
    "matmul_bwd_dx_tile64" DX: f16 bf16;
    "matmul_bwd_dx_gelu_tile64" DX_GELU: f16 bf16;
    "matmul_bwd_dweight_tile64" DWEIGHT: f16 bf16;
};

/// The kernels of ptx/matmul_scalar.cu.
pub const SCALAR: &[Entry] = table! {
    "matmul_fwd_bias_scalar" BIAS: f16 f32 bf16;
    "matmul_fwd_bias_gelu_scalar" BIAS_GELU: f16 f32 bf16;
    "matmul_fwd_bias_residual_scalar" BIAS_RESIDUAL: f16 f32 bf16;
    "matmul_bwd_dx_scalar" DX: f16 f32 bf16;
    "matmul_bwd_dx_gelu_scalar" DX_GELU: f16 f32 bf16;
    "matmul_bwd_dweight_scalar" DWEIGHT: f16 f32 bf16;
    "matmul_bwd_dbias" DBIAS: f16 f32 bf16;
    "matmul_bwd_dweight_reduce_set" REDUCE: f32;
    "matmul_bwd_dweight_reduce_add" REDUCE: f32;
    "matmul_bwd_dbias_reduce_set" REDUCE: f32;
    "matmul_bwd_dbias_reduce_add" REDUCE: f32;
};
