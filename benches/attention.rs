//! Attention and a whole encoder block against the sequence length: fused and naive, forward and backward.
//!
//! ViT-B's sizes, one image. Writes `attention.csv` and `attention.svg`.

mod support;

use dynavit::chart::lines::{Chart, Curve, file};
use dynavit::device::cpu::gemm::{Mat, Operands, Write, gemm};
use dynavit::model::{Vit, VitConfig, VitOptions};
use dynavit::ops::{attention, softmax};
use dynavit::tape::{ParamArena, Tape, Var};
use dynavit::tensor::{Spans, Tensor};
use rayon::prelude::*;
use std::hint::black_box;
use support::{Flags, alternate, prove, timed, values};

/// [CLS] and the kept patches at 224 pixels for K = 15 to 100, then 256, 320, 384 pixels and shares of them.
const LENGTHS: [usize; 11] = [30, 60, 99, 138, 168, 197, 257, 325, 401, 485, 577];

/// What one sequence length took, in milliseconds.
struct Row {
    s: usize,
    fused: [f64; 2],
    naive: [f64; 2],
    block: [f64; 2],
}

fn main() {
    let flags = Flags::start();
    let config = VitConfig { depth: 1, ..VitConfig::named("vit_base_patch16_224", 5).expect("a known name") };
    let vit = Vit::init(config, VitOptions { full_last_block: true, ..VitOptions::default() }, 0);
    println!("ViT-B/16, one image, {} threads, medians of {} runs, ms", rayon::current_num_threads(), flags.rounds);
    println!("           attention fused     attention naive     whole block          block / S = 197");
    println!("    S      fwd       bwd       fwd       bwd       fwd       bwd        time   multiply-adds");
    let rows: Vec<Row> = LENGTHS.iter().map(|&s| measure(&vit, s, flags.rounds)).collect();
    let dense = rows.iter().find(|row| row.s == 197).expect("197 is measured");
    for row in &rows {
        let [f, n, b] = [row.fused, row.naive, row.block];
        let ratio = (b[0] + b[1]) / (dense.block[0] + dense.block[1]);
        println!(
            "{:5} {:9.3} {:9.3} {:9.3} {:9.3} {:9.2} {:9.2}   {:9.3} {:9.3}",
            row.s,
            f[0],
            f[1],
            n[0],
            n[1],
            b[0],
            b[1],
            ratio,
            macs(row.s) / macs(197)
        );
    }
    flags.save("attention.csv", &csv(&rows));
    match file(&charts(&rows)) {
        Ok(text) => flags.save("attention.svg", &text),
        Err(error) => eprintln!("error: attention.svg: {error}"),
    }
}

/// Multiply-adds of a ViT-B block on s tokens.
fn macs(s: usize) -> f64 {
    let (s, d) = (s as f64, 768.0);
    12.0 * s * d * d + 2.0 * s * s * d
}

