//! What a data set is made of: counts, sizes, mean and deviation of its pixels, and a sheet of its pictures.
#![forbid(unsafe_code)]

use super::decode::Picture;
use super::resize::{Crop, resize};
use super::{Dataset, Interpolation, Sample};
use crate::error::{Error, Result};
use rayon::prelude::*;
use serde::Serialize;

/// Pixels of a picture's side on the contact sheet, and of the gap between two.
const THUMB: usize = 64;
const GAP: usize = 2;
/// Most classes on a contact sheet; the first ones by label.
const MOST_ROWS: usize = 40;

/// See [`measure`].
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Stats {
    pub images: usize,
    /// Images of the training, validation and test split, by class.
    pub per_class: Vec<[usize; 3]>,
    /// Least, median and largest width, in pixels.
    pub width: [usize; 3],
    /// Least, median and largest height, in pixels.
    pub height: [usize; 3],
    /// Mean of R, G and B over all pixels of all images as they lie on disk, in [0, 1].
    pub mean: [f64; 3],
    /// Their deviation.
    pub deviation: [f64; 3],
    /// Images whose three channels are equal.
    pub grey: usize,
}

/// Sums over one picture; whole numbers, so that their order does not matter.
#[derive(Clone, Copy)]
struct Sums {
    size: [usize; 2],
    sum: [u64; 3],
    squares: [u64; 3],
    grey: bool,
}

/// Decodes every image once. `show` hears how many are done, and may give up by an error.
pub fn measure(dataset: &Dataset, show: &mut dyn FnMut(usize, usize) -> Result<()>) -> Result<Stats> {
    let parts = [&dataset.train, &dataset.val, &dataset.test];
    let samples: Vec<&Sample> = parts.into_iter().flatten().collect();
    let mut sums = Vec::with_capacity(samples.len());
    for chunk in samples.chunks(256) {
        sums.extend(chunk.par_iter().map(|sample| Ok(sum(&sample.source.picture()?))).collect::<Result<Vec<_>>>()?);
        show(sums.len(), samples.len())?;
    }
    let mut per_class = vec![[0; 3]; dataset.classes.len()];
    for (part, samples) in parts.into_iter().enumerate() {
        samples.iter().for_each(|sample| per_class[sample.label][part] += 1);
    }
    let spread = |axis: usize| {
        let mut sizes: Vec<usize> = sums.iter().map(|sums| sums.size[axis]).collect();
        sizes.sort_unstable();
        match sizes.len() {
            0 => [0; 3],
            n => [sizes[0], sizes[n / 2], sizes[n - 1]],
        }
    };
    let pixels = sums.iter().map(|sums| (sums.size[0] * sums.size[1]) as f64).sum::<f64>().max(1.0);
    let total =
        |of: fn(&Sums) -> [u64; 3], c: usize| sums.iter().map(|sums| u128::from(of(sums)[c])).sum::<u128>() as f64;
    let mean: [f64; 3] = std::array::from_fn(|c| total(|sums| sums.sum, c) / pixels);
    let variance = |c: usize| (total(|sums| sums.squares, c) / pixels - mean[c] * mean[c]).max(0.0);
    Ok(Stats {
        images: sums.len(),
        per_class,
        width: spread(0),
        height: spread(1),
        mean: mean.map(|mean| mean / 255.0),
        deviation: std::array::from_fn(|c| variance(c).sqrt() / 255.0),
        grey: sums.iter().filter(|sums| sums.grey).count(),
    })
}

fn sum(picture: &Picture) -> Sums {
    let mut sums = Sums { size: [picture.width, picture.height], sum: [0; 3], squares: [0; 3], grey: true };
    for pixel in picture.pixels.as_chunks::<3>().0 {
        for (c, value) in pixel.map(u64::from).into_iter().enumerate() {
            sums.sum[c] += value;
            sums.squares[c] += value * value;
        }
        sums.grey &= pixel[0] == pixel[1] && pixel[1] == pixel[2];
    }
    sums
}

/// A row of pictures for each class, `columns` of them from the training split, squashed to 64 x 64 pixels on white.
pub fn contact_sheet(dataset: &Dataset, columns: usize) -> Result<Picture> {
    let rows = dataset.classes.len().min(MOST_ROWS);
    if rows == 0 || columns == 0 || columns > 64 {
        return Err(Error::usage("--columns", format!("{columns} pictures in a row"), "give from 1 to 64"));
    }
    let step = THUMB + GAP;
    let (width, height) = (columns * step + GAP, rows * step + GAP);
    let mut sheet = Picture::white(width, height);
    let mut chosen = Vec::new();
    for row in 0..rows {
        let class = dataset.train.iter().filter(|sample| sample.label == row);
        chosen.extend(class.take(columns).enumerate().map(|(column, sample)| (row, column, sample)));
    }
    let thumb = |(row, column, sample): &(usize, usize, &Sample)| {
        let picture = sample.source.picture()?;
        Ok((*row, *column, resize(&picture, Crop::whole(&picture), THUMB, THUMB, Interpolation::Bilinear)))
    };
    for (row, column, thumb) in chosen.par_iter().map(thumb).collect::<Result<Vec<_>>>()? {
        sheet.place(column * step + GAP, row * step + GAP, THUMB, &thumb);
    }
    Ok(sheet)
}

#[cfg(test)]
mod tests {
    use super::super::open_folder;
    use super::*;

    #[test]
    fn sums_are_those_of_the_pixels() {
        let root = tempfile::tempdir().unwrap();
        for (class, value) in [("a", 0u8), ("b", 255)] {
            std::fs::create_dir(root.path().join(class)).unwrap();
            for i in 0..8 {
                let image = image::RgbImage::from_pixel(4 + i, 3, image::Rgb([value, 51, 51]));
                image.save(root.path().join(class).join(format!("{i}.png"))).unwrap();
            }
        }
        let data = open_folder(root.path()).unwrap();
        let stats = measure(&data, &mut |_, _| Ok(())).unwrap();
        assert_eq!((stats.images, stats.width, stats.height, stats.grey), (16, [4, 8, 11], [3, 3, 3], 0));
        assert_eq!(stats.per_class, [[6, 1, 1]; 2]);
        // Half the pixels are 0 and half are 1.
        approx::assert_relative_eq!(stats.mean[0], 0.5, epsilon = 1e-12);
        approx::assert_relative_eq!(stats.deviation[0], 0.5, epsilon = 1e-12);
        approx::assert_relative_eq!(stats.mean[2], 0.2, epsilon = 1e-12);
        approx::assert_abs_diff_eq!(stats.deviation[2], 0.0, epsilon = 1e-6);
        let sheet = contact_sheet(&data, 5).unwrap();
        assert_eq!((sheet.width, sheet.height), (5 * 66 + 2, 2 * 66 + 2));
        let at = |x: usize, y: usize| sheet.pixels[(y * sheet.width + x) * 3];
        assert_eq!([at(0, 0), at(10, 10), at(10, 76), at(66, 10), at(331, 133)], [255, 0, 255, 255, 255]);
        assert_eq!(contact_sheet(&data, 0).unwrap_err().exit_code(), 2);
    }
}
