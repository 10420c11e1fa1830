//! PiSSA's start: Meng, Wang and Zhang, "PiSSA: Principal Singular Values and Singular Vectors Adaptation of Large Language
//! Models" (2024), section 3. A and B begin as the strongest singular directions of the frozen weight, for methods with such a pair.
//! Knows no method.

use faer::Mat;

use crate::engine::bag::Start;
use crate::plan::anatomy::Site;
use crate::session::settings::{Field, Settings};

pub const START: Field = Field::choice(
    "start",
    &["normal", "pissa"],
    "Normal: A random, B zero. PiSSA: A and B are the r strongest singular directions of the frozen weight.",
);

/// Whether A and B start from the frozen weight, and keep where they started as the constants A0 and B0.
pub fn is_chosen(set: &Settings) -> bool {
    set.text("start") == "pissa"
}

/// Whether each of `sites` has `r` singular directions.
///
/// # Errors
/// The ranks that fit.
pub fn fits(sites: &[&Site], r: usize) -> Result<(), String> {
    let most = sites.iter().map(|s| s.d_in.min(s.d_out)).min().unwrap_or(r);
    match r <= most {
        true => Ok(()),
        false => Err(format!("PiSSA takes r singular directions of each weight; ranks that fit: 1 to {most}")),
    }
}

/// A `[d_in, r]`, B `[r, d_out]` and the same as A0 and B0, such that `s` A B is the principal part of the place's weight.
pub fn start(place: &Start, r: usize, s: f64) -> Option<[(String, Vec<f32>); 4]> {
    let share = if s > 0.0 { (1.0 / s).sqrt() as f32 } else { 1.0 };
    let (a, b) = principal(&place.frozen("weight"), place.site.d_in, place.site.d_out, r)?;
    let [a, b] = [a, b].map(|m| m.into_iter().map(|v| v * share).collect::<Vec<_>>());
    Some([("A", a.clone()), ("B", b.clone()), ("A0", a), ("B0", b)].map(|(name, m)| (place.key(name), m)))
}

/// The best product of rank `r` for W `[rows, cols]`, in equal halves: U_r S_r^(1/2) `[rows, r]` and S_r^(1/2) V_rᵀ `[r, cols]`,
/// by singular value. None when W is not there, is too small, or holds what is no number.
fn principal(w: &[f32], rows: usize, cols: usize, r: usize) -> Option<(Vec<f32>, Vec<f32>)> {
    if w.len() != rows * cols || r > rows.min(cols) || w.iter().any(|v| !v.is_finite()) {
        return None;
    }
    let svd = Mat::from_fn(rows, cols, |i, j| f64::from(w[i * cols + j])).thin_svd().ok()?;
    let (u, v, s) = (svd.U(), svd.V(), svd.S().column_vector());
    let half = |n: usize| s[n].sqrt();
    let a = (0..rows).flat_map(|i| (0..r).map(move |n| (u[(i, n)] * half(n)) as f32)).collect();
    let b = (0..r).flat_map(|n| (0..cols).map(move |j| (v[(j, n)] * half(n)) as f32)).collect();
    Some((a, b))
}
