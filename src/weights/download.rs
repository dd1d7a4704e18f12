//! Downloads that can be cut anywhere: pieces by HTTP range, appended to a part file, size and hash checked at the end.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use md5::Md5;
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Redirects that are followed.
const MOST_REDIRECTS: u32 = 5;

/// What a file must hash to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hash {
    /// In hexadecimal; what older archives publish. It finds accidents, not forgeries.
    Md5(String),
    /// In hexadecimal.
    Sha256(String),
}

/// What to fetch, and what it must be.
#[derive(Clone, Debug)]
pub struct Download {
    pub url: String,
    /// In bytes; what the server says when unknown.
    pub size: Option<u64>,
    /// When unknown, the SHA-256 that the server gives as `X-Linked-ETag`, as the Hugging Face hub does.
    pub hash: Option<Hash>,
}

/// How patient a download is.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For a connection, for the head of an answer, and for a piece to arrive: a piece that is late is asked for again
    /// from where it stopped.
    pub wait: Duration,
    /// Tries in a row that may bring nothing.
    pub tries: u32,
    /// Before the second try; twice as long before each further one.
    pub pause: Duration,
    /// Bytes of a piece.
    pub piece: u64,
}

impl Default for Patience {
    fn default() -> Self {
        Patience { wait: Duration::from_secs(60), tries: 5, pause: Duration::from_millis(500), piece: 8 << 20 }
    }
}

/// Hears how many bytes of how many are there, and may give up by an error; what is there stays for the next time.
pub type Show<'a> = &'a mut dyn FnMut(u64, Option<u64>) -> Result<()>;

/// The part file of `target`.
pub fn part(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!("{name}.part"))
}

/// What one try came to.
enum Try {
    /// The file has ended.
    Done,
    /// Some bytes came.
    More,
    /// Nothing came, and why.
    Nothing(String),
}

/// What is known of the file on the server.
#[derive(Default)]
struct Known {
    size: Option<u64>,
    hash: Option<Hash>,
    /// The version that the first bytes belong to.
    etag: Option<String>,
    /// The most bytes that were ever there: only more of them is progress.
    best: u64,
}

/// Fetches into `target`, by way of `target` + ".part", which a later call goes on with. A `target` that is there and
/// right is left alone.
///
/// Errors: no network (names address and folder, so that the file can be brought by other means), a server that refuses,
/// stalls for long or sends another size, and a hash that differs, after which the part file is removed.
///
/// Returns whether there was a hash to check.
pub fn fetch(download: &Download, target: &Path, patience: Patience, show: Show) -> Result<bool> {
    let known = Known { size: download.size, hash: download.hash.clone(), ..Known::default() };
    if target.exists() {
        let length = std::fs::metadata(target).map_err(|e| Error::io(target, &e))?.len();
        if known.size.is_none_or(|size| size == length) && holds(target, known.hash.as_ref())? {
            return Ok(known.hash.is_some());
        }
        let reason = format!("is there, but is not what {} holds", download.url);
        return Err(Error::data(target, reason, "remove it and download again"));
    }
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, &e))?;
    Fetch { download, target, folder, part: part(target), patience, known }.run(show)
}

/// A download under way.
struct Fetch<'a> {
    download: &'a Download,
    target: &'a Path,
    folder: &'a Path,
    part: PathBuf,
    patience: Patience,
    known: Known,
}

