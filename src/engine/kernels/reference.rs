//! The fused operations of `kernels` in Burn's own words: what runs on a GPU, and what the CPU kernels are held to.

use burn::tensor::{Tensor, activation, module};

/// What is taken off a score that nobody may see.
pub const LOW: f32 = 1e30;

/// See `kernels::attention`.
pub fn attention(q: Tensor<3>, k: Tensor<3>, v: Tensor<3>, heads: usize, seen: Option<Tensor<2>>) -> Tensor<3> {
    let split = |x: Tensor<3>| {
        let [batch, positions, width] = x.dims();
        x.reshape([batch, positions, heads, width / heads]).swap_dims(1, 2) // [batch, heads, positions, width/heads]
    };
    let (q, k, v) = (split(q), split(k), split(v));
    let [batch, heads, queries, depth] = q.dims();
    let scores = (q * (depth as f64).powf(-0.5)).matmul(k.swap_dims(2, 3)); // [batch, heads, queries, keys]
    let scores = match seen {
        Some(seen) => hide(scores, seen),
        None => scores,
    };
    let y = activation::softmax(scores, 3).matmul(v); // [batch, heads, queries, width/heads]
    y.swap_dims(1, 2).reshape([batch, queries, heads * depth]) // [batch, queries, width]
}

/// Scores `[batch, heads, queries, keys]` so low that softmax gives nothing to keys at which `seen` `[batch, keys]` is 0.
pub fn hide(scores: Tensor<4>, seen: Tensor<2>) -> Tensor<4> {
    scores + (seen.unsqueeze_dims::<4>(&[1, 2]) - 1.0) * LOW
}

/// See `kernels::layer_norm`.
pub fn layer_norm(x: Tensor<3>, gamma: Tensor<1>, beta: Tensor<1>, epsilon: f64) -> Tensor<3> {
    module::layer_norm(x, gamma, Some(beta), epsilon)
}

/// See `kernels::gelu`.
pub fn gelu(x: Tensor<3>) -> Tensor<3> {
    activation::gelu(x)
}
