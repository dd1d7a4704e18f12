//! Tests of the products.
#![forbid(unsafe_code)]

use super::*;
use crate::device::cpu::kernel::candidates;
use crate::device::cpu::mat::Elements;
use crate::device::cpu::vector::{UNIT_F32, bf16_bits};
use crate::rng::{Purpose, Stream};

fn values(len: usize, a: u32) -> Vec<f32> {
    let mut stream = Stream::new(1, Purpose::Fixture, a, 0);
    (0..len).map(|_| stream.uniform24() * 2.0 - 1.0).collect()
}

#[test]
fn products_of_awkward_shapes_match_loops() {
    for (m, n, k) in
        [(0, 3, 2), (1, 1, 1), (2, 3, 0), (7, 5, 3), (3, 4, 0), (33, 197, 31), (197, 33, 64), (300, 1100, 65)]
    {
        for operands in [Operands::F32, Operands::Bf16] {
            check(m, n, k, operands);
        }
    }
}

fn check(m: usize, n: usize, k: usize, operands: Operands) {
    let (a, b) = (values(m * k, 0), values(k * n, 1));
    let read = |x: f32| match operands {
        Operands::F32 => f64::from(x),
        Operands::Bf16 => f64::from(f32::from_bits(u32::from(bf16_bits(x)) << 16)),
    };
    let start = values(m * n, 2);
    for write in [Write::Set, Write::Add] {
        let mut out = start.clone();
        let mut twice = vec![0.0; m * n];
        let panels = Panels::new(Mat::new(&b, k, n), operands);
        par_gemm(&mut out, &mut twice, Mat::new(&a, m, k), &panels, write, &|segment| {
            for (j, (value, twice)) in segment.values.iter_mut().zip(segment.beside).enumerate() {
                *value += (segment.row * 1000 + segment.column + j) as f32 * 1e-3;
                *twice = 2.0 * *value;
            }
        });
        assert!(out.iter().zip(&twice).all(|(&x, &y)| 2.0 * x == y), "the second output of ({m},{n},{k})");
        for i in 0..m {
            for j in 0..n {
                let mut exact = if write == Write::Add { f64::from(start[i * n + j]) } else { 0.0 };
                exact += (0..k).map(|l| read(a[i * k + l]) * read(b[l * n + j])).sum::<f64>();
                exact += f64::from((i * 1000 + j) as f32 * 1e-3);
                // k products of at most 1, a sum, and the epilogue's rounding; elements in parts make six products, which add up to
                // hardly more than one, and what they leave out is a rounding.
                let (roundings, sizes) = match kernel(operands).form.words {
                    Words::Parts => (6.0 * k as f64 + 3.0, 1.01 * k as f64),
                    _ => (k as f64 + 2.0, k as f64),
                };
                let budget = roundings * UNIT_F32 * (1.0 + sizes + exact.abs());
                let got = f64::from(out[i * n + j]);
                assert!((got - exact).abs() <= budget, "({m},{n},{k}) at ({i},{j}): {got} not {exact}");
            }
        }
    }
}

