//! The PTX of the ops, embedded: the kernels of `<op>/cuda.rs` come from the sources that begin with the op's name.
#![forbid(unsafe_code)]

use crate::device::cuda::{Ptx, elements, embedded};

pub static ADAMW: Ptx = embedded!("adamw");
pub static ASSEMBLE: Ptx = embedded!("assemble");
pub static ATTENTION: Ptx = embedded!("attention");
pub static ATTENTION_BWD: Ptx = embedded!("attention_bwd");
pub static ATTENTION_ROWS: Ptx = embedded!("attention_rows");
pub static CROSS_ENTROPY: Ptx = embedded!("cross_entropy");
pub static GATHER: Ptx = embedded!("gather");
pub static LAYER_NORM: Ptx = embedded!("layer_norm");
pub static MATMUL: Ptx = embedded!("matmul");
pub static MATMUL_BWD: Ptx = embedded!("matmul_bwd");
pub static MATMUL_SCALAR: Ptx = embedded!("matmul_scalar");
pub static PATCHIFY: Ptx = embedded!("patchify");
pub static SALIENCY: Ptx = embedded!("saliency");

/// All of them, and that of plain values.
pub static ALL: &[&Ptx] = &[
    &ADAMW,
    &ASSEMBLE,
    &ATTENTION,
    &ATTENTION_BWD,
    &ATTENTION_ROWS,
    &CROSS_ENTROPY,
    &GATHER,
    &LAYER_NORM,
    &MATMUL,
    &MATMUL_BWD,
    &MATMUL_SCALAR,
    &PATCHIFY,
    &SALIENCY,
    &elements::PTX,
];

#[cfg(test)]
mod tests {
    use crate::device::cuda::{Gpu, Target};

    #[test]
    fn every_source_loads_on_the_virtual_card() {
        let gpu = Gpu::open(Target::PtxVm).unwrap();
        for ptx in super::ALL {
            gpu.load(ptx).unwrap();
        }
    }
}
