//! The paper's model of compute, alpha S^2 + beta S + gamma (section 4.2), fitted to counts, and its Eq. 10.
#![forbid(unsafe_code)]

use serde::Serialize;

/// A parabola through counts, and the weights of Eq. 10 that follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Fit {
    /// Of S squared: attention's products.
    pub alpha: f64,
    /// Of S: projections and MLP.
    pub beta: f64,
    /// What does not depend on S: head, and embedding when it is dense.
    pub gamma: f64,
    /// alpha S^2 at the base length, as a share of the whole.
    pub w_attn: f64,
    /// beta S at the base length, as a share of the whole.
    pub w_mlp: f64,
    /// gamma, as a share of the whole at the base length.
    pub w_other: f64,
    /// The base length, N + 1.
    pub base: usize,
    /// Largest distance of the fit to a count, relative to the count.
    pub worst: f64,
}

impl Fit {
    /// Least squares over (S, count); the base is the largest S. `None` with fewer than three lengths, through which
    /// many parabolas go.
    pub fn new(counts: &[(usize, f64)]) -> Option<Self> {
        let base = counts.iter().map(|&(s, _)| s).max().filter(|&s| s > 0)?;
        let unit = |s: usize| s as f64 / base as f64;
        let whole = counts.iter().map(|&(_, count)| count).fold(0.0, f64::max);
        // Normal equations of the powers of S / base; scaled so, they are well conditioned.
        let mut rows = [[0.0; 4]; 3];
        for &(s, count) in counts {
            let powers = [unit(s) * unit(s), unit(s), 1.0];
            for (row, a) in rows.iter_mut().zip(powers) {
                for (cell, b) in row.iter_mut().zip([powers[0], powers[1], powers[2], count / whole]) {
                    *cell += a * b;
                }
            }
        }
        let [a, b, c] = solve(rows)?.map(|x| x * whole);
        let at = |s: usize| (a * unit(s) + b) * unit(s) + c;
        let worst = counts.iter().map(|&(s, count)| ((at(s) - count) / count).abs()).fold(0.0, f64::max);
        let all = a + b + c;
        let (alpha, beta) = (a / (base * base) as f64, b / base as f64);
        Some(Fit { alpha, beta, gamma: c, w_attn: a / all, w_mlp: b / all, w_other: c / all, base, worst })
    }

    /// Eq. 10: the cost at length S relative to that at the base length.
    pub fn ratio(&self, s: usize) -> f64 {
        let r = s as f64 / self.base as f64;
        self.w_attn * r * r + self.w_mlp * r + self.w_other
    }
}

/// Elimination with pivots; `None` where the equations do not decide.
fn solve(mut rows: [[f64; 4]; 3]) -> Option<[f64; 3]> {
    for i in 0..3 {
        let pivot = (i..3).max_by(|&a, &b| rows[a][i].abs().total_cmp(&rows[b][i].abs()))?;
        rows.swap(i, pivot);
        if rows[i][i].abs() <= 1e-12 {
            return None;
        }
        for j in 0..3 {
            if j != i {
                let factor = rows[j][i] / rows[i][i];
                let above = rows[i];
                rows[j].iter_mut().zip(above).for_each(|(cell, value)| *cell -= factor * value);
            }
        }
    }
    Some([0, 1, 2].map(|i| rows[i][3] / rows[i][i]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn three_lengths_are_needed() {
        assert_eq!(Fit::new(&[]), None);
        assert_eq!(Fit::new(&[(2, 1.0), (3, 2.0), (3, 2.0)]), None);
        assert!(Fit::new(&[(2, 1.0), (3, 2.0), (4, 4.0)]).is_some());
    }

    #[test]
    fn the_papers_three_figures_bend_the_wrong_way() {
        let fit = Fit::new(&[(119, 10.48), (138, 13.40), (197, 19.90)]).unwrap();
        assert!(fit.alpha < 0.0 && fit.worst < 1e-9, "attention cannot cost less than nothing: {fit:?}");
    }

    proptest! {
        #[test]
        fn a_parabola_is_found_again(alpha in 0.0..1e5f64, beta in 1.0..1e8f64, gamma in 0.0..1e9f64, base in 4usize..600) {
            let of = |s: usize| alpha * (s * s) as f64 + beta * s as f64 + gamma;
            let counts: Vec<_> = (2..=base).map(|s| (s, of(s))).collect();
            let fit = Fit::new(&counts).unwrap();
            prop_assert!(fit.worst < 1e-9, "{:?}", fit);
            prop_assert!((fit.w_attn + fit.w_mlp + fit.w_other - 1.0).abs() < 1e-12);
            for s in [2, base / 2 + 1, base] {
                prop_assert!((fit.ratio(s) - of(s) / of(base)).abs() < 1e-9);
            }
        }
    }
}
