//! Attention on Burn's CPU backend, forward and backward, some queries at a time, so that their scores stay in the processor's caches. Of
//! the scores only each row's largest and sum are kept: the backward pass makes them again (Dao et al., "FlashAttention", 2022, section 3.1).
//! Called by `cpu`; knows no tuner and no methods.

use burn::backend::TensorMetadata;
use pulp::{Arch, Simd, WithSimd};

use super::Mask;
use super::cpu::{Values, values};
use super::lanes::{LANES, hide, softmax, softmax_again, softmax_backward};
use super::product::{Matrix, Panels, Product, ROWS};
use super::reference::LOW;

/// Numbers of a block of scores, about: what stays near the processor.
const BLOCK: usize = 36 << 10;

/// Who is hidden from whom, as `kernels::Mask` has it.
pub(super) struct Hidden {
    /// `[batch, keys]`: 0 for padding.
    pub seen: Option<Values>,
    pub causal: Option<usize>,
}

/// The answer, and of each row of scores the largest and one over the sum of what softmax adds up: `[batch, heads, queries, 2]`.
pub(super) fn forward([q, k, v]: [Values; 3], hidden: Hidden, heads: usize) -> (Values, Values) {
    let lay = Lay::of(&q, &k, heads);
    let seen = hidden.seen.map(|seen| seen.to_contiguous());
    let (q, k, v) = (q.to_contiguous(), k.to_contiguous(), v.to_contiguous());
    let mut y = vec![0.0; lay.batch * lay.queries * lay.width];
    let mut sums = vec![0.0; lay.batch * heads * lay.queries * 2];
    Arch::new().dispatch(Forward {
        lay,
        q: q.storage(),
        k: k.storage(),
        v: v.storage(),
        hide: Hide { seen: seen.as_ref().map(|seen| seen.storage()), causal: hidden.causal },
        y: &mut y,
        sums: &mut sums,
    });
    (values(y, [lay.batch, lay.queries, lay.width]), values(sums, [lay.batch, heads, lay.queries, 2]))
}

/// Gradients of q, k and v from that of the answer and the sums of the forward pass.
pub(super) fn backward([q, k, v]: [Values; 3], hidden: Hidden, sums: Values, heads: usize, grad: Values) -> [Values; 3] {
    let lay = Lay::of(&q, &k, heads);
    let seen = hidden.seen.map(|seen| seen.to_contiguous());
    let (q, k, v, grad) = (q.to_contiguous(), k.to_contiguous(), v.to_contiguous(), grad.to_contiguous());
    let mut dq = vec![0.0; lay.batch * lay.queries * lay.width];
    let mut dk = vec![0.0; lay.batch * lay.keys * lay.width];
    let mut dv = vec![0.0; lay.batch * lay.keys * lay.width];
    Arch::new().dispatch(Backward {
        lay,
        q: q.storage(),
        k: k.storage(),
        v: v.storage(),
        hide: Hide { seen: seen.as_ref().map(|seen| seen.storage()), causal: hidden.causal },
        sums: sums.storage(),
        grad: grad.storage(),
        dq: &mut dq,
        dk: &mut dk,
        dv: &mut dv,
    });
    let (queries, keys) = ([lay.batch, lay.queries, lay.width], [lay.batch, lay.keys, lay.width]);
    [values(dq, queries), values(dk, keys), values(dv, keys)]
}

struct Forward<'a> {
    lay: Lay,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    hide: Hide<'a>,
    y: &'a mut [f32],
    sums: &'a mut [f32],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let lay = self.lay;
        let (mut keys, mut mixed) = (Panels::default(), Panels::default());
        let mut scores = vec![0.0; lay.block * lay.long];
        for n in 0..lay.batch * lay.heads {
            let (from_q, from_k) = (lay.start(n, lay.queries), lay.start(n, lay.keys));
            let q = lay.head(&self.q[from_q..]);
            keys.take::<S>(lay.head(&self.k[from_k..]).turned(), lay.depth, lay.keys);
            mixed.take::<S>(lay.head(&self.v[from_k..]), lay.keys, lay.depth);
            for first in (0..lay.queries).step_by(lay.block) {
                let rows = lay.block.min(lay.queries - first);
                let a = &mut scores[..rows * lay.long];
                simd.vectorize(Product {
                    a: q.from(first),
                    rows,
                    b: &keys,
                    scale: lay.scale,
                    out: a,
                    down: lay.long,
                    add: false,
                });
                self.hide.hide(&lay, n, first, a);
                let sums = &mut self.sums[2 * (n * lay.queries + first)..][..2 * rows];
                softmax(a, lay.long, lay.keys, sums);
                let out = &mut self.y[from_q + first * lay.width..];
                simd.vectorize(Product { a: lay.scores(a), rows, b: &mixed, scale: 1.0, out, down: lay.width, add: false });
            }
        }
    }
}

