//! The PTX of the ops, embedded: the kernels of `<op>/cuda.rs` come from the sources that begin with the op's name.
#![forbid(unsafe_code)]

use crate::device::cuda::{Ptx, embedded};

pub static ATTENTION: Ptx = embedded!("attention");
pub static ATTENTION_BWD: Ptx = embedded!("attention_bwd");
pub static ATTENTION_ROWS: Ptx = embedded!("attention_rows");
pub static LAYER_NORM: Ptx = embedded!("layer_norm");
pub static MATMUL: Ptx = embedded!("matmul");

/// All of them.
pub static ALL: [&Ptx; 5] = [&ATTENTION, &ATTENTION_BWD, &ATTENTION_ROWS, &LAYER_NORM, &MATMUL];

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
