//! Batches in order, decoded ahead by threads of its own, image by image, within a bounded look-ahead.
#![forbid(unsafe_code)]

use super::{Batch, Mix, Mode, Norm, Sample, TransformConfig, Wanted, transform};
use crate::error::{Error, Result};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// An image as the model wants it, empty where bytes are enough, and its 8-bit pixels.
type Image = (Vec<f32>, Vec<u8>);

/// Batches of `samples` in the given order, decoded ahead by worker threads; the last may be short.
///
/// About two batches and one image a worker are held at most. A batch with a bad image is an `Err` that names the
/// file; the batches after it still come. Dropping the loader stops its threads and waits for them.
pub struct Loader {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// How one sample becomes an image; a parameter so that tests can make it fail, panic or dawdle.
type Work = Box<dyn Fn(&Sample) -> Result<Image> + Send + Sync>;

/// How the batches of an epoch are mixed.
struct Mixer {
    mix: Mix,
    seed: u64,
    epoch: u32,
    /// Of the images, in pixels.
    side: usize,
}

struct Shared {
    samples: Vec<Sample>,
    batch_size: usize,
    /// Images that may be claimed beyond those handed out.
    ahead: usize,
    work: Work,
    mixer: Option<Mixer>,
    /// How values follow from bytes, in batches that are not mixed; `None` where single images are changed after.
    norm: Option<Norm>,
    state: Mutex<State>,
    /// Rung when images may be claimed or the loader closes.
    room: Condvar,
    /// Rung when the front batch is ready.
    ready: Condvar,
}

struct State {
    /// Next image to claim.
    next: usize,
    /// First image of the front batch.
    front: usize,
    /// Batches begun, the front one first.
    pending: VecDeque<Pending>,
    closed: bool,
}

/// A batch in the making.
struct Pending {
    images: Vec<Option<Result<Image>>>,
    missing: usize,
    done: Option<Result<Batch>>,
}

impl Loader {
    /// Begins at batch `first_batch`. `workers` threads decode; results come in order whatever their number.
    /// With no workers the images are decoded by the caller of `next`. A `batch_size` of 0 counts as 1. Training batches
    /// are mixed as `transform.augment` says.
    pub fn new(
        samples: Vec<Sample>,
        transform: TransformConfig,
        wanted: Wanted,
        mode: Mode,
        batch_size: usize,
        first_batch: usize,
        workers: usize,
    ) -> Self {
        let mixer = match mode {
            Mode::Train { seed, epoch } => {
                Some(Mixer { mix: transform.augment.mix, seed, epoch, side: transform.image_size })
            }
            Mode::Eval => None,
        };
        let erases = mode != Mode::Eval && transform.augment.erase.prob > 0.0;
        let norm = (!erases).then_some(transform.norm);
        let mixes = matches!(mode, Mode::Train { epoch, .. } if transform.augment.mix.is_on(epoch));
        let bytes = wanted == Wanted::Bytes && !erases && !mixes;
        let work = move |sample: &Sample| {
            if bytes {
                let rgb = transform::bytes(&sample.source, sample.id, &transform, mode)?;
                return Ok((Vec::new(), rgb));
            }
            transform::load(&sample.source, sample.id, &transform, mode)
        };
        Self::mixing(samples, Box::new(work), (mixer, norm), batch_size, first_batch, workers)
    }

    #[cfg(test)]
    fn with_work(samples: Vec<Sample>, work: Work, batch_size: usize, first_batch: usize, workers: usize) -> Self {
        Self::mixing(samples, work, (None, None), batch_size, first_batch, workers)
    }

