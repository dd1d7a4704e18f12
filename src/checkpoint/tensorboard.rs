//! Event files as TensorBoard reads them: one scalar a metric, one record an epoch.
//!
//! A file is a row of TFRecords: length (u64), its masked CRC-32C, the bytes, their masked CRC-32C, all little-endian.
//! The bytes are the protobuf message `Event` (tensorflow/core/util/event.proto), of which four fields are written.
#![forbid(unsafe_code)]

use super::{EpochMetrics, RunDir, durable};
use crate::error::{Error, Result};
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// How the names of event files begin; TensorBoard looks for it, and reads the files of a folder in their order.
pub(super) const PREFIX: &str = "events.out.tfevents.";

impl RunDir {
    /// Appends an epoch to the event file of this process, synced to disk. `file` is none before the first; a new file is
    /// made then, which tells TensorBoard to forget what earlier ones, of a run that was resumed, say of later steps.
    pub fn append_event(&self, file: &mut Option<PathBuf>, row: &EpochMetrics) -> Result<()> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |age| age.as_secs_f64());
        let mut bytes = Vec::new();
        let path = match file {
            Some(path) => path.clone(),
            None => {
                bytes.extend(record(&event(now, 0, &text(3, "brain.Event:2"))));
                let session = [varint(1 << 3), varint(1)].concat();
                bytes.extend(record(&event(now, row.step, &message(7, &session))));
                self.new_events(now as u64)?
            }
        };
        bytes.extend(record(&event(now, row.step, &message(5, &summary(row)))));
        append(&path, &bytes)?;
        *file = Some(path);
        Ok(())
    }

    /// Makes an empty event file that comes after those of earlier processes.
    fn new_events(&self, seconds: u64) -> Result<PathBuf> {
        for n in 0.. {
            let name = format!("{PREFIX}{seconds:010}.dynavit.{}.{n}", std::process::id());
            let path = self.root().join(name);
            match OpenOptions::new().create_new(true).append(true).open(&path) {
                Ok(_) => return durable::sync_dir(self.root()).map(|()| path),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(Error::io(&path, &e)),
            }
        }
        unreachable!("some number is free")
    }

    /// Removes all event files.
    pub(super) fn remove_events(&self) {
        for entry in fs::read_dir(self.root()).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(PREFIX) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// Adds bytes to a file; a failed write takes back what it had written.
fn append(path: &Path, bytes: &[u8]) -> Result<()> {
    let io = |e: std::io::Error| Error::io(path, &e);
    let mut file = OpenOptions::new().append(true).open(path).map_err(io)?;
    let before = file.metadata().map_err(io)?.len();
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|e| {
        let _ = file.set_len(before);
        io(e)
    })
}

/// An `Event`: wall time in seconds, step, and one more field.
fn event(wall_time: f64, step: u64, rest: &[u8]) -> Vec<u8> {
    [&varint(1 << 3 | 1)[..], &wall_time.to_le_bytes(), &varint(2 << 3), &varint(step), rest].concat()
}

/// A `Summary` of the row: a `Value` with tag and simple_value for each metric.
fn summary(row: &EpochMetrics) -> Vec<u8> {
    let EpochMetrics { lr, train_loss, val_loss, val_accuracy, images_per_second, .. } = *row;
    let scalars = [
        ("lr", lr),
        ("train_loss", train_loss),
        ("val_loss", val_loss),
        ("val_accuracy", val_accuracy),
        ("images_per_second", images_per_second),
    ];
    let value = |(tag, number): (&str, f64)| {
        message(1, &[&text(1, tag)[..], &varint(2 << 3 | 5), &(number as f32).to_le_bytes()].concat())
    };
    scalars.into_iter().flat_map(value).collect()
}

/// A field that is a message, or a text.
fn message(field: u64, bytes: &[u8]) -> Vec<u8> {
    [&varint(field << 3 | 2)[..], &varint(bytes.len() as u64), bytes].concat()
}

fn text(field: u64, text: &str) -> Vec<u8> {
    message(field, text.as_bytes())
}

/// Seven bits a byte, the lowest first, the top bit set on all but the last.
fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// A TFRecord.
fn record(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    [&length[..], &masked(&length).to_le_bytes(), bytes, &masked(bytes).to_le_bytes()].concat()
}

/// The checksum as TFRecords store it.
fn masked(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xA282_EAD8)
}

/// CRC-32C (Castagnoli), bit by bit: records are a few hundred bytes an epoch.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _: u32| if crc & 1 == 1 { crc >> 1 ^ 0x82F6_3B78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), step))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(step: u64) -> EpochMetrics {
        EpochMetrics {
            epoch: 1,
            step,
            lr: 0.5,
            train_loss: 1.5,
            val_loss: 1.25,
            val_accuracy: 0.75,
            images_per_second: 100.0,
            keep: None,
            mean_seq_len: None,
            macs_executed: None,
        }
    }

    #[test]
    fn checksums_are_the_published_ones() {
        // RFC 3720, B.4, and the check value of the catalogue.
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
        assert_eq!(crc32c(&[0xFF; 32]), 0x62A8_AB43);
    }

    #[test]
    fn events_have_tensorboards_bytes() {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let version = record(&event(1.0, 0, &text(3, "brain.Event:2")));
        assert_eq!(
            hex(&version),
            "1a00000000000000 129bd82d 09000000000000f03f 1000 1a0d 627261696e2e4576656e743a32 cc314e92"
                .replace(' ', "")
        );
        let scalars = event(1.0, 300, &message(5, &summary(&row(300))));
        assert_eq!(
            hex(&scalars),
            "09000000000000f03f 10ac02 2a5e 0a090a026c72150000003f 0a110a0a747261696e5f6c6f7373150000c03f \
             0a0f0a0876616c5f6c6f7373150000a03f 0a130a0c76616c5f6163637572616379150000403f \
             0a180a11696d616765735f7065725f7365636f6e64150000c842"
                .replace([' ', '\n'], "")
        );
    }

    #[test]
    fn a_process_has_one_file_and_the_next_another() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::create(&dir.path().join("run"), "", "{}").unwrap();
        let (mut first, mut second) = (None, None);
        for step in [10, 20] {
            run.append_event(&mut first, &row(step)).unwrap();
        }
        run.append_event(&mut second, &row(20)).unwrap();
        let (first, second) = (first.unwrap(), second.unwrap());
        assert!(first < second);
        let lengths = [&first, &second].map(|path| {
            let bytes = fs::read(path).unwrap();
            let (mut at, mut lengths) = (0, Vec::new());
            while at < bytes.len() {
                let length = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
                lengths.push(length);
                at += length + 16;
            }
            assert_eq!(at, bytes.len());
            lengths
        });
        assert_eq!(lengths[0].len(), 4);
        assert_eq!(lengths[1], lengths[0][..3]);
        run.remove_events();
        assert!(!first.exists() && !second.exists());
    }
}
