//! One test body for all ops: reference against finite differences, engine against reference.
#![forbid(unsafe_code)]

use super::real::Real;
use crate::error::Result;
use crate::rng::{Purpose, Stream};
use crate::tape::{ParamArena, ParamId, Tape, Var, gradcheck};
use crate::tensor::Tensor;
use crate::tensor::compare::{Budget, UNIT_F32, assert_close};
use std::cmp::Ordering;
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

/// Row counts and widths that break careless kernels.
pub const AWKWARD: [usize; 7] = [1, 2, 7, 31, 33, 64, 197];

/// `len` values in [-amplitude, amplitude), the same in every run.
pub fn values(len: usize, seed: u32, amplitude: f32) -> Vec<f32> {
    let mut stream = Stream::new(11, Purpose::Fixture, seed, 1);
    (0..len).map(|_| (stream.uniform24() * 2.0 - 1.0) * amplitude).collect()
}

/// A value with a first-order bound on the error that f32 arithmetic makes on the way to it (Wilkinson's running
/// analysis): every operation adds half a unit in the last place of its result, functions two.
#[derive(Clone, Copy, Debug)]
pub struct Bounded {
    value: f64,
    error: f64,
}

impl Bounded {
    fn rounded(value: f64, propagated: f64, roundings: f64) -> Self {
        Bounded { value, error: propagated + roundings * UNIT_F32 * value.abs() }
    }
}

impl PartialEq for Bounded {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl PartialOrd for Bounded {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.value.partial_cmp(&other.value)
    }
}

impl Add for Bounded {
    type Output = Self;
    fn add(self, b: Self) -> Self {
        Self::rounded(self.value + b.value, self.error + b.error, 1.0)
    }
}

impl AddAssign for Bounded {
    fn add_assign(&mut self, b: Self) {
        *self = *self + b;
    }
}

impl Sub for Bounded {
    type Output = Self;
    fn sub(self, b: Self) -> Self {
        self + -b
    }
}

impl Neg for Bounded {
    type Output = Self;
    fn neg(self) -> Self {
        Bounded { value: -self.value, error: self.error }
    }
}

impl Mul for Bounded {
    type Output = Self;
    fn mul(self, b: Self) -> Self {
        let propagated = self.value.abs() * b.error + b.value.abs() * self.error;
        Self::rounded(self.value * b.value, propagated, 1.0)
    }
}

impl Div for Bounded {
    type Output = Self;
    fn div(self, b: Self) -> Self {
        let quotient = self.value / b.value;
        Self::rounded(quotient, (self.error + quotient.abs() * b.error) / b.value.abs(), 1.0)
    }
}

impl Real for Bounded {
    fn of(value: f64) -> Self {
        Self::rounded(value, 0.0, 1.0)
    }
    fn exp(self) -> Self {
        let value = self.value.exp();
        Self::rounded(value, value * self.error, 2.0)
    }
    fn ln(self) -> Self {
        Self::rounded(self.value.ln(), self.error / self.value, 2.0)
    }
    fn sqrt(self) -> Self {
        let value = self.value.sqrt();
        Self::rounded(value, self.error / (2.0 * value), 1.0)
    }
    fn erf(self) -> Self {
        let slope = std::f64::consts::FRAC_2_SQRT_PI * (-self.value * self.value).exp();
        Bounded { value: libm::erf(self.value), error: slope * self.error + 2.0 * UNIT_F32 }
    }
}

/// An op's definition over any real type: (output, gradient of each input) from inputs and upstream gradient.
pub trait Definition {
    fn run<R: Real>(&self, inputs: &[Vec<R>], dy: &[R]) -> (Vec<R>, Vec<Vec<R>>);
}

/// Input of a case: shape and values.
pub type Input = (Vec<usize>, Vec<f32>);

/// Finite differences are run up to this many input elements.
const CHECKED_BY_DIFFERENCES: usize = 400;

/// Holds the definition to finite differences (small cases), and the engine to the definition, forward and backward.
#[track_caller]
pub fn check(
    what: &str,
    inputs: &[Input],
    definition: &impl Definition,
    op: impl Fn(Option<&mut Tape>, &[Var]) -> Result<Var>,
) {
    let specs: Vec<_> = inputs.iter().enumerate().map(|(i, (shape, _))| (format!("input{i}"), shape.clone())).collect();
    let mut params = ParamArena::new(&specs);
    for (i, (_, values)) in inputs.iter().enumerate() {
        params.values_mut(ParamId(i)).copy_from_slice(values);
    }
    let vars: Vec<Var> = params.ids().map(|id| params.var(id)).collect();
    let silent = op(None, &vars).unwrap();
    let mut tape = Tape::new();
    let output = op(Some(&mut tape), &vars).unwrap();
    assert_eq!(silent.value.data(), output.value.data(), "{what}: the tape changes the result");

    let dy = values(output.value.len(), 999, 1.0);
    let wide: Vec<Vec<f64>> = inputs.iter().map(|(_, v)| v.iter().map(|&x| f64::from(x)).collect()).collect();
    let wide_dy: Vec<f64> = dy.iter().map(|&x| f64::from(x)).collect();
    let (y, gradients) = definition.run::<f64>(&wide, &wide_dy);
    let narrow: Vec<Vec<f32>> = inputs.iter().map(|(_, v)| v.clone()).collect();
    let (naive_y, naive_gradients) = definition.run::<f32>(&narrow, &dy);
    let exact =
        |values: &[f32]| values.iter().map(|&v| Bounded { value: f64::from(v), error: 0.0 }).collect::<Vec<_>>();
    let bounded: Vec<_> = narrow.iter().map(|v| exact(v)).collect();
    let (bound_y, bound_gradients) = definition.run::<Bounded>(&bounded, &exact(&dy));
    let budget = |bound: &[Bounded], naive: &[f32], reference: &[f64]| {
        Budget::analysed(&bound.iter().map(|b| b.error).collect::<Vec<_>>(), naive, reference)
    };

    if wide.iter().map(Vec::len).sum::<usize>() <= CHECKED_BY_DIFFERENCES {
        for i in 0..wide.len() {
            let mut point = wide.clone();
            gradcheck::check(&format!("{what}, input {i}"), &wide[i], &gradients[i], |x| {
                point[i].copy_from_slice(x);
                let (y, _) = definition.run::<f64>(&point, &wide_dy);
                y.iter().zip(&wide_dy).map(|(y, dy)| y * dy).sum()
            });
        }
    }

    assert_close(&format!("{what}, output"), output.value.data(), &y, &budget(&bound_y, &naive_y, &y));
    let mut flat = Tensor::zeros(params.flat().shape());
    let dy = Tensor::from_vec(dy, output.shape());
    tape.backward(&output, dy, &params, &mut flat).unwrap();
    for (i, reference) in gradients.iter().enumerate() {
        let got = &flat.data()[params.range(ParamId(i))];
        let budget = budget(&bound_gradients[i], &naive_gradients[i], reference);
        assert_close(&format!("{what}, gradient of input {i}"), got, reference, &budget);
    }
}
