//! `dynavit flops`: what a forward pass of one image costs, by the conventions of the papers and tools.
#![forbid(unsafe_code)]

use super::flops_model::{Each, eq10, fit_table, fits, ratio, ratio_table, write_curve};
use super::options::SizeFlags;
use crate::error::{Error, Result};
use crate::flops::{Cost, Fit};
use crate::model::{EmbedMode, VitConfig, VitOptions};
use crate::prune::{Keep, Round};
use clap::builder::RangedU64ValueParser;
use serde::Serialize;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;

/// Flags of `dynavit flops`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  dynavit flops --keep 30,50,70,90,100 --ratio
  dynavit flops --fit                      alpha, beta, gamma and Eq. 10
  dynavit flops --model vit_small_patch16_224 --img-size 384 --curve gmacs.svg
  dynavit flops --seq-len 119 --json

All counts are multiply-adds (MACs) of one image; FLOPs are twice that.")]
pub struct FlopsArgs {
    /// Model to count
    #[arg(long, value_name = "NAME", default_value = "vit_base_patch16_224")]
    model: String,
    /// Keep ratios in percent
    #[arg(
        long,
        value_name = "K,...",
        value_delimiter = ',',
        default_value = "60,70,100",
        allow_negative_numbers = true
    )]
    keep: Vec<Keep>,
    /// Sequence lengths with [CLS]; takes the place of --keep
    #[arg(long, value_name = "S,...", value_delimiter = ',')]
    seq_len: Vec<usize>,
    /// Rows of the head
    #[arg(
        long,
        alias = "num-classes",
        value_name = "N",
        default_value_t = 5,
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=1_000_000_000)
    )]
    classes: usize,
    #[command(flatten)]
    size: SizeFlags,
    /// How K percent of the patches becomes a count
    #[arg(long, value_enum, default_value_t)]
    round: Round,
    /// Whether only the kept patches are embedded ("executed" alone)
    #[arg(long, value_enum, default_value_t)]
    embed: EmbedMode,
    /// Compute the last block for all tokens ("executed" alone)
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        default_value_t = false,
        action = clap::ArgAction::Set
    )]
    full_last_block: bool,
    /// Fit alpha S^2 + beta S + gamma to each count, and tell Eq. 10's ratios
    #[arg(long)]
    fit: bool,
    /// Tell each count relative to that at K = 100
    #[arg(long)]
    ratio: bool,
    /// Write the counts over every S, as a picture or a table
    #[arg(long, value_name = "FILE.svg|csv")]
    curve: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// The JSON document. Counts are raw integers: MACs, but `flops`.
#[derive(Serialize)]
struct Document {
    model: String,
    classes: usize,
    rows: Vec<Row>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fit: Option<Each<Fit>>,
}

#[derive(Serialize)]
struct Row {
    /// K in percent; null when a sequence length was asked for.
    keep: Option<f64>,
    seq_len: usize,
    macs: u64,
    flops: u64,
    fvcore_unfused: u64,
    fvcore_fused: u64,
    macs_executed: u64,
    /// Counts relative to those at K = 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<Each<f64>>,
    /// The same by the paper's Eq. 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    eq10: Option<Each<f64>>,
    #[serde(skip)]
    label: String,
}

