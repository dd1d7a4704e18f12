//! The shipped kernels on the virtual card, all checks on: against f64, and their traffic by the counters.
#![forbid(unsafe_code)]

#[path = "support/attention.rs"]
mod bounds;
#[path = "support/card.rs"]
mod card;

use bounds::{Gradient, Rounding, gradients};
use card::{NULL, Rig, Stored, ptx, values};
use dynavit::ops::attention::cuda::Method;
use dynavit::ops::attention::reference::Sizes;
use dynavit::ops::matmul::cuda::Tile;
use dynavit::ops::{attention, gelu, layer_norm, matmul};
use ptx_vm::Counters;

/// The targets, with what their matrix units multiply.
const MATRIX: [(u32, Stored); 3] = [(75, Stored::F16), (80, Stored::F16), (80, Stored::Bf16)];
/// The targets, with what kernels on the ordinary cores read and write.
const ROWS: [(u32, Stored); 5] =
    [(75, Stored::F16), (75, Stored::F32), (80, Stored::F16), (80, Stored::Bf16), (80, Stored::F32)];
/// What a sum in f32 over the lengths here may be off, of the sum of magnitudes: chosen, about 170 roundings, where the
/// worst case of the longest sum is 1000.
const SUM: f64 = 1e-5;

/// Holds each value to its definition, within `relative` of it and `absolute`.
#[track_caller]
fn close(what: &str, got: &[f32], expected: &[f64], relative: f64, absolute: f64) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (&g, &e)) in got.iter().zip(expected).enumerate() {
        let bound = relative * e.abs() + absolute;
        assert!((f64::from(g) - e).abs() <= bound, "{what}: {g} for {e} at {i}, beyond {bound:e}");
    }
}

/// No access took more sectors or passes than its bytes need.
#[track_caller]
fn full_traffic(what: &str, counters: &Counters, shared: bool) {
    assert!(counters.launches > 0 && (counters.shared_requests > 0) == shared, "{what}: counted nothing");
    assert_eq!(counters.bank_conflicts, 0, "{what}");
    for (line, traffic) in &counters.by_line {
        assert_eq!((traffic.excess_passes, traffic.excess_sectors), (0, 0), "{what}: PTX line {line}");
    }
}

