//! AdamW on the card beside the CPU's, and its refusal of gradients that are not finite.
#![forbid(unsafe_code)]

use super::support::*;
use dynavit::device::cuda::Gpu;
use dynavit::optim::{AdamW, AdamWConfig, Average};
use dynavit::tape::{ParamArena, ParamId};
use dynavit::tensor::Tensor;
use std::sync::Arc;

const CONFIG: AdamWConfig = AdamWConfig { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1 };

pub fn check(gpu: &Arc<Gpu>) {
    for n in [1, 2, 4, 7, 1023, 1024, 1025, 5003] {
        let spared = vec![n / 2..n / 2 + n / 5, 0..n / 7, n - 1..n];
        let start = values(n, 1);
        let arena = || {
            let mut params = ParamArena::new(&[("p".into(), vec![n])]);
            params.values_mut(ParamId(0)).copy_from_slice(&start);
            params
        };
        let (mut host, mut card) = (arena(), arena());
        card.move_to(gpu).unwrap();
        let mut host_optim = AdamW::new(n, CONFIG, spared.clone());
        let mut optim = AdamW::new(n, CONFIG, spared);
        for optim in [&mut host_optim, &mut optim] {
            optim.average = Some(Average::new(0.9, host.flat()));
        }
        optim.move_to(gpu).unwrap();
        for t in 1..=3 {
            let grads = Tensor::from_vec(values(n, 10 + t), &[n]);
            host_optim.update(host.flat_mut(), &grads, 1e-2);
            let scaled = grads.data().iter().map(|g| g * 4096.0).collect();
            let scaled = Tensor::from_vec(scaled, &[n]).to_card(gpu).unwrap();
            assert!(optim.update_on_card(&mut card, &scaled, 4096.0, 1e-2).unwrap());
            // One bad gradient anywhere leaves everything as it was.
            for (at, bad) in [(0, f32::NAN), (n - 1, f32::INFINITY), (n / 2, f32::NEG_INFINITY)] {
                let mut grads = grads.data().to_vec();
                grads[at] = bad;
                let grads = Tensor::from_vec(grads, &[n]).to_card(gpu).unwrap();
                assert!(!optim.update_on_card(&mut card, &grads, 1.0, 1e-2).unwrap(), "{bad} at {at} of {n}");
            }
            assert_eq!(optim.step, u64::from(t));
            let what = |name: &str| format!("{name} of {n} after {t} updates");
            // An update is below 1.1 rates by the bias correction and rounds a dozen times, decay and sum a few times more.
            let want = f64s(host.flat().data());
            close(&what("parameters"), &host_of(card.flat()), &want, |_| f64::from(t) * (12.0 * 1.1e-2 + 6.0) * UNIT);
            let want = f64s(host_optim.exp_avg.data());
            close(&what("first moments"), &host_of(&optim.exp_avg), &want, |_| f64::from(t) * 6.0 * UNIT);
            let want = f64s(host_optim.exp_avg_sq.data());
            close(&what("second moments"), &host_of(&optim.exp_avg_sq), &want, |_| f64::from(t) * 6.0 * UNIT);
            let average = |optim: &AdamW| host_of(&optim.average.as_ref().unwrap().values);
            // Moving by a tenth rounds three times; the parameters' own difference comes along.
            let bound = |_| f64::from(t) * (12.0 * 1.1e-2 + 6.0 + 3.0) * UNIT;
            close(&what("averages"), &average(&optim), &average(&host_optim), bound);
            if let Some(copy) = card.compute() {
                let narrow = card.flat().narrowed().unwrap();
                assert_eq!(host_of(copy), host_of(&narrow), "{}", what("the copy"));
            }
        }
    }
}

fn host_of(tensor: &Tensor) -> Vec<f64> {
    f64s(tensor.to_host().unwrap().data())
}
