//! What the CPU kernels are made of: reductions and functions over rows. All of it is inlined into the
//! loops of `cpu` and `attention`, or it would be compiled for the oldest processor. Inner loops count with an index: iterator adapters are
//! functions of their own, which are not always inlined across a crate's codegen units, and then not vectorised.

use super::reference::LOW;

/// Numbers that one vector register may hold; sums run in so many lanes.
pub(super) const LANES: usize = 16;

/// Every row's first `keys` scores become their softmax; `sums` gets each row's largest score and one over the sum.
#[inline(always)]
pub(super) fn softmax(scores: &mut [f32], long: usize, keys: usize, sums: &mut [f32]) {
    for (row, sums) in scores.chunks_exact_mut(long).zip(sums.chunks_exact_mut(2)) {
        let row = &mut row[..keys];
        let top = largest(row);
        for s in row.iter_mut() {
            *s = exp(*s - top);
        }
        let inverse = 1.0 / sum(row);
        for s in row.iter_mut() {
            *s *= inverse;
        }
        (sums[0], sums[1]) = (top, inverse);
    }
}

/// The same softmax once more.
#[inline(always)]
pub(super) fn softmax_again(scores: &mut [f32], long: usize, keys: usize, sums: &[f32]) {
    for (row, sums) in scores.chunks_exact_mut(long).zip(sums.chunks_exact(2)) {
        let (top, inverse) = (sums[0], sums[1]);
        for s in row[..keys].iter_mut() {
            *s = exp(*s - top) * inverse;
        }
    }
}

/// Puts the scores of keys that nobody may see so low that softmax gives them nothing.
#[inline(always)]
pub(super) fn hide(scores: &mut [f32], seen: &[f32], long: usize) {
    for row in scores.chunks_exact_mut(long) {
        for (s, seen) in row.iter_mut().zip(seen) {
            *s += (seen - 1.0) * LOW;
        }
    }
}

/// The gradient of the weights `a`, row by row, becomes that of the scores: a (g - Σ a g).
#[inline(always)]
pub(super) fn softmax_backward(a: &[f32], grad: &mut [f32], long: usize, keys: usize) {
    for (a, grad) in a.chunks_exact(long).zip(grad.chunks_exact_mut(long)) {
        let (a, grad) = (&a[..keys], &mut grad[..keys]);
        let mean = dot(a, grad);
        for n in 0..keys {
            grad[n] = a[n] * (grad[n] - mean);
        }
    }
}

/// Mean and 1 / √(variance + ε) of a row.
#[inline(always)]
pub(super) fn moments(row: &[f32], epsilon: f32) -> (f32, f32) {
    let mean = sum(row) / row.len() as f32;
    let variance = reduce(row, 0.0, |all, v| all + (v - mean) * (v - mean), |a, b| a + b) / row.len() as f32;
    (mean, 1.0 / (variance + epsilon).sqrt())
}

#[inline(always)]
pub(super) fn sum(row: &[f32]) -> f32 {
    reduce(row, 0.0, |all, v| all + v, |a, b| a + b)
}

#[inline(always)]
pub(super) fn largest(row: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if a > b { a } else { b };
    reduce(row, f32::NEG_INFINITY, larger, larger)
}

#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let b = &b[..a.len()];
    let mut lanes = [0.0; LANES];
    let whole = a.len() - a.len() % LANES;
    let mut n = 0;
    while n < whole {
        let (a, b) = (&a[n..][..LANES], &b[n..][..LANES]);
        for i in 0..LANES {
            lanes[i] += a[i] * b[i];
        }
        n += LANES;
    }
    let mut all = 0.0;
    for n in whole..a.len() {
        all += a[n] * b[n];
    }
    for lane in lanes {
        all += lane;
    }
    all
}

/// A reduction in independent lanes, which a compiler may not make of a sum by itself.
#[inline(always)]
pub(super) fn reduce(row: &[f32], start: f32, step: impl Fn(f32, f32) -> f32, join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; LANES];
    let whole = row.len() - row.len() % LANES;
    let mut n = 0;
    while n < whole {
        let piece = &row[n..][..LANES];
        for i in 0..LANES {
            lanes[i] = step(lanes[i], piece[i]);
        }
        n += LANES;
    }
    let mut all = start;
    for v in &row[whole..] {
        all = step(all, *v);
    }
    for lane in lanes {
        all = join(all, lane);
    }
    all
}

/// e^x to about one unit in the last place, without a branch: 2^n · 2^f with |f| ≤ 1/2, the latter by its Taylor series.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.0, 88.0);
    // Adding and taking off 1.5 · 2^23 rounds to a whole number, which then stands in the low bits.
    let shifted = x * std::f32::consts::LOG2_E + 12_582_912.0;
    let n = shifted - 12_582_912.0;
    let r = (x - n * 0.693_359_4) + n * 2.121_944_4e-4; // x - n ln 2, ln 2 in two parts (Cody and Waite)
    let p = 1.0 / 5040.0;
    let p = p * r + 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * r + 1.0;
    let p = p * r + 1.0;
    p * f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23))
}

/// Φ(x), the normal distribution function, and exp(-x² / 2), of which it is made: of the latter, Φ(-|x|) is a polynomial in
/// t = 1 / (1 + 0.3 |x|). Its numbers are a minimax fit of ours; with exact arithmetic the relative error is below 1.5e-7 up to |x| = 14.
#[inline(always)]
pub(super) fn normal(x: f32) -> (f32, f32) {
    let t = 1.0 / (1.0 + 0.3 * x.abs());
    let p = 0.035_674_877;
    let p = p * t - 0.157_203_5;
    let p = p * t + 0.206_354_19;
    let p = p * t - 0.053_684_242;
    let p = p * t + 0.128_561_93;
    let p = p * t + 0.099_913_41;
    let p = p * t + 0.120_753_966;
    let p = p * t + 0.119_629_3;
    let bell = exp(-0.5 * x * x);
    let tail = bell * t * p;
    (if x > 0.0 { 1.0 - tail } else { tail }, bell)
}
