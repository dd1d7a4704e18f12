//! Throw-away: prototypes' kernels.
use ptx_vm::*;
use std::time::Instant;
fn f16(x: f32) -> u16 { let b = x.to_bits(); let s = (b >> 16 & 0x8000) as u16; let m = f32::from_bits(b & 0x7fffffff); if m == 0.0 { return s; } let e = ((b >> 23 & 255) as i32 - 127).max(-14); let q = (m / 2f32.powi(e - 10)).round_ties_even() as u32; if e == -14 && q < 1024 { s | q as u16 } else { s | ((e + 15 - 1) as u32 * 1024 + q) as u16 } }
fn h2f(h: u16) -> f32 { let s = if h >> 15 != 0 { -1.0 } else { 1.0 }; let e = (h >> 10 & 31) as i32; let m = (h & 1023) as f32; s * if e == 0 { m * 2f32.powi(-24) } else { (1.0 + m / 1024.0) * 2f32.powi(e - 15) } }
struct Rng(u64);
impl Rng { fn f(&mut self) -> f32 { self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407); ((self.0 >> 40) as f32 / (1u64 << 24) as f32) * 2.0 - 1.0 } }
fn up(c: &Card, b: &[u8]) -> u64 { let a = c.alloc(b.len() as u64).unwrap(); c.write(a, b).unwrap(); a }
fn uph(c: &Card, v: &[u16]) -> u64 { up(c, &v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>()) }
fn upf(c: &Card, v: &[f32]) -> u64 { up(c, &v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>()) }
fn dnh(c: &Card, a: u64, n: usize) -> Vec<f32> { let mut b = vec![0; n * 2]; c.read(a, &mut b).unwrap(); b.chunks(2).map(|x| h2f(u16::from_le_bytes([x[0], x[1]]))).collect() }
fn dnf(c: &Card, a: u64, n: usize) -> Vec<f32> { let mut b = vec![0; n * 4]; c.read(a, &mut b).unwrap(); b.chunks(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect() }
enum A { U(u64), I(u32), F(f32) }
fn go(c: &Card, k: &Kernel, grid: [u32; 3], block: [u32; 3], sh: u32, args: &[A]) -> f64 {
    let mut p = vec![0u8; k.param_bytes() as usize];
    for (a, (o, s)) in args.iter().zip(k.params()) { let b = match a { A::U(x) => x.to_le_bytes().to_vec(), A::I(x) => x.to_le_bytes().to_vec(), A::F(x) => x.to_le_bytes().to_vec() }; assert_eq!(b.len(), *s as usize); p[*o as usize..][..b.len()].copy_from_slice(&b); }
    if sh > 0 { k.set_dynamic_shared_limit(sh).unwrap(); }
    c.reset_counters();
    let t = Instant::now();
    if let Err(f) = c.launch(k, LaunchShape { grid, block, dynamic_shared: sh }, &p) { println!("FAULT {f}"); }
    let t = t.elapsed().as_secs_f64();
    for (n, x) in c.counters() { println!("{n}: {:.4}s {:.1} Minstr/s {:.2} GMAC/s  conf {}/{} sect r{}/{} w{}/{}", t, x.warp_instructions as f64 / t / 1e6, x.mma_macs as f64 / t / 1e9, x.bank_conflicts, x.shared_requests, x.global_read_sectors, x.global_read_bytes / 32, x.global_write_sectors, x.global_write_bytes / 32); }
    t
}
fn diff(a: &[f32], b: &[f32]) -> f32 { a.iter().zip(b).map(|(x, y)| { let d = (x - y).abs() / (1.0 + y.abs()); if d.is_nan() { f32::INFINITY } else { d } }).fold(0.0, f32::max) }
fn main() {
    let checks = std::env::args().nth(1).as_deref() != Some("off");
    let mut r = Rng(1);
    for sm in ["75", "80"] {
        let mut l = Limits::of_capability(8, 0); l.memory = 4 << 30;
        let c = Card::new(l, Options { checks, ..Options::default() });
        let load = |n: &str| { let t = Instant::now(); let f = format!("/tmp/vmk/{n}.sm{sm}.ptx"); let m = c.load(&f, &std::fs::read_to_string(&f).unwrap()).unwrap_or_else(|e| panic!("{e}")); println!("load {n} {:.3}s", t.elapsed().as_secs_f64()); m };
        let (gemm, attn, ln, misc) = (load("gemm"), load("attn"), load("ln"), load("misc"));
        let (_s, _o) = (load("softmax"), load("opt"));
        for k in gemm.kernels() { let k = gemm.kernel(&k).unwrap(); println!("{} regs {} shared {} local {}", k.name(), k.registers(), k.static_shared(), k.local_bytes()); }
        { let rows = 513; let x: Vec<u16> = (0..rows * 768).map(|_| f16(r.f() * 3.0)).collect(); let g: Vec<f32> = (0..768).map(|_| r.f()).collect(); let b: Vec<f32> = (0..768).map(|_| r.f()).collect();
          let (dx, dg, db) = (uph(&c, &x), upf(&c, &g), upf(&c, &b)); let (y, m, s) = (c.alloc(rows * 768 * 2).unwrap(), c.alloc(rows * 4).unwrap(), c.alloc(rows * 4).unwrap());
          go(&c, &ln.kernel("ln_fwd").unwrap(), [(rows as u32 + 3) / 4, 1, 1], [128, 1, 1], 0, &[A::U(dx), A::U(dg), A::U(db), A::U(y), A::U(m), A::U(s), A::I(rows as u32), A::F(1e-6)]);
          let got = dnh(&c, y, (rows * 768) as usize); let mut want = vec![]; for i in 0..rows as usize { let v: Vec<f64> = x[i * 768..][..768].iter().map(|h| h2f(*h) as f64).collect(); let m = v.iter().sum::<f64>() / 768.0; let q = v.iter().map(|x| (x - m) * (x - m)).sum::<f64>() / 768.0; let rs = 1.0 / (q + 1e-6).sqrt(); for j in 0..768 { want.push(((v[j] - m) * rs * g[j] as f64 + b[j] as f64) as f32); } }
          println!("  ln_fwd diff {}", diff(&got, &want));
          let dy: Vec<u16> = (0..rows * 768).map(|_| f16(r.f())).collect(); let ddy = uph(&c, &dy); let dxo = c.alloc(rows * 768 * 2).unwrap(); let (og, ob) = (upf(&c, &vec![0.0; 768]), upf(&c, &vec![0.0; 768]));
          go(&c, &ln.kernel("ln_bwd").unwrap(), [16, 1, 1], [256, 1, 1], 0, &[A::U(ddy), A::U(dx), A::U(dg), A::U(m), A::U(s), A::U(dxo), A::U(og), A::U(ob), A::I(rows as u32)]);
          let gb = dnf(&c, ob, 768); let mut wb = vec![0f32; 768]; for i in 0..rows as usize { for j in 0..768 { wb[j] += h2f(dy[i * 768 + j]); } } println!("  ln_bwd db diff {}", diff(&gb, &wb)); }
        { let (m, n, k) = (1000usize, 768usize, 768usize); let a: Vec<u16> = (0..m * k).map(|_| f16(r.f())).collect(); let b: Vec<u16> = (0..n * k).map(|_| f16(r.f() * 0.05)).collect(); let bi: Vec<f32> = (0..n).map(|_| r.f()).collect();
          let (da, db_, dbi, dc) = (uph(&c, &a), uph(&c, &b), upf(&c, &bi), c.alloc((m * n * 2) as u64).unwrap());
          go(&c, &gemm.kernel("gemm_bias").unwrap(), [(n / 128) as u32, (m as u32 + 127) / 128, 1], [256, 1, 1], if sm == "80" { 65536 } else { 0 }, &[A::U(da), A::U(db_), A::U(dc), A::U(dc), A::U(dbi), A::U(dc), A::I(m as u32), A::I(n as u32), A::I(k as u32), A::U(dc)]);
          let got = dnh(&c, dc, m * n); let mut e = 0f32; for i in (0..m).step_by(37) { for j in (0..n).step_by(5) { let w: f64 = (0..k).map(|t| h2f(a[i * k + t]) as f64 * h2f(b[j * k + t]) as f64).sum::<f64>() + bi[j] as f64; e = e.max((got[i * n + j] - w as f32).abs() / (1.0 + w.abs() as f32)); } } println!("  gemm diff {e}"); }
        for s in [1usize, 60, 138, 197] { let (bb, h) = (1usize, 2usize); let d = h * 64; let qkv: Vec<u16> = (0..bb * s * 3 * d).map(|_| f16(r.f())).collect(); let dq = uph(&c, &qkv); let (o, lse) = (c.alloc((bb * s * d * 2) as u64).unwrap(), c.alloc((bb * h * s * 4) as u64).unwrap());
          go(&c, &attn.kernel("attn_fwd").unwrap(), [(bb * h) as u32, 1, 1], [256, 1, 1], 3 * 256 * 64 * 2, &[A::U(dq), A::U(o), A::U(lse), A::I(s as u32), A::I(h as u32), A::F(0.125)]);
          let got = dnh(&c, o, bb * s * d); let q = |i: usize, w: usize, hh: usize, e: usize| h2f(qkv[i * 3 * d + w * d + hh * 64 + e]) as f64; let mut want = vec![0f32; s * d]; for hh in 0..h { for i in 0..s { let sc: Vec<f64> = (0..s).map(|j| (0..64).map(|e| q(i, 0, hh, e) * q(j, 1, hh, e)).sum::<f64>() * 0.125).collect(); let mx = sc.iter().cloned().fold(f64::MIN, f64::max); let p: Vec<f64> = sc.iter().map(|x| (x - mx).exp()).collect(); let z: f64 = p.iter().sum(); for e in 0..64 { want[i * d + hh * 64 + e] = (p.iter().enumerate().map(|(j, p)| p * q(j, 2, hh, e)).sum::<f64>() / z) as f32; } } } println!("  attn s={s} diff {}", diff(&got, &want));
          let dout: Vec<u16> = (0..s * d).map(|_| f16(r.f())).collect(); let ddo = uph(&c, &dout); let dqkv = c.alloc((s * 3 * d * 2) as u64).unwrap();
          go(&c, &attn.kernel("attn_bwd").unwrap(), [(bb * h) as u32, 1, 1], [256, 1, 1], 2 * 256 * 64 * 2 + 2048 + 256 * 64 * 4, &[A::U(dq), A::U(o), A::U(ddo), A::U(lse), A::U(dqkv), A::I(s as u32), A::I(h as u32), A::F(0.125)]); }
        { let n = 196; let sal: Vec<f32> = (0..n).map(|_| r.f()).collect(); let ds = upf(&c, &sal); let idx = c.alloc(100 * 4).unwrap(); go(&c, &misc.kernel("topk").unwrap(), [1, 1, 1], [256, 1, 1], 0, &[A::U(ds), A::U(idx), A::I(n as u32), A::I(100)]);
          let mut b = vec![0; 400]; if c.read(idx, &mut b).is_ok() { let got: Vec<u32> = b.chunks(4).map(|x| u32::from_le_bytes(x.try_into().unwrap())).collect(); let mut o: Vec<usize> = (0..n).collect(); o.sort_by(|a, b| sal[*b].total_cmp(&sal[*a])); let mut w: Vec<u32> = o[..100].iter().map(|x| *x as u32).collect(); w.sort(); println!("  topk ok {}", got == w); } }
    }
}
