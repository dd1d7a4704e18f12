//! What `visualize`, `coverage` and `explain` share: flags of the selection, images and their boxes, picture files.
#![forbid(unsafe_code)]

use super::options::{ImageFlags, SizeFlags, set, word};
use crate::checkpoint::ModelCard;
use crate::checkpoint::replace;
use crate::data::{Mode, TransformConfig, annotation, decode, transform};
use crate::error::{Error, Result};
use crate::explain::boxes::{self, Boxed};
use crate::explain::canvas::Canvas;
use crate::explain::coverage::{CONTROLS, Difference};
use crate::model::{VitConfig, VitOptions};
use crate::prune::{Keep, PruneConfig, Round, SaliencyDomain, Scorer};
use crate::train::{DatasetName, TrainConfig};
use clap::{Args, ValueEnum};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Most pixels of a sheet's panels: 768 MiB of them.
const MOST_PIXELS: usize = 1 << 28;

/// Selections to look at, one of each scorer and keep ratio.
#[derive(Args)]
#[command(next_help_heading = "Pruning")]
pub struct SelectionFlags {
    /// Statistics that rank patches, with commas between: l2, sobel, entropy,
    /// random, center, or all
    #[arg(long, value_name = "LIST", value_parser = scorers, default_value = "l2")]
    scorer: Scorers,
    /// Percents of the patches to keep, with commas between; visualize takes
    /// mass:0.9 too, as in train
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "70", allow_negative_numbers = true)]
    keep: Vec<Keep>,
    /// Pixels the l2 scorer sees [default: normalized]
    #[arg(long, value_name = "DOMAIN")]
    saliency_domain: Option<SaliencyDomain>,
    /// Bins of the entropy scorer's histogram [default: 256]
    #[arg(long, value_name = "N", value_parser = super::options::bins())]
    entropy_bins: Option<u32>,
    /// How K percent of the patches becomes a count [default: floor]
    #[arg(long)]
    round: Option<Round>,
    /// Seed of the random scorer
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Model whose image size and patches are taken, by timm's name
    #[arg(long, value_name = "NAME", default_value = "vit_base_patch16_224", help_heading = "Images")]
    model: String,
    #[command(flatten)]
    size: SizeFlags,
    #[command(flatten)]
    image: ImageFlags,
}

/// Scorers in the order given, each once.
#[derive(Clone, Debug)]
pub struct Scorers(pub Vec<Scorer>);

/// All scorers, in the order that the help tells them.
pub const ALL: [Scorer; 5] = [Scorer::L2, Scorer::Sobel, Scorer::Entropy, Scorer::Random, Scorer::Center];

/// Reads a list of scorers, or `all`.
pub fn scorers(text: &str) -> std::result::Result<Scorers, String> {
    let mut found = Vec::new();
    for word in text.split(',').map(str::trim) {
        let these = match word {
            "all" => ALL.to_vec(),
            _ => vec![Scorer::from_str(word, true).map_err(|_| {
                format!("there is no scorer {word:?}; choose among l2, sobel, entropy, random, center, or all")
            })?],
        };
        these.into_iter().for_each(|scorer| {
            if !found.contains(&scorer) {
                found.push(scorer)
            }
        });
    }
    Ok(Scorers(found))
}

/// Keep ratios in the order given, each once.
pub fn once(keeps: &[Keep]) -> Vec<Keep> {
    let mut seen = HashSet::new();
    keeps.iter().copied().filter(|keep| seen.insert(*keep)).collect()
}

/// The scorers with the controls, which every table has.
pub fn with_controls(mut scorers: Vec<Scorer>) -> Vec<Scorer> {
    let controls = CONTROLS.into_iter().filter(|control| !scorers.contains(control)).collect::<Vec<_>>();
    scorers.extend(controls);
    scorers
}

/// The head of [`share_line`]s.
pub fn share_head(share: &str) -> String {
    format!("{:<8} {:>4} {share:>15} {:>7}  minus random (95 %)", "scorer", "K %", "enrich")
}

/// A line of a table of shares: (mean, its standard error, enrichment), and how far it lies above the random control.
pub fn share_line(
    scorer: Scorer,
    keep: f64,
    (mean, error, enrichment): (f64, f64, f64),
    minus: &[Difference],
) -> String {
    let random = minus.iter().find(|minus| minus.control == Scorer::Random);
    let minus = random.map(|d| format!("{:+.4} [{:+.4}, {:+.4}]", d.mean, d.low, d.high)).unwrap_or_default();
    let (scorer, share) = (word(&scorer), format!("{mean:.4} +- {error:.4}"));
    format!("{scorer:<8} {keep:>4} {share:>15} {enrichment:>7.3}  {minus}").trim_end().to_owned()
}

impl SelectionFlags {
    /// The scorers asked for.
    pub fn scorers(&self) -> Vec<Scorer> {
        self.scorer.0.clone()
    }

    /// What is asked for to be kept, each once.
    pub fn keeps(&self) -> Vec<Keep> {
        once(&self.keep)
    }

    /// The keep ratios asked for, each once; a mass is refused.
    pub fn percents(&self) -> Result<Vec<Keep>> {
        match self.keep.iter().find(|keep| keep.mass().is_some()) {
            None => Ok(self.keeps()),
            Some(mass) => {
                let reason = format!("{mass} keeps another number of patches of each image");
                Err(Error::usage("--keep", reason, "give percentages such as 30,50,70"))
            }
        }
    }

