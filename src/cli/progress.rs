//! Progress on stderr: bars on a terminal, plain lines elsewhere, nothing when quiet.
#![forbid(unsafe_code)]

use super::print::{self, printable};
use crate::train::Event;
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Seconds between plain lines inside an epoch.
const LINE_EVERY: Duration = Duration::from_secs(30);

/// Shows a run's events.
pub struct Progress {
    quiet: bool,
    bars: bool,
    /// Whether the end of an epoch tells what it kept.
    lengths: bool,
    bar: Option<ProgressBar>,
    epochs: u32,
    /// Training images in an epoch, and the batch size.
    images: usize,
    batch_size: usize,
    epoch: u32,
    done: usize,
    /// Images seen by this process in this epoch.
    seen: usize,
    began: Instant,
    spoke: Instant,
    /// Of a cell of a sweep: where it stands, in front of everything.
    lead: Option<String>,
}

impl Progress {
    /// Nothing shown yet.
    pub fn new(quiet: bool, epochs: u32, images: usize, batch_size: usize) -> Self {
        let now = Instant::now();
        let bars = !quiet && std::io::stderr().is_terminal();
        Progress {
            quiet,
            bars,
            lengths: false,
            bar: None,
            epochs,
            images,
            batch_size,
            epoch: 0,
            done: 0,
            seen: 0,
            began: now,
            spoke: now,
            lead: None,
        }
    }

    /// Shows one of many runs: `lead` in front of bars and lines, and no line an epoch.
    pub fn within(mut self, lead: String) -> Self {
        self.lead = Some(lead);
        self
    }

    /// `text` after the lead.
    fn led(&self, text: &str) -> String {
        self.lead.as_ref().map_or(text.to_owned(), |lead| format!("{lead} {text}"))
    }

    /// Lets the end of an epoch tell what it kept, where that is not the same all along.
    pub fn tell_lengths(&mut self, lengths: bool) {
        self.lengths = lengths;
    }

    /// A line to the user, unless quiet.
    pub fn say(&self, text: &str) {
        if self.quiet {
            return;
        }
        let text = printable(text);
        match &self.bar {
            Some(bar) => bar.println(text),
            None => drop(writeln!(std::io::stderr(), "{text}")),
        }
    }

    /// Shows what happened.
    pub fn show(&mut self, event: Event) {
        match event {
            Event::Epoch { epoch, done } => self.begin(epoch, (done as usize * self.batch_size).min(self.images)),
            Event::Step { images, loss, lr, .. } => self.step(images, loss, lr),
            Event::Evaluated { split, images, of } => self.evaluated(split, images, of),
            Event::Trouble { what } => {
                let told = || print::complain("warning", &self.led(what));
                match &self.bar {
                    Some(bar) => bar.suspend(told),
                    None => told(),
                }
            }
            Event::OutOfPatience { epoch, epochs } => {
                self.say(&self.led(&format!("stopped after {epoch} of {epochs} epochs: out of patience")));
            }
            Event::EpochEnd { row, best } => {
                self.clear();
                if self.lead.is_some() {
                    return;
                }
                let kept = row.keep.zip(row.mean_seq_len).filter(|_| self.lengths);
                let kept = kept.map_or(String::new(), |(keep, s)| format!(", {}, mean S {s:.1}", keep.words()));
                self.say(&format!(
                    "epoch {}/{}: {:.1} img/s{kept}, lr {:.2e}, train loss {:.4}, val loss {:.4}, val accuracy {:.2} %{}",
                    row.epoch,
                    self.epochs,
                    row.images_per_second,
                    row.lr,
                    row.train_loss,
                    row.val_loss,
                    100.0 * row.val_accuracy,
                    if best { " (best)" } else { "" }
                ));
            }
        }
    }

    /// Takes the bar off the screen.
    pub fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn begin(&mut self, epoch: u32, done: usize) {
        (self.epoch, self.done, self.seen) = (epoch, done, 0);
        (self.began, self.spoke) = (Instant::now(), Instant::now());
        let prefix = format!("epoch {}/{}", epoch + 1, self.epochs);
        self.new_bar(self.images, done, &prefix, "{prefix} {wide_bar} {pos}/{len} {msg} ETA {eta}");
    }

