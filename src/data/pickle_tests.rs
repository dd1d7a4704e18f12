//! Tests of the pickle reader, and a writer of pickles as Python 2 wrote CIFAR's.
#![forbid(unsafe_code)]

use super::*;
use proptest::prelude::*;

/// `(b'(', ...)` of a short text.
fn short(text: &str) -> Vec<u8> {
    [&[b'U', text.len() as u8], text.as_bytes()].concat()
}

/// A text of any length.
fn long(bytes: &[u8]) -> Vec<u8> {
    [&b"T"[..], &(bytes.len() as u32).to_le_bytes(), bytes].concat()
}

/// A list, filled by one APPENDS.
pub fn list(items: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    let items: Vec<u8> = items.into_iter().flatten().collect();
    [&b"]("[..], &items, b"e"].concat()
}

/// A list of small integers.
pub fn integers(values: &[u8]) -> Vec<u8> {
    list(values.iter().map(|v| vec![b'K', *v]))
}

/// A list of texts.
pub fn texts(values: &[String]) -> Vec<u8> {
    list(values.iter().map(|v| short(v)))
}

/// A numpy array of (n, width) bytes, as numpy reduces it.
pub fn array(n: u32, width: u16, bytes: &[u8]) -> Vec<u8> {
    let shape = [&b"J"[..], &n.to_le_bytes(), b"M", &width.to_le_bytes(), b"\x86"].concat();
    let dtype = [
        &b"cnumpy\ndtype\n"[..],
        &short("u1"),
        b"K\0K\x01\x87R(K\x03",
        &short("|"),
        b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb",
    ]
    .concat();
    let begun =
        [&b"cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nK\0\x85"[..], &short("b"), b"\x87R"].concat();
    [&begun[..], b"(K\x01", &shape, &dtype, b"\x89", &long(bytes), b"tb"].concat()
}

/// A whole pickle of a dict.
pub fn dict(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let body: Vec<u8> = entries.iter().flat_map(|(key, value)| [short(key), value.clone()].concat()).collect();
    [b"\x80\x02}q\x01(", &body[..], b"u."].concat()
}

fn refusal(bytes: &[u8]) -> String {
    let error = Pickle::read(bytes, Path::new("train")).unwrap_err();
    assert_eq!(error.exit_code(), 3);
    error.to_string()
}

#[test]
fn what_python_2_wrote_is_read() {
    let bytes = dict(&[
        ("fine_labels", integers(&[3, 99])),
        ("filenames", texts(&["a.png".into(), "b.png".into()])),
        ("data", array(2, 3, &[1, 2, 3, 4, 5, 6])),
    ]);
    let pickle = Pickle::read(&bytes, Path::new("train")).unwrap();
    let get = |key| pickle.get(key).unwrap();
    assert_eq!(pickle.integers(get("fine_labels")).unwrap(), [3, 99]);
    assert_eq!(pickle.texts(get("filenames")).unwrap(), [b"a.png", b"b.png"]);
    let array = pickle.array(get("data")).unwrap();
    assert_eq!(array.shape, [2, 3]);
    assert_eq!(bytes[array.bytes.clone()], [1, 2, 3, 4, 5, 6]);
    assert_eq!(pickle.get("absent"), None);
    assert_eq!(pickle.integers(get("data")), None);
    assert_eq!(pickle.texts(get("fine_labels")), None);
}

#[test]
fn what_python_3_writes_is_read() {
    // pickle.dumps({'a': [1, 70000], 'b': numpy.arange(4, dtype='u1').reshape(2, 2)}, protocol=4), numpy 2.
    let bytes = b"\x80\x04\x95\xa6\0\0\0\0\0\0\0}\x94(\x8c\x01a\x94]\x94(K\x01Jp\x11\x01\0e\x8c\x01b\x94\
        \x8c\x16numpy._core.multiarray\x94\x8c\x0c_reconstruct\x94\x93\x94\x8c\x05numpy\x94\x8c\x07ndarray\x94\x93\x94\
        K\0\x85\x94C\x01b\x94\x87\x94R\x94(K\x01K\x02K\x02\x86\x94h\x07\x8c\x05dtype\x94\x93\x94\x8c\x02u1\x94\x89\x88\x87\
        \x94R\x94(K\x03\x8c\x01|\x94NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0t\x94b\x89C\x04\0\x01\x02\x03\x94t\x94bu.";
    let pickle = Pickle::read(bytes, Path::new("x")).unwrap();
    assert_eq!(pickle.integers(pickle.get("a").unwrap()).unwrap(), [1, 70_000]);
    let array = pickle.array(pickle.get("b").unwrap()).unwrap();
    assert_eq!((&array.shape[..], &bytes[array.bytes.clone()]), (&[2, 2][..], &[0, 1, 2, 3][..]));
}