/// Counts and prints.
pub fn run(args: &FlopsArgs) -> Result<()> {
    let config = config(args)?;
    let options = VitOptions { embed: args.embed, full_last_block: args.full_last_block, ..VitOptions::default() };
    let mut rows = rows(args, &config, &options)?;
    let fit = if args.fit { Some(fits(&config, &options)?) } else { None };
    for row in &mut rows {
        row.ratio = args.ratio.then(|| ratio(&config, &options, row.seq_len - 1));
        row.eq10 = fit.as_ref().map(|fits| eq10(fits, row.seq_len));
    }
    if let Some(path) = &args.curve {
        let words =
            |row: &Row| if row.keep.is_some() { format!("K = {} %", row.label) } else { row.seq_len.to_string() };
        let marks: Vec<_> = rows.iter().map(|row| (row.seq_len as f64, words(row))).collect();
        write_curve(path, &config, &options, &marks)?;
    }
    let text = if args.json {
        let document = Document { model: config.name, classes: config.classes, rows, fit };
        serde_json::to_string(&document).expect("numbers and strings always become JSON")
    } else {
        let mut text = table(&config, &options, &rows);
        let part = |title: &str, of: fn(&Row) -> Option<Each<f64>>| {
            let rows: Vec<_> = rows.iter().filter_map(|row| Some((row.label.clone(), row.seq_len, of(row)?))).collect();
            if rows.is_empty() { String::new() } else { format!("\n\n{}", ratio_table(title, &rows)) }
        };
        text += &part("counts relative to those at K = 100", |row| row.ratio);
        if let Some(fits) = &fit {
            text += &format!("\n\n{}", fit_table(fits));
            text += &part("Eq. 10: cost relative to K = 100", |row| row.eq10);
        }
        text
    };
    match writeln!(std::io::stdout(), "{text}") {
        // A reader that has seen enough is no error.
        Err(err) if err.kind() == ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome.map_err(|err| Error::io("stdout", &err)),
    }
}

fn config(args: &FlopsArgs) -> Result<VitConfig> {
    args.size.of(VitConfig::named(&args.model, args.classes)?)
}

fn rows(args: &FlopsArgs, config: &VitConfig, options: &VitOptions) -> Result<Vec<Row>> {
    let n = config.patches();
    if args.seq_len.is_empty() {
        let row = |keep: &Keep| match keep.fixed(n, args.round) {
            Some(k) => Ok(row(Some(keep.percent()), keep.to_string(), k, config, options)),
            None => {
                let reason = format!("how many patches {keep} keeps depends on the image");
                Err(Error::usage("--keep", reason, "give percentages, or lengths with --seq-len; eval tells mean S"))
            }
        };
        return args.keep.iter().map(row).collect();
    }
    args.seq_len
        .iter()
        .map(|&s| {
            if !(2..=n + 1).contains(&s) {
                let reason = format!("{s} tokens are not [CLS] and 1 to {n} patches");
                return Err(Error::usage("--seq-len", reason, format!("give a number from 2 to {}", n + 1)));
            }
            Ok(row(None, "-".into(), s - 1, config, options))
        })
        .collect()
}

fn row(keep: Option<f64>, label: String, k: usize, config: &VitConfig, options: &VitOptions) -> Row {
    let cost = Cost::new(config, options, k);
    Row {
        keep,
        seq_len: k + 1,
        macs: cost.macs,
        flops: cost.flops(),
        fvcore_unfused: cost.fvcore_unfused,
        fvcore_fused: cost.fvcore_fused,
        macs_executed: cost.executed,
        ratio: None,
        eq10: None,
        label,
    }
}