fn f64s(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

#[test]
fn products_are_right_on_ragged_shapes() {
    for (capability, stored) in MATRIX {
        for (m, n, k) in [(1, 1, 8), (1, 5, 192), (7, 24, 40), (60, 130, 72), (138, 192, 64), (197, 136, 96)] {
            let (x, w) = (f64s(&stored.rounded(&values(m * k, 1))), f64s(&stored.rounded(&values(n * k, 2))));
            let (bias, residual) = (f64s(&values(n, 3)), f64s(&stored.rounded(&values(m * n, 4))));
            let product = matmul::reference::forward(&x, &w, &bias, k);
            for tile in [Tile::Wide, Tile::Narrow] {
                for epilogue in ["bias", "bias_gelu", "bias_residual"] {
                    let entry = format!("matmul_fwd_{epilogue}{}_{}", tile.suffix(), stored.name());
                    let expected = match epilogue {
                        "bias" => product.clone(),
                        "bias_gelu" => gelu::reference::forward(&product),
                        _ => product.iter().zip(&residual).map(|(y, r)| y + r).collect(),
                    };
                    let rig = Rig::new(capability, ptx(&format!("ptx/matmul.sm{capability}")), stored, 3);
                    let y = rig.matmul(&entry, tile, m, n, k).unwrap_or_else(|fault| panic!("{entry}: {fault}"));
                    close(&format!("{entry} {m} x {n} x {k}"), &y, &expected, stored.rounding(), SUM * k as f64);
                    if epilogue == "bias_gelu" {
                        let alone = rig.matmul_beside(&entry, tile, [m, n, k], NULL);
                        assert_eq!(alone.unwrap_or_else(|fault| panic!("{entry} alone: {fault}")), y, "{entry}");
                    }
                }
            }
        }
    }
}

#[test]
fn products_back_are_right_on_ragged_shapes() {
    let shapes = [
        (1, 8, 8),
        (7, 24, 40),
        (60, 136, 72),
        (138, 192, 64),
        (197, 136, 96),
        (300, 72, 136),
        (33, 104, 8),
        (131, 8, 200),
    ];
    for (capability, stored) in MATRIX {
        let text = ptx(&format!("ptx/matmul_bwd.sm{capability}"));
        for (m, n, k) in shapes {
            let (x, w) = (f64s(&stored.rounded(&values(m * k, 1))), f64s(&stored.rounded(&values(n * k, 2))));
            let (g, pre) = (f64s(&stored.rounded(&values(m * n, 5))), f64s(&stored.rounded(&values(m * k, 6))));
            let (dx, dweight, _) = matmul::reference::backward(&x, &w, &g, n, k);
            let dpre = gelu::reference::backward(&pre, &dx);
            for tile in [Tile::Wide, Tile::Narrow] {
                let rig = Rig::new(capability, text.clone(), stored, 3);
                let what = format!("{}_{} of {m} x {n} x {k}", tile.suffix(), stored.name());
                let entry = |what: &str| format!("matmul_bwd_{what}{}_{}", tile.suffix(), stored.name());
                let fail = |fault| panic!("{what}: {fault}");
                let got = rig.matmul_dx(&entry("dx"), tile, m, n, k).unwrap_or_else(fail);
                close(&format!("dx{what}"), &got, &dx, stored.rounding(), SUM * n as f64);
                let got = rig.matmul_dx(&entry("dx_gelu"), tile, m, n, k).unwrap_or_else(fail);
                close(&format!("dx_gelu{what}"), &got, &dpre, stored.rounding(), 1.2 * SUM * n as f64);
                let got = rig.matmul_dweight(&entry("dweight"), tile, m, n, k).unwrap_or_else(fail);
                close(&format!("dweight{what}"), &got, &dweight, SUM, SUM * m as f64);
            }
        }
    }
}

#[test]
fn attention_is_right_on_ragged_shapes() {
    for (capability, stored) in MATRIX {
        for (b, s, heads) in [(3, 1, 2), (1, 7, 1), (1, 60, 3), (1, 138, 1), (1, 197, 1), (1, 256, 1), (1, 300, 1)] {
            let d = 64 * heads;
            let qkv: Vec<f32> = values(b * s * 3 * d, 5).iter().map(|x| 3.0 * x).collect();
            let qkv = f64s(&stored.rounded(&qkv));
            let at = |image: usize, row: usize, part: usize, head: usize| {
                let start = ((image * s + row) * 3 + part) * d + head * 64;
                &qkv[start..start + 64]
            };
            let part =
                |i: usize| -> Vec<f64> { qkv.chunks(3 * d).flat_map(|row| row[i * d..(i + 1) * d].to_vec()).collect() };
            let sizes = attention::reference::Sizes { b, queries: s, keys: s, heads, head_width: 64 };
            let y = attention::reference::forward(&part(0), &part(1), &part(2), sizes);
            let log_sum = |i: usize| {
                let (image, head, row) = (i / s / heads, i / s % heads, i % s);
                let dot =
                    |j| at(image, row, 0, head).iter().zip(at(image, j, 1, head)).map(|(q, k)| q * k).sum::<f64>();
                let scores: Vec<f64> = (0..s).map(|j| dot(j) / 8.0).collect();
                let largest = scores.iter().copied().fold(f64::MIN, f64::max);
                largest + scores.iter().map(|x| (x - largest).exp()).sum::<f64>().ln()
            };
            let lse: Vec<f64> = (0..b * heads * s).map(log_sum).collect();
            for kind in ["", "_online"] {
                if s > 256 && kind.is_empty() {
                    continue;
                }
                let entry = &format!("attention_fwd{kind}_{}", stored.name());
                let rig = Rig::new(capability, ptx(&format!("ptx/attention.sm{capability}")), stored, 4);
                let got = rig.attention(entry, b, s, heads).unwrap_or_else(|fault| panic!("{entry}: {fault}"));
                let what = format!("{entry} of {b} x {s} x {heads}");
                // P is rounded to f16 before the product with v, whose values are below 3.
                close(&what, &got.0, &y, stored.rounding(), 3.0 * stored.rounding());
                close(&what, &got.1, &lse, SUM, SUM);
            }
        }
    }
}

/// The log of each row's sum of powers, (b, heads, queries), of q and k with rows of all heads.
fn log_sums(q: &[f64], k: &[f64], z: Sizes) -> Vec<f32> {
    let row = |x: &[f64], rows: usize, image: usize, row: usize, head: usize| {
        x[((image * rows + row) * z.heads + head) * 64..][..64].to_vec()
    };
    let log_sum = |i: usize| {
        let (image, head, query) = (i / z.queries / z.heads, i / z.queries % z.heads, i % z.queries);
        let q = row(q, z.queries, image, query, head);
        let dot = |j| q.iter().zip(row(k, z.keys, image, j, head)).map(|(q, k)| q * k).sum::<f64>();
        let scores: Vec<f64> = (0..z.keys).map(|j| dot(j) / 8.0).collect();
        let largest = scores.iter().copied().fold(f64::MIN, f64::max);
        (largest + scores.iter().map(|x| (x - largest).exp()).sum::<f64>().ln()) as f32
    };
    (0..z.b * z.heads * z.queries).map(log_sum).collect()
}

#[test]
fn gradients_of_attention_are_right_on_ragged_shapes() {
    for (capability, stored) in MATRIX {
        let shapes = [
            (3, 1, 2),
            (1, 7, 1),
            (5, 16, 1),
            (1, 60, 3),
            (1, 138, 1),
            (1, 197, 1),
            (1, 240, 1),
            (1, 256, 1),
            (1, 300, 1),
        ];
        for (b, s, heads) in shapes {
            let d = 64 * heads;
            let qkv: Vec<f32> = values(b * s * 3 * d, 5).iter().map(|x| 3.0 * x).collect();
            let qkv = f64s(&stored.rounded(&qkv));
            let part = |x: &[f64], i: usize| -> Vec<f64> {
                x.chunks(3 * d).flat_map(|row| row[i * d..(i + 1) * d].to_vec()).collect()
            };
            let [q, k, v] = [0, 1, 2].map(|i| part(&qkv, i));
            let z = Sizes { b, queries: s, keys: s, heads, head_width: 64 };
            let y: Vec<f32> = attention::reference::forward(&q, &k, &v, z).iter().map(|&y| y as f32).collect();
            let (y, lse) = (stored.rounded(&y), log_sums(&q, &k, z));
            let dy = f64s(&stored.rounded(&values(b * s * d, 12)));
            let tiny = if stored == Stored::F16 { 0.5 / f64::from(1 << 24) } else { 0.0 };
            let expected = gradients(&q, &k, &v, &f64s(&y), &dy, z, Rounding { relative: stored.rounding(), tiny });
            for kind in [Method::Whole, Method::Online] {
                if s > 240 && kind == Method::Whole {
                    continue;
                }
                let rig = Rig::new(capability, ptx(&format!("ptx/attention_bwd.sm{capability}")), stored, 9);
                let what = format!("{kind:?} {stored:?} of {b} x {s} x {heads}");
                let got = rig.attention_backward(kind, (b, s, heads), &y, &lse);
                let got = f64s(&got.unwrap_or_else(|fault| panic!("{what}: {fault}")));
                for (i, Gradient { expected, bound }) in expected.iter().enumerate() {
                    for (at, g) in part(&got, i).into_iter().enumerate() {
                        let (e, bound) = (expected[at], bound[at]);
                        assert!((g - e).abs() <= bound, "{what}: {g} for {e} at {at} of {i}, beyond {bound:e}");
                    }
                }
            }
        }
    }
}

#[test]
fn layer_norm_is_right_on_ragged_shapes() {
    for (capability, stored) in ROWS {
        for (rows, d) in [(1, 4), (3, 128), (5, 192), (7, 1000), (60, 384), (33, 768), (2, 1024)] {
            let rig = Rig::new(capability, ptx(&format!("ptx/layer_norm.sm{capability}")), stored, 5);
            let (x, weight, bias) =
                (f64s(&stored.rounded(&values(rows * d, 6))), f64s(&values(d, 7)), f64s(&values(d, 8)));
            let mean: Vec<f64> = x.chunks(d).map(|row| row.iter().sum::<f64>() / d as f64).collect();
            let variance = |(row, m): (&[f64], &f64)| row.iter().map(|x| (x - m) * (x - m)).sum::<f64>() / d as f64;
            let rstd: Vec<f64> = x.chunks(d).zip(&mean).map(|row| 1.0 / (variance(row) + 1e-6).sqrt()).collect();
            let y = layer_norm::reference::forward(&x, &weight, &bias, 1e-6);
            let got = rig.layer_norm(rows, d).unwrap_or_else(|fault| panic!("{rows} x {d}: {fault}"));
            close(&format!("y of {rows} x {d}"), &got[0], &y, stored.rounding(), SUM);
            close(&format!("mean of {rows} x {d}"), &got[1], &mean, SUM, SUM);
            close(&format!("rstd of {rows} x {d}"), &got[2], &rstd, SUM, SUM);

            // Backward, from statistics that are any numbers.
            let (dy, mean, rstd) = (f64s(&stored.rounded(&values(rows * d, 9))), values(rows, 10), values(rows, 11));
            let n = |i: usize| (x[i] - f64::from(mean[i / d])) * f64::from(rstd[i / d]);
            let (mut dx, mut dweight, mut dbias) = (vec![0.0; rows * d], vec![0.0; d], vec![0.0; d]);
            for (row, &r) in rstd.iter().enumerate() {
                let cells = row * d..(row + 1) * d;
                let mean_g = cells.clone().map(|i| dy[i] * weight[i % d]).sum::<f64>() / d as f64;
                let mean_gn = cells.clone().map(|i| dy[i] * weight[i % d] * n(i)).sum::<f64>() / d as f64;
                for i in cells {
                    dx[i] = f64::from(r) * (dy[i] * weight[i % d] - mean_g - n(i) * mean_gn);
                    dweight[i % d] += dy[i] * n(i);
                    dbias[i % d] += dy[i];
                }
            }
            let got = rig.layer_norm_backward(rows, d).unwrap_or_else(|fault| panic!("{rows} x {d}: {fault}"));
            close(&format!("dx of {rows} x {d}"), &got[0], &dx, stored.rounding(), SUM);
            close(&format!("dweight of {rows} x {d}"), &got[1], &dweight, SUM, SUM * rows as f64);
            close(&format!("dbias of {rows} x {d}"), &got[2], &dbias, SUM, SUM * rows as f64);
        }
    }
}

#[test]
fn results_are_the_same_bits_in_any_order_of_blocks_and_tiles() {
    for (capability, stored) in MATRIX {
        let text = ptx(&format!("ptx/matmul.sm{capability}"));
        let run = |tile: Tile, seed| {
            let entry = format!("matmul_fwd_bias{}_{}", tile.suffix(), stored.name());
            Rig::new(capability, text.clone(), stored, seed).matmul(&entry, tile, 197, 136, 72).unwrap()
        };
        let first = run(Tile::Wide, 1);
        assert_eq!(first, run(Tile::Wide, 2));
        assert_eq!(first, run(Tile::Narrow, 3));
        let text = ptx(&format!("ptx/matmul_bwd.sm{capability}"));
        let run = |tile: Tile, seed| {
            let entry = |what: &str| format!("matmul_bwd_{what}{}_{}", tile.suffix(), stored.name());
            let rig = Rig::new(capability, text.clone(), stored, seed);
            let dx = rig.matmul_dx(&entry("dx_gelu"), tile, 197, 136, 72).unwrap();
            (dx, rig.matmul_dweight(&entry("dweight"), tile, 300, 136, 72).unwrap())
        };
        let first = run(Tile::Wide, 1);
        assert_eq!(first, run(Tile::Wide, 2));
        assert_eq!(first, run(Tile::Narrow, 3));
        let text = ptx(&format!("ptx/layer_norm.sm{capability}"));
        let run = |seed| Rig::new(capability, text.clone(), stored, seed).layer_norm_backward(150, 192).unwrap();
        assert_eq!(run(1), run(2));
        // Both ways to the gradients sum in one order, too.
        let text = ptx(&format!("ptx/attention_bwd.sm{capability}"));
        let (y, lse) = (values(139 * 128, 13), vec![4.0; 139 * 2]);
        let run = |kind, seed| {
            let rig = Rig::new(capability, text.clone(), stored, seed);
            rig.attention_backward(kind, (1, 139, 2), &y, &lse).unwrap()
        };
        let first = run(Method::Whole, 1);
        assert_eq!(first, run(Method::Whole, 2));
        assert_eq!(first, run(Method::Online, 3));
        let text = ptx(&format!("ptx/attention_rows.sm{capability}"));
        let z = Sizes { b: 2, queries: 2, keys: 33, heads: 2, head_width: 64 };
        let run = |seed| Rig::new(capability, text.clone(), stored, seed).attention_rows(z).unwrap();
        assert_eq!(run(1), run(2));
    }
}

#[test]
fn attention_is_the_same_bits_by_any_number_of_warps() {
    let run = |capability| {
        let rig = Rig::new(capability, ptx("ptx/attention.sm80"), Stored::F16, 1);
        rig.attention("attention_fwd_f16", 2, 197, 2).unwrap()
    };
    // Blocks of four warps and of seven.
    assert_eq!(run(80), run(86));
}

#[test]
fn products_waste_no_sector_and_no_pass() {
    for (capability, stored) in MATRIX {
        let rig = Rig::new(capability, ptx(&format!("ptx/matmul.sm{capability}")), stored, 6);
        for (tile, epilogue) in [(Tile::Wide, "bias"), (Tile::Narrow, "bias_residual"), (Tile::Narrow, "bias_gelu")] {
            let entry = format!("matmul_fwd_{epilogue}{}_{}", tile.suffix(), stored.name());
            rig.matmul(&entry, tile, 138, 192, 192).unwrap();
            let counters = rig.counters(&entry);
            full_traffic(&entry, &counters, true);
            // Of a stage each warp reads its half of the rows and of the columns: 32 KiB for a wide tile, or 256 passes.
            let stages = counters.blocks * 192 / 32;
            let loads: u64 = counters.opcodes.iter().filter(|(op, _)| op.starts_with("ldmatrix")).map(|(_, n)| n).sum();
            assert_eq!(4 * loads, stages * tile.side() as u64 * 2, "{entry}");
        }
    }
}

#[test]
fn products_back_waste_no_sector_and_no_pass() {
    for (capability, stored) in MATRIX {
        let rig = Rig::new(capability, ptx(&format!("ptx/matmul_bwd.sm{capability}")), stored, 6);
        for tile in [Tile::Wide, Tile::Narrow] {
            for what in ["dx", "dx_gelu", "dweight"] {
                let entry = format!("matmul_bwd_{what}{}_{}", tile.suffix(), stored.name());
                let run = if what == "dweight" { Rig::matmul_dweight } else { Rig::matmul_dx };
                run(&rig, &entry, tile, 300, 192, 192).unwrap();
                full_traffic(&entry, &rig.counters(&entry), true);
            }
        }
    }
}

#[test]
fn sums_of_columns_waste_no_sector_and_no_pass() {
    for (capability, stored) in ROWS {
        let rig = Rig::new(capability, ptx(&format!("ptx/matmul_scalar.sm{capability}")), stored, 6);
        let entry = format!("matmul_bwd_dbias_{}", stored.name());
        rig.matmul_dbias(&entry, 138, 192).unwrap();
        full_traffic(&entry, &rig.counters(&entry), true);
        let reduce = "matmul_bwd_dbias_reduce_add_f32";
        full_traffic(reduce, &rig.counters(reduce), true);
    }
}

#[test]
fn attention_wastes_no_sector_and_no_pass() {
    for (capability, stored) in MATRIX {
        let rig = Rig::new(capability, ptx(&format!("ptx/attention.sm{capability}")), stored, 7);
        for kind in ["", "_online"] {
            let entry = &format!("attention_fwd{kind}_{}", stored.name());
            rig.attention(entry, 1, 144, 2).unwrap();
            full_traffic(entry, &rig.counters(entry), true);
        }
        let rig = Rig::new(capability, ptx(&format!("ptx/attention_bwd.sm{capability}")), stored, 7);
        let (y, lse) = (values(144 * 128, 13), vec![4.0; 144 * 2]);
        for kind in [Method::Whole, Method::Online] {
            rig.attention_backward(kind, (1, 144, 2), &y, &lse).unwrap();
        }
        for kind in ["", "_dq", "_dkv"] {
            let entry = &format!("attention_bwd{kind}_{}", stored.name());
            full_traffic(entry, &rig.counters(entry), true);
        }
    }
    for (capability, stored) in ROWS {
        let rig = Rig::new(capability, ptx(&format!("ptx/attention_rows.sm{capability}")), stored, 7);
        for queries in [1, 3] {
            rig.attention_rows(Sizes { b: 2, queries, keys: 37, heads: 2, head_width: 64 }).unwrap();
        }
        for kind in ["fwd", "bwd"] {
            let entry = &format!("attention_{kind}_rows_{}", stored.name());
            full_traffic(entry, &rig.counters(entry), true);
        }
    }
}

#[test]
fn layer_norm_wastes_no_sector_and_no_pass() {
    for (capability, stored) in ROWS {
        let rig = Rig::new(capability, ptx(&format!("ptx/layer_norm.sm{capability}")), stored, 8);
        rig.layer_norm(60, 192).unwrap();
        rig.layer_norm_backward(60, 192).unwrap();
        for (kernel, shared) in [("fwd", false), ("bwd_dx", true)] {
            let entry = format!("layer_norm_{kernel}_{}", stored.name());
            full_traffic(&entry, &rig.counters(&entry), shared);
        }
        full_traffic("reduce", &rig.counters("layer_norm_bwd_reduce_f32"), true);
    }
}