    /// Model, preprocessing and selection by the flags; the paper's where none is given.
    pub fn card(&self) -> Result<ModelCard> {
        let model = VitConfig::named(&self.model, 1)?;
        let mut prune: PruneConfig = TrainConfig::paper(DatasetName::Voc, self.keep[0]).prune();
        set(&mut prune.domain, self.saliency_domain);
        set(&mut prune.entropy_bins, self.entropy_bins);
        set(&mut prune.round, self.round);
        prune.seed = self.seed;
        let transform = TransformConfig::paper(model.image_size);
        let mut card = ModelCard { model, options: VitOptions::default(), classes: Vec::new(), transform, prune };
        self.size.apply(&mut card)?;
        self.image.apply(&mut card);
        Ok(card)
    }
}

/// An image on the model's square.
pub struct Square {
    /// (side, side, 3)
    pub rgb: Vec<u8>,
    pub boxes: Vec<Boxed>,
}

/// Which boxes are drawn.
#[derive(Clone, Copy)]
pub struct Boxes<'a> {
    /// The annotation; that of the VOC tree that an image lies in when absent.
    pub file: Option<&'a Path>,
    /// None at all.
    pub none: bool,
}

/// Reads an image and its boxes.
pub fn square(path: &Path, boxes: Boxes, config: &TransformConfig) -> Result<Square> {
    config.check()?;
    let picture = decode::read(path)?;
    let read = |file: &Path| boxes::read(file, picture.width, picture.height, config);
    let boxes = match (boxes.file, annotation::beside(path)) {
        _ if boxes.none => Vec::new(),
        (Some(file), _) => read(file)?,
        (None, Some(file)) => {
            read(&file).map_err(|error| Error::data(path, error.to_string(), "mend that file, or move it away"))?
        }
        (None, None) => Vec::new(),
    };
    Ok(Square { rgb: transform::apply(&picture, 0, config, Mode::Eval), boxes })
}

/// `--boxes` names the boxes of one image, of so many asked for.
pub fn check_boxes(boxes: Option<&Path>, images: usize) -> Result<()> {
    match boxes.is_some() && images != 1 {
        true => Err(Error::usage("--boxes", format!("one file for {images} images"), "give it with a single image")),
        false => Ok(()),
    }
}

/// Where the picture of each image goes: `output` itself when it ends in .png, which holds one; else a file in that
/// folder, which is made. Images of one name get numbers. So many were `asked` for, of which some may not be there.
pub fn places(output: &Path, images: &[PathBuf], asked: usize) -> Result<Vec<PathBuf>> {
    let is_png = output.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("png"));
    if is_png && !output.is_dir() {
        if asked != 1 {
            let reason = format!("{} is one file, for {asked} images", output.display());
            return Err(Error::usage("--output", reason, "name a folder"));
        }
        check_folder(output)?;
        return Ok(vec![output.to_path_buf()]);
    }
    if output.extension().is_some() && !output.is_dir() {
        let reason = format!("{} is neither a .png file nor a folder", output.display());
        return Err(Error::usage("--output", reason, "name a file ending in .png, or a folder"));
    }
    std::fs::create_dir_all(output).map_err(|error| Error::io(output, &error))?;
    let mut taken = HashSet::new();
    let place = |image: &PathBuf| {
        let stem = image.file_stem().map_or("image".into(), |stem| stem.to_string_lossy().into_owned());
        let names = (1..).map(|i| if i == 1 { format!("{stem}.png") } else { format!("{stem}-{i}.png") });
        let mut names = names.filter(|name| taken.insert(name.clone()));
        output.join(names.next().expect("numbers do not end"))
    };
    Ok(images.iter().map(place).collect())
}

/// Refuses a file whose folder is not there, before the work that would fill it.
pub fn check_folder(file: &Path) -> Result<()> {
    match file.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.is_dir()) {
        Some(folder) => Err(Error::data(folder, "no such folder", "make it or choose another")),
        None => Ok(()),
    }
}

/// Writes a picture in one piece, or not at all.
pub fn write(canvas: &Canvas, path: &Path) -> Result<()> {
    replace(path, &canvas.png()?)
}

/// How many times larger panels are drawn when nobody says: readable for a few, small for many.
/// Refuses sheets that a picture viewer would not open either.
pub fn scale(asked: Option<usize>, panels: usize, side: usize) -> Result<usize> {
    let scale = asked.unwrap_or(if panels > 6 || side > 300 { 1 } else { 2 });
    let pixels = panels * (side * scale).pow(2);
    if pixels > MOST_PIXELS {
        let reason = format!("{panels} panels of {} pixels a side are more than a sheet may hold", side * scale);
        return Err(Error::usage("--scale", reason, "give a smaller one, fewer panels or a smaller --img-size"));
    }
    Ok(scale)
}

/// A magnification.
pub fn some_scale(text: &str) -> std::result::Result<usize, String> {
    text.parse().ok().filter(|n| (1..=8).contains(n)).ok_or_else(|| "a whole number from 1 to 8 is needed".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_scorers_hold_each_once() {
        assert_eq!(scorers("sobel,all").unwrap().0[..2], [Scorer::Sobel, Scorer::L2]);
        assert_eq!(scorers("l2, l2").unwrap().0, [Scorer::L2]);
        assert!(scorers("l3").unwrap_err().contains("\"l3\""));
    }

    #[test]
    fn pictures_of_one_name_get_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let images = ["a/cat.jpg", "b/cat.png", "dog.jpg"].map(PathBuf::from);
        let out = folder.path().join("out");
        let names: Vec<String> = places(&out, &images, 3)
            .unwrap()
            .iter()
            .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(names, ["cat.png", "cat-2.png", "dog.png"]);
        assert_eq!(places(&folder.path().join("x.png"), &images, 3).unwrap_err().exit_code(), 2);
        assert_eq!(places(&folder.path().join("x.jpg"), &images[..1], 1).unwrap_err().exit_code(), 2);
    }
}
