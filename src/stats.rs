//! Statistics of few runs and many images: spread over seeds, intervals, and tests on the same images.
#![forbid(unsafe_code)]

use serde::Serialize;

/// The 97.5 % quantile of the normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// Several runs that differ in their seeds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    pub n: usize,
    pub mean: f64,
    /// Of the sample (n - 1); absent for one run.
    pub deviation: Option<f64>,
    /// 95 % interval of the mean by Student's t; absent for one run.
    pub interval: Option<(f64, f64)>,
}

impl Spread {
    /// None of nothing.
    pub fn of(values: &[f64]) -> Option<Self> {
        let n = values.len();
        let mean = values.iter().sum::<f64>() / n as f64;
        let squares: f64 = values.iter().map(|x| (x - mean) * (x - mean)).sum();
        let deviation = (n > 1).then(|| (squares / (n as f64 - 1.0)).sqrt());
        let interval = deviation.map(|deviation| {
            let half = t_quantile(0.975, n as f64 - 1.0) * deviation / (n as f64).sqrt();
            (mean - half, mean + half)
        });
        (n > 0).then_some(Spread { n, mean, deviation, interval })
    }
}

/// Wilson's 95 % interval of a share of `hits` in `n`; `statsmodels`' `proportion_confint(method="wilson")`.
pub fn wilson(hits: u64, n: u64) -> (f64, f64) {
    let (n, share) = (n as f64, hits as f64 / n as f64);
    let centre = share + Z * Z / (2.0 * n);
    let half = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    let whole = 1.0 + Z * Z / n;
    (((centre - half) / whole).max(0.0), ((centre + half) / whole).min(1.0))
}

/// McNemar's exact test: of the images that exactly one of two models got right, `b` were the first's and `c` the
/// second's. Two-sided; `statsmodels`' `mcnemar(exact=True)`.
pub fn mcnemar(b: u64, c: u64) -> f64 {
    let n = (b + c) as f64;
    let tail: f64 = (0..=b.min(c)).map(|k| (ln_choose(n, k as f64) - n * std::f64::consts::LN_2).exp()).sum();
    (2.0 * tail).min(1.0)
}

/// The exact sign-flip test of paired differences: the chance that random signs give a sum as far from 0 as the one
/// seen. Two-sided; `scipy`'s `permutation_test` over all signs, and [`mcnemar`] when all are 1 or -1.
///
/// Differences of images summed over seeds make the images the units, whatever the number of seeds.
pub fn sign_flips(differences: &[i64]) -> f64 {
    let sizes: Vec<usize> = differences.iter().map(|d| d.unsigned_abs() as usize).filter(|&d| d > 0).collect();
    let reach: usize = sizes.iter().sum();
    let seen = differences.iter().sum::<i64>().unsigned_abs() as usize;
    // chances[s] is that of the sum s - reach.
    let mut chances = vec![0.0; 2 * reach + 1];
    chances[reach] = 1.0;
    let mut span = 0;
    for size in sizes {
        let before = chances.clone();
        span += size;
        for (s, chance) in chances.iter_mut().enumerate().take(reach + span + 1).skip(reach - span) {
            let from = |s: Option<usize>| s.and_then(|s| before.get(s)).copied().unwrap_or(0.0);
            *chance = 0.5 * (from(s.checked_sub(size)) + from(Some(s + size)));
        }
    }
    let far = chances.iter().enumerate().filter(|&(s, _)| s.abs_diff(reach) >= seen);
    far.map(|(_, chance)| chance).sum::<f64>().min(1.0)
}

/// Holm's step-down correction of p-values, in their order; `statsmodels`' `multipletests(method="holm")`.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut corrected = vec![0.0; p.len()];
    let mut above = 0.0f64;
    for (rank, &i) in order.iter().enumerate() {
        above = above.max((p[i] * (p.len() - rank) as f64).min(1.0));
        corrected[i] = above;
    }
    corrected
}

/// The mean and its standard error, 0 and 0 of nothing; the error of one value is 0.
pub fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    if values.is_empty() {
        return (0.0, 0.0);
    }
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, if values.len() < 2 { 0.0 } else { (squares / (n - 1.0) / n).sqrt() })
}

/// Half the width of Student's 95 % interval of a mean of n values; 0 of one value, which has none.
pub fn half_width(n: usize, error: f64) -> f64 {
    if n < 2 { 0.0 } else { t_quantile(0.975, n as f64 - 1.0) * error }
}

/// Student's two-sided p of a mean of n values with its standard error; 1 where there is no error to judge by.
pub fn two_sided(n: usize, mean: f64, error: f64) -> f64 {
    match n < 2 || error == 0.0 {
        true => 1.0,
        false => (2.0 * (1.0 - t_cdf((mean / error).abs(), n as f64 - 1.0))).min(1.0),
    }
}