fn measure(vit: &Vit, s: usize, rounds: usize) -> Row {
    let (heads, d) = (vit.config.heads, vit.config.width);
    let mut params = ParamArena::new(&[("qkv".into(), vec![1, s, 3 * d])]);
    let id = params.find("qkv").expect("just named");
    params.values_mut(id).copy_from_slice(&values(3 * s * d, s as u32));
    let qkv = params.var(id);
    let dy = Tensor::from_vec(values(s * d, 7), &[1, s, d]);
    let mut grads = Tensor::zeros(&[3 * s * d]);

    let run = || attention::packed(None, &qkv, heads).expect("the shapes fit").value;
    let back = |grads: &mut Tensor| {
        let mut tape = Tape::new();
        let y = attention::packed(Some(&mut tape), &qkv, heads).expect("the shapes fit");
        timed(|| assert!(tape.backward(&y, dy.clone(), &params, grads).expect("a gradient arrives")))
    };
    let mut naive = Naive::new(qkv.value.data(), s, heads, d / heads);
    naive.forward();
    naive.backward(dy.data());
    back(&mut grads);
    prove("attention", run().data(), &naive.output(), 1e-5);
    prove("its gradient", grads.data(), &naive.gradient(), 1e-4);

    let x = Var::constant(Tensor::from_vec(values(s * d, 3), &[1, s, d]));
    let spans = Spans::even(1, s);
    let mut sink = Tensor::zeros(vit.params.flat().shape());
    let mut naive_back = Naive::new(qkv.value.data(), s, heads, d / heads);
    naive_back.forward();
    let times = alternate(
        rounds,
        &mut [
            &mut || timed(|| drop(black_box(run()))),
            &mut || back(&mut grads),
            &mut || timed(|| naive.forward()),
            &mut || timed(|| naive_back.backward(dy.data())),
            &mut || timed(|| drop(black_box(vit.block(None, &x, &spans, 0).expect("the shapes fit")))),
            &mut || {
                let mut tape = Tape::new();
                let y = vit.block(Some(&mut tape), &x, &spans, 0).expect("the shapes fit");
                // The parameters around the block get no gradient, which the walk reports after it has done its work.
                timed(|| drop(black_box(tape.backward(&y, dy.clone(), &vit.params, &mut sink))))
            },
        ],
    );
    let pair = |i: usize| [times[i].median, times[i + 1].median];
    Row { s, fused: pair(0), naive: pair(2), block: pair(4) }
}

fn csv(rows: &[Row]) -> String {
    let mut text = String::from(
        "seq_len,fused_forward_ms,fused_backward_ms,naive_forward_ms,naive_backward_ms,block_forward_ms,block_backward_ms\n",
    );
    for Row { s, fused, naive, block } in rows {
        let cells: Vec<String> = [fused, naive, block].into_iter().flatten().map(|ms| format!("{ms:.4}")).collect();
        text += &format!("{s},{}\n", cells.join(","));
    }
    text
}

fn charts(rows: &[Row]) -> [Chart; 2] {
    let curve = |name: &str, value: &dyn Fn(&Row) -> f64| {
        Curve::new(name, rows.iter().map(|row| (row.s as f64, value(row))).collect::<Vec<_>>())
    };
    let dense = rows.iter().find(|row| row.s == 197).expect("197 is measured");
    let whole = dense.block[0] + dense.block[1];
    let chart = |title: &str, y: &str, curves| Chart {
        title: title.into(),
        x: "sequence length S".into(),
        y: y.into(),
        from_zero: true,
        curves,
    };
    let attention = vec![
        curve("fused, forward", &|r| r.fused[0]),
        curve("naive, forward", &|r| r.naive[0]),
        curve("fused, backward", &|r| r.fused[1]),
        curve("naive, backward", &|r| r.naive[1]),
    ];
    let block =
        vec![curve("time", &|r| (r.block[0] + r.block[1]) / whole), curve("multiply-adds", &|r| macs(r.s) / macs(197))];
    [
        chart("Attention of one image, ViT-B", "ms", attention),
        chart("Encoder block, forward and backward", "relative to S = 197", block),
    ]
}

/// Attention as three passes over memory: all scores, their softmax, their product with v; and as many back.
struct Naive {
    s: usize,
    width: usize,
    /// q, k, v as (H, S, Dh) each.
    parts: [Vec<f32>; 3],
    scores: Vec<f32>,
    p: Vec<f32>,
    y: Vec<f32>,
    dp: Vec<f32>,
    d_parts: [Vec<f32>; 3],
}

