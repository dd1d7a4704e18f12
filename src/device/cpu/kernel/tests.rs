//! What the kernels compute.
#![allow(unsafe_code)]

use super::*;
use crate::device::cpu::vector::{UNIT_F32, bf16_bits};

/// The words of a row of elements, as many as fill whole ones.
fn encoded(elements: &[f32], form: Form) -> Vec<f32> {
    let bits = |x: f32| u32::from(bf16_bits(x));
    let pair = |x: &[f32]| f32::from_bits(bits(x[0]) | bits(x[1]) << 16);
    match form.words {
        Words::F32 => elements.to_vec(),
        Words::Rounded => elements.iter().map(|&x| f32::from_bits(bits(x) << 16)).collect(),
        Words::Pairs => elements.chunks(2).map(pair).collect(),
        Words::Parts => {
            let mut words = Vec::new();
            for group in elements.chunks(2 * PAIRS) {
                let mut left = group.to_vec();
                for _ in 0..3 {
                    words.extend(left.chunks(2).map(pair));
                    left.iter_mut().for_each(|x| *x -= f32::from_bits(bits(*x) << 16));
                }
            }
            words
        }
    }
}

/// The elements that a row of words stands for.
fn decoded(words: &[f32], form: Form) -> Vec<f64> {
    let half = |bits: u32| f64::from(f32::from_bits(bits << 16));
    let pair = |word: &f32| [half(word.to_bits() & 0xffff), half(word.to_bits() >> 16)];
    match form.words {
        Words::F32 | Words::Rounded => words.iter().map(|&x| f64::from(x)).collect(),
        Words::Pairs => words.iter().flat_map(pair).collect(),
        Words::Parts => {
            let sums = |group: &[f32]| -> Vec<f64> {
                let part = |part: usize| group[part * PAIRS..][..PAIRS].iter().flat_map(pair);
                part(0).zip(part(1)).zip(part(2)).map(|((a, b), c)| a + b + c).collect()
            };
            words.chunks(3 * PAIRS).flat_map(sums).collect()
        }
    }
}

/// One panel.
fn one_panel(words: &[f32]) -> Panels<'_> {
    Panels { words, panel: 0, next: 0 }
}

