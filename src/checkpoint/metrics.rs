//! metrics.csv and metrics.jsonl: one row an epoch, the same rows in both.
#![forbid(unsafe_code)]

use super::{EpochMetrics, RunDir, durable};
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::Path;

const CSV: &str = "metrics.csv";
const JSONL: &str = "metrics.jsonl";
const HEADER: &str =
    "epoch,step,lr,train_loss,val_loss,val_accuracy,images_per_second,keep,mean_seq_len,macs_executed\n";

impl RunDir {
    /// Appends an epoch to metrics.csv and metrics.jsonl, synced to disk.
    pub fn append_metrics(&self, row: &EpochMetrics) -> Result<()> {
        append(&self.root().join(CSV), HEADER, &csv_line(row))?;
        append(&self.root().join(JSONL), "", &json_line(row))
    }

    /// The rows so far, in order of epochs; none before the first epoch is over.
    pub fn metrics(&self) -> Result<Vec<EpochMetrics>> {
        let text = read(&self.root().join(CSV))?.unwrap_or_default();
        Ok(whole_lines(&text).filter_map(parse_csv).collect())
    }

    /// Drops rows beyond `step`, which a killed run wrote after its last checkpoint, and lines that were cut short.
    /// A row that only one of the two files holds whole comes back in the other. Returns the epochs that have rows.
    pub fn truncate_metrics(&self, step: u64) -> Result<Vec<u32>> {
        let (csv, jsonl) = (self.root().join(CSV), self.root().join(JSONL));
        let texts = (read(&csv)?, read(&jsonl)?);
        if texts == (None, None) {
            return Ok(Vec::new());
        }
        let from_csv = texts.0.iter().flat_map(|text| whole_lines(text)).filter_map(parse_csv);
        let from_json = texts.1.iter().flat_map(|text| whole_lines(text)).filter_map(|l| serde_json::from_str(l).ok());
        let rows: BTreeMap<(u64, u32), EpochMetrics> =
            from_json.chain(from_csv).filter(|row| row.step <= step).map(|row| ((row.step, row.epoch), row)).collect();
        let table: String = std::iter::once(HEADER.to_string()).chain(rows.values().map(csv_line)).collect();
        durable::replace(&csv, table.as_bytes())?;
        durable::replace(&jsonl, rows.values().map(json_line).collect::<String>().as_bytes())?;
        Ok(rows.values().map(|row| row.epoch).collect())
    }
}

fn csv_line(row: &EpochMetrics) -> String {
    let EpochMetrics { epoch, step, lr, train_loss, val_loss, val_accuracy, images_per_second, .. } = row;
    let (keep, seq_len, macs) = (cell(&row.keep), cell(&row.mean_seq_len), cell(&row.macs_executed));
    format!("{epoch},{step},{lr},{train_loss},{val_loss},{val_accuracy},{images_per_second},{keep},{seq_len},{macs}\n")
}

/// A value as a cell, which is empty where there is none.
fn cell<T: ToString>(value: &Option<T>) -> String {
    value.as_ref().map_or(String::new(), T::to_string)
}

fn json_line(row: &EpochMetrics) -> String {
    serde_json::to_string(row).expect("a row has only string keys") + "\n"
}

/// The row of a line; None for the header and for what is no row.
fn parse_csv(line: &str) -> Option<EpochMetrics> {
    let fields: Vec<&str> = line.split(',').collect();
    let [epoch, step, lr, train_loss, val_loss, val_accuracy, images_per_second, rest @ ..] = fields.as_slice() else {
        return None;
    };
    // Rows of older versions end here.
    let [keep, seq_len, macs] = match rest {
        [] => [""; 3],
        &[keep, seq_len, macs] => [keep, seq_len, macs],
        _ => return None,
    };
    Some(EpochMetrics {
        epoch: epoch.parse().ok()?,
        step: step.parse().ok()?,
        lr: lr.parse().ok()?,
        train_loss: train_loss.parse().ok()?,
        val_loss: val_loss.parse().ok()?,
        val_accuracy: val_accuracy.parse().ok()?,
        images_per_second: images_per_second.parse().ok()?,
        keep: optional(keep)?,
        mean_seq_len: optional(seq_len)?,
        macs_executed: optional(macs)?,
    })
}

/// What a cell says, which may be nothing; none at all for what is no value.
fn optional<T: std::str::FromStr>(cell: &str) -> Option<Option<T>> {
    if cell.is_empty() { Some(None) } else { cell.parse().ok().map(Some) }
}