impl Naive {
    fn new(qkv: &[f32], s: usize, heads: usize, width: usize) -> Self {
        let d = heads * width;
        let part = |index: usize| {
            let at = |h: usize, row: usize| &qkv[row * 3 * d + index * d + h * width..][..width];
            (0..heads).flat_map(|h| (0..s).flat_map(move |row| at(h, row).to_vec())).collect()
        };
        let (square, rows) = (vec![0.0; heads * s * s], vec![0.0; s * d]);
        let d_parts = [rows.clone(), rows.clone(), rows.clone()];
        let (scores, p, dp) = (square.clone(), square.clone(), square);
        Naive { s, width, parts: [part(0), part(1), part(2)], scores, p, y: rows, dp, d_parts }
    }

    /// `out = alpha * a b` for each head: `a` (rows, inner) and `b` (inner, cols) after the transposes that are asked for.
    fn product(out: &mut [f32], (rows, cols): (usize, usize), a: Operand, b: Operand, alpha: f32) {
        out.par_chunks_mut(rows * cols).enumerate().for_each(|(h, out)| {
            gemm(out, cols, a.head(h), b.head(h), alpha, Write::Set, Operands::F32);
        });
    }

    fn forward(&mut self) {
        let (s, w) = (self.s, self.width);
        let [q, k, v] = &self.parts;
        let scale = 1.0 / (w as f32).sqrt();
        Self::product(&mut self.scores, (s, s), Operand(q, s, w, false), Operand(k, s, w, true), scale);
        softmax::cpu::forward(&self.scores, &mut self.p, s);
        Self::product(&mut self.y, (s, w), Operand(&self.p, s, s, false), Operand(v, s, w, false), 1.0);
    }

    fn backward(&mut self, dy: &[f32]) {
        let (s, w, heads) = (self.s, self.width, self.y.len() / (self.s * self.width));
        let at = |h: usize, row: usize| &dy[row * heads * w + h * w..][..w];
        let dy: Vec<f32> = (0..heads).flat_map(|h| (0..s).flat_map(move |row| at(h, row).to_vec())).collect();
        let [q, k, v] = &self.parts;
        let [dq, dk, dv] = &mut self.d_parts;
        let scale = 1.0 / (w as f32).sqrt();
        Self::product(dv, (s, w), Operand(&self.p, s, s, true), Operand(&dy, s, w, false), 1.0);
        Self::product(&mut self.dp, (s, s), Operand(&dy, s, w, false), Operand(v, s, w, true), 1.0);
        softmax::cpu::backward(&self.p, &mut self.dp, s);
        Self::product(dq, (s, w), Operand(&self.dp, s, s, false), Operand(k, s, w, false), scale);
        Self::product(dk, (s, w), Operand(&self.dp, s, s, true), Operand(q, s, w, false), scale);
    }

    /// Heads side by side, (S, H Dh) in rows of `stride` from `column` on.
    fn spread(&self, heads: &[f32], out: &mut [f32], stride: usize, column: usize) {
        for (h, values) in heads.chunks_exact(self.s * self.width).enumerate() {
            for (row, values) in values.chunks_exact(self.width).enumerate() {
                out[row * stride + column + h * self.width..][..self.width].copy_from_slice(values);
            }
        }
    }

    fn output(&self) -> Vec<f32> {
        let mut y = vec![0.0; self.y.len()];
        self.spread(&self.y, &mut y, self.y.len() / self.s, 0);
        y
    }

    fn gradient(&self) -> Vec<f32> {
        let d = self.y.len() / self.s;
        let mut dqkv = vec![0.0; 3 * self.y.len()];
        for (part, heads) in self.d_parts.iter().enumerate() {
            self.spread(heads, &mut dqkv, 3 * d, part * d);
        }
        dqkv
    }
}

/// Matrices of all heads: values, rows, columns, and whether to transpose.
#[derive(Clone, Copy)]
struct Operand<'a>(&'a [f32], usize, usize, bool);

impl<'a> Operand<'a> {
    fn head(self, h: usize) -> Mat<'a> {
        let Operand(data, rows, cols, transposed) = self;
        let m = Mat::new(&data[h * rows * cols..], rows, cols);
        if transposed { m.t() } else { m }
    }
}