#[test]
fn kernels_match_loops_inside_the_block_and_touch_nothing_else() {
    // Those of rectangles on both ways through a block.
    let kernels =
        [Operands::F32, Operands::Bf16].into_iter().flat_map(candidates).flat_map(|kernel| match kernel.takes {
            Takes::Blocks(_) => vec![kernel],
            Takes::Rectangles { run, upper, .. } => [Walk::Rows, Walk::Columns]
                .map(|walk| Kernel { takes: Takes::Rectangles { run, upper, walk }, ..kernel })
                .to_vec(),
        });
    for kernel in kernels {
        let (mr, nr, form) = (kernel.mr, kernel.nr, kernel.form);
        let rectangles = [
            (mr, nr),
            (1, nr),
            (mr, 1),
            (mr - 1, nr - 1),
            (mr / 2, nr),
            (mr / 2 + 1, nr),
            (mr / 3, nr / 2),
            (mr / 2, nr / 2 + 1),
        ];
        let blocks =
            rectangles.into_iter().chain([(2 * mr, 2 * nr), (mr + 1, 2 * nr + 3), (2 * mr + mr / 2 + 1, nr + 1)]);
        for ((rows, cols), steps) in blocks.into_iter().flat_map(|r| [0, 1, 7, 64].map(|k| (r, k))) {
            let (k, stride) = (steps * form.step, cols + 3);
            let (strips, panels) = (rows.div_ceil(mr), cols.div_ceil(nr));
            // Rows side by side are for kernels that take a word at a time.
            let layouts = [(k + 5, 1), (1, mr)].into_iter().take(if form.step == 1 { 2 } else { 1 });
            let elements = k / form.ratio().1 * form.ratio().0;
            // Sums of small whole numbers are exact.
            for ((row, word), exactly) in layouts.flat_map(|layout| [(layout, false), (layout, true)]) {
                let value = |x: f32, i: usize| if exactly { (i * 5 % 7) as f32 - 3.0 } else { x };
                let (strip, panel) = (mr * (k + 5) + 2, k * nr + 4);
                let reach = if k == 0 { 0 } else { (strips - 1) * strip + (mr - 1) * row + (k - 1) * word + 1 };
                // What lies between the rows, the strips and the panels is not to be read.
                let (mut a, mut b) = (vec![f32::NAN; reach], vec![f32::NAN; (panels - 1) * panel + k * nr]);
                let made = |side: usize, i: usize| -> Vec<f32> {
                    let at = |l: usize| side * 1000 + i * elements + l;
                    let elements: Vec<f32> =
                        (0..elements).map(|l| value((at(l) as f32 * 0.37).sin(), at(l) / (1 + side))).collect();
                    encoded(&elements, form)
                };
                let (rows_of_a, columns_of_b): (Vec<_>, Vec<_>) =
                    ((0..strips * mr).map(|i| made(0, i)).collect(), (0..panels * nr).map(|j| made(1, j)).collect());
                for (i, words) in rows_of_a.iter().enumerate() {
                    words.iter().enumerate().for_each(|(l, &x)| a[i / mr * strip + i % mr * row + l * word] = x);
                }
                for (j, words) in columns_of_b.iter().enumerate() {
                    words.iter().enumerate().for_each(|(l, &x)| b[j / nr * panel + l * nr + j % nr] = x);
                }
                let [rows_of_a, columns_of_b] =
                    [rows_of_a, columns_of_b].map(|all| all.iter().map(|x| decoded(x, form)).collect::<Vec<_>>());
                let ways = [(false, 0.5), (true, 0.5), (false, 1.0), (true, 1.0)];
                let ways =
                    ways.into_iter().flat_map(|way| [(way, [false; 2]), (way, [true; 2]), (way, [way.0, !way.0])]);
                for ((add, alpha), added) in ways {
                    let bias: Vec<f32> = (0..cols).map(|j| value(j as f32 * -3e-2, j + 2)).collect();
                    let residual: Vec<f32> = (0..(rows + 1) * stride).map(|i| value(i as f32 * 2e-2, i + 1)).collect();
                    let start: Vec<f32> = (0..(rows + 1) * stride).map(|i| value(i as f32 * 1e-2, i)).collect();
                    let mut c = start.clone();
                    let [bias_at, residual_at] = [(0, &bias), (1, &residual)].map(|(of, x)| match added[of] {
                        true => x.as_ptr(),
                        false => null(),
                    });
                    let out = Block {
                        bias: bias_at,
                        residual: residual_at,
                        ..Block::bare(c.as_mut_ptr(), stride, [rows, cols])
                    };
                    let (a, b) = (Strips { words: &a, strip, row, word }, Panels { words: &b, panel, next: 0 });
                    // SAFETY: `c` holds `rows` rows of `stride` elements and belongs to this test, as what is added does.
                    unsafe { kernel.run(k, a, b, out, alpha, add) };
                    for (at, (&got, &old)) in c.iter().zip(&start).enumerate() {
                        let (i, j) = (at / stride, at % stride);
                        if i >= rows || j >= cols {
                            assert_eq!(got, old, "element ({i},{j}) is outside");
                            continue;
                        }
                        let terms = rows_of_a[i].iter().zip(&columns_of_b[j]).map(|(a, b)| a * b);
                        let others = [(add, old), (added[0], bias[j]), (added[1], residual[at])];
                        let others = others.map(|(there, x)| if there { f64::from(x) } else { 0.0 });
                        let exact = f64::from(alpha) * terms.sum::<f64>() + others.iter().sum::<f64>();
                        // Elements in parts make six products each, and what those leave out is a rounding.
                        let n = elements as f64;
                        let (roundings, sizes) = match form.words {
                            Words::Parts => (6.0 * n + 5.0, 1.01 * n),
                            _ => (n + 4.0, n),
                        };
                        let bound = roundings * UNIT_F32 * (sizes + others.iter().map(|x| x.abs()).sum::<f64>() + 1.0);
                        let budget = if exactly { 0.0 } else { bound };
                        assert!((f64::from(got) - exact).abs() <= budget, "({i},{j}): {got} not {exact}");
                    }
                }
            }
        }
    }
}