/// The lines that end in a line feed. A last one without may be the front of a longer number.
fn whole_lines(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'))
}

/// The text of a file, None when there is none. Damage of any kind is left to the parsing of the lines.
fn read(path: &Path) -> Result<Option<String>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(path, &e)),
    }
}

/// Adds a line, after the header where the file is new; a failed write takes back what it had written.
fn append(path: &Path, header: &str, line: &str) -> Result<()> {
    let io = |e: std::io::Error| Error::io(path, &e);
    let mut file = OpenOptions::new().create(true).append(true).open(path).map_err(io)?;
    let before = file.metadata().map_err(io)?.len();
    let text = if before == 0 { format!("{header}{line}") } else { line.to_string() };
    if let Err(e) = file.write_all(text.as_bytes()).and_then(|()| file.sync_all()) {
        let _ = file.set_len(before);
        return Err(io(e));
    }
    if before == 0 { durable::sync_dir(durable::parent(path)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(epoch: u32) -> EpochMetrics {
        EpochMetrics {
            epoch,
            step: 10 * u64::from(epoch),
            lr: 3e-5,
            train_loss: 1.0 / f64::from(epoch),
            val_loss: 0.1 + 0.2,
            val_accuracy: 0.5,
            images_per_second: 123.456,
            keep: Some("mass:0.9".parse().unwrap()),
            mean_seq_len: Some(137.25),
            macs_executed: (epoch > 1).then_some(1.5e9),
        }
    }

    fn run_with(rows: std::ops::RangeInclusive<u32>) -> (tempfile::TempDir, RunDir) {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::create(&dir.path().join("run"), "", "{}").unwrap();
        rows.for_each(|epoch| run.append_metrics(&row(epoch)).unwrap());
        (dir, run)
    }

    fn texts(run: &RunDir) -> (String, String) {
        (fs::read_to_string(run.root().join(CSV)).unwrap(), fs::read_to_string(run.root().join(JSONL)).unwrap())
    }

    #[test]
    fn rows_are_written_as_documented() {
        let (_dir, run) = run_with(1..=1);
        let (csv, jsonl) = texts(&run);
        assert_eq!(
            csv,
            "epoch,step,lr,train_loss,val_loss,val_accuracy,images_per_second,keep,mean_seq_len,macs_executed\n\
             1,10,0.00003,1,0.30000000000000004,0.5,123.456,mass:0.9,137.25,\n"
        );
        assert_eq!(serde_json::from_str::<EpochMetrics>(&jsonl).unwrap(), row(1));
    }

    #[test]
    fn rows_beyond_the_step_go_and_the_rest_keeps_its_bytes() {
        let (_dir, run) = run_with(1..=4);
        run.truncate_metrics(25).unwrap();
        let (_other, shorter) = run_with(1..=2);
        assert_eq!(texts(&run), texts(&shorter));
        run.append_metrics(&row(3)).unwrap();
        shorter.append_metrics(&row(3)).unwrap();
        assert_eq!(texts(&run), texts(&shorter));
    }

    #[test]
    fn torn_lines_and_one_sided_rows_are_mended() {
        let (_dir, run) = run_with(1..=3);
        let (csv, jsonl) = texts(&run);
        let (_other, two) = run_with(1..=2);
        // The third row is cut short in both; of the second only one file has it.
        fs::write(run.root().join(CSV), &csv[..csv.len() - 3]).unwrap();
        fs::write(run.root().join(JSONL), jsonl.lines().next().unwrap().to_string() + "\n{\"epoch\":3,").unwrap();
        run.truncate_metrics(1000).unwrap();
        assert_eq!(texts(&run), texts(&two));
        fs::remove_file(run.root().join(CSV)).unwrap();
        run.truncate_metrics(1000).unwrap();
        assert_eq!(texts(&run), texts(&two));
    }

    #[test]
    fn rows_of_older_versions_are_read_and_get_empty_cells() {
        let (_dir, run) = run_with(1..=2);
        fs::write(run.root().join(CSV), "epoch,step,lr\n1,10,0.5,1,2,0.5,10\n").unwrap();
        fs::remove_file(run.root().join(JSONL)).unwrap();
        run.truncate_metrics(100).unwrap();
        assert_eq!(texts(&run).0, format!("{HEADER}1,10,0.5,1,2,0.5,10,,,\n"));
    }

    #[test]
    fn without_files_there_is_nothing_to_drop() {
        let (_dir, run) = run_with(std::ops::RangeInclusive::new(1, 0));
        run.truncate_metrics(0).unwrap();
        assert!(!run.root().join(CSV).exists());
    }
}
