//! The fused operations on Burn's CPU backend. Plain loops over rows in the widest vector instructions that this machine has
//! (`pulp` compiles the closures once for each). Every call runs on the calling thread: the batch is already cut into one shard
//! a thread. Inner loops count with an index: iterator adapters are functions of their own, which are not always inlined
//! across a crate's codegen units, and then not vectorised.

#![expect(clippy::needless_range_loop, reason = "see above")]

use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::{Shape, TensorData};
use pulp::{Arch, NullaryFnOnce, Simd, WithSimd};

use super::{Fused, Kernels};

type Values = FloatTensor<Flex>;

/// Numbers that one vector register may hold; sums run in so many lanes.
const LANES: usize = 16;

impl Fused for Flex {
    fn fused_attention(q: Values, k: Values, v: Values, heads: usize) -> Values {
        <Flex as Kernels>::attention(q, k, v, heads).0
    }

    fn fused_layer_norm(x: Values, gamma: Values, beta: Values, epsilon: f32) -> Values {
        <Flex as Kernels>::layer_norm(x, gamma, beta, epsilon)
    }

    fn fused_gelu(x: Values) -> Values {
        <Flex as Kernels>::gelu(x)
    }
}

impl Kernels for Flex {
    fn attention(q: Values, k: Values, v: Values, heads: usize) -> (Values, Values) {
        let lay = Lay::of(&q, &k, heads);
        let (q, k, v) = (q.to_contiguous(), k.to_contiguous(), v.to_contiguous());
        let mut y = vec![0.0; lay.batch * lay.queries * lay.width];
        let mut weights = vec![0.0; lay.batch * heads * lay.queries * lay.padded];
        let (q, k, v) = (q.storage(), k.storage(), v.storage());
        Arch::new().dispatch(Attention { lay, q, k, v, y: &mut y, weights: &mut weights });
        let shape = [lay.batch, lay.queries, lay.width];
        (values(y, shape), values(weights, [lay.batch, heads, lay.queries, lay.padded]))
    }

    fn attention_backward([q, k, v]: [Values; 3], weights: Values, heads: usize, grad: Values) -> [Values; 3] {
        let lay = Lay::of(&q, &k, heads);
        let (q, k, v, grad) = (q.to_contiguous(), k.to_contiguous(), v.to_contiguous(), grad.to_contiguous());
        let mut dq = vec![0.0; lay.batch * lay.queries * lay.width];
        let mut dk = vec![0.0; lay.batch * lay.keys * lay.width];
        let mut dv = vec![0.0; lay.batch * lay.keys * lay.width];
        Arch::new().dispatch(AttentionBackward {
            lay,
            q: q.storage(),
            k: k.storage(),
            v: v.storage(),
            weights: weights.storage(),
            grad: grad.storage(),
            dq: &mut dq,
            dk: &mut dk,
            dv: &mut dv,
        });
        let (queries, keys) = ([lay.batch, lay.queries, lay.width], [lay.batch, lay.keys, lay.width]);
        [values(dq, queries), values(dk, keys), values(dv, keys)]
    }

    fn layer_norm(x: Values, gamma: Values, beta: Values, epsilon: f32) -> Values {
        let (x, gamma, beta) = (x.to_contiguous(), gamma.to_contiguous(), beta.to_contiguous());
        let mut y = vec![0.0; x.shape().num_elements()];
        let (values_in, gamma, beta) = (x.storage(), gamma.storage(), beta.storage());
        Arch::new().dispatch(LayerNorm { x: values_in, gamma, beta, epsilon, y: &mut y });
        values(y, x.shape())
    }

    fn layer_norm_backward(x: Values, gamma: Values, epsilon: f32, grad: Values) -> [Values; 3] {
        let (x, gamma, grad) = (x.to_contiguous(), gamma.to_contiguous(), grad.to_contiguous());
        let channels = gamma.shape().num_elements();
        let mut dx = vec![0.0; x.shape().num_elements()];
        let (mut dgamma, mut dbeta) = (vec![0.0; channels], vec![0.0; channels]);
        Arch::new().dispatch(LayerNormBackward {
            x: x.storage(),
            gamma: gamma.storage(),
            epsilon,
            grad: grad.storage(),
            dx: &mut dx,
            dgamma: &mut dgamma,
            dbeta: &mut dbeta,
        });
        [values(dx, x.shape()), values(dgamma, [channels]), values(dbeta, [channels])]
    }

    fn gelu(x: Values) -> Values {
        let x = x.to_contiguous();
        let mut y = vec![0.0; x.shape().num_elements()];
        Arch::new().dispatch(Gelu { x: x.storage(), y: &mut y });
        values(y, x.shape())
    }

    fn gelu_backward(x: Values, grad: Values) -> Values {
        let (x, grad) = (x.to_contiguous(), grad.to_contiguous());
        let mut dx = vec![0.0; x.shape().num_elements()];
        Arch::new().dispatch(GeluBackward { x: x.storage(), grad: grad.storage(), dx: &mut dx });
        values(dx, x.shape())
    }
}