/// The quantile p of Student's t with so many degrees of freedom.
pub fn t_quantile(p: f64, df: f64) -> f64 {
    if p < 0.5 {
        return -t_quantile(1.0 - p, df);
    }
    let (mut low, mut high) = (0.0, 1.0);
    while t_cdf(high, df) < p {
        (low, high) = (high, 2.0 * high);
    }
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if t_cdf(middle, df) < p { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

/// The distribution of Student's t at t >= 0.
fn t_cdf(t: f64, df: f64) -> f64 {
    1.0 - 0.5 * incomplete_beta(df / 2.0, 0.5, df / (df + t * t))
}

/// The regularised incomplete beta function I_x(a, b).
fn incomplete_beta(a: f64, b: f64, x: f64) -> f64 {
    // The continued fraction converges quickly below the mean only.
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - incomplete_beta(b, a, 1.0 - x);
    }
    if x <= 0.0 {
        return 0.0;
    }
    let ln_beta = libm::lgamma(a) + libm::lgamma(b) - libm::lgamma(a + b);
    let front = (a * x.ln() + b * (-x).ln_1p() - ln_beta).exp() / a;
    let away = |x: f64| if x.abs() < 1e-300 { 1e-300 } else { x };
    // Lentz's evaluation of the fraction, two terms a turn.
    let (mut c, mut d) = (1.0, 1.0 / away(1.0 - (a + b) * x / (a + 1.0)));
    let mut fraction = d;
    for m in 1..500 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let mut change = 1.0;
        for term in [even, odd] {
            d = 1.0 / away(1.0 + term * d);
            c = away(1.0 + term / c);
            change = c * d;
            fraction *= change;
        }
        if (change - 1.0).abs() < 1e-16 {
            break;
        }
    }
    front * fraction
}

fn ln_choose(n: f64, k: f64) -> f64 {
    libm::lgamma(n + 1.0) - libm::lgamma(k + 1.0) - libm::lgamma(n - k + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    /// scipy's and statsmodels' figures: fixtures/make_report.py.
    fn fixture(part: &str) -> Vec<Value> {
        let all: Value = serde_json::from_str(include_str!("../fixtures/report.json")).unwrap();
        all[part].as_array().unwrap().clone()
    }

    #[track_caller]
    fn near(got: f64, row: &Value, key: &str) {
        approx::assert_relative_eq!(got, row[key].as_f64().unwrap(), max_relative = 1e-9, epsilon = 1e-12);
    }

    #[test]
    fn quantiles_are_those_of_scipy() {
        for row in fixture("t") {
            near(t_quantile(row["p"].as_f64().unwrap(), row["df"].as_f64().unwrap()), &row, "t");
        }
        approx::assert_relative_eq!(t_quantile(0.025, 2.0), -t_quantile(0.975, 2.0));
    }

    #[test]
    fn intervals_are_those_of_statsmodels_and_scipy() {
        for row in fixture("wilson") {
            let (low, high) = wilson(row["hits"].as_u64().unwrap(), row["n"].as_u64().unwrap());
            near(low, &row, "low");
            near(high, &row, "high");
        }
        for row in fixture("means") {
            let values: Vec<f64> = serde_json::from_value(row["values"].clone()).unwrap();
            let spread = Spread::of(&values).unwrap();
            near(spread.mean, &row, "mean");
            near(spread.deviation.unwrap(), &row, "deviation");
            near(spread.interval.unwrap().0, &row, "low");
            near(spread.interval.unwrap().1, &row, "high");
        }
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[0.5]).unwrap().interval, None);
    }

    #[test]
    fn tests_are_those_of_statsmodels_and_scipy() {
        for row in fixture("mcnemar") {
            near(mcnemar(row["b"].as_u64().unwrap(), row["c"].as_u64().unwrap()), &row, "p");
        }
        for row in fixture("sign_flips") {
            let differences: Vec<i64> = serde_json::from_value(row["differences"].clone()).unwrap();
            near(sign_flips(&differences), &row, "p");
        }
        assert_eq!(sign_flips(&[]), 1.0);
        for row in fixture("holm") {
            let list = |key: &str| serde_json::from_value::<Vec<f64>>(row[key].clone()).unwrap();
            for (got, expected) in holm(&list("p")).into_iter().zip(list("corrected")) {
                approx::assert_relative_eq!(got, expected, max_relative = 1e-12);
            }
        }
        for row in fixture("two_sided") {
            let (mean, error) = (row["mean"].as_f64().unwrap(), row["error"].as_f64().unwrap());
            near(two_sided(row["n"].as_u64().unwrap() as usize, mean, error), &row, "p");
        }
        assert_eq!([two_sided(1, 0.5, 0.0), two_sided(3, 0.5, 0.0)], [1.0; 2]);
    }

    #[test]
    fn errors_of_means_are_the_textbooks() {
        let (mean, error) = mean_and_error(&[1.0, 2.0, 3.0, 4.0]);
        approx::assert_relative_eq!(mean, 2.5);
        approx::assert_relative_eq!(error, (5.0f64 / 3.0 / 4.0).sqrt());
        assert_eq!((mean_and_error(&[7.0]), half_width(1, 0.0)), ((7.0, 0.0), 0.0));
        let spread = Spread::of(&[1.0, 2.0, 3.0, 4.0]).unwrap();
        approx::assert_relative_eq!(spread.interval.unwrap().1, 2.5 + half_width(4, error));
    }

    proptest! {
        #[test]
        fn of_one_seed_the_sign_flip_test_is_mcnemars(b in 0u64..40, c in 0u64..40) {
            let differences: Vec<i64> = [vec![1; b as usize], vec![-1; c as usize], vec![0; 7]].concat();
            approx::assert_relative_eq!(sign_flips(&differences), mcnemar(b, c), max_relative = 1e-9);
        }
    }
}