impl Fetch<'_> {
    fn run(mut self, show: Show) -> Result<bool> {
        let io = |part: &Path, e: std::io::Error| Error::io(part, &e);
        let mut file = OpenOptions::new().create(true).append(true).open(&self.part).map_err(|e| io(&self.part, e))?;
        let mut have = file.metadata().map_err(|e| io(&self.part, e))?.len();
        if self.known.size.is_some_and(|size| have > size) {
            file.set_len(0).map_err(|e| io(&self.part, e))?;
            have = 0;
        }
        let agent = agent(self.patience.wait, MOST_REDIRECTS);
        if self.known.hash.is_none() {
            self.ask();
        }
        self.known.best = have;
        let mut failures = 0;
        while self.known.size != Some(have) {
            match self.piece(&agent, &mut file, &mut have, show)? {
                Try::Done => break,
                Try::More => failures = 0,
                Try::Nothing(reason) => {
                    failures += 1;
                    if failures >= self.patience.tries {
                        return Err(self.given_up(&reason, have));
                    }
                    std::thread::sleep(self.patience.pause * 2u32.pow(failures.min(6) - 1));
                }
            }
        }
        file.sync_all().map_err(|e| io(&self.part, e))?;
        drop(file);
        self.finish(have)?;
        Ok(self.known.hash.is_some())
    }

    /// Checks what is there and gives it its name.
    fn finish(&self, have: u64) -> Result<()> {
        let wrong = |reason: String| {
            let _ = std::fs::remove_file(&self.part);
            let remedy =
                format!("download again, or fetch {} by other means into {}", self.download.url, self.folder.display());
            Error::data(self.target, reason, remedy)
        };
        if let Some(size) = self.known.size.filter(|size| *size != have) {
            return Err(wrong(format!("the server sent {have} bytes, where {size} belong")));
        }
        if !holds(&self.part, self.known.hash.as_ref())? {
            return Err(wrong("what the server sent has another hash than it should".into()));
        }
        std::fs::rename(&self.part, self.target).map_err(|e| Error::io(self.target, &e))?;
        if cfg!(unix) {
            File::open(self.folder).and_then(|folder| folder.sync_all()).map_err(|e| Error::io(self.folder, &e))?;
        }
        Ok(())
    }

    fn given_up(&self, reason: &str, have: u64) -> Error {
        let kept =
            if have > 0 { format!(", {have} bytes are kept and a new call goes on from there") } else { String::new() };
        let reason = format!("cannot be downloaded from {}: {reason}{kept}", self.download.url);
        let remedy = format!("see to the network, or fetch the address by other means into {}", self.folder.display());
        Error::data(self.target, reason, remedy)
    }

    /// Asks the hub for size and hash, which stand in the answer before it sends one elsewhere. Without an answer the
    /// first piece tells what is wrong.
    fn ask(&mut self) {
        let Ok(answer) = agent(self.patience.wait, 0).head(&self.download.url).call() else { return };
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
        let tag = header("x-linked-etag").map(|tag| tag.trim_matches('"').to_ascii_lowercase());
        self.known.hash = tag.filter(|tag| tag.len() == 64).map(Hash::Sha256);
        self.known.size = self.known.size.or_else(|| header("x-linked-size")?.parse().ok());
    }

    /// Asks for the next piece and appends what comes of it.
    fn piece(&mut self, agent: &ureq::Agent, file: &mut File, have: &mut u64, show: Show) -> Result<Try> {
        let last = *have + self.patience.piece - 1;
        let mut request = agent.get(&self.download.url).header("Range", format!("bytes={have}-{last}"));
        if let Some(etag) = &self.known.etag {
            request = request.header("If-Range", etag);
        }
        let mut answer = match request.call() {
            Ok(answer) => answer,
            Err(error) => return Ok(Try::Nothing(error.to_string())),
        };
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(String::from);
        // Weak tags do not serve for ranges.
        self.known.etag = self.known.etag.take().or_else(|| header("etag").filter(|tag| !tag.starts_with("W/")));
        let (begin, size) = match answer.status().as_u16() {
            206 => match header("content-range").as_deref().and_then(content_range) {
                Some((begin, size)) if begin == *have => (begin, size),
                _ => return Ok(Try::Nothing("the server sent another part than was asked for".into())),
            },
            // The whole file: the server knows no ranges, or the file has changed since the first bytes.
            200 => (0, header("content-length").and_then(|length| length.parse().ok())),
            // There is nothing behind what is there. Without a known size that is the end; else the part is of no use.
            416 if self.known.size.is_none() && *have > 0 => return Ok(Try::Done),
            status => return Ok(Try::Nothing(format!("the server answers with status {status}"))),
        };
        if let (Some(known), Some(size)) = (self.known.size, size)
            && known != size
        {
            return Err(self.other_size(known, size));
        }
        self.known.size = self.known.size.or(size);
        if begin == 0 && *have > 0 {
            file.set_len(0).map_err(|e| Error::io(&self.part, &e))?;
            *have = 0;
        }
        let mut body = answer.body_mut().as_reader();
        let mut buffer = vec![0; 64 << 10];
        let end = loop {
            match body.read(&mut buffer) {
                Ok(0) => break None,
                Ok(n) => {
                    file.write_all(&buffer[..n]).map_err(|e| Error::io(&self.part, &e))?;
                    *have += n as u64;
                    show(*have, self.known.size)?;
                    if let Some(size) = self.known.size.filter(|size| *have > *size) {
                        return Err(self.other_size(size, *have));
                    }
                }
                Err(error) => break Some(error.to_string()),
            }
        };
        Ok(match end {
            None if self.known.size.is_none() => Try::Done,
            _ if *have > self.known.best => {
                self.known.best = *have;
                Try::More
            }
            why => Try::Nothing(why.unwrap_or_else(|| "the server sent nothing".into())),
        })
    }

    fn other_size(&self, known: u64, size: u64) -> Error {
        let _ = std::fs::remove_file(&self.part);
        let reason = format!("{} has {size} bytes or more, where {known} belong", self.download.url);
        Error::data(self.target, reason, "the address holds another file: get the right one by other means")
    }
}

fn agent(wait: Duration, redirects: u32) -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(wait))
        .timeout_recv_response(Some(wait))
        .timeout_recv_body(Some(wait))
        .max_redirects(redirects)
        .max_redirects_will_error(redirects > 0)
        .user_agent("dynavit")
        .build()
        .new_agent()
}

/// First byte and whole size of `bytes 5-9/20`.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.parse().ok()?, size.parse().ok()))
}

/// Whether the file hashes to `hash`; true when nothing is known.
fn holds(path: &Path, hash: Option<&Hash>) -> Result<bool> {
    Ok(match hash {
        None => true,
        Some(Hash::Md5(want)) => digest::<Md5>(path)? == *want,
        Some(Hash::Sha256(want)) => digest::<Sha256>(path)? == *want,
    })
}

fn digest<D: Digest>(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(|e| Error::io(path, &e))?;
    let (mut hash, mut buffer) = (D::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer).map_err(|e| Error::io(path, &e))? {
            0 => return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            n => hash.update(&buffer[..n]),
        }
    }
}

#[cfg(test)]
#[path = "download_tests.rs"]
mod tests;
