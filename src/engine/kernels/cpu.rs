//! The fused operations on Burn's CPU backend. Plain loops over rows in the widest vector instructions that this machine has
//! (`pulp` compiles each struct's loops once for each kind of processor). Every call runs on the calling thread: the batch is
//! already cut into one shard a thread. What a row or a small product takes stands in `lanes`.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::{Shape, TensorData};
use pulp::{Arch, NullaryFnOnce, Simd, WithSimd};

use super::lanes::{LANES, Matrix, Product, dot, exp, hide, moments, normal_cdf, softmax, softmax_backward, sum, turn};
use super::reference::LOW;
use super::{Fused, Kernels, Mask};

type Values = FloatTensor<Flex>;

impl Fused for Flex {
    fn fused_attention(q: Values, k: Values, v: Values, heads: usize, causal: Option<usize>) -> Values {
        attention([q, k, v], None, heads, causal, false).0
    }

    fn fused_masked_attention(q: Values, k: Values, v: Values, seen: Values, heads: usize, causal: Option<usize>) -> Values {
        attention([q, k, v], Some(seen), heads, causal, false).0
    }

    fn fused_layer_norm(x: Values, gamma: Values, beta: Values, epsilon: f32) -> Values {
        <Flex as Kernels>::layer_norm(x, gamma, beta, epsilon)
    }

    fn fused_gelu(x: Values) -> Values {
        <Flex as Kernels>::gelu(x)
    }

    fn fused_rms_norm(x: Values, gamma: Values, epsilon: f32) -> Values {
        <Flex as Kernels>::rms_norm(x, gamma, epsilon)
    }

    fn fused_rotate(x: Values, angles: Values) -> Values {
        <Flex as Kernels>::rotate(x, angles, false)
    }
}

impl Kernels for Flex {
    fn attention(q: Values, k: Values, v: Values, seen: Option<Values>, heads: usize, causal: Option<usize>) -> (Values, Values) {
        attention([q, k, v], seen, heads, causal, true)
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

    fn rms_norm(x: Values, gamma: Values, epsilon: f32) -> Values {
        let (x, gamma) = (x.to_contiguous(), gamma.to_contiguous());
        let mut y = vec![0.0; x.shape().num_elements()];
        Arch::new().dispatch(RmsNorm { x: x.storage(), gamma: gamma.storage(), epsilon, y: &mut y });
        values(y, x.shape())
    }

    fn rms_norm_backward(x: Values, gamma: Values, epsilon: f32, grad: Values) -> [Values; 2] {
        let (x, gamma, grad) = (x.to_contiguous(), gamma.to_contiguous(), grad.to_contiguous());
        let channels = gamma.shape().num_elements();
        let (mut dx, mut dgamma) = (vec![0.0; x.shape().num_elements()], vec![0.0; channels]);
        let (at, along, back) = (x.storage(), gamma.storage(), grad.storage());
        Arch::new().dispatch(RmsNormBackward { x: at, gamma: along, epsilon, grad: back, dx: &mut dx, dgamma: &mut dgamma });
        [values(dx, x.shape()), values(dgamma, [channels])]
    }

    fn rotate(x: Values, angles: Values, back: bool) -> Values {
        let (x, angles) = (x.to_contiguous(), angles.to_contiguous());
        let shape = x.shape();
        let (positions, width, half) = (shape[1], shape[2], angles.shape()[1]);
        let (mut sin, mut cos) = (vec![0.0; positions * half], vec![0.0; positions * half]);
        for (n, angle) in angles.storage::<f32>().iter().enumerate() {
            (sin[n], cos[n]) = (if back { -angle.sin() } else { angle.sin() }, angle.cos());
        }
        let mut y = vec![0.0; shape.num_elements()];
        Arch::new().dispatch(Rotate { x: x.storage(), sin: &sin, cos: &cos, width, half, y: &mut y });
        values(y, shape)
    }
}

/// The answer, and the attention weights: of every head where they are kept for a backward pass, or of the last one only.
fn attention([q, k, v]: [Values; 3], seen: Option<Values>, heads: usize, causal: Option<usize>, keep: bool) -> (Values, Values) {
    let lay = Lay::of(&q, &k, heads);
    let seen = seen.map(|seen| seen.to_contiguous());
    let seen = seen.as_ref().map(|seen| seen.storage());
    let (q, k, v) = (q.to_contiguous(), k.to_contiguous(), v.to_contiguous());
    let mut y = vec![0.0; lay.batch * lay.queries * lay.width];
    let kept = if keep { [lay.batch, heads] } else { [1, 1] };
    let mut weights = vec![0.0; kept[0] * kept[1] * lay.queries * lay.padded];
    let (q, k, v) = (q.storage(), k.storage(), v.storage());
    Arch::new().dispatch(Attention { lay, q, k, v, seen, causal, y: &mut y, weights: &mut weights, keep });
    let shape = [lay.batch, lay.queries, lay.width];
    (values(y, shape), values(weights, [kept[0], kept[1], lay.queries, lay.padded]))
}

// One struct a loop nest: `pulp` inlines `call` into a function compiled for each kind of processor. All that is called from
// there is inlined too (`inline(always)`), or it would be compiled for the oldest.

struct Attention<'a> {
    lay: Lay,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    /// `[batch, keys]`: 0 for padding.
    seen: Option<&'a [f32]>,
    /// Tokens among the queries, where each sees only those before it: `Mask::causal`.
    causal: Option<usize>,
    y: &'a mut [f32],
    weights: &'a mut [f32],
    /// Whether each head has weights of its own.
    keep: bool,
}