#[test]
fn a_product_of_a_product_never_in_memory_has_the_bits_of_two() {
    for (m, n, k, last) in [
        (1, 1, 1, 1),
        (0, 5, 3, 2),
        (3, 0, 2, 2),
        (13, 33, 7, 5),
        (197, 131, 64, 40),
        (450, 700, 130, 33),
        (20, 1700, 1601, 8),
    ] {
        let (a, b, c) = (values(m * k, 5), values(k * n, 6), values(n * last, 7));
        let halve = |s: Segment| {
            for (j, value) in s.values.iter_mut().enumerate() {
                *value = *value * 0.5 + (s.row + s.column + j) as f32 * 1e-3;
            }
        };
        for operands in [Operands::F32, Operands::Bf16] {
            let [b, c] = [(&b, k, n), (&c, n, last)].map(|(x, k, n)| Panels::new(Mat::new(x, k, n), operands));
            let (mut middle, mut want, mut got) = (vec![0.0; m * n], vec![0.0; m * last], vec![0.0; m * last]);
            par_gemm(&mut middle, &mut [], Mat::new(&a, m, k), &b, Write::Set, &halve);
            par_gemm(&mut want, &mut [], Mat::new(&middle, m, n), &c, Write::Set, &|_| {});
            // What lies in recycled memory must not matter.
            let Kernel { mr, form, .. } = *kernel(operands);
            Packed::row_room(m, n, mr, form).all_mut().fill(f32::NAN);
            let mut product = vec![0.0; m * n];
            par_gemm(&mut product, &mut [], Mat::new(&a, m, k), &b, Write::Set, &|_| {});
            // With and without an output that is kept, and sums.
            let beside = |s: Segment| {
                s.beside.copy_from_slice(s.values);
                halve(Segment { values: s.beside, beside: &mut [], ..s });
            };
            for (keeps, sums) in [(false, false), (false, true), (true, false), (true, true)] {
                let case = format!("{m} {n} {k} {last} {operands:?}, kept {keeps}, summed {sums}");
                let mut kept = vec![f32::NAN; if keeps { m * n } else { 0 }];
                let mut sums = vec![0.5; if sums { n } else { 0 }];
                let a = Rows::new(Mat::new(&a, m, k), operands);
                let rows = match keeps {
                    true => par_gemm_to_rows(&a, &b, &[], &mut kept, &mut sums, Last::Made(&beside)),
                    false => par_gemm_to_rows(&a, &b, &[], &mut kept, &mut sums, Last::Made(&halve)),
                };
                par_gemm_rows(&mut got, &mut [], &rows, &c, Write::Set, Added::default(), &|_| {});
                assert_eq!(got, want, "{case}");
                assert!(kept.is_empty() || kept == product, "{case}");
                for (j, sum) in sums.into_iter().enumerate() {
                    let column = || std::iter::once(0.5).chain((0..m).map(|i| f64::from(middle[i * n + j])));
                    let budget = UNIT_F32 * (m + 1) as f64 * column().map(f64::abs).sum::<f64>();
                    assert!((f64::from(sum) - column().sum::<f64>()).abs() <= budget, "{case}, sum of column {j}");
                }
            }
        }
    }
}

#[test]
fn gelu_on_the_way_to_rows_is_gelu_of_a_product() {
    for (m, n, k) in [(1, 1, 1), (13, 131, 7), (70, 300, 64)] {
        let (a, b, c) = (values(m * k, 26), values(k * n, 27), values(n * 9, 28));
        let bias = values(n, 31);
        for operands in [Operands::F32, Operands::Bf16] {
            let (a, b) = (Rows::new(Mat::new(&a, m, k), operands), Panels::new(Mat::new(&b, k, n), operands));
            let c = Panels::new(Mat::new(&c, n, 9), operands);
            let mut product = vec![0.0; m * n];
            par_gemm_rows(&mut product, &mut [], &a, &b, Write::Set, Added { bias: &bias, residual: &[] }, &|_| {});
            let mut middle = product.clone();
            gelu::gelu_in_place(&mut middle);
            let times_c = |rows: &Rows| {
                let mut out = vec![0.0; m * 9];
                par_gemm_rows(&mut out, &mut [], rows, &c, Write::Set, Added::default(), &|_| {});
                out
            };
            let want = times_c(&Rows::new(Mat::new(&middle, m, n), operands));
            for (keeps, sums) in [(false, false), (false, true), (true, false), (true, true)] {
                let case = format!("{m} {n} {k} {operands:?}, kept {keeps}, summed {sums}");
                let mut kept = vec![f32::NAN; if keeps { m * n } else { 0 }];
                let mut sums = vec![0.0; if sums { n } else { 0 }];
                assert_eq!(times_c(&par_gemm_to_rows(&a, &b, &bias, &mut kept, &mut sums, Last::Gelu)), want, "{case}");
                assert!(kept.is_empty() || kept == product, "{case}");
                for (j, sum) in sums.iter().enumerate() {
                    let column = || (0..m).map(|i| f64::from(middle[i * n + j]));
                    let budget = UNIT_F32 * (m + 1) as f64 * column().map(f64::abs).sum::<f64>();
                    assert!((f64::from(*sum) - column().sum::<f64>()).abs() <= budget, "{case}, sum of column {j}");
                }
            }
        }
    }
}