/// A kernel that takes a word at a time.
fn plain_kernel() -> Kernel {
    candidates(Operands::F32).find(|kernel| kernel.form.step == 1).expect("plain loops run anywhere")
}

#[test]
fn six_of_nine_products_of_parts_are_made() {
    let Some(kernel) = candidates(Operands::F32).find(|kernel| kernel.form.words == Words::Parts) else {
        return eprintln!("SKIPPED: this processor multiplies no elements in parts");
    };
    let (mr, nr, k) = (kernel.mr, kernel.nr, 2 * kernel.form.step);
    let value = |i: usize, l: usize| ((i * 7 + l * 3) % 11) as f32 - 5.0;
    let cases = (0..9).flat_map(|n| [mr, mr / 2].map(|rows| (n / 3, n % 3, rows)));
    for (first, second, rows) in cases {
        // Small whole numbers in one part of a and one of b; the other parts are zeros.
        let words = |of: usize, i: usize| -> Vec<f32> {
            let word = |at: usize| {
                let (group, part, pair) = (at / (3 * PAIRS), at / PAIRS % 3, at % PAIRS);
                let half = |half| u32::from(bf16_bits(value(i, (group * PAIRS + pair) * 2 + half)));
                if part == of { f32::from_bits(half(0) | half(1) << 16) } else { 0.0 }
            };
            (0..k).map(word).collect()
        };
        let a: Vec<f32> = (0..mr).flat_map(|i| words(first, i)).collect();
        let columns: Vec<Vec<f32>> = (0..nr).map(|j| words(second, mr + j)).collect();
        let b: Vec<f32> = (0..k * nr).map(|at| columns[at % nr][at / nr]).collect();
        let mut c = vec![0.0; mr * nr];
        let out = Block::bare(c.as_mut_ptr(), nr, [rows, nr]);
        // SAFETY: `c` holds mr rows of nr elements and belongs to this test.
        unsafe { kernel.run(k, Strips { words: &a, strip: 0, row: k, word: 1 }, one_panel(&b), out, 1.0, false) };
        for (at, &got) in c.iter().enumerate() {
            let made = first + second <= 2 && at / nr < rows;
            let sum: f32 = (0..4 * PAIRS).map(|l| value(at / nr, l) * value(mr + at % nr, l)).sum();
            assert_eq!(got, if made { sum } else { 0.0 }, "parts {first}, {second}; element {at}, {rows} rows");
        }
    }
}

#[test]
#[should_panic = "end before 3 words"]
fn rows_that_end_too_early_are_refused() {
    let kernel = plain_kernel();
    let (a, b, mut c) = (vec![0.0; (kernel.mr - 1) * 4 + 2], vec![0.0; 3 * kernel.nr], vec![0.0; MOST]);
    let out = Block::bare(c.as_mut_ptr(), kernel.nr, [kernel.mr, kernel.nr]);
    // SAFETY: `c` holds a rectangle of any kernel.
    unsafe { kernel.run(3, Strips { words: &a, strip: 0, row: 4, word: 1 }, one_panel(&b), out, 1.0, false) };
}

#[test]
#[should_panic = "end before 3 words"]
fn a_strip_that_ends_too_early_is_refused_before_a_shorter_last_one() {
    // The upper half of the second strip is there, which lies in the first: of that the last row is not.
    let plain = plain_kernel();
    let Takes::Rectangles { run, walk, .. } = candidates(Operands::F32).last().expect("plain loops").takes else {
        unreachable!("plain loops take rectangles")
    };
    let kernel = Kernel { mr: 4, nr: 8, takes: Takes::Rectangles { run, upper: Some(run), walk }, ..plain };
    let (a, b, mut c) = (vec![0.0; 3 * 4 + 2], vec![0.0; 3 * kernel.nr], vec![0.0; MOST]);
    let out = Block::bare(c.as_mut_ptr(), kernel.nr, [kernel.mr + 2, kernel.nr]);
    // SAFETY: `c` holds two rectangles.
    unsafe { kernel.run(3, Strips { words: &a, strip: 4, row: 4, word: 1 }, one_panel(&b), out, 1.0, false) };
}

