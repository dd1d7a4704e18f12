//! Local memory, a frame a lane, and the kernel's parameters.
#![forbid(unsafe_code)]

use super::super::Env;
use super::super::lanes::{V64, each, set};
use super::super::warp::Warp;
use super::{fill, misaligned, put, stored, value_of};
use crate::FaultKind;
use crate::check::{Checked, Problem};
use crate::inst::{Access, Fill, Inst};

/// Where a lane's local access lies in its warp's bytes.
fn local_at(env: &Env, at: u64, bytes: u32, lane: usize, doing: &str) -> Checked<usize> {
    let frame = env.program.local_bytes as u64;
    if at.checked_add(bytes as u64).is_none_or(|end| end > frame) {
        let what = format!("{doing} {bytes} bytes of local memory at offset {at}: a thread has {frame} bytes");
        return Err(Problem::new(FaultKind::OutOfBounds, lane, what));
    }
    if at & (bytes as u64 - 1) != 0 {
        return Err(misaligned(lane, doing, bytes, format!("local offset {at}")));
    }
    Ok(lane * frame as usize + at as usize)
}

pub fn load(env: &Env, warp: &mut Warp, inst: &Inst, access: &Access, at: &V64, mask: u32) -> Checked {
    let width = access.width as usize;
    let bytes = width * access.count as usize;
    for lane in each(mask) {
        let offset = local_at(env, at[lane], bytes as u32, lane, "reads")?;
        let place = at[lane] as usize;
        let mut there = warp.local_written[place..place + bytes].iter();
        if env.checks
            && let Some(first) = there.position(|lanes| lanes >> lane & 1 == 0)
        {
            let what = format!(
                "reads {bytes} bytes of local memory at offset {place}: the byte at offset {} was never written",
                place + first
            );
            return Err(Problem::new(FaultKind::Uninitialised, lane, what));
        }
        let mut words = [0u64; 4];
        for (k, word) in words.iter_mut().enumerate().take(access.count as usize) {
            let mut raw = [0u8; 8];
            raw[..width].copy_from_slice(&warp.local[offset + k * width..][..width]);
            *word = u64::from_le_bytes(raw);
        }
        for (d, word) in inst.d.iter().zip(words).take(access.count as usize) {
            put(warp, *d, lane, fill(word, access.width, access.fill));
        }
    }
    Ok(())
}

pub fn store(env: &Env, warp: &mut Warp, inst: &Inst, access: &Access, at: &V64, mask: u32) -> Checked {
    let width = access.width as usize;
    let count = access.count as usize;
    for lane in each(mask) {
        let offset = local_at(env, at[lane], (width * count) as u32, lane, "writes")?;
        for k in 0..count {
            let value = value_of(warp, stored(inst)[k], lane).to_le_bytes();
            warp.local[offset + k * width..][..width].copy_from_slice(&value[..width]);
        }
        let written = &mut warp.local_written[at[lane] as usize..][..width * count];
        written.iter_mut().for_each(|lanes| *lanes |= 1 << lane);
    }
    Ok(())
}

fn param(env: &Env, offset: u64, width: u8, lane: usize) -> Checked<u64> {
    let n = width as usize;
    let end = offset.checked_add(n as u64).filter(|e| *e <= env.params.len() as u64);
    if end.is_none() {
        let what = format!("reads parameter bytes {offset} on, of {} bytes of parameters", env.params.len());
        return Err(Problem::new(FaultKind::OutOfBounds, lane, what));
    }
    let mut raw = [0u8; 8];
    raw[..n].copy_from_slice(&env.params[offset as usize..][..n]);
    Ok(u64::from_le_bytes(raw))
}

/// A parameter at a fixed place: one value for all lanes.
pub fn load_param(
    env: &Env,
    warp: &mut Warp,
    inst: &Inst,
    mask: u32,
    (offset, width, count, how): (u32, u8, u8, Fill),
) -> Checked {
    for k in 0..count as usize {
        let value = param(env, offset as u64 + k as u64 * width as u64, width, super::super::first(mask))?;
        let value = fill(value, width, how);
        let d = inst.d[k];
        if d.is_none() {
        } else if d.is_64() {
            set(&mut warp.r64[d.index()], mask, |_| value);
        } else {
            set(&mut warp.r32[d.index()], mask, |_| value as u32);
        }
    }
    Ok(())
}

/// Parameters at places that the kernel computes.
pub fn load_param_at(env: &Env, warp: &mut Warp, inst: &Inst, access: &Access, at: &V64, mask: u32) -> Checked {
    for lane in each(mask) {
        for k in 0..access.count as usize {
            let offset = at[lane].wrapping_add(k as u64 * access.width as u64);
            let value = param(env, offset, access.width, lane)?;
            put(warp, inst.d[k], lane, fill(value, access.width, access.fill));
        }
    }
    Ok(())
}