    fn step(&mut self, images: usize, loss: f64, lr: f64) {
        self.done += images;
        self.seen += images;
        let rate = self.seen as f64 / self.began.elapsed().as_secs_f64().max(1e-9);
        let message = format!("{rate:.1} img/s loss {loss:.4} lr {lr:.2e}");
        if let Some(bar) = &self.bar {
            bar.set_position(self.done as u64);
            bar.set_message(message);
        } else if !self.bars && self.spoke.elapsed() >= LINE_EVERY {
            self.spoke = Instant::now();
            let left = (self.images - self.done.min(self.images)) as f64 / rate;
            self.say(&self.led(&format!(
                "epoch {}/{}: {}/{} images, {message}, {left:.0} s left in the epoch",
                self.epoch + 1,
                self.epochs,
                self.done,
                self.images
            )));
        }
    }

    fn evaluated(&mut self, split: &str, images: usize, of: usize) {
        if self.bar.as_ref().is_none_or(|bar| bar.prefix() != self.led(split)) {
            self.new_bar(of, 0, split, "{prefix} {wide_bar} {pos}/{len} {rate} ETA {eta}");
        }
        match &self.bar {
            Some(bar) if images < of => bar.set_position(images as u64),
            _ => self.clear(),
        }
    }

    fn new_bar(&mut self, len: usize, done: usize, prefix: &str, template: &str) {
        self.clear();
        if self.bars {
            let bar = ProgressBar::new(len as u64).with_style(style(template)).with_prefix(self.led(prefix));
            bar.set_position(done as u64);
            bar.reset_eta();
            self.bar = Some(bar);
        }
    }
}

/// The style of a bar; `{rate}` is what was done a second since it began.
fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).expect("the templates are constants");
    style.with_key("rate", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        let _ = out.write_str(&rate(state.pos(), state.elapsed()));
    })
}

/// As "12.3/s" or "1234/s"; a dash while there is hardly a time to divide by.
fn rate(done: u64, elapsed: Duration) -> String {
    match done as f64 / elapsed.as_secs_f64() {
        _ if elapsed < Duration::from_millis(300) => "-".into(),
        rate if rate < 100.0 => format!("{rate:.1}/s"),
        rate => format!("{rate:.0}/s"),
    }
}

/// One piece of work whose length is known or not: a bar on a terminal, nothing elsewhere.
pub struct Bar(Option<ProgressBar>);

/// A bar that begins with `what`; `unit` is "images" or "bytes".
pub fn bar(quiet: bool, what: &str, unit: &str) -> Bar {
    if quiet || !std::io::stderr().is_terminal() {
        return Bar(None);
    }
    let template = match unit {
        "bytes" => "{prefix} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} ETA {eta}",
        _ => "{prefix} {wide_bar} {pos}/{len} {rate} ETA {eta}",
    };
    Bar(Some(ProgressBar::new(0).with_style(style(template)).with_prefix(what.to_owned())))
}

impl Bar {
    /// Shows that `done` of `of` are done.
    pub fn show(&self, done: u64, of: u64) {
        if let Bar(Some(bar)) = self {
            bar.set_length(of);
            bar.set_position(done);
        }
    }

    /// Takes the bar off the screen.
    pub fn clear(&self) {
        if let Bar(Some(bar)) = self {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_short_and_none_before_there_is_a_time() {
        for (done, milliseconds, words) in
            [(64, 0, "-"), (20, 3000, "6.7/s"), (0, 500, "0.0/s"), (64_321, 50_000, "1286/s")]
        {
            assert_eq!(rate(done, Duration::from_millis(milliseconds)), words);
        }
        let bar = ProgressBar::hidden().with_style(style("{pos}/{len} {rate} ETA {eta}"));
        bar.set_position(3);
    }
}
