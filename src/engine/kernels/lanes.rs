//! What the CPU kernels are made of: small matrix products, and reductions and functions over rows. All of it is inlined into the
//! loops of `cpu`, or it would be compiled for the oldest processor. Inner loops count with an index: iterator adapters are
//! functions of their own, which are not always inlined across a crate's codegen units, and then not vectorised.

#![expect(clippy::needless_range_loop, reason = "see above")]

use pulp::Simd;

use super::reference::LOW;

/// Numbers that one vector register may hold; sums run in so many lanes.
pub(super) const LANES: usize = 16;

/// A matrix in place: how far it is to the next row, and to the next column.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    pub values: &'a [f32],
    pub down: usize,
    pub right: usize,
}

impl Matrix<'_> {
    #[inline(always)]
    pub(super) fn turned(self) -> Self {
        Matrix { down: self.right, right: self.down, ..self }
    }

    #[inline(always)]
    fn at(&self, row: usize, col: usize) -> f32 {
        self.values[row * self.down + col * self.right]
    }
}

/// Rows, and vectors of columns, that one pass of a product keeps in registers.
const ROWS: usize = 4;
const VECTORS: usize = 2;

/// The sizes of `scale · A · B`.
#[derive(Clone, Copy)]
pub(super) struct Product {
    pub rows: usize,
    pub inner: usize,
    pub cols: usize,
    pub scale: f32,
}

impl Product {
    /// Writes `scale · A · B` into `out`, whose rows lie `down` apart. The columns of `b` lie side by side.
    #[inline(always)]
    pub(super) fn of<S: Simd>(self, simd: S, a: Matrix, b: Matrix, out: &mut [f32], down: usize) {
        let whole = self.rows - self.rows % ROWS;
        for row in (0..whole).step_by(ROWS) {
            self.strip::<S, ROWS>(simd, a, b, row, out, down);
        }
        for row in whole..self.rows {
            self.strip::<S, 1>(simd, a, b, row, out, down);
        }
    }

    /// `R` rows of the product.
    #[inline(always)]
    fn strip<S: Simd, const R: usize>(self, simd: S, a: Matrix, b: Matrix, row: usize, out: &mut [f32], down: usize) {
        let mut col = 0;
        while col + VECTORS * S::F32_LANES <= self.cols {
            self.tile::<S, R, VECTORS>(simd, a, b, (row, col), out, down);
            col += VECTORS * S::F32_LANES;
        }
        while col + S::F32_LANES <= self.cols {
            self.tile::<S, R, 1>(simd, a, b, (row, col), out, down);
            col += S::F32_LANES;
        }
        // The columns that fill no vector: only where the width of a head is no multiple of one.
        for col in col..self.cols {
            for r in row..row + R {
                let mut sum = 0.0;
                for n in 0..self.inner {
                    sum += a.at(r, n) * b.values[n * b.down + col];
                }
                out[r * down + col] = sum * self.scale;
            }
        }
    }

    /// `R` rows by `C` vectors of the product, its sums in registers.
    #[inline(always)]
    fn tile<S: Simd, const R: usize, const C: usize>(
        self,
        simd: S,
        a: Matrix,
        b: Matrix,
        (row, col): (usize, usize),
        out: &mut [f32],
        down: usize,
    ) {
        let wide = C * S::F32_LANES;
        let mut sums = [[simd.splat_f32s(0.0); C]; R];
        for n in 0..self.inner {
            let (line, _) = S::as_simd_f32s(&b.values[n * b.down + col..][..wide]);
            for r in 0..R {
                let factor = simd.splat_f32s(a.at(row + r, n));
                for c in 0..C {
                    sums[r][c] = simd.mul_add_f32s(factor, line[c], sums[r][c]);
                }
            }
        }
        let scale = simd.splat_f32s(self.scale);
        for r in 0..R {
            let (to, _) = S::as_mut_simd_f32s(&mut out[(row + r) * down + col..][..wide]);
            for c in 0..C {
                to[c] = simd.mul_f32s(sums[r][c], scale);
            }
        }
    }
}

/// `rows` rows of `from`, as many columns as `to` has rows, written as columns.
#[inline(always)]
pub(super) fn turn(from: Matrix, rows: usize, to: &mut [f32], long: usize) {
    for (col, line) in to.chunks_exact_mut(long).enumerate() {
        for row in 0..rows {
            line[row] = from.at(row, col);
        }
    }
}

/// Every row's first `keys` scores become their softmax, the rest zero.
#[inline(always)]
pub(super) fn softmax(scores: &mut [f32], long: usize, keys: usize) {
    for row in scores.chunks_exact_mut(long) {
        let (row, rest) = row.split_at_mut(keys);
        let top = largest(row);
        for s in row.iter_mut() {
            *s = exp(*s - top);
        }
        let inverse = 1.0 / sum(row);
        for s in row.iter_mut() {
            *s *= inverse;
        }
        rest.fill(0.0);
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
pub(super) fn softmax_backward(a: &[f32], grad: &mut [f32], long: usize) {
    for (a, grad) in a.chunks_exact(long).zip(grad.chunks_exact_mut(long)) {
        let mean = dot(a, grad);
        for (n, g) in grad.iter_mut().enumerate() {
            *g = a[n] * (*g - mean);
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

/// Φ(x), the normal distribution function, by the Chebyshev fit of erfc in Press et al., Numerical Recipes (1992), section 6.2,
/// whose relative error is below 1.2e-7 everywhere.
#[inline(always)]
pub(super) fn normal_cdf(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.5 * z);
    let p = 0.170_872_77;
    let p = p * t - 0.822_152_23;
    let p = p * t + 1.488_515_9;
    let p = p * t - 1.135_204;
    let p = p * t + 0.278_868_07;
    let p = p * t - 0.186_288_06;
    let p = p * t + 0.096_784_18;
    let p = p * t + 0.374_091_96;
    let p = p * t + 1.000_023_7;
    let p = p * t - 1.265_512_2;
    let tail = 0.5 * t * exp(p - z * z); // 1 - Φ(|x|)
    if x > 0.0 { 1.0 - tail } else { tail }
}
