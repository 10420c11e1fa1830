//! Products of small matrices for the CPU kernels: B is laid out once in panels that are read straight through, A is read where it lies.
//! Called by `attention`; knows no tensors. Inner loops count with an index (see `lanes`).

#![expect(clippy::needless_range_loop, reason = "see above")]

use pulp::{Simd, WithSimd};

use super::lanes::LANES;

/// Rows, and vectors of columns, whose sums stand in registers: twelve of the sixteen that AVX2 has, so that no product waits for the one
/// before it.
pub(super) const ROWS: usize = 6;
const VECTORS: usize = 2;

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

    /// The matrix from this row on.
    #[inline(always)]
    pub(super) fn from(self, row: usize) -> Self {
        Matrix { values: &self.values[row * self.down..], ..self }
    }
}

/// The right side of products, `[inner, cols]`: panels of as many columns as a pass takes, each row after row, the last filled up with zeros.
#[derive(Default)]
pub(super) struct Panels {
    values: Vec<f32>,
    inner: usize,
    cols: usize,
}

impl Panels {
    /// Takes `b`, of which the columns or the rows lie side by side.
    #[inline(always)]
    pub(super) fn take<S: Simd>(&mut self, b: Matrix, inner: usize, cols: usize) {
        let wide = VECTORS * S::F32_LANES;
        (self.inner, self.cols) = (inner, cols);
        self.values.resize(cols.div_ceil(wide) * inner * wide, 0.0);
        for (n, panel) in self.values.chunks_exact_mut(inner * wide).enumerate() {
            let first = n * wide;
            let there = wide.min(cols - first);
            if b.right == 1 {
                for n in 0..inner {
                    let row = &mut panel[n * wide..][..wide];
                    row[..there].copy_from_slice(&b.values[n * b.down + first..][..there]);
                    row[there..].fill(0.0);
                }
                continue;
            }
            if there < wide {
                panel.fill(0.0);
            }
            for col in 0..there {
                let line = &b.values[(first + col) * b.right..][..inner];
                for n in 0..inner {
                    panel[n * wide + col] = line[n];
                }
            }
        }
    }
}

/// `scale · A · B`, written or added into `out`. A function of its own for each kind of processor: `simd.vectorize(Product { .. })`.
pub(super) struct Product<'a> {
    /// `[rows, inner]`; its columns or its rows lie side by side.
    pub a: Matrix<'a>,
    pub rows: usize,
    pub b: &'a Panels,
    pub scale: f32,
    /// Rows of it lie `down` apart.
    pub out: &'a mut [f32],
    pub down: usize,
    pub add: bool,
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let mut row = 0;
        while row + ROWS <= self.rows {
            self.strip::<S, ROWS>(simd, row);
            row += ROWS;
        }
        while row + 2 <= self.rows {
            self.strip::<S, 2>(simd, row);
            row += 2;
        }
        if row < self.rows {
            self.strip::<S, 1>(simd, row);
        }
    }
}

impl Product<'_> {
    /// `R` rows of the product.
    #[inline(always)]
    fn strip<S: Simd, const R: usize>(&mut self, simd: S, row: usize) {
        let wide = VECTORS * S::F32_LANES;
        let size = self.b.inner * wide;
        for (n, panel) in self.b.values.chunks_exact(size).enumerate() {
            let (panel, _) = S::as_simd_f32s(panel);
            let (panel, _) = panel.as_chunks::<VECTORS>();
            match self.a.right {
                1 => self.tile::<S, R, false>(simd, (row, n * wide), panel),
                _ => self.tile::<S, R, true>(simd, (row, n * wide), panel),
            }
        }
    }

    /// `R` rows by one panel; `TURNED`: the rows lie in memory as columns. Sums and stores stand in one function: given back by another,
    /// the sums would lie in memory.
    #[inline(always)]
    fn tile<S: Simd, const R: usize, const TURNED: bool>(
        &mut self,
        simd: S,
        (row, col): (usize, usize),
        panel: &[[S::f32s; VECTORS]],
    ) {
        let inner = panel.len();
        let mut lines: [&[f32]; R] = [&[]; R];
        if !TURNED {
            for r in 0..R {
                lines[r] = &self.a.values[(row + r) * self.a.down..][..inner];
            }
        }
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; R];
        for n in 0..inner {
            let line = if TURNED { &self.a.values[n * self.a.right + row..][..R] } else { &[] };
            for r in 0..R {
                let factor = simd.splat_f32s(if TURNED { line[r] } else { lines[r][n] });
                for c in 0..VECTORS {
                    sums[r][c] = simd.mul_add_f32s(factor, panel[n][c], sums[r][c]);
                }
            }
        }
        let wide = VECTORS * S::F32_LANES;
        let scale = simd.splat_f32s(self.scale);
        let there = wide.min(self.b.cols - col);
        for r in 0..R {
            let out = &mut self.out[(row + r) * self.down + col..][..there];
            if there == wide {
                let (to, _) = S::as_mut_simd_f32s(out);
                for c in 0..VECTORS {
                    let before = if self.add { to[c] } else { simd.splat_f32s(0.0) };
                    to[c] = simd.mul_add_f32s(sums[r][c], scale, before);
                }
                continue;
            }
            let mut edge = [0.0; VECTORS * LANES];
            let (to, _) = S::as_mut_simd_f32s(&mut edge[..wide]);
            for c in 0..VECTORS {
                to[c] = simd.mul_f32s(sums[r][c], scale);
            }
            for n in 0..there {
                out[n] = if self.add { out[n] + edge[n] } else { edge[n] };
            }
        }
    }
}