    fn mixing(
        samples: Vec<Sample>,
        work: Work,
        (mixer, norm): (Option<Mixer>, Option<Norm>),
        batch_size: usize,
        first_batch: usize,
        workers: usize,
    ) -> Self {
        let batch_size = batch_size.max(1);
        let first = first_batch.saturating_mul(batch_size).min(samples.len());
        let shared = Arc::new(Shared {
            samples,
            batch_size,
            ahead: batch_size.saturating_mul(2).saturating_add(workers),
            work,
            mixer,
            norm,
            state: Mutex::new(State { next: first, front: first, pending: VecDeque::new(), closed: false }),
            room: Condvar::new(),
            ready: Condvar::new(),
        });
        let start = |n| {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name(format!("loader-{n}")).spawn(move || shared.run()).ok()
        };
        // A system that grants fewer threads gets fewer; with none, `next` does the work.
        let threads = (0..workers).map_while(start).collect();
        Loader { shared, threads }
    }
}

impl Iterator for Loader {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        let shared = &self.shared;
        let mut state = shared.lock();
        loop {
            if state.front >= shared.samples.len() {
                return None;
            }
            if let Some(batch) = state.pending.front_mut().and_then(|pending| pending.done.take()) {
                state.pending.pop_front();
                state.front += shared.batch_size;
                shared.room.notify_all();
                return Some(batch);
            }
            if self.threads.is_empty() {
                let Some(index) = shared.claim(&mut state) else {
                    unreachable!("without threads, an unfinished front batch has images to claim")
                };
                drop(state);
                shared.make(index);
                state = shared.lock();
            } else {
                state = shared.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.room.notify_all();
        for thread in self.threads.drain(..) {
            // Panics of the work are caught and handed out as errors, so there is nothing to learn here.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker's life.
    fn run(&self) {
        let mut state = self.lock();
        while !state.closed && state.next < self.samples.len() {
            match self.claim(&mut state) {
                Some(index) => {
                    drop(state);
                    self.make(index);
                    state = self.lock();
                }
                None => state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// The next image to make, if there is one within the look-ahead; opens its batch.
    fn claim(&self, state: &mut State) -> Option<usize> {
        let index = state.next;
        if index >= self.samples.len() || index - state.front >= self.ahead {
            return None;
        }
        state.next += 1;
        if (index - state.front).is_multiple_of(self.batch_size) {
            let missing = self.batch_size.min(self.samples.len() - index);
            let images = (0..missing).map(|_| None).collect();
            state.pending.push_back(Pending { images, missing, done: None });
        }
        Some(index)
    }

    /// Makes image `index` and, when it is the last one missing, its batch.
    fn make(&self, index: usize) {
        let sample = &self.samples[index];
        let image = catch_unwind(AssertUnwindSafe(|| (self.work)(sample))).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Err(Error::data(
                sample.source.place(),
                format!("reading it failed: {text}"),
                "leave the image out and report it",
            ))
        });
        let mut state = self.lock();
        // The front never passes a batch that is still missing an image, so the place in the queue holds.
        let (place, offset) = ((index - state.front) / self.batch_size, (index - state.front) % self.batch_size);
        let pending = &mut state.pending[place];
        pending.images[offset] = Some(image);
        pending.missing -= 1;
        if pending.missing > 0 {
            return;
        }
        let images = std::mem::take(&mut pending.images);
        drop(state);
        let mut batch = assemble(images, &self.samples[index - offset..], self.norm);
        if let (Ok(batch), Some(Mixer { mix, seed, epoch, side })) = (&mut batch, &self.mixer) {
            // The same number after a resume, since batches are counted from the epoch's beginning.
            let number = ((index - offset) / self.batch_size) as u32;
            if let Some(blend) = mix.draw(*seed, *epoch, number, *side) {
                blend.apply(batch, *side, *side);
            }
        }
        let mut state = self.lock();
        let place = (index - state.front) / self.batch_size;
        state.pending[place].done = Some(batch);
        self.ready.notify_one();
    }
}

/// Joins the images of a batch, or gives the first error among them. `samples` begins with the batch's own.
fn assemble(images: Vec<Option<Result<Image>>>, samples: &[Sample], norm: Option<Norm>) -> Result<Batch> {
    let samples = &samples[..images.len()];
    let images = images.into_iter().flatten().collect::<Result<Vec<Image>>>()?;
    let total = |length: fn(&Image) -> usize| images.iter().map(length).sum();
    let mut batch = Batch {
        images: Vec::with_capacity(total(|image| image.0.len())),
        rgb: Vec::with_capacity(total(|image| image.1.len())),
        labels: samples.iter().map(|sample| sample.label).collect(),
        ids: samples.iter().map(|sample| sample.id).collect(),
        mixed: None,
        norm,
    };
    for (pixels, rgb) in &images {
        batch.images.extend_from_slice(pixels);
        batch.rgb.extend_from_slice(rgb);
    }
    Ok(batch)
}

#[cfg(test)]
mod tests {
    use super::super::{Augment, Erase, EraseMode, Source};
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    fn samples(n: usize) -> Vec<Sample> {
        (0..n).map(|i| Sample { id: i as u64, source: Source::File(format!("{i}.png").into()), label: i % 3 }).collect()
    }

    /// Later images of a batch finish first.
    fn slow(sample: &Sample) -> Result<Image> {
        std::thread::sleep(Duration::from_micros((7 - sample.id % 7) * 200));
        Ok((vec![sample.id as f32], vec![sample.id as u8]))
    }

    #[test]
    fn batches_come_in_order_for_any_number_of_workers() {
        for workers in [0, 1, 3, 9] {
            for first in [0, 2, 5, 9] {
                let loader = Loader::with_work(samples(22), Box::new(slow), 5, first, workers);
                let ids: Vec<Vec<u64>> = loader.map(|batch| batch.unwrap().ids).collect();
                let all: Vec<u64> = (0..22).collect();
                let want: Vec<Vec<u64>> = all.chunks(5).skip(first).map(<[u64]>::to_vec).collect();
                assert_eq!(ids, want, "{workers} workers from batch {first}");
            }
        }
    }

    #[test]
    fn a_batch_carries_its_images_and_labels() {
        let batch = Loader::with_work(samples(4), Box::new(slow), 4, 0, 2).next().unwrap().unwrap();
        assert_eq!(batch.images, [0.0, 1.0, 2.0, 3.0]);
        assert_eq!(batch.rgb, [0, 1, 2, 3]);
        assert_eq!(batch.labels, [0, 1, 2, 0]);
    }

    #[test]
    fn the_look_ahead_is_bounded() {
        let made = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&made);
        let work = move |sample: &Sample| {
            count.fetch_add(1, Ordering::SeqCst);
            slow(sample)
        };
        let mut loader = Loader::with_work(samples(1000), Box::new(work), 4, 0, 3);
        for done in 1..5 {
            loader.next().unwrap().unwrap();
            std::thread::sleep(Duration::from_millis(5));
            assert!(made.load(Ordering::SeqCst) <= 4 * done + 4 * 2 + 3);
        }
        drop(loader);
        assert!(made.load(Ordering::SeqCst) < 40);
    }

    #[test]
    fn errors_and_panics_spoil_their_own_batch_only() {
        let work = |sample: &Sample| match sample.id {
            3 => Err(Error::data(sample.source.place(), "broken", "mend it")),
            6 => panic!("boom {}", sample.id),
            _ => slow(sample),
        };
        for workers in [0, 1, 4] {
            let loader = Loader::with_work(samples(10), Box::new(work), 2, 0, workers);
            let got: Vec<String> =
                loader.map(|b| b.map_or_else(|e| e.to_string(), |b| format!("{:?}", b.ids))).collect();
            assert_eq!(got[0], "[0, 1]");
            assert_eq!(got[1], "3.png: broken; mend it");
            assert_eq!(got[2], "[4, 5]");
            assert!(got[3].contains("6.png") && got[3].contains("boom 6"), "{}", got[3]);
            assert_eq!(got[4], "[8, 9]");
        }
    }

    #[test]
    fn dropping_early_ends_the_threads() {
        for taken in 0..3 {
            let mut loader = Loader::with_work(samples(500), Box::new(slow), 8, 0, 4);
            for _ in 0..taken {
                loader.next();
            }
            let shared = Arc::downgrade(&loader.shared);
            drop(loader);
            assert!(shared.upgrade().is_none(), "a thread still holds the loader's state");
        }
    }

    #[test]
    fn mixed_batches_do_not_depend_on_workers_or_on_where_the_epoch_is_taken_up() {
        let folder = tempfile::tempdir().unwrap();
        let samples: Vec<Sample> = (0..7u8)
            .map(|i| {
                let path = folder.path().join(format!("{i}.png"));
                let pixels: Vec<u8> = (0..300).map(|j| (j as u8).wrapping_mul(7 + i)).collect();
                image::RgbImage::from_raw(10, 10, pixels).unwrap().save(&path).unwrap();
                Sample { id: u64::from(i), source: Source::File(path), label: usize::from(i) }
            })
            .collect();
        let plain = TransformConfig::paper(16);
        let mut config = plain.clone();
        config.augment = Augment {
            vflip: 0.5,
            color_jitter: 0.0,
            grayscale: 0.2,
            rand: Some("rand-m9-mstd0.5-inc1".parse().unwrap()),
            erase: Erase { prob: 0.5, mode: EraseMode::Pixel, count: 2 },
            mix: Mix { mixup: 0.8, cutmix: 1.0, ..Mix::default() },
        };
        let take = |config: &TransformConfig, wanted, mode, first, workers| {
            let loader = Loader::new(samples.clone(), config.clone(), wanted, mode, 2, first, workers);
            let batch = |b: Result<Batch>| b.map(|b| (b.images, b.rgb, b.labels, b.ids, b.mixed, b.norm)).unwrap();
            loader.map(batch).collect::<Vec<_>>()
        };
        let read = |config: &_, mode, first, workers| take(config, Wanted::Values, mode, first, workers);
        let mode = Mode::Train { seed: 3, epoch: 1 };
        let whole = read(&config, mode, 0, 0);
        assert!(whole.iter().all(|batch| batch.4.is_some()) && whole.len() == 4);
        for (first, workers) in [(0, 1), (0, 3), (2, 0), (3, 2)] {
            assert_eq!(read(&config, mode, first, workers), whole[first..]);
        }
        assert_ne!(read(&plain, mode, 0, 1), whole);
        assert_eq!(read(&config, Mode::Eval, 0, 1), read(&plain, Mode::Eval, 0, 1));
        // Where bytes are wanted, values are left out unless they are more than the bytes say.
        assert_eq!(take(&config, Wanted::Bytes, mode, 0, 1), whole);
        for (config, mode) in [(&plain, mode), (&config, Mode::Eval)] {
            for (bytes, values) in take(config, Wanted::Bytes, mode, 0, 1).into_iter().zip(read(config, mode, 0, 1)) {
                let (images, rgb, labels, ids, mixed, norm) = bytes;
                assert!(images.is_empty());
                let mut batch = Batch { images, rgb, labels, ids, mixed, norm };
                batch.make_values();
                assert_eq!((batch.images, batch.rgb, batch.labels), (values.0, values.1, values.2));
            }
        }
    }

    #[test]
    fn nothing_in_nothing_out() {
        assert!(Loader::with_work(Vec::new(), Box::new(slow), 8, 0, 2).next().is_none());
        assert_eq!(Loader::with_work(samples(2), Box::new(slow), 0, 0, 2).count(), 2);
    }
}
