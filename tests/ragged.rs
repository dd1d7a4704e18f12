//! Images that keep different numbers of patches in one batch: what they give is what each gives alone.
#![forbid(unsafe_code)]

use dynavit::model::{DropPath, EmbedMode, PosMode, Vit, VitConfig, VitOptions};
use dynavit::prune::Kept;
use dynavit::rng::{Purpose, Stream};
use dynavit::tensor::Tensor;
use dynavit::tensor::compare::relative_norm;

const LABELS: [usize; 4] = [0, 3, 1, 4];

fn vit(options: VitOptions) -> Vit {
    let config = VitConfig::named("vit_micro_patch16_224", 5).unwrap().with_image_size(64).unwrap();
    Vit::init(VitConfig { depth: 3, ..config }, options, 3)
}

fn images() -> Tensor {
    let mut stream = Stream::new(9, Purpose::Fixture, 1, 0);
    let values = (0..4 * 3 * 64 * 64).map(|_| stream.uniform24() * 4.0 - 2.0).collect();
    Tensor::from_vec(values, &[4, 3, 64, 64])
}

/// One, all, and some patches of the sixteen.
fn kept() -> Kept {
    Kept::of_images(&[vec![6], (0..16).collect(), vec![0, 3, 7, 8, 15], vec![1, 2, 4, 5, 9, 10, 11, 12, 13]])
}

fn alone(image: usize) -> (Tensor, Kept) {
    (images().window(image * 3 * 64 * 64, &[1, 3, 64, 64]), Kept::of_images(&[kept().of(image).to_vec()]))
}

const WAYS: [VitOptions; 4] = [
    VitOptions { pos: PosMode::Gathered, embed: EmbedMode::Sparse, full_last_block: false },
    VitOptions { pos: PosMode::Gathered, embed: EmbedMode::Sparse, full_last_block: true },
    VitOptions { pos: PosMode::Gathered, embed: EmbedMode::Dense, full_last_block: false },
    VitOptions { pos: PosMode::Prefix, embed: EmbedMode::Sparse, full_last_block: false },
];

#[test]
fn logits_are_those_of_the_images_alone_to_the_bit() {
    for options in WAYS {
        let vit = vit(options);
        let together = vit.logits(&images(), &kept()).unwrap();
        for image in 0..4 {
            let (pixels, kept) = alone(image);
            let logits = vit.logits(&pixels, &kept).unwrap();
            assert_eq!(together.data()[image * 5..][..5], *logits.data(), "{options:?}, image {image}");
        }
    }
}

#[test]
fn gradients_are_the_mean_of_those_of_the_images_alone() {
    for (way, options) in WAYS.into_iter().enumerate() {
        let mut vit = vit(options);
        vit.drop_path = (way % 2 == 0).then(|| DropPath::new(0.5, 11));
        let ids = [7, 8, 9, 10];
        let draw = |vit: &mut Vit, ids: &[u64]| vit.drop_path.as_mut().map(|drop| drop.draw(3, 1, ids));
        draw(&mut vit, &ids);
        let mut grads = Tensor::zeros(vit.params.flat().shape());
        let (loss, _) = vit.loss_and_gradients(&images(), &kept(), &LABELS, 0.1, 1.0, &mut grads).unwrap();
        let (mut sum, mut losses) = (vec![0.0f64; grads.len()], 0.0);
        for image in 0..4 {
            draw(&mut vit, &ids[image..=image]);
            let (pixels, kept) = alone(image);
            let mut grads = Tensor::zeros(vit.params.flat().shape());
            let (loss, _) =
                vit.loss_and_gradients(&pixels, &kept, &LABELS[image..=image], 0.1, 0.25, &mut grads).unwrap();
            losses += f64::from(loss) / 4.0;
            sum.iter_mut().zip(grads.data()).for_each(|(sum, &g)| *sum += f64::from(g));
        }
        assert!((f64::from(loss) - losses).abs() < 1e-6, "{options:?}: {loss} against {losses}");
        for id in vit.params.ids() {
            let range = vit.params.range(id);
            let error = relative_norm(&grads.data()[range.clone()], &sum[range]);
            assert!(error < 1e-5, "{options:?}: gradient of {}: {error:e}", vit.params.name(id));
        }
    }
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let vit = vit(VitOptions::default());
            let values = Tensor::from_vec([images().data(); 5].concat(), &[20, 3, 64, 64]);
            let rows: Vec<Vec<u32>> = (0..20).map(|i| kept().of(i % 4).to_vec()).collect();
            let mut grads = Tensor::zeros(vit.params.flat().shape());
            let kept = Kept::of_images(&rows);
            let (loss, _) = vit.loss_and_gradients(&values, &kept, &LABELS.repeat(5), 0.0, 1.0, &mut grads).unwrap();
            (loss.to_bits(), grads.data().iter().map(|v| v.to_bits()).collect::<Vec<_>>())
        })
    };
    let alone = run(1);
    assert!(alone == run(2) && alone == run(3), "the number of threads changes the gradient");
}
