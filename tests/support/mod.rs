//! What the fixture tests share: reading safetensors fixtures and the counter-based generator.
#![forbid(unsafe_code)]
#![allow(dead_code, reason = "each test crate uses its own part")]

use dynavit::data::decode::Picture;
use dynavit::model::{Vit, VitConfig, VitOptions};
use dynavit::rng::{Purpose, Stream};
use safetensors::{Dtype, SafeTensors};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// A file under fixtures/.
pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// A JSON fixture.
pub fn json(name: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path(name)).unwrap()).unwrap()
}

/// The tensors of a safetensors fixture.
pub struct Fixture {
    bytes: Vec<u8>,
}

impl Fixture {
    /// Reads fixtures/`name`.
    pub fn open(name: &str) -> Self {
        Fixture { bytes: std::fs::read(path(name)).unwrap() }
    }

    fn view(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap()
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.view().names().into_iter().map(String::from).collect();
        names.sort();
        names
    }

    /// Shape of a tensor.
    pub fn shape(&self, name: &str) -> Vec<usize> {
        self.view().tensor(name).unwrap_or_else(|e| panic!("{name}: {e}")).shape().to_vec()
    }

    /// Raw bytes of a tensor.
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        self.view().tensor(name).unwrap().data().to_vec()
    }

    /// Any F32, F64 or I32 tensor as f64.
    pub fn f64(&self, name: &str) -> Vec<f64> {
        let view = self.view();
        let tensor = view.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        let data = tensor.data();
        match tensor.dtype() {
            Dtype::F32 => data.chunks(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect(),
            Dtype::F64 => data.chunks(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect(),
            Dtype::I32 => data.chunks(4).map(|b| f64::from(i32::from_le_bytes(b.try_into().unwrap()))).collect(),
            other => panic!("{name} is {other:?}"),
        }
    }

    /// An F32 tensor.
    pub fn f32(&self, name: &str) -> Vec<f32> {
        self.f64(name).into_iter().map(|v| v as f32).collect()
    }

    /// An I32 tensor of indices.
    pub fn u32(&self, name: &str) -> Vec<u32> {
        self.f64(name).into_iter().map(|v| v as u32).collect()
    }
}

/// Fixture tensor `number`: uniform in [-amplitude, amplitude).
pub fn generated(number: u32, len: usize, amplitude: f32) -> Vec<f32> {
    let mut stream = Stream::new(7, Purpose::Fixture, number, 0);
    (0..len).map(|_| (stream.uniform24() * 2.0 - 1.0) * amplitude).collect()
}

/// Bytes of a noise image: byte j is the top byte of word j.
pub fn noise(purpose: Purpose, image: u32, len: usize) -> Vec<u8> {
    let mut stream = Stream::new(7, purpose, image, 0);
    (0..len).map(|_| (stream.next_u32() >> 24) as u8).collect()
}

/// SHA-256 in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// An image of augment.json by its name, 37 x 29.
pub fn augment_picture(name: &str) -> Picture {
    const WIDTH: usize = 37;
    const HEIGHT: usize = 29;
    let noise = noise(Purpose::FixtureAugment, 0, WIDTH * HEIGHT * 3);
    let smooth = |i: usize| {
        let (y, x, c) = (i / (WIDTH * 3), i / 3 % WIDTH, i % 3);
        ((x * (5 + c) + y * (7 - 2 * c)) % 301 * 255 / 300) as u8
    };
    let pixels = match name {
        "noise" => noise,
        "smooth" => (0..noise.len()).map(smooth).collect(),
        "narrow" => noise.iter().map(|v| v / 4 + 60).collect(),
        "flat" => [7, 200, 90].repeat(WIDTH * HEIGHT),
        other => panic!("unknown image {other}"),
    };
    Picture { width: WIDTH, height: HEIGHT, pixels }
}

/// The tiny ViT's sizes.
pub fn tiny_config() -> VitConfig {
    VitConfig {
        name: "tiny".into(),
        image_size: 64,
        patch: 16,
        channels: 3,
        width: 128,
        heads: 2,
        mlp: 512,
        depth: 2,
        classes: 5,
        layer_scale: false,
    }
}

/// The tiny ViT of fixtures/tiny_vit.json with its generated weights.
pub fn tiny_vit(options: VitOptions) -> Vit {
    let mut vit = Vit::init(tiny_config(), options, 0);
    let mut names: Vec<String> = vit.params.ids().map(|id| vit.params.name(id).to_string()).collect();
    names.sort();
    for (number, name) in names.iter().enumerate() {
        let values = vit.params.values_mut(vit.params.find(name).unwrap());
        values.copy_from_slice(&generated(number as u32, values.len(), 0.05));
        if name.contains("norm") && name.ends_with("weight") {
            values.iter_mut().for_each(|v| *v += 1.0);
        }
    }
    vit
}

/// The four images of fixtures/tiny_vit.json, (4,3,64,64): generated values, scaled patch by patch.
pub fn tiny_images() -> Vec<f32> {
    let mut values = generated(1000, 4 * 3 * 64 * 64, 2.0);
    for (i, v) in values.iter_mut().enumerate() {
        let (b, y, x) = (i / (3 * 64 * 64), i / 64 % 64, i % 64);
        let n = y / 16 * 4 + x / 16;
        *v *= (1 + (n * 7 + b * 5) % 16) as f32 / 16.0;
    }
    values
}