impl WithSimd for Attention<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let lay = self.lay;
        let mut turned = vec![0.0; lay.depth * lay.padded];
        let scores = Product { rows: lay.queries, inner: lay.depth, cols: lay.padded, scale: lay.scale };
        let mixed = Product { rows: lay.queries, inner: lay.keys, cols: lay.depth, scale: 1.0 };
        let size = lay.queries * lay.padded;
        for n in 0..lay.batch * lay.heads {
            let a = &mut self.weights[if self.keep { n * size } else { 0 }..][..size];
            let (from_q, from_k) = (lay.start(n, lay.queries), lay.start(n, lay.keys));
            turn(lay.rows(&self.k[from_k..]), lay.keys, &mut turned, lay.padded);
            scores.of(simd, lay.rows(&self.q[from_q..]), lay.scores(&turned), a, lay.padded);
            if let Some(seen) = self.seen {
                hide(a, &seen[n / lay.heads * lay.keys..][..lay.keys], lay.padded);
            }
            if let Some(causal) = self.causal {
                for (row, scores) in a.chunks_exact_mut(lay.padded).enumerate() {
                    for hidden in Mask::hidden(causal, lay.queries, lay.keys, row) {
                        scores[hidden].fill(-LOW);
                    }
                }
            }
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

struct RmsNorm<'a> {
    x: &'a [f32],
    gamma: &'a [f32],
    epsilon: f32,
    y: &'a mut [f32],
}

impl NullaryFnOnce for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let channels = self.gamma.len();
        let gamma = self.gamma;
        for (x, y) in self.x.chunks_exact(channels).zip(self.y.chunks_exact_mut(channels)) {
            let inverse = 1.0 / (dot(x, x) / channels as f32 + self.epsilon).sqrt();
            for c in 0..channels {
                y[c] = x[c] * inverse * gamma[c];
            }
        }
    }
}

struct RmsNormBackward<'a> {
    x: &'a [f32],
    gamma: &'a [f32],
    epsilon: f32,
    grad: &'a [f32],
    dx: &'a mut [f32],
    dgamma: &'a mut [f32],
}

impl NullaryFnOnce for RmsNormBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let channels = self.gamma.len();
        let (gamma, dgamma) = (self.gamma, &mut self.dgamma[..channels]);
        let rows = self.x.chunks_exact(channels).zip(self.grad.chunks_exact(channels));
        for ((x, g), dx) in rows.zip(self.dx.chunks_exact_mut(channels)) {
            let inverse = 1.0 / (dot(x, x) / channels as f32 + self.epsilon).sqrt();
            for c in 0..channels {
                dgamma[c] += g[c] * x[c] * inverse;
            }
            for c in 0..channels {
                dx[c] = g[c] * gamma[c];
            }
            let along_x = dot(dx, x) * inverse * inverse / channels as f32;
            for c in 0..channels {
                dx[c] = inverse * (dx[c] - x[c] * along_x);
            }
        }
    }
}

struct Rotate<'a> {
    x: &'a [f32],
    /// `[positions, half]`.
    sin: &'a [f32],
    cos: &'a [f32],
    width: usize,
    half: usize,
    y: &'a mut [f32],
}

impl NullaryFnOnce for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let half = self.half;
        let positions = self.sin.len() / half;
        for (row, (x, y)) in self.x.chunks_exact(self.width).zip(self.y.chunks_exact_mut(self.width)).enumerate() {
            let at = row % positions * half;
            let (sin, cos) = (&self.sin[at..at + half], &self.cos[at..at + half]);
            for (x, y) in x.chunks_exact(2 * half).zip(y.chunks_exact_mut(2 * half)) {
                let ((xa, xb), (ya, yb)) = (x.split_at(half), y.split_at_mut(half));
                for c in 0..half {
                    ya[c] = xa[c] * cos[c] - xb[c] * sin[c];
                }
                for c in 0..half {
                    yb[c] = xb[c] * cos[c] + xa[c] * sin[c];
                }
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
