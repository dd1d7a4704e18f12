//! Scoring and choosing patches: what pruning costs before it saves anything.

mod support;

use dynavit::data::{Norm, noise};
use dynavit::model::VitConfig;
use dynavit::prune::{Pixels, PruneConfig, Round, SaliencyDomain, Scorer, select};
use support::{Flags, alternate, timed};

/// Images of a batch.
const BATCH: usize = 8;

fn main() {
    let flags = Flags::start();
    let grid = VitConfig::named("vit_base_patch16_224", 5).expect("a known name").grid();
    let batch = noise(BATCH, 224, Norm::Imagenet, 5, 0);
    let pixels = Pixels { normalized: &batch.images, rgb: &batch.rgb, ids: &batch.ids, epoch: 0 };
    println!("K = 70 of 196 patches, {} threads, median of {} runs", rayon::current_num_threads(), flags.rounds);
    println!("scorer     us an image   GB/s of f32 pixels");
    let mut csv = String::from("scorer,us_per_image\n");
    for scorer in [Scorer::L2, Scorer::Sobel, Scorer::Entropy, Scorer::Random, Scorer::Center] {
        let config = PruneConfig {
            keep: "70".parse().expect("a keep ratio"),
            round: Round::Floor,
            scorer,
            domain: SaliencyDomain::Normalized,
            entropy_bins: 256,
            seed: 42,
        };
        let run = || select(&config, &grid, &pixels).expect("the sizes fit");
        let kept = run();
        assert!(kept.indices.chunks(137).all(|row| row.is_sorted() && row.len() == 137), "137 patches in order");
        let time = alternate(flags.rounds, &mut [&mut || timed(|| drop(std::hint::black_box(run())))])[0];
        let us = time.median * 1e3 / BATCH as f64;
        println!("{:8} {us:13.1} {:20.2}", format!("{scorer:?}").to_lowercase(), 4.0 * 3.0 * 224.0 * 224.0 / us / 1e3);
        csv += &format!("{},{us:.2}\n", format!("{scorer:?}").to_lowercase());
    }
    flags.save("saliency.csv", &csv);
}
