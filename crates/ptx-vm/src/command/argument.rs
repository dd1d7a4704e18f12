//! Arguments of a launch, as the command line spells them.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use ptx_vm::Card;

#[derive(Clone, Debug)]
pub struct Argument {
    pub value: Value,
}

#[derive(Clone, Debug)]
pub enum Value {
    /// Its bytes, little-endian.
    Scalar(Vec<u8>),
    Buffer(Buffer),
}

/// Elements of one type in global memory.
#[derive(Clone, Debug)]
pub struct Buffer {
    ty: Element,
    count: u64,
    fill: Fill,
}

#[derive(Clone, Debug)]
enum Fill {
    Zeros,
    Range,
    Random(u64),
    Nothing,
    File(PathBuf),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Element {
    U(usize),
    S(usize),
    F16,
    Bf16,
    F32,
    F64,
}

impl Element {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "u8" | "b8" => Self::U(1),
            "u16" | "b16" => Self::U(2),
            "u32" | "b32" => Self::U(4),
            "u64" | "b64" => Self::U(8),
            "s8" => Self::S(1),
            "s16" => Self::S(2),
            "s32" => Self::S(4),
            "s64" => Self::S(8),
            "f16" => Self::F16,
            "bf16" => Self::Bf16,
            "f32" => Self::F32,
            "f64" => Self::F64,
            _ => return None,
        })
    }

    fn bytes(self) -> usize {
        match self {
            Self::U(n) | Self::S(n) => n,
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }

    fn float(self, x: f64) -> Vec<u8> {
        match self {
            Self::U(n) | Self::S(n) => (x as i64).to_le_bytes()[..n].to_vec(),
            Self::F16 => ptx_vm::f16_from_f32(x as f32).to_le_bytes().to_vec(),
            Self::Bf16 => (((x as f32).to_bits() + 0x8000) >> 16).to_le_bytes()[..2].to_vec(),
            Self::F32 => (x as f32).to_le_bytes().to_vec(),
            Self::F64 => x.to_le_bytes().to_vec(),
        }
    }

    fn scalar(self, text: &str) -> Option<Vec<u8>> {
        let digits = text.strip_prefix("0x");
        match self {
            Self::U(n) => {
                let v = digits.map_or_else(|| text.parse::<u64>(), |h| u64::from_str_radix(h, 16)).ok()?;
                (n == 8 || v >> (8 * n) == 0).then(|| v.to_le_bytes()[..n].to_vec())
            }
            Self::S(n) => {
                let v: i64 = text.parse().ok()?;
                let shift = 64 - 8 * n as u32;
                ((v << shift) >> shift == v).then(|| v.to_le_bytes()[..n].to_vec())
            }
            _ => Some(self.float(text.parse().ok()?)),
        }
    }

    fn shown(self, bytes: &[u8]) -> String {
        let mut raw = [0u8; 8];
        raw[..bytes.len()].copy_from_slice(bytes);
        let bits = u64::from_le_bytes(raw);
        match self {
            Self::U(_) => bits.to_string(),
            Self::S(n) => (((bits << (64 - 8 * n)) as i64) >> (64 - 8 * n)).to_string(),
            Self::F16 => ptx_vm::f32_from_f16(bits as u16).to_string(),
            Self::Bf16 => f32::from_bits((bits as u32) << 16).to_string(),
            Self::F32 => f32::from_bits(bits as u32).to_string(),
            Self::F64 => f64::from_bits(bits).to_string(),
        }
    }
}

impl Argument {
    /// `TYPE:VALUE` or `buf:TYPE:COUNT[=FILL]`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (head, rest) = text.split_once(':').ok_or("an argument is TYPE:VALUE or buf:TYPE:COUNT[=FILL]")?;
        if head != "buf" {
            let ty = Element::parse(head).ok_or_else(|| format!("`{head}` is no type"))?;
            let bytes = ty.scalar(rest).ok_or_else(|| format!("`{rest}` is no {head}"))?;
            return Ok(Self { value: Value::Scalar(bytes) });
        }
        let (ty, rest) = rest.split_once(':').ok_or("a buffer is buf:TYPE:COUNT[=FILL]")?;
        let ty = Element::parse(ty).ok_or_else(|| format!("`{ty}` is no type"))?;
        let (count, fill) = rest.split_once('=').map_or((rest, None), |(c, f)| (c, Some(f)));
        let count: u64 = count.parse().map_err(|_| format!("`{count}` is no count"))?;
        let fill = match fill {
            None | Some("zeros") => Fill::Zeros,
            Some("range") => Fill::Range,
            Some("uninit") => Fill::Nothing,
            Some("random") => Fill::Random(0),
            Some(other) => match other.strip_prefix("random:") {
                Some(seed) => Fill::Random(seed.parse().map_err(|_| format!("`{seed}` is no seed"))?),
                None => Fill::File(other.into()),
            },
        };
        Ok(Self { value: Value::Buffer(Buffer { ty, count, fill }) })
    }
}

impl Buffer {
    fn bytes(&self) -> Option<u64> {
        self.count.checked_mul(self.ty.bytes() as u64)
    }

    /// Puts the buffer on the card.
    pub fn place(&self, card: &Card) -> Result<u64, String> {
        let bytes = self.bytes().ok_or("the buffer is too large")?;
        let address = card.alloc(bytes).map_err(|f| f.to_string())?;
        let data: Vec<u8> = match &self.fill {
            Fill::Nothing => return Ok(address),
            Fill::Zeros => vec![0; bytes as usize],
            Fill::Range => (0..self.count).flat_map(|i| self.ty.float(i as f64)).collect(),
            Fill::Random(seed) => {
                let mut state = *seed;
                let integers = matches!(self.ty, Element::U(_) | Element::S(_));
                let value = |_| {
                    state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                    let mut z = state;
                    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
                    z ^= z >> 31;
                    if integers {
                        z.to_le_bytes()[..self.ty.bytes()].to_vec()
                    } else {
                        // Evenly between −1 and 1.
                        self.ty.float((z >> 11) as f64 / (1u64 << 52) as f64 - 1.0)
                    }
                };
                (0..self.count).flat_map(value).collect()
            }
            Fill::File(path) => {
                let data = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
                if data.len() as u64 != bytes {
                    return Err(format!("{} has {} bytes, the buffer {bytes}", path.display(), data.len()));
                }
                data
            }
        };
        card.write(address, &data).map_err(|f| f.to_string())?;
        Ok(address)
    }

    /// Its first elements as text, or why they cannot be read.
    pub fn shown(&self, card: &Card, address: u64, count: usize) -> String {
        let n = self.ty.bytes();
        let mut values = Vec::new();
        for i in 0..(count as u64).min(self.count) {
            let mut raw = vec![0; n];
            values.push(match card.read(address + i * n as u64, &mut raw) {
                Ok(()) => self.ty.shown(&raw),
                Err(_) => "?".into(),
            });
        }
        values.join(" ")
    }
}
