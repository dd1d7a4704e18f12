//! The assembly of the sequence by its definition (paper, Eqs. 6 to 8).
#![forbid(unsafe_code)]

use crate::ops::real::Real;

/// y[b, 0] = cls + pos[0]; y[b, 1 + i] = tokens[b, i] + pos[rows[b, i]], rows of `d`.
pub fn forward<R: Real>(tokens: &[R], cls: &[R], pos: &[R], rows: &[u32], k: usize) -> Vec<R> {
    let d = cls.len();
    let mut y = Vec::new();
    for (b, rows) in rows.chunks(k).enumerate() {
        y.extend(cls.iter().zip(pos).map(|(&c, &p)| c + p));
        for (i, &row) in rows.iter().enumerate() {
            let (token, pos) = (&tokens[(b * k + i) * d..][..d], &pos[row as usize * d..][..d]);
            y.extend(token.iter().zip(pos).map(|(&t, &p)| t + p));
        }
    }
    y
}

/// (dtokens, dcls, dpos); dpos has `pos_len` elements.
pub fn backward<R: Real>(dy: &[R], rows: &[u32], k: usize, d: usize, pos_len: usize) -> (Vec<R>, Vec<R>, Vec<R>) {
    let mut dtokens = Vec::new();
    let (mut dcls, mut dpos) = (vec![R::zero(); d], vec![R::zero(); pos_len]);
    for (dy, rows) in dy.chunks((1 + k) * d).zip(rows.chunks(k)) {
        for i in 0..d {
            dcls[i] += dy[i];
            dpos[i] += dy[i];
        }
        dtokens.extend_from_slice(&dy[d..]);
        for (dy, &row) in dy[d..].chunks(d).zip(rows) {
            for (i, &dy) in dy.iter().enumerate() {
                dpos[row as usize * d + i] += dy;
            }
        }
    }
    (dtokens, dcls, dpos)
}
