//! Stratified splits: how many of each class go where, and which, from a fixed seed.
#![forbid(unsafe_code)]

use super::SplitPolicy;
use crate::rng::{Purpose, Stream};

/// Seed of every split, so that a data set is cut the same way in each run.
pub const SEED: u64 = 42;

/// Where a sample goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    Train,
    Val,
    Test,
    /// Cut away to balance the classes.
    Unused,
}

impl Part {
    /// The name of the split, as folders, lists and messages have it.
    pub fn name(self) -> &'static str {
        match self {
            Part::Train => "train",
            Part::Val => "val",
            Part::Test => "test",
            Part::Unused => "unused",
        }
    }
}

/// Sizes per class after cutting the largest class until at most `most` remain; among equals the first is cut.
pub fn cut_largest(counts: &[usize], most: usize) -> Vec<usize> {
    let mut kept = counts.to_vec();
    for _ in most..counts.iter().sum::<usize>().max(most) {
        // `max_by_key` gives the last of equals, so the classes are walked from the end.
        if let Some(largest) = kept.iter_mut().rev().max_by_key(|n| **n) {
            *largest = largest.saturating_sub(1);
        }
    }
    kept
}

/// `total` shared out in proportion to `counts` by the largest remainder, no class getting more than its `room`.
fn apportion(total: usize, counts: &[usize], room: &[usize]) -> Vec<usize> {
    let all = counts.iter().sum::<usize>().max(1);
    let mut shares: Vec<usize> = counts.iter().zip(room).map(|(n, room)| (total * n / all).min(*room)).collect();
    let mut order: Vec<usize> = (0..counts.len()).collect();
    order.sort_by_key(|&c| std::cmp::Reverse(total * counts[c] % all));
    let mut left = total.saturating_sub(shares.iter().sum());
    while left > 0 {
        let before = left;
        for &c in &order {
            if left > 0 && shares[c] < room[c] {
                shares[c] += 1;
                left -= 1;
            }
        }
        if left == before {
            break;
        }
    }
    shares
}

/// The part of each sample, given the labels in the order of ids: `val` and `test` of `whole` parts each, by class.
///
/// At most `most` samples are used. Each class that has a sample keeps one for training. `val` and `test` sizes are
/// rounded to the nearest whole number over all classes together, then shared out by largest remainder.
pub fn stratified(labels: &[usize], classes: usize, most: usize, val: usize, test: usize, whole: usize) -> Vec<Part> {
    let mut members = vec![Vec::new(); classes];
    for (i, &label) in labels.iter().enumerate() {
        members[label].push(i);
    }
    let kept = cut_largest(&members.iter().map(Vec::len).collect::<Vec<_>>(), most);
    let total: usize = kept.iter().sum();
    let part = |share: usize| (2 * total * share + whole) / (2 * whole);
    let room: Vec<usize> = kept.iter().map(|n| n.saturating_sub(1)).collect();
    let val = apportion(part(val), &kept, &room);
    let room: Vec<usize> = room.iter().zip(&val).map(|(room, val)| room - val).collect();
    let test = apportion(part(test), &kept, &room);

    let mut parts = vec![Part::Unused; labels.len()];
    for (c, mut members) in members.into_iter().enumerate() {
        Stream::new(SEED, Purpose::Split, c as u32, 0).shuffle(&mut members);
        for (place, &i) in members.iter().take(kept[c]).enumerate() {
            parts[i] = match place {
                p if p < val[c] => Part::Val,
                p if p < val[c] + test[c] => Part::Test,
                _ => Part::Train,
            };
        }
    }
    parts
}

/// The part of each training image of a data set that holds labelled images out: under `Stratified` a tenth of each
/// class validates, so that what is held out can test; under `Lists` all of them train. `held` is how a note names it.
pub(super) fn held_out(
    labels: &[usize],
    classes: usize,
    split: SplitPolicy,
    held: &str,
    notes: &mut Vec<String>,
) -> Vec<Part> {
    match split {
        SplitPolicy::Lists => {
            notes.push(format!("all training images train, {held} validates; nothing is left to test on"));
            vec![Part::Train; labels.len()]
        }
        SplitPolicy::Stratified => {
            notes.push(format!(
                "a tenth of each class of the training images validates, drawn with seed {SEED}; {held} is the test split"
            ));
            stratified(labels, classes, labels.len(), 1, 0, 10)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn count(parts: &[Part], labels: &[usize], part: Part, class: usize) -> usize {
        parts.iter().zip(labels).filter(|(p, l)| **p == part && **l == class).count()
    }

    #[test]
    fn the_sizes_of_the_paper_come_out() {
        let labels: Vec<usize> =
            [421, 1000, 1005, 1155, 2900].iter().enumerate().flat_map(|(c, &n)| vec![c; n]).collect();
        let parts = stratified(&labels, 5, 5175, 647, 653, 5175);
        let total = |part| parts.iter().filter(|p| **p == part).count();
        assert_eq!([total(Part::Train), total(Part::Val), total(Part::Test)], [3875, 647, 653]);
        assert_eq!(total(Part::Unused), 6481 - 5175);
        assert_eq!(count(&parts, &labels, Part::Unused, 4), 6481 - 5175, "only the largest class is cut");
        // 647 of 5175 of 1005 is 125.6.
        assert!((125..=126).contains(&count(&parts, &labels, Part::Val, 2)));
        assert_eq!(parts, stratified(&labels, 5, 5175, 647, 653, 5175));
    }

    #[test]
    fn the_largest_class_is_cut_and_then_the_next() {
        assert_eq!(cut_largest(&[5, 3, 9], 13), [5, 3, 5]);
        assert_eq!(cut_largest(&[5, 3, 9], 12), [4, 3, 5]);
        assert_eq!(cut_largest(&[5, 3, 9], 11), [4, 3, 4]);
        assert_eq!(cut_largest(&[5, 3], 99), [5, 3]);
        assert_eq!(cut_largest(&[], 0), [] as [usize; 0]);
    }

    proptest! {
        #[test]
        fn shares_are_proportional(counts in prop::collection::vec(0usize..60, 1..7), most in 0usize..200) {
            let labels: Vec<usize> = counts.iter().enumerate().flat_map(|(c, &n)| vec![c; n]).collect();
            let parts = stratified(&labels, counts.len(), most, 647, 653, 5175);
            let used = labels.len().min(most);
            prop_assert_eq!(parts.iter().filter(|p| **p != Part::Unused).count(), used);
            for c in 0..counts.len() {
                let of = |part| count(&parts, &labels, part, c);
                let kept = counts[c] - of(Part::Unused);
                prop_assert!(kept == 0 || of(Part::Train) > 0);
                // Within one of the exact share, or two where small classes have no room for theirs.
                let exact = kept as f64 * 647.0 / 5175.0;
                prop_assert!((of(Part::Val) as f64 - exact).abs() < 2.0, "class {} of {:?}", c, counts);
            }
        }
    }
}
