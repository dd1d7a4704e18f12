//! `dynavit data download` and `dynavit weights download`.
#![forbid(unsafe_code)]

use super::print;
use super::progress::bar;
use super::source;
use crate::error::{Error, Result};
use crate::train::Stop;
use crate::weights::Weights;
use crate::weights::download::{Download, Hash, Patience, fetch};
use clap::{Args, Subcommand, ValueEnum};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The archives that the data sets' owners publish.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Archive {
    /// VOC2012, training and validation images, 2.0 GB
    Voc,
    /// CIFAR-100 for C programs, 169 MB
    Cifar100,
    /// Tiny-ImageNet-200, 248 MB
    TinyImagenet,
}

impl Archive {
    /// Address, bytes, MD5 as the owners or torchvision state it, and the command that unpacks it.
    fn facts(self) -> (&'static str, u64, &'static str, &'static str) {
        match self {
            Archive::Voc => (
                "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
                1_999_639_040,
                "6cd6e144f989b92b3379bac3b3de84fd",
                "tar xf",
            ),
            Archive::Cifar100 => (
                "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
                168_513_733,
                "03b5dce01913d631647c71ecec9e9cb8",
                "tar xzf",
            ),
            Archive::TinyImagenet => (
                "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
                248_100_043,
                "90528d7ca1a48142e341f4ef8d21d0de",
                "unzip -q",
            ),
        }
    }
}

/// Flags of `data download`.
#[derive(Args)]
#[command(after_help = "\
Example:
  dynavit data download cifar100 --output data

Size and MD5 are checked. A download that was cut goes on where it stopped when
the command is given again. It prints the command that unpacks the archive.")]
pub struct DataDownloadArgs {
    /// Data set
    dataset: Archive,
    /// Folder that gets the archive
    #[arg(long, value_name = "DIR", default_value = source::DATA_ROOT)]
    output: PathBuf,
    /// Fetch the same file from another address
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// No progress on stderr
    #[arg(long)]
    quiet: bool,
}

/// Flags of `weights`.
#[derive(Args)]
pub struct WeightsArgs {
    #[command(subcommand)]
    command: WeightsCommand,
}

#[derive(Subcommand)]
enum WeightsCommand {
    /// Fetch timm's weights from the Hugging Face hub
    Download(WeightsDownloadArgs),
}

/// Flags of `weights download`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  dynavit weights download vit_base_patch16_224
  dynavit weights download timm/vit_tiny_patch16_224.augreg_in21k --output w

Size and SHA-256 are those that the hub states, and are checked; where it states
none, that is said, and only the format is checked. A download that was cut goes
on where it stopped when the command is given again.

vit_large_patch14_224 and the models with distilled or reg4 in their names are
not fetched: the first has no weights, the others have tokens of another kind.")]
struct WeightsDownloadArgs {
    /// Model, or a repository of the hub that holds model.safetensors
    name: String,
    /// Folder that gets the file
    #[arg(long, value_name = "DIR", default_value = "weights")]
    output: PathBuf,
    /// Address of the hub
    #[arg(long, value_name = "URL", default_value = "https://huggingface.co")]
    hub: String,
    /// No progress on stderr
    #[arg(long)]
    quiet: bool,
}

/// Fetches an archive and prints how to unpack it.
pub fn data(args: &DataDownloadArgs, stop: &Stop) -> Result<()> {
    let (address, size, md5, unpack) = args.dataset.facts();
    let name = address.rsplit('/').next().unwrap_or(address);
    let target = args.output.join(name);
    let url = args.url.clone().unwrap_or_else(|| address.into());
    get(&Download { url, size: Some(size), hash: Some(Hash::Md5(md5.into())) }, &target, args.quiet, stop)?;
    print::line(&format!("{}\nunpack it: cd {} && {unpack} {name}", target.display(), args.output.display()))
}

/// Fetches weights and prints where they lie.
pub fn weights(args: &WeightsArgs) -> Result<()> {
    let WeightsCommand::Download(args) = &args.command;
    let repository = repository(&args.name)?;
    let name = repository.rsplit('/').next().unwrap_or(&repository);
    let target = args.output.join(format!("{name}.safetensors"));
    let url = format!("{}/{repository}/resolve/main/model.safetensors", args.hub.trim_end_matches('/'));
    get(&Download { url, size: None, hash: None }, &target, args.quiet, &Stop::on_signals()?)?;
    // A file that no hash vouches for must at least be what it is called.
    Weights::open(&target)?;
    print::line(&target.display().to_string())
}