// One struct a loop nest: `pulp` inlines `call` into a function compiled for each kind of processor. All that is called from
// there is inlined too (`inline(always)`), or it would be compiled for the oldest.

struct Attention<'a> {
    lay: Lay,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    y: &'a mut [f32],
    weights: &'a mut [f32],
}

impl WithSimd for Attention<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let lay = self.lay;
        let mut turned = vec![0.0; lay.depth * lay.padded];
        let scores = Product { rows: lay.queries, inner: lay.depth, cols: lay.padded, scale: lay.scale };
        let mixed = Product { rows: lay.queries, inner: lay.keys, cols: lay.depth, scale: 1.0 };
        for (n, a) in self.weights.chunks_exact_mut(lay.queries * lay.padded).enumerate() {
            let (from_q, from_k) = (lay.start(n, lay.queries), lay.start(n, lay.keys));
            turn(lay.rows(&self.k[from_k..]), lay.keys, &mut turned, lay.padded);
            scores.of(simd, lay.rows(&self.q[from_q..]), lay.scores(&turned), a, lay.padded);
            softmax(a, lay.padded, lay.keys);
            mixed.of(simd, lay.scores(a), lay.rows(&self.v[from_k..]), &mut self.y[from_q..], lay.width);
        }
    }
}

struct AttentionBackward<'a> {
    lay: Lay,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    weights: &'a [f32],
    grad: &'a [f32],
    dq: &'a mut [f32],
    dk: &'a mut [f32],
    dv: &'a mut [f32],
}

impl WithSimd for AttentionBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let lay = self.lay;
        let mut ds = vec![0.0; lay.queries * lay.padded];
        let mut turned = vec![0.0; lay.depth * lay.padded];
        let of_v = Product { rows: lay.keys, inner: lay.queries, cols: lay.depth, scale: 1.0 };
        let of_weights = Product { rows: lay.queries, inner: lay.depth, cols: lay.padded, scale: 1.0 };
        let of_q = Product { rows: lay.queries, inner: lay.keys, cols: lay.depth, scale: lay.scale };
        let of_k = Product { scale: lay.scale, ..of_v };
        for (n, a) in self.weights.chunks_exact(lay.queries * lay.padded).enumerate() {
            let (from_q, from_k) = (lay.start(n, lay.queries), lay.start(n, lay.keys));
            let grad = lay.rows(&self.grad[from_q..]);
            of_v.of(simd, lay.scores(a).turned(), grad, &mut self.dv[from_k..], lay.width);
            turn(lay.rows(&self.v[from_k..]), lay.keys, &mut turned, lay.padded);
            of_weights.of(simd, grad, lay.scores(&turned), &mut ds, lay.padded);
            softmax_backward(a, &mut ds, lay.padded);
            of_q.of(simd, lay.scores(&ds), lay.rows(&self.k[from_k..]), &mut self.dq[from_q..], lay.width);
            of_k.of(simd, lay.scores(&ds).turned(), lay.rows(&self.q[from_q..]), &mut self.dk[from_k..], lay.width);
        }
    }
}

struct LayerNorm<'a> {
    x: &'a [f32],
    gamma: &'a [f32],
    beta: &'a [f32],
    epsilon: f32,
    y: &'a mut [f32],
}

impl NullaryFnOnce for LayerNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let channels = self.gamma.len();
        let (gamma, beta) = (self.gamma, &self.beta[..channels]);
        for (x, y) in self.x.chunks_exact(channels).zip(self.y.chunks_exact_mut(channels)) {
            let (mean, inverse) = moments(x, self.epsilon);
            for c in 0..channels {
                y[c] = (x[c] - mean) * inverse * gamma[c] + beta[c];
            }
        }
    }
}

struct LayerNormBackward<'a> {
    x: &'a [f32],
    gamma: &'a [f32],
    epsilon: f32,
    grad: &'a [f32],
    dx: &'a mut [f32],
    dgamma: &'a mut [f32],
    dbeta: &'a mut [f32],
}

impl NullaryFnOnce for LayerNormBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let channels = self.gamma.len();
        let (gamma, dgamma, dbeta) = (self.gamma, &mut self.dgamma[..channels], &mut self.dbeta[..channels]);
        let mut normed = vec![0.0; channels];
        let rows = self.x.chunks_exact(channels).zip(self.grad.chunks_exact(channels));
        for ((x, g), dx) in rows.zip(self.dx.chunks_exact_mut(channels)) {
            let (mean, inverse) = moments(x, self.epsilon);
            // Few arrays a loop, so that the compiler can see that they do not overlap.
            for c in 0..channels {
                normed[c] = (x[c] - mean) * inverse;
            }
            for c in 0..channels {
                dx[c] = g[c] * gamma[c];
            }
            for c in 0..channels {
                dgamma[c] += g[c] * normed[c];
            }
            for c in 0..channels {
                dbeta[c] += g[c];
            }
            let along_one = sum(dx) / channels as f32;
            let along_x = dot(dx, &normed) / channels as f32;
            for c in 0..channels {
                dx[c] = inverse * (dx[c] - along_one - normed[c] * along_x);
            }
        }
    }
}