/// A table for people, at most 80 columns wide.
fn table(config: &VitConfig, options: &VitOptions, rows: &[Row]) -> String {
    let VitConfig { name, image_size, classes, .. } = config;
    let n = config.patches();
    let whole = Cost::new(config, options, n).macs as f64;
    let giga = |count: u64| format!("{:.3} G", count as f64 / 1e9);
    let label = rows.iter().map(|row| row.label.len()).max().unwrap_or(1).max(4);
    let mut text = format!("{name}, {image_size} x {image_size} pixels, N = {n}, {classes} classes, one image\n\n");
    text += &format!("{:label$} {:>4} {:>10} {:>10}   {:>21}\n", "", "", "", "", "fvcore, attention");
    text += &format!(
        "{:>label$} {:>4} {:>10} {:>10} {:>11} {:>11} {:>10} {:>8}\n",
        "K %", "S", "MACs", "FLOPs", "unfused", "fused", "executed", "of K=100"
    );
    for row in rows {
        text += &format!(
            "{:>label$} {:>4} {:>10} {:>10} {:>11} {:>11} {:>10} {:>8.3}\n",
            row.label,
            row.seq_len,
            giga(row.macs),
            giga(row.flops),
            giga(row.fvcore_unfused),
            giga(row.fvcore_fused),
            giga(row.macs_executed),
            row.macs as f64 / whole,
        );
    }
    text += "
MACs embed all patches and run every block on all S tokens; a MAC is two FLOPs;
fvcore adds 5 per layer-norm element and leaves out fused attention; executed is
what this program runs, and the last column the ratio of MACs to those at K=100.";
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: FlopsArgs,
    }

    fn parse(line: &str) -> FlopsArgs {
        Command::try_parse_from(std::iter::once("flops").chain(line.split_whitespace())).unwrap().args
    }

    fn counted(line: &str) -> Result<(VitConfig, VitOptions, Vec<Row>)> {
        let args = parse(line);
        let config = config(&args)?;
        let options = VitOptions { embed: args.embed, full_last_block: args.full_last_block, ..VitOptions::default() };
        let rows = rows(&args, &config, &options)?;
        Ok((config, options, rows))
    }

    fn shown(line: &str) -> String {
        let (config, options, rows) = counted(line).unwrap();
        table(&config, &options, &rows)
    }

    #[test]
    fn the_issues_figures() {
        let text = shown("--seq-len 119 --classes 5");
        for figure in ["10.484 G", "20.968 G", "10.495 G", "10.234 G", " 119 "] {
            assert!(text.contains(figure), "{text}\nlacks {figure}");
        }
        assert!(shown("--keep 70 --classes 5").contains("12.188 G"));
        assert!(shown("").contains("17.563 G") && shown("").contains("1.000"), "the default ends at K = 100");
    }

    #[test]
    fn tables_fit_80_columns() {
        for line in ["", "--keep 33.333333,100", "--model vit_large_patch16_224 --image-size 1024 --classes 1000"] {
            let text = shown(line);
            assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        }
    }

    #[test]
    fn json_has_the_agreed_keys_in_order() {
        let (config, _, rows) = counted("--keep 70").unwrap();
        let document = Document { model: config.name, classes: config.classes, rows, fit: None };
        let text = serde_json::to_string(&document).unwrap();
        let start = r#"{"model":"vit_base_patch16_224","classes":5,"rows":[{"keep":70.0,"seq_len":138,"macs":121"#;
        assert!(text.starts_with(start), "{text}");
        let keys = ["macs", "flops", "fvcore_unfused", "fvcore_fused", "macs_executed"];
        let places: Vec<_> = keys.iter().map(|key| text.find(&format!("\"{key}\":")).unwrap()).collect();
        assert!(places.is_sorted() && !text.contains("label"), "{text}");
        let (_, _, rows) = counted("--seq-len 119").unwrap();
        assert!(serde_json::to_string(&rows).unwrap().starts_with(r#"[{"keep":null,"seq_len":119,"#));
    }

    #[test]
    fn options_change_only_what_is_executed() {
        let one = |line: &str| counted(line).unwrap().2.remove(0);
        let (short, long) = (one("--keep 70"), one("--keep 70 --embed dense --full-last-block"));
        assert!(short.macs == long.macs && short.macs_executed < long.macs_executed);
        assert_eq!(long.macs_executed, long.macs);
        assert_eq!(one("--keep 60 --round nearest").seq_len, 119);
        assert_eq!(one("--keep 60 --num-classes 1000 --image-size 384").seq_len, 1 + 576 * 60 / 100);
    }

    #[test]
    fn senseless_sizes_are_usage_errors() {
        for line in ["--seq-len 1", "--seq-len 198", "--image-size 225", "--img-size 0", "--model vit_none"] {
            let error = counted(line).err().unwrap();
            assert_eq!(error.exit_code(), 2, "{error}");
        }
        for line in ["--classes 0", "--keep abc", "--keep 0", "--keep -1", "--image-size x", "--seq-len x"] {
            assert!(Command::try_parse_from(std::iter::once("flops").chain(line.split_whitespace())).is_err());
        }
        let (_, _, rows) = counted("--model vit_large_patch16_224 --image-size 4096 --keep 100").unwrap();
        assert!(rows[0].flops > rows[0].macs, "the largest case stays within 64 bits");
    }
}