struct Backward<'a> {
    lay: Lay,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    hide: Hide<'a>,
    sums: &'a [f32],
    grad: &'a [f32],
    dq: &'a mut [f32],
    dk: &'a mut [f32],
    dv: &'a mut [f32],
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (lay, down) = (self.lay, self.lay.width);
        // K turned for the scores and as it is for dq; V turned for the gradient of the weights.
        let (mut keys, mut turned, mut straight) = (Panels::default(), Panels::default(), Panels::default());
        let (mut of_q, mut of_grad) = (Panels::default(), Panels::default());
        let (mut a, mut ds) = (vec![0.0; lay.block * lay.long], vec![0.0; lay.block * lay.long]);
        for n in 0..lay.batch * lay.heads {
            let (from_q, from_k) = (lay.start(n, lay.queries), lay.start(n, lay.keys));
            let (k, v) = (lay.head(&self.k[from_k..]), lay.head(&self.v[from_k..]));
            keys.take::<S>(k.turned(), lay.depth, lay.keys);
            turned.take::<S>(v.turned(), lay.depth, lay.keys);
            straight.take::<S>(k, lay.keys, lay.depth);
            for first in (0..lay.queries).step_by(lay.block) {
                let rows = lay.block.min(lay.queries - first);
                let (q, grad) = (lay.head(&self.q[from_q..]).from(first), lay.head(&self.grad[from_q..]).from(first));
                let (a, ds) = (&mut a[..rows * lay.long], &mut ds[..rows * lay.long]);
                simd.vectorize(Product { a: q, rows, b: &keys, scale: lay.scale, out: a, down: lay.long, add: false });
                self.hide.hide(&lay, n, first, a);
                softmax_again(a, lay.long, lay.keys, &self.sums[2 * (n * lay.queries + first)..][..2 * rows]);
                simd.vectorize(Product { a: grad, rows, b: &turned, scale: 1.0, out: ds, down: lay.long, add: false });
                softmax_backward(a, ds, lay.long, lay.keys);
                let (a, ds) = (lay.scores(a), lay.scores(ds));
                let out = &mut self.dq[from_q + first * down..];
                simd.vectorize(Product { a: ds, rows, b: &straight, scale: lay.scale, out, down, add: false });
                of_q.take::<S>(q, rows, lay.depth);
                of_grad.take::<S>(grad, rows, lay.depth);
                let out = &mut self.dk[from_k..];
                simd.vectorize(Product { a: ds.turned(), rows: lay.keys, b: &of_q, scale: lay.scale, out, down, add: true });
                let out = &mut self.dv[from_k..];
                simd.vectorize(Product { a: a.turned(), rows: lay.keys, b: &of_grad, scale: 1.0, out, down, add: true });
            }
        }
    }
}

/// `Hidden` in memory.
struct Hide<'a> {
    seen: Option<&'a [f32]>,
    causal: Option<usize>,
}

impl Hide<'_> {
    /// Puts the scores that nobody may see very low, in rows from `first` on of head `n`.
    #[inline(always)]
    fn hide(&self, lay: &Lay, n: usize, first: usize, scores: &mut [f32]) {
        if let Some(seen) = self.seen {
            hide(scores, &seen[n / lay.heads * lay.keys..][..lay.keys], lay.long);
        }
        if let Some(causal) = self.causal {
            for (row, scores) in scores.chunks_exact_mut(lay.long).enumerate() {
                for hidden in Mask::hidden(causal, lay.queries, lay.keys, first + row) {
                    scores[hidden].fill(-LOW);
                }
            }
        }
    }
}

/// The sizes of one attention. Heads are read where they lie; head `n` counts over batch and heads.
#[derive(Clone, Copy)]
struct Lay {
    batch: usize,
    queries: usize,
    keys: usize,
    /// Keys rounded up to whole vectors: how far rows of scores lie apart.
    long: usize,
    /// Queries that are taken at a time.
    block: usize,
    width: usize,
    heads: usize,
    depth: usize,
    scale: f32,
}

impl Lay {
    fn of(q: &Values, k: &Values, heads: usize) -> Lay {
        let (q, k) = (q.shape(), k.shape());
        let (batch, queries, keys, width, depth) = (q[0], q[1], k[1], q[2], q[2] / heads);
        let long = keys.next_multiple_of(LANES);
        // Never so few that the gradients of k and v are read and written for next to nothing.
        let block = (BLOCK / long.max(1)).clamp(4 * ROWS, 8 * ROWS) / ROWS * ROWS;
        Lay { batch, queries, keys, long, block, width, heads, depth, scale: (depth as f32).powf(-0.5) }
    }

    /// Where head `n` of a `[batch, rows, width]` tensor begins.
    #[inline(always)]
    fn start(&self, n: usize, rows: usize) -> usize {
        n / self.heads * rows * self.width + n % self.heads * self.depth
    }

    /// One head of a `[batch, positions, width]` tensor from its start on.
    #[inline(always)]
    fn head<'a>(&self, values: &'a [f32]) -> Matrix<'a> {
        Matrix { values, down: self.width, right: 1 }
    }

    /// A block of scores.
    #[inline(always)]
    fn scores<'a>(&self, values: &'a [f32]) -> Matrix<'a> {
        Matrix { values, down: self.long, right: 1 }
    }
}