struct Gelu<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
}

impl NullaryFnOnce for Gelu<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let x = &self.x[..self.y.len()];
        for (n, y) in self.y.iter_mut().enumerate() {
            *y = x[n] * normal_cdf(x[n]);
        }
    }
}

struct GeluBackward<'a> {
    x: &'a [f32],
    grad: &'a [f32],
    dx: &'a mut [f32],
}

impl NullaryFnOnce for GeluBackward<'_> {
    type Output = ();

    /// Φ(x) + x φ(x) times the gradient.
    #[inline(always)]
    fn call(self) {
        let (x, grad) = (&self.x[..self.dx.len()], &self.grad[..self.dx.len()]);
        for (n, d) in self.dx.iter_mut().enumerate() {
            let x = x[n];
            *d = grad[n] * (normal_cdf(x) + x * exp(-0.5 * x * x) * 0.398_942_3);
        }
    }
}

fn values(data: Vec<f32>, shape: impl Into<Shape>) -> Values {
    Values::from_data(TensorData::new(data, shape))
}

/// The sizes of one attention. Heads are read where they lie; head `n` counts over batch and heads.
#[derive(Clone, Copy)]
struct Lay {
    batch: usize,
    queries: usize,
    keys: usize,
    /// Keys rounded up to whole vectors: the length of a row of scores, zero beyond the keys.
    padded: usize,
    width: usize,
    heads: usize,
    depth: usize,
    scale: f32,
}

impl Lay {
    fn of(q: &Values, k: &Values, heads: usize) -> Lay {
        let (q, k) = (q.shape(), k.shape());
        let (width, depth) = (q[2], q[2] / heads);
        let padded = k[1].next_multiple_of(LANES);
        Lay { batch: q[0], queries: q[1], keys: k[1], padded, width, heads, depth, scale: (depth as f32).powf(-0.5) }
    }

    /// Where head `n` of a `[batch, rows, width]` tensor begins.
    #[inline(always)]
    fn start(&self, n: usize, rows: usize) -> usize {
        n / self.heads * rows * self.width + n % self.heads * self.depth
    }

    /// One head of a `[batch, positions, width]` tensor from its start on.
    #[inline(always)]
    fn rows<'a>(&self, values: &'a [f32]) -> Matrix<'a> {
        Matrix { values, down: self.width, right: 1 }
    }

    /// A scratch matrix with rows as long as the padded keys.
    #[inline(always)]
    fn scores<'a>(&self, values: &'a [f32]) -> Matrix<'a> {
        Matrix { values, down: self.padded, right: 1 }
    }
}

/// A matrix in place: how far it is to the next row, and to the next column.
#[derive(Clone, Copy)]
struct Matrix<'a> {
    values: &'a [f32],
    down: usize,
    right: usize,
}

impl Matrix<'_> {
    #[inline(always)]
    fn turned(self) -> Self {
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
struct Product {
    rows: usize,
    inner: usize,
    cols: usize,
    scale: f32,
}

impl Product {
    /// Writes `scale · A · B` into `out`, whose rows lie `down` apart. The columns of `b` lie side by side.
    #[inline(always)]
    fn of<S: Simd>(self, simd: S, a: Matrix, b: Matrix, out: &mut [f32], down: usize) {
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
fn turn(from: Matrix, rows: usize, to: &mut [f32], long: usize) {
    for (col, line) in to.chunks_exact_mut(long).enumerate() {
        for row in 0..rows {
            line[row] = from.at(row, col);
        }
    }
}

/// Every row's first `keys` scores become their softmax, the rest zero.
#[inline(always)]
fn softmax(scores: &mut [f32], long: usize, keys: usize) {
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

/// The gradient of the weights `a`, row by row, becomes that of the scores: a (g - Σ a g).
#[inline(always)]
fn softmax_backward(a: &[f32], grad: &mut [f32], long: usize) {
    for (a, grad) in a.chunks_exact(long).zip(grad.chunks_exact_mut(long)) {
        let mean = dot(a, grad);
        for (n, g) in grad.iter_mut().enumerate() {
            *g = a[n] * (*g - mean);
        }
    }
}

/// Mean and 1 / √(variance + ε) of a row.
#[inline(always)]
fn moments(row: &[f32], epsilon: f32) -> (f32, f32) {
    let mean = sum(row) / row.len() as f32;
    let variance = reduce(row, 0.0, |all, v| all + (v - mean) * (v - mean), |a, b| a + b) / row.len() as f32;
    (mean, 1.0 / (variance + epsilon).sqrt())
}

#[inline(always)]
fn sum(row: &[f32]) -> f32 {
    reduce(row, 0.0, |all, v| all + v, |a, b| a + b)
}

#[inline(always)]
fn largest(row: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if a > b { a } else { b };
    reduce(row, f32::NEG_INFINITY, larger, larger)
}

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
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
fn reduce(row: &[f32], start: f32, step: impl Fn(f32, f32) -> f32, join: impl Fn(f32, f32) -> f32) -> f32 {
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
fn exp(x: f32) -> f32 {
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
fn normal_cdf(x: f32) -> f32 {
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