#[test]
fn packed_rows_are_read_as_the_matrix_that_they_were() {
    let (rows, cols) = (45, 101);
    for operands in [Operands::F32, Operands::Bf16].into_iter().filter(|read| read.rows_stay_small()) {
        // Blocks begin with a word.
        for (r, c) in
            [(0..45, 0..101), (0..45, 0..64), (3..40, 2..35), (7..8, 64..101), (0..45, 100..101), (5..5, 0..4)]
        {
            let mut x = values(rows * cols, 18);
            // What lies beside a block, in one word with its last elements if their number is odd, shows even where it is multiplied
            // by zero.
            for (at, x) in x.iter_mut().enumerate() {
                if !r.contains(&(at / cols)) || !c.contains(&(at % cols)) {
                    *x = f32::INFINITY;
                }
            }
            let whole = Mat::new(&x, rows, cols);
            let packed = Rows::new(whole, operands);
            let [got, want] = [packed.mat(), whole].map(|m| m.block(r.clone(), c.clone()));
            for (what, turned) in [("", false), (", turned", true)] {
                let [got, want] = [got, want].map(|m| if turned { m.t() } else { m });
                let (m, k) = (want.rows(), want.cols());
                let other = values(k * 33 + 29 * m, 19);
                let (right, left) = (Mat::new(&other[..k * 33], k, 33), Mat::new(&other[k * 33..], 29, m));
                let products = |x: Mat| {
                    let (mut as_left, mut as_right) = (vec![0.5; m * 33], vec![0.5; 29 * k]);
                    gemm(&mut as_left, 33, x, right, 1.0, Write::Set, operands);
                    gemm(&mut as_right, k.max(1), left, x, 1.0, Write::Set, operands);
                    [as_left, as_right].concat().iter().map(|v| v.to_bits()).collect::<Vec<_>>()
                };
                assert_eq!(products(got), products(want), "{operands:?}, rows {r:?}, columns {c:?}{what}");
            }
        }
    }
}

#[test]
fn strips_give_the_bits_of_whole_products() {
    for (m, n, k) in [(1, 1, 1), (5, 33, 7), (13, 64, 197), (29, 40, 3203)] {
        let (a, b) = (values(m * k, 8), values(k * n, 9));
        for operands in [Operands::F32, Operands::Bf16] {
            let b = Panels::new(Mat::new(&b, k, n), operands);
            let mut whole = vec![0.0; m * n];
            par_gemm(&mut whole, &mut [], Mat::new(&a, m, k), &b, Write::Set, &|_| {});
            let b = Panels::by_caller(Mat::new(&values(k * n, 9), k, n), operands);
            // Columns of the strip that b has no rows for do not count.
            let (mut strip, stride) = (Strip::new(k + 3, operands), b.width() + 5);
            for (rows, want) in a.chunks(Strip::height(operands) * k).zip(whole.chunks(Strip::height(operands) * n)) {
                for (i, row) in rows.chunks_exact(k).enumerate() {
                    let longer: Vec<f32> = row.iter().copied().chain([1e38; 3]).collect();
                    match i % 2 {
                        0 => strip.pack(i, Mat::new(&longer, 1, longer.len()), 0),
                        _ => strip.put(i, |out| out.copy_from_slice(&longer)),
                    }
                }
                let mut got = vec![0.5; Strip::height(operands) * stride];
                gemm_strip(&mut got, stride, strip.rows(rows.len() / k), &b);
                for (got, want) in got.chunks_exact(stride).zip(want.chunks_exact(n)) {
                    assert_eq!(&got[..n], want, "{m} {n} {k} {operands:?}");
                    assert!(got[b.width()..].iter().all(|&v| v == 0.5), "{m} {n} {k} {operands:?}");
                }
            }
        }
    }
}