#[test]
#[should_panic = "neither row after row nor in a panel"]
fn rows_in_no_layout_of_a_kernel_are_refused() {
    let kernel = plain_kernel();
    let (a, b, mut c) = (vec![0.0; 1000], vec![0.0; 3 * kernel.nr], vec![0.0; MOST]);
    let out = Block::bare(c.as_mut_ptr(), kernel.nr, [kernel.mr, kernel.nr]);
    // SAFETY: `c` holds a rectangle of any kernel.
    unsafe { kernel.run(3, Strips { words: &a, strip: 0, row: 10, word: 3 }, one_panel(&b), out, 1.0, false) };
}

#[test]
fn kernels_that_fuse_give_the_bits_of_fused_loops() {
    let (m, n, k) = (24, 96, 50);
    let (x, y) =
        (|i: usize, l: usize| ((i * k + l) as f32 * 0.37).sin(), |l: usize, j: usize| ((l * n + j) as f32).cos());
    let side = |by: f32| (0..m * n).map(|at| (at as f32 * by).sin()).collect::<Vec<f32>>();
    let (old, bias, residual) = (side(0.11), side(0.13), side(0.17));
    // Without anything added, and with all of it.
    let product = |kernel: &Kernel, all: bool| {
        let mut c = if all { old.clone() } else { vec![0.0; m * n] };
        for (row, col) in (0..m).step_by(kernel.mr).flat_map(|row| (0..n).step_by(kernel.nr).map(move |col| (row, col)))
        {
            let a: Vec<f32> = (0..k * kernel.mr).map(|at| x(row + at % kernel.mr, at / kernel.mr)).collect();
            let b: Vec<f32> = (0..k * kernel.nr).map(|at| y(at / kernel.nr, col + at % kernel.nr)).collect();
            let mut out = Block::bare(c[row * n + col..].as_mut_ptr(), n, [kernel.mr, kernel.nr]);
            if all {
                (out.bias, out.residual) = (bias[col..].as_ptr(), residual[row * n + col..].as_ptr());
            }
            let a = Strips { words: &a, strip: 0, row: 1, word: kernel.mr };
            // SAFETY: m and n are multiples of every kernel's rectangle, so each lies inside `c` and what is added.
            unsafe { kernel.run(k, a, one_panel(&b), out, if all { 0.7 } else { 1.0 }, all) };
        }
        c.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
    };
    let loops = |all: bool| -> Vec<u32> {
        let sum = |at: usize| (0..k).fold(0.0f32, |sum, l| x(at / n, l).mul_add(y(l, at % n), sum));
        let with = |at: usize| old[at] + 0.7 * sum(at) + bias[at % n] + residual[at];
        (0..m * n).map(|at| if all { with(at) } else { sum(at) }.to_bits()).collect()
    };
    let fused: Vec<Kernel> = candidates(Operands::F32).filter(|k| k.mr != 4 && k.form.words == Words::F32).collect();
    for (kernel, all) in fused.iter().flat_map(|kernel| [(kernel, false), (kernel, true)]) {
        assert_eq!(product(kernel, all), loops(all), "{} x {}", kernel.mr, kernel.nr);
    }
    for operands in [Operands::F32, Operands::Bf16] {
        let sizes: Vec<String> = candidates(operands).map(|k| format!("{} x {} {:?}", k.mr, k.nr, k.form)).collect();
        eprintln!("{operands:?}: this processor runs {}; others are SKIPPED", sizes.join(", "));
    }
}
