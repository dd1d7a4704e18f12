//! Tests of downloads against a server on loopback that cuts, stalls and lies.
#![forbid(unsafe_code)]

use super::*;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What the server does with one request.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// Sends what was asked for.
    Serve,
    /// Closes the connection after so many bytes.
    Cut(usize),
    /// Sends so many bytes, then nothing for a long time.
    Stall(usize),
    /// Sends the whole file, whatever part was asked for.
    Whole,
    /// Sends what was asked for with its first byte changed.
    Spoil,
    /// Says that the part begins a byte later.
    Shift,
    /// Says that the file is so much longer.
    Longer(usize),
    Status(u16),
}

fn content() -> Vec<u8> {
    (0..100_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// A server that does `acts` in turn, then the last of them for ever; and the ranges that it was asked for.
fn server(acts: &[Act], content: Vec<u8>) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/file.bin", listener.local_addr().unwrap());
    let (asked, acts) = (Arc::new(Mutex::new(Vec::new())), acts.to_vec());
    let log = Arc::clone(&asked);
    std::thread::spawn(move || {
        let mut turn = 0;
        for stream in listener.incoming() {
            let act = acts[turn.min(acts.len() - 1)];
            // A request for the head alone is no turn.
            if answer(stream.unwrap(), act, &content, &log).unwrap_or(true) {
                turn += 1;
            }
        }
    });
    (url, asked)
}

fn answer(mut stream: TcpStream, act: Act, content: &[u8], log: &Mutex<Vec<String>>) -> std::io::Result<bool> {
    let (mut first, mut range) = (String::new(), (0, content.len()));
    for line in BufReader::new(stream.try_clone()?).lines() {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if first.is_empty() {
            first = line.clone();
        }
        if let Some(text) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
            let (begin, end) = text.split_once('-').unwrap();
            range = (begin.parse().unwrap(), end.parse::<usize>().unwrap() + 1);
            log.lock().unwrap().push(text.to_string());
        }
    }
    let head = "Connection: close\r\nETag: \"v1\"\r\n";
    if first.starts_with("HEAD") {
        let tag: String = Sha256::digest(content).iter().map(|b| format!("{b:02x}")).collect();
        write!(
            stream,
            "HTTP/1.1 302 Found\r\n{head}Location: /elsewhere\r\nX-Linked-ETag: \"{tag}\"\r\nContent-Length: 0\r\n\r\n"
        )?;
        return Ok(false);
    }
    let (begin, end) = (range.0, range.1.min(content.len()));
    if let Act::Status(status) = act {
        write!(stream, "HTTP/1.1 {status} No\r\n{head}Content-Length: 0\r\n\r\n")?;
        return Ok(true);
    }
    if begin >= content.len() {
        write!(
            stream,
            "HTTP/1.1 416 No\r\n{head}Content-Range: bytes */{}\r\nContent-Length: 0\r\n\r\n",
            content.len()
        )?;
        return Ok(true);
    }
    let mut body = content[begin..end].to_vec();
    let (shift, more) = match act {
        Act::Shift => (1, 0),
        Act::Longer(more) => (0, more),
        _ => (0, 0),
    };
    if matches!(act, Act::Whole) {
        body = content.to_vec();
        write!(stream, "HTTP/1.1 200 OK\r\n{head}Content-Length: {}\r\n\r\n", body.len())?;
    } else {
        let (begin, end, size) = (begin + shift, end - 1 + shift, content.len() + more);
        write!(
            stream,
            "HTTP/1.1 206 Part\r\n{head}Content-Range: bytes {begin}-{end}/{size}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )?;
    }
    match act {
        Act::Cut(n) => stream.write_all(&body[..n.min(body.len())])?,
        Act::Stall(n) => {
            stream.write_all(&body[..n.min(body.len())])?;
            stream.flush()?;
            std::thread::sleep(Duration::from_millis(600));
        }
        Act::Spoil => {
            body[0] ^= 1;
            stream.write_all(&body)?;
        }
        _ => stream.write_all(&body)?,
    }
    let _ = stream.shutdown(Shutdown::Both);
    Ok(true)
}

const QUICK: Patience =
    Patience { wait: Duration::from_millis(300), tries: 3, pause: Duration::from_millis(1), piece: 40_000 };

fn sha256(bytes: &[u8]) -> Hash {
    Hash::Sha256(Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect())
}

fn wanted(url: &str) -> Download {
    Download { url: url.to_string(), size: Some(100_000), hash: Some(sha256(&content())) }
}

fn get(download: &Download, target: &Path) -> Result<()> {
    fetch(download, target, QUICK, &mut |_, _| Ok(())).map(|_| ())
}

#[test]
fn cut_or_stalled_anywhere_it_goes_on_from_there() {
    use Act::*;
    for acts in [
        &[Serve][..],
        &[Cut(0), Cut(1), Serve],
        &[Cut(39_999), Serve],
        &[Stall(7), Stall(0), Stall(100), Serve],
        &[Status(503), Cut(20_000), Status(500), Serve],
        &[Shift, Serve],
        &[Cut(10), Whole],
        &[Whole],
    ] {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("deep/file.bin");
        let (url, asked) = server(acts, content());
        let mut heard = 0;
        fetch(&wanted(&url), &target, QUICK, &mut |have, of| {
            heard = have;
            assert_eq!(of, Some(100_000));
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{acts:?}: {error}"));
        assert_eq!((heard, fs::read(&target).unwrap() == content()), (100_000, true), "{acts:?}");
        assert!(!part(&target).exists());
        let requests = asked.lock().unwrap().len();
        // What is there and right is not asked for again.
        get(&wanted(&url), &target).unwrap();
        assert_eq!(asked.lock().unwrap().len(), requests);
    }
}

#[test]
fn a_later_call_goes_on_from_any_byte() {
    let (url, asked) = server(&[Act::Serve], content());
    for cut in [0, 1, 39_999, 40_000, 99_999, 100_000] {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("file.bin");
        fs::write(part(&target), &content()[..cut]).unwrap();
        asked.lock().unwrap().clear();
        get(&wanted(&url), &target).unwrap();
        assert!(fs::read(&target).unwrap() == content());
        let first = asked.lock().unwrap().first().cloned();
        assert_eq!(first, (cut < 100_000).then(|| format!("{cut}-{}", cut + 39_999)));
    }
}

#[test]
fn a_server_that_stays_silent_is_given_up_and_the_part_kept() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file.bin");
    let (url, _) = server(&[Act::Cut(5000), Act::Stall(0)], content());
    let text = get(&wanted(&url), &target).unwrap_err().to_string();
    assert!(text.contains("5000 bytes are kept") && text.contains(&url), "{text}");
    assert_eq!(fs::read(part(&target)).unwrap(), &content()[..5000]);
    let (url, asked) = server(&[Act::Serve], content());
    get(&wanted(&url), &target).unwrap();
    assert!(asked.lock().unwrap()[0].starts_with("5000-"));
}

#[test]
fn lies_are_found_and_nothing_is_left() {
    let longer = [content(), vec![0]].concat();
    for (acts, content, words) in [
        (&[Act::Spoil][..], content(), "another hash"),
        (&[Act::Longer(9)], content(), "has 100009 bytes or more, where 100000 belong"),
        (&[Act::Whole], longer, "has 100001 bytes or more"),
        (&[Act::Serve], content()[..99_999].to_vec(), "has 99999 bytes or more, where 100000 belong"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("file.bin");
        let (url, _) = server(acts, content);
        let error = get(&wanted(&url), &target).unwrap_err();
        assert!(error.exit_code() == 3 && error.to_string().contains(words), "{acts:?}: {error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "{acts:?}");
    }
}

#[test]
fn size_and_hash_come_from_the_server_when_nobody_knows_them() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file.bin");
    for (acts, good) in [(&[Act::Cut(3), Act::Serve][..], true), (&[Act::Spoil], false)] {
        let (url, _) = server(acts, content());
        let download = Download { url, size: None, hash: None };
        assert_eq!(get(&download, &target).is_ok(), good, "{acts:?}");
        assert_eq!(target.exists(), good);
        let _ = fs::remove_file(&target);
    }
}

#[test]
fn another_file_in_the_place_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file.bin");
    fs::write(&target, "mine").unwrap();
    let error = get(&wanted("http://127.0.0.1:9/file.bin"), &target).unwrap_err();
    assert!(error.to_string().contains("is there, but is not what"), "{error}");
    assert_eq!(fs::read(&target).unwrap(), b"mine");
}

#[test]
fn without_a_network_address_and_folder_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/file.bin", listener.local_addr().unwrap());
    drop(listener);
    let error = get(&wanted(&url), &folder.path().join("file.bin")).unwrap_err();
    let text = error.to_string();
    assert!(
        error.exit_code() == 3 && text.contains(&url) && text.contains(&folder.path().display().to_string()),
        "{text}"
    );
}

#[test]
fn an_interrupt_keeps_the_part() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file.bin");
    let (url, _) = server(&[Act::Serve], content());
    let stop = &mut |have, _| match have > 50_000 {
        true => Err(Error::Interrupted { saved: "the part is kept".into() }),
        false => Ok(()),
    };
    assert_eq!(fetch(&wanted(&url), &target, QUICK, stop).unwrap_err().exit_code(), 130);
    assert!(fs::metadata(part(&target)).unwrap().len() > 50_000);
}