#[test]
fn rows_are_read_where_they_lie_or_packed_into_a_strip() {
    let (m, cols) = (70, 140);
    let x = values(m * cols, 29);
    for operands in [Operands::F32, Operands::Bf16] {
        let (packed, height) = (Rows::new(Mat::new(&x, m, cols), operands), Strip::height(operands));
        let whole = Mat::new(&x, m, cols);
        let mats = [Some(whole), operands.rows_stay_small().then(|| packed.mat())];
        for (mat, from) in mats.into_iter().flatten().flat_map(|mat| [0, 2, 64].map(|from| (mat, from))) {
            for width in [64, 33] {
                let mut strip = Strip::new(width, operands);
                let b = values(width * 40, 30);
                let b = Panels::new(Mat::new(&b, width, 40), operands);
                // What lies beside the block must not matter, be it read or not.
                let block = mat.block(0..m - 3, from..from + width);
                let form = kernel(operands).form;
                let lies = match form.words {
                    Words::F32 => true,
                    Words::Pairs => {
                        mat.elements == Elements::Bf16 && width.is_multiple_of(2) && form.depth(width) == width / 2
                    }
                    Words::Rounded | Words::Parts => false,
                };
                assert_eq!(block.strip(0, height, form).is_some(), lies, "{operands:?}, {width}");
                // Packed rows are filled up to a whole strip.
                assert!(height <= 6 || block.strip(m - 4, height, form).is_none(), "{operands:?}: rows beyond memory");
                let mut want = vec![0.0; m * 40];
                let rows = Rows::new(Mat::strided(&x[from..], m, width, cols), operands);
                par_gemm_rows(&mut want, &mut [], &rows, &b, Write::Set, Added::default(), &|_| {});
                for first in (0..m - 3).step_by(height) {
                    let rows = height.min(m - 3 - first);
                    let mut got = vec![0.0; height * b.width()];
                    gemm_strip(&mut got, b.width(), strip.rows_of(block, first, rows), &b);
                    for i in 0..rows {
                        assert_eq!(
                            got[i * b.width()..][..40],
                            want[(first + i) * 40..][..40],
                            "{operands:?}, {from}, {width}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn what_is_added_has_the_bits_of_sums_afterwards() {
    // Several runs for every kernel; no runs.
    for (m, n, k) in [(1, 1, 0), (5, 70, 1), (29, 33, 64), (100, 70, 3301), (13, 130, 0)] {
        let (a, b) = (values(m * k, 20), values(k * n, 21));
        let (bias, residual, start) = (values(n, 22), values(m * n, 23), values(m * n, 24));
        let c = values(n * 8, 25);
        let ways = [Operands::F32, Operands::Bf16].into_iter().flat_map(|x| [(x, Write::Set), (x, Write::Add)]);
        for (operands, write) in ways {
            let panels = Panels::new(Mat::new(&b, k, n), operands);
            let rows = Rows::new(Mat::new(&a, m, k), operands);
            for (with_bias, with_residual) in [(true, false), (false, true), (true, true)] {
                let plus = |s: Segment| {
                    for (j, value) in s.values.iter_mut().enumerate() {
                        *value += if with_bias { bias[s.column + j] } else { -0.0 };
                        *value += if with_residual { residual[s.row * n + s.column + j] } else { -0.0 };
                    }
                };
                let (mut got, mut want) = (start.clone(), start.clone());
                let bias = if with_bias { &bias[..] } else { &[] };
                let added = Added { bias, residual: if with_residual { &residual } else { &[] } };
                par_gemm_rows(&mut got, &mut [], &rows, &panels, write, added, &|_| {});
                par_gemm_rows(&mut want, &mut [], &rows, &panels, write, Added::default(), &plus);
                let bits = |x: &[f32]| x.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&got), bits(&want), "{m} {n} {k} {operands:?}");
                if !with_residual {
                    let last = Panels::new(Mat::new(&c, n, 8), operands);
                    let packed = [
                        par_gemm_to_rows(&rows, &panels, bias, &mut [], &mut [], Last::Nothing),
                        par_gemm_to_rows(&rows, &panels, &[], &mut [], &mut [], Last::Made(&plus)),
                    ];
                    let [got, want] = packed.map(|rows| {
                        let mut out = vec![0.0; m * 8];
                        par_gemm_rows(&mut out, &mut [], &rows, &last, Write::Set, Added::default(), &|_| {});
                        bits(&out)
                    });
                    assert_eq!(got, want, "{m} {n} {k} {operands:?}");
                }
            }
        }
    }
}

#[test]
fn sums_aside_have_the_bits_of_sums_in_the_output() {
    // Several runs for every kernel; half rectangles; an empty inner size.
    for (m, n, k) in [(1, 1, 5), (13, 70, 300), (40, 33, 3301), (64, 129, 64), (7, 9, 0)] {
        let (a, b, stride) = (values(m * k, 30), values(k * n, 31), n + 3);
        let (bias, residual, start) = (values(n, 32), values(m * n, 33), values(m * stride, 34));
        let ways = [Operands::F32, Operands::Bf16].into_iter().flat_map(|x| [(x, Write::Set), (x, Write::Add)]);
        for ((operands, write), with_added) in ways.flat_map(|way| [(way, false), (way, true)]) {
            for (number, best) in candidates(operands).enumerate() {
                let by = |aside, far, stride: usize, alpha| {
                    let (mut kernel, mut out) = (best, start.clone());
                    kernel.cut.aside = aside;
                    let added = if with_added { Added { bias: &bias, residual: &residual } } else { Added::default() };
                    let (a, b) = (Mat::new(&a, m, k), Mat::new(&b, k, n));
                    gemm_with(&kernel, &mut out, stride, a, b, alpha, write, added, far);
                    out.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
                };
                let case = format!("{m} {n} {k} {operands:?} {write:?} {with_added}, kernel {number}");
                let direct = by(false, false, n, 1.0);
                assert_eq!(by(true, false, n, 1.0), direct, "{case}");
                assert_eq!(by(false, true, n, 1.0), direct, "{case}, past the caches");
                // Rows apart, and what lies between them.
                let apart = by(false, true, stride, 1.0);
                for (i, row) in apart.chunks(stride).enumerate() {
                    assert_eq!(row[n..], start[i * stride + n..][..3].iter().map(|v| v.to_bits()).collect::<Vec<_>>());
                    if write == Write::Set {
                        assert_eq!(row[..n], direct[i * n..][..n], "{case}, rows apart");
                    }
                }
                // A power of two scales exactly, before the old contents and what is added.
                if (write, with_added) == (Write::Set, false) {
                    let twice = by(true, false, n, 2.0);
                    let doubled = direct.iter().map(|&v| (2.0 * f32::from_bits(v)).to_bits()).collect::<Vec<_>>();
                    assert_eq!(twice[..m * n], doubled[..m * n], "{case}, scaled");
                }
            }
        }
    }
}

#[test]
fn products_past_the_caches_have_the_bits_of_others() {
    for (m, n, k) in [(700, 450, 130), (33, 7, 900)] {
        let (a, b, start) = (values(m * k, 35), values(k * n, 36), values(m * n, 37));
        for operands in [Operands::F32, Operands::Bf16] {
            let (rows, panels) = (Rows::new(Mat::new(&a, m, k), operands), Panels::new(Mat::new(&b, k, n), operands));
            for write in [Write::Set, Write::Add] {
                let (mut far, mut near) = (start.clone(), start.clone());
                par_gemm_far(&mut far, &rows, &panels, write, &|s| s.values[0] += 1.0);
                par_gemm_rows(&mut near, &mut [], &rows, &panels, write, Added::default(), &|s| s.values[0] += 1.0);
                assert!(
                    far.iter().zip(&near).all(|(x, y)| x.to_bits() == y.to_bits()),
                    "{m} {n} {operands:?} {write:?}"
                );
            }
        }
    }
}

#[test]
#[should_panic = "elements of a bias"]
fn a_bias_of_another_length_is_refused() {
    let (rows, b) =
        (Rows::new(Mat::new(&[1.0], 1, 1), Operands::F32), Panels::new(Mat::new(&[1.0], 1, 1), Operands::F32));
    let added = Added { bias: &[1.0; 2], residual: &[] };
    par_gemm_rows(&mut [0.0], &mut [], &rows, &b, Write::Set, added, &|_| {});
}

#[test]
#[should_panic = "leaves its output"]
fn a_strip_that_finds_no_room_is_refused() {
    let (strip, b) = (Strip::new(4, Operands::F32), Panels::new(Mat::new(&[1.0; 4], 4, 1), Operands::F32));
    let mut out = vec![0.0; Strip::height(Operands::F32) * b.width() - 1];
    gemm_strip(&mut out, b.width(), strip.rows(1), &b);
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let (m, n, k) = (700, 450, 130);
    let (a, b) = (values(m * k, 3), values(k * n, 4));
    let run = |threads, operands: Operands| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let (mut out, mut sums, mut turned) = (vec![0.0; m * n], vec![0.0; k + n], vec![0.0; k * n]);
        pool.install(|| {
            let panels = Panels::new(Mat::new(&b, k, n), operands);
            par_gemm(&mut out, &mut [], Mat::new(&a, m, k), &panels, Write::Set, &|_| {});
            // As the way back does: rows with their sums, a product into rows with its, and rows turned on both sides.
            let (of_rows, of_product) = sums.split_at_mut(k);
            let rows = Rows::new_adding_sums(Mat::new(&a, m, k), operands, of_rows);
            let product = par_gemm_to_rows(&rows, &panels, &[], &mut [], of_product, Last::Nothing);
            if operands.rows_stay_small() {
                let (left, right) = (Rows::new(rows.mat().t(), operands), Panels::new(product.mat(), operands));
                par_gemm_rows(&mut turned, &mut [], &left, &right, Write::Set, Added::default(), &|_| {});
            }
        });
        [out, sums, turned].concat().iter().map(|v| v.to_bits()).collect::<Vec<_>>()
    };
    for operands in [Operands::F32, Operands::Bf16] {
        assert_eq!(run(1, operands), run(3, operands));
    }
}

#[test]
fn an_element_has_the_same_bits_wherever_a_product_is_cut() {
    // Several runs for every kernel.
    let (m, n, k) = (70, 70, 3301);
    let (a, b, start) = (values(m * k, 10), values(k * n, 11), values(m * n, 12));
    let (a, b) = (Mat::new(&a, m, k), Mat::new(&b, k, n));
    let ways = [(1.0, Write::Set), (1.0, Write::Add), (0.3, Write::Set), (0.3, Write::Add)];
    for ((alpha, write), operands) in ways.into_iter().flat_map(|w| [(w, Operands::F32), (w, Operands::Bf16)]) {
        let product = |a: Mat, b: Mat, out: &[f32]| {
            let mut out = out.to_vec();
            gemm(&mut out, n, a, b, alpha, write, operands);
            out
        };
        let whole = product(a, b, &start);
        for size in [1, 15, 16, 17, 33, 69] {
            let first = m - size;
            let rows = product(a.row_range(first, size), b, &start[first * n..]);
            assert_eq!(rows, whole[first * n..], "{size} rows, {alpha} {write:?} {operands:?}");
            let cols = product(a, b.t().row_range(first, size).t(), &start[first..]);
            for (i, (got, want)) in cols.chunks(n).zip(whole[first..].chunks(n)).enumerate() {
                assert_eq!(got[..size], want[..size], "row {i}, {size} columns, {alpha} {write:?} {operands:?}");
            }
        }
    }
}

/// Root mean square of the errors of a product against f64, each as a share of the sum of its terms' sizes.
fn relative_error(out: &[f32], a: &[f32], b: &[f32], [m, n, k]: [usize; 3]) -> f64 {
    let squares = (0..m * n).map(|at| {
        let terms = (0..k).map(|l| f64::from(a[at / n * k + l]) * f64::from(b[l * n + at % n]));
        let (exact, sizes) = terms.fold((0.0, 0.0), |(sum, sizes), x| (sum + x, sizes + x.abs()));
        ((f64::from(out[at]) - exact) / sizes).powi(2)
    });
    (squares.sum::<f64>() / (m * n) as f64).sqrt()
}

#[test]
fn elements_in_parts_are_multiplied_as_exactly_as_fused_loops_do() {
    for [m, n, k] in [[40, 40, 64], [70, 50, 768], [33, 33, 3072]] {
        let (mut a, mut b) = (values(m * k, 15), values(k * n, 16));
        for spread in [0.0, 20.0] {
            // Sizes over so many powers of two, up and down.
            for x in [&mut a, &mut b] {
                let powers = values(x.len(), 17);
                x.iter_mut().zip(powers).for_each(|(x, power)| *x *= (power * spread).exp2());
            }
            let mut out = vec![0.0; m * n];
            gemm(&mut out, n, Mat::new(&a, m, k), Mat::new(&b, k, n), 1.0, Write::Set, Operands::F32);
            let loops: Vec<f32> = (0..m * n)
                .map(|at| (0..k).fold(0.0f32, |sum, l| a[at / n * k + l].mul_add(b[l * n + at % n], sum)))
                .collect();
            let [ours, fused] = [&out, &loops].map(|out| relative_error(out, &a, &b, [m, n, k]));
            eprintln!("{m} x {n} x {k}, {spread}: {ours:.2e}, of fused loops {fused:.2e}");
            // The plain kernel rounds a product and a sum; every other one at most as fused loops do.
            let most = if kernel(Operands::F32).mr == 4 { 2.0 } else { 1.0 };
            assert!(ours <= most * fused, "{m} x {n} x {k}: {ours:e} against {fused:e}");
        }
    }
}

#[test]
fn what_is_not_finite_stays_so() {
    let (size, place) = (40, 2 * 40 + 3);
    let odds = [f32::NAN, f32::INFINITY].into_iter();
    for (odd, operands) in odds.flat_map(|x| [(x, Operands::F32), (x, Operands::Bf16)]) {
        for (left, turned) in [(true, false), (true, true), (false, false), (false, true)] {
            let (mut with, without) = (vec![0.5; size * size], vec![0.25; size * size]);
            with[place] = odd;
            let [with, without] = [&with, &without].map(|x| Mat::new(x, size, size));
            let with = if turned { with.t() } else { with };
            let (a, b) = if left { (with, without) } else { (without, with) };
            let mut out = vec![0.0; size * size];
            gemm(&mut out, size, a, b, 1.0, Write::Set, operands);
            let [row, col] = if turned { [place % size, place / size] } else { [place / size, place % size] };
            for (at, value) in out.iter().enumerate() {
                let touched = if left { at / size == row } else { at % size == col };
                assert_eq!(value.is_finite(), !touched, "{operands:?}, {odd}, left: {left}, turned: {turned}, {at}");
            }
        }
    }
}