#[test]
fn nothing_is_imported_or_run() {
    let cases: [(&[u8], &str); 14] = [
        (b"\x80\x02cos\nsystem\nU\x02ls\x85R.", "byte 2: opcode GLOBAL (0x63): asks for os.system"),
        (b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x02ls\x85R.", "STACK_GLOBAL (0x93): asks for posix.system"),
        (b"\x80\x02c__builtin__\neval\nU\x011\x85R.", "asks for __builtin__.eval"),
        (b"\x80\x02cnumpy\nload\n.", "asks for numpy.load"),
        (b"\x80\x02(U\x02lsios\nsystem\n.", "opcode INST (0x69)"),
        (b"\x80\x02(cnumpy\nndarray\no.", "opcode OBJ (0x6f)"),
        (b"\x80\x02cnumpy\nndarray\n)\x81.", "opcode NEWOBJ (0x81)"),
        (b"\x80\x02\x82\x01.", "opcode EXT1 (0x82)"),
        (b"\x80\x02U\x01xQ.", "opcode BINPERSID (0x51)"),
        (b"\x80\x02cnumpy\nndarray\nK\x01\x85R.", "opcode REDUCE (0x52): calls something"),
        (b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\ndtype\n\x85R.", "REDUCE"),
        (b"\x80\x02cnumpy\ndtype\nU\x01O\x85RK\0b.", "BUILD (0x62): the state is no tuple"),
        (b"\x80\x02}(U\x01xK\0tb.", "BUILD (0x62): sets the state"),
        (b"\x80\x02\xff.", "opcode unknown (0xff)"),
    ];
    for (bytes, words) in cases {
        let text = refusal(bytes);
        assert!(text.contains(words) && text.starts_with("train: byte "), "{text} does not say {words}");
    }
}

#[test]
fn broken_files_are_named_with_their_byte() {
    let cases: [(&[u8], &str); 10] = [
        (b"", "byte 0: the file ends"),
        (b"\x80", "byte 0: opcode PROTO (0x80): the file ends"),
        (b"\x80\x05N.", "protocol 5 is not read"),
        (b"\x80\x02.", "0 values are left"),
        (b"\x80\x02NN.", "2 values are left"),
        (b"\x80\x02T\xff\xff\xff\xffabc", "byte 2: opcode BINSTRING (0x54): the file ends inside its 4294967295 bytes"),
        (b"\x80\x02h\x05.", "BINGET (0x68): nothing was stored under 5"),
        (b"\x80\x02](u.", "SETITEMS (0x75)"),
        (b"\x80\x02e.", "there is no mark"),
        (b"\x80\x02N(\x85.", "the stack is empty"),
    ];
    for (bytes, words) in cases {
        let text = refusal(bytes);
        assert!(text.contains(words), "{text} does not say {words}");
    }
    assert!(refusal(&dict(&[("data", array(3, 3, &[0; 8]))])).contains("an array of shape [3, 3] has 8 bytes"));
    let words: Vec<u8> = dict(&[("data", array(1, 1, &[0]))]).windows(2).enumerate().fold(
        dict(&[("data", array(1, 1, &[0]))]),
        |mut all, (i, pair)| {
            if pair == b"u1" {
                all[i] = b'i';
            }
            all
        },
    );
    assert!(refusal(&words).contains("not one of unsigned bytes"));
}

#[test]
fn a_list_that_holds_itself_is_no_danger() {
    let pickle = Pickle::read(b"\x80\x02]q\0h\0a.", Path::new("x")).unwrap();
    assert_eq!(pickle.texts(pickle.root), None);
}

proptest! {
    #[test]
    fn any_bytes_are_refused_or_read(mut bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0usize..400) {
        let _ = Pickle::read(&bytes, Path::new("x"));
        // A sound file, cut or with one byte changed, goes deeper.
        let mut sound = dict(&[("fine_labels", integers(&[1, 2])), ("data", array(1, 4, &[0; 4]))]);
        if let Some(byte) = bytes.pop() {
            let place = cut % sound.len();
            sound[place] = byte;
        }
        let _ = Pickle::read(&sound, Path::new("x"));
        let short = &sound[..cut % sound.len()];
        prop_assert!(Pickle::read(short, Path::new("x")).is_err() || short.ends_with(b"."));
    }
}
