//! One step of p-Laplacian message passing: Wu et al., "p-Laplacian Adaptation for Generative Pre-trained Vision-Language Models"
//! (2024), on a graph of query and value nodes whose edges go from the ones to the others. Knows no method.

use burn::tensor::Tensor;

/// Keeps the release's roots and norms from zero.
const EPSILON: f64 = 1e-8;

/// What the query nodes gather, F' `[batch, heads, queries, channels]`, over edges A = `a` `[batch, heads, queries, values]` from
/// nodes `f_q` `[batch, heads, queries, channels]` and `f_v` `[batch, heads, values, channels]`; p and μ are `[1, 1]`.
pub fn step(a: Tensor<4>, f_q: Tensor<4>, f_v: Tensor<4>, p: Tensor<2>, mu: Tensor<2>) -> Tensor<4> {
    let p = p.unsqueeze::<4>(); // [1, 1, 1, 1]
    let own = mu.unsqueeze::<4>() * 2.0 / p.clone();
    let far = (squares(a.clone(), &f_q, &f_v).log() * (p / 2.0 - 1.0)).exp(); // ‖√A (F_j - F_k)‖^(p-2)
    let m = a * far; // [batch, heads, queries, values]
    (m.clone().matmul(f_v) + f_q * own.clone()) / (m.sum_dim(3) + own)
}

/// ‖√(A + ε) (F_j - F_k) + ε‖² of every query and value node `[batch, heads, queries, values]`, multiplied out so that the
/// differences themselves, r / heads times as large, never stand in memory.
fn squares(a: Tensor<4>, f_q: &Tensor<4>, f_v: &Tensor<4>) -> Tensor<4> {
    let channels = f_q.dims()[3] as f64;
    let sums = f_q.clone().sum_dim(3) - f_v.clone().sum_dim(3).swap_dims(2, 3); // Σ (F_j - F_k)
    let a = a + EPSILON;
    let slopes = a.clone() * distances(f_q, f_v) + a.sqrt() * sums * (2.0 * EPSILON) + channels * EPSILON * EPSILON;
    slopes.clamp_min(EPSILON * EPSILON) // a safe base for the power, also where rounding says less than nothing
}

/// ‖F_j - F_k‖² `[batch, heads, queries, values]`: its value channel by channel, exact also for nodes close to each other, its
/// gradient by ‖F_j‖² + ‖F_k‖² - 2 F_j F_k, which keeps no map for each channel.
fn distances(f_q: &Tensor<4>, f_v: &Tensor<4>) -> Tensor<4> {
    let square = |x: Tensor<4>| x.clone() * x;
    let (q, v) = (f_q.clone().inner(), f_v.clone().inner().swap_dims(2, 3));
    let of = |n| square(q.clone().narrow(3, n, 1) - v.clone().narrow(2, n, 1));
    let exact = (1..q.dims()[3]).fold(of(0), |sum, n| sum + of(n));
    if !f_q.is_autodiff() {
        return exact;
    }
    let lengths = square(f_q.clone()).sum_dim(3) + square(f_v.clone()).sum_dim(3).swap_dims(2, 3);
    let expanded = lengths - f_q.clone().matmul(f_v.clone().swap_dims(2, 3)) * 2.0;
    exact + (expanded.clone() - expanded.detach())
}