/// Names of models and the tag of the weights that timm takes for them by default.
const TAGS: [(&str, &str); 21] = [
    ("vit_tiny_patch16_224", "augreg_in21k_ft_in1k"),
    ("vit_tiny_patch16_384", "augreg_in21k_ft_in1k"),
    ("vit_small_patch16_224", "augreg_in21k_ft_in1k"),
    ("vit_small_patch16_384", "augreg_in21k_ft_in1k"),
    ("vit_small_patch32_224", "augreg_in21k_ft_in1k"),
    ("vit_small_patch32_384", "augreg_in21k_ft_in1k"),
    ("vit_base_patch16_224", "augreg2_in21k_ft_in1k"),
    ("vit_base_patch16_384", "augreg_in21k_ft_in1k"),
    ("vit_base_patch32_224", "augreg_in21k_ft_in1k"),
    ("vit_base_patch32_384", "augreg_in21k_ft_in1k"),
    ("vit_large_patch16_224", "augreg_in21k_ft_in1k"),
    ("vit_large_patch16_384", "augreg_in21k_ft_in1k"),
    ("vit_large_patch32_224", "orig_in21k"),
    ("vit_large_patch32_384", "orig_in21k_ft_in1k"),
    ("deit_tiny_patch16_224", "fb_in1k"),
    ("deit_small_patch16_224", "fb_in1k"),
    ("deit_base_patch16_224", "fb_in1k"),
    ("deit_base_patch16_384", "fb_in1k"),
    ("vit_small_patch14_dinov2", "lvd142m"),
    ("vit_base_patch14_dinov2", "lvd142m"),
    ("vit_large_patch14_dinov2", "lvd142m"),
];

/// The repository on the hub: for a model's name timm's default weights, for a name with a tag those.
fn repository(name: &str) -> Result<String> {
    let (model, tag) = name.split_once('.').map_or((name, None), |(model, tag)| (model, Some(tag)));
    let known = match TAGS.iter().find(|row| row.0 == model) {
        Some((model, default)) => format!("timm/{model}.{}", tag.unwrap_or(default)),
        None => name.to_string(),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    let parts: Vec<&str> = known.split('/').collect();
    if parts.len() == 2 && known.chars().all(plain) && parts.iter().all(|part| !matches!(*part, "" | "." | "..")) {
        return Ok(known);
    }
    let models = TAGS.map(|row| row.0).join(", ");
    let remedy = format!("give one of {models}, or OWNER/REPOSITORY of the hub");
    Err(Error::usage("NAME", format!("{name:?} is no model that timm publishes weights of"), remedy))
}

/// Fetches, showing progress and at last the speed.
fn get(download: &Download, target: &Path, quiet: bool, stop: &Stop) -> Result<()> {
    let bar = bar(quiet, &target.file_name().unwrap_or_default().to_string_lossy(), "bytes");
    let (began, mut first, mut last) = (Instant::now(), None, 0);
    let got = fetch(download, target, Patience::default(), &mut |have, of| {
        first.get_or_insert(have);
        last = have;
        bar.show(have, of.unwrap_or(have));
        match stop.requested() {
            true => Err(Error::Interrupted { saved: format!("{have} bytes are kept, the same command goes on") }),
            false => Ok(()),
        }
    });
    bar.clear();
    let checked = if got? { "size and hash are right" } else { "the server told no hash to check" };
    if let (Some(first), false) = (first, quiet) {
        let seconds = began.elapsed().as_secs_f64().max(1e-9);
        let rate = (last - first) as f64 / 1e6 / seconds;
        print::complain("notice", &format!("{last} bytes in place, {rate:.1} MB/s, {checked}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_repositories() {
        assert!(repository("vit_base_patch16_224").unwrap().starts_with("timm/vit_base_patch16_224."));
        assert_eq!(repository("timm/some.thing").unwrap(), "timm/some.thing");
        let dinov2 = "timm/vit_small_patch14_dinov2.lvd142m";
        assert_eq!(repository("vit_small_patch14_dinov2").unwrap(), dinov2);
        assert_eq!(repository("vit_small_patch14_dinov2.lvd142m").unwrap(), dinov2);
        assert_eq!(repository("vit_tiny_patch16_224.augreg_in21k").unwrap(), "timm/vit_tiny_patch16_224.augreg_in21k");
        for bad in [
            "resnet50",
            "vit_large_patch14_224",
            "vit_tiny_patch16_224.a/b",
            "../x",
            "a/b/c",
            "a/..",
            "http://x/y",
            "a/b?c",
            "",
        ] {
            assert_eq!(repository(bad).unwrap_err().exit_code(), 2, "{bad}");
        }
        // What is offered can be loaded; only vit_large_patch14_224 and our own model have no weights there.
        let known: Vec<_> = crate::model::VitConfig::names().collect();
        assert!(TAGS.iter().all(|row| known.contains(&row.0)) && known.len() == TAGS.len() + 2);
    }
}
