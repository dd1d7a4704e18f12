//! How the rows of a batch are shared out among its images, which may have different numbers of them.
#![forbid(unsafe_code)]

use crate::device::cpu::pieces;
use std::ops::Range;
use std::sync::Arc;

/// The rows of each image in a packed batch: image b has rows `offsets[b]..offsets[b + 1]`, and no row is padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spans {
    /// (B + 1), ascending from 0.
    offsets: Arc<[usize]>,
}

impl Spans {
    /// `rows` of each of `images`.
    pub fn even(images: usize, rows: usize) -> Self {
        Spans { offsets: (0..=images).map(|b| b * rows).collect() }
    }

    /// As many images as there are lengths.
    pub fn of(lengths: impl IntoIterator<Item = usize>) -> Self {
        let mut end = 0;
        let ends = lengths.into_iter().map(|rows| {
            end += rows;
            end
        });
        Spans { offsets: std::iter::once(0).chain(ends).collect() }
    }

    /// B, the number of images.
    pub fn images(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Rows of all images.
    pub fn rows(&self) -> usize {
        self.offsets[self.images()]
    }

    /// The rows of an image.
    pub fn range(&self, image: usize) -> Range<usize> {
        self.offsets[image]..self.offsets[image + 1]
    }

    /// How many rows each image has.
    pub fn lengths(&self) -> impl ExactSizeIterator<Item = usize> + '_ {
        self.offsets.windows(2).map(|pair| pair[1] - pair[0])
    }

    /// The rows of every image, where all have as many; `None` where they differ.
    pub fn common(&self) -> Option<usize> {
        let first = self.lengths().next().unwrap_or(0);
        self.lengths().all(|rows| rows == first).then_some(first)
    }

    /// Whether some image has no row.
    pub fn any_empty(&self) -> bool {
        self.lengths().any(|rows| rows == 0)
    }

    /// The same images with `more` rows each.
    pub fn longer(&self, more: usize) -> Self {
        Spans { offsets: self.offsets.iter().enumerate().map(|(b, offset)| offset + b * more).collect() }
    }

    /// The shape of a tensor of such rows of `d`: (B,S,D) where all images have S, else (rows,D).
    pub fn shape(&self, d: usize) -> Vec<usize> {
        match self.common() {
            Some(rows) => vec![self.images(), rows, d],
            None => vec![self.rows(), d],
        }
    }

    /// The image of each row.
    pub fn image_of_rows(&self) -> impl Iterator<Item = usize> + '_ {
        self.lengths().enumerate().flat_map(|(image, rows)| std::iter::repeat_n(image, rows))
    }

    /// The part of each image in `values`, which hold `width` for each row.
    pub fn split<'a, T>(&self, values: &'a [T], width: usize) -> Vec<&'a [T]> {
        (0..self.images()).map(|b| &values[self.offsets[b] * width..self.offsets[b + 1] * width]).collect()
    }

    /// The part of each image in `values`, for writing.
    pub fn split_mut<'a, T>(&self, values: &'a mut [T], width: usize) -> Vec<&'a mut [T]> {
        pieces(values, self.lengths().map(|rows| rows * width))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_shared_out_in_order() {
        let spans = Spans::of([2, 0, 3]);
        assert_eq!((spans.images(), spans.rows(), spans.common()), (3, 5, None));
        assert_eq!((spans.range(0), spans.range(1), spans.range(2)), (0..2, 2..2, 2..5));
        assert_eq!(spans.image_of_rows().collect::<Vec<_>>(), [0, 0, 2, 2, 2]);
        assert_eq!((spans.shape(7), spans.any_empty()), (vec![5, 7], true));
        let mut values: Vec<u32> = (0..10).collect();
        assert_eq!(spans.split(&values, 2), [&[0, 1, 2, 3][..], &[], &[4, 5, 6, 7, 8, 9]]);
        spans.split_mut(&mut values, 2)[2][0] = 40;
        assert_eq!(values[4], 40);
        assert_eq!(spans.longer(1), Spans::of([3, 1, 4]));
    }

    #[test]
    fn equal_lengths_are_the_fixed_case() {
        let spans = Spans::even(4, 3);
        assert_eq!((spans.clone(), spans.common(), spans.shape(2)), (Spans::of([3; 4]), Some(3), vec![4, 3, 2]));
        let none = Spans::even(0, 3);
        assert_eq!((none.images(), none.rows(), none.common()), (0, 0, Some(0)));
    }
}
