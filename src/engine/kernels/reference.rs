//! The fused operations of `kernels` in Burn's own words: what runs on a GPU, and what the CPU kernels are held to.

use burn::tensor::{Tensor, TensorData, activation, module};

use super::Mask;

/// What is taken off a score that nobody may see.
pub const LOW: f32 = 1e30;

/// See `kernels::attention`.
pub fn attention(q: Tensor<3>, k: Tensor<3>, v: Tensor<3>, heads: usize, mask: Mask) -> Tensor<3> {
    let split = |x: Tensor<3>| {
        let [batch, positions, width] = x.dims();
        x.reshape([batch, positions, heads, width / heads]).swap_dims(1, 2) // [batch, heads, positions, width/heads]
    };
    let (q, k, v) = (split(q), split(k), split(v));
    let [batch, heads, queries, depth] = q.dims();
    let scores = (q * (depth as f64).powf(-0.5)).matmul(k.swap_dims(2, 3)); // [batch, heads, queries, keys]
    let scores = hide(scores, &mask);
    let y = activation::softmax(scores, 3).matmul(v); // [batch, heads, queries, width/heads]
    y.swap_dims(1, 2).reshape([batch, queries, heads * depth]) // [batch, queries, width]
}

/// Scores `[batch, heads, queries, keys]`, so low where the mask hides a key that softmax gives nothing to it.
pub fn hide(scores: Tensor<4>, mask: &Mask) -> Tensor<4> {
    let [_, _, queries, keys] = scores.dims();
    let device = scores.device().inner();
    let scores = match &mask.seen {
        Some(seen) => scores + (seen.clone().unsqueeze_dims::<4>(&[1, 2]) - 1.0) * LOW,
        None => scores,
    };
    let Some(causal) = mask.causal else { return scores };
    let mut order = vec![0.0_f32; queries * keys];
    for (row, line) in order.chunks_exact_mut(keys).enumerate() {
        for hidden in Mask::hidden(causal, queries, keys, row) {
            line[hidden].fill(-LOW);
        }
    }
    scores + Tensor::<2>::from_data(TensorData::new(order, [queries, keys]), &device).unsqueeze::<4>()
}

/// See `kernels::layer_norm`.
pub fn layer_norm(x: Tensor<3>, gamma: Tensor<1>, beta: Tensor<1>, epsilon: f64) -> Tensor<3> {
    module::layer_norm(x, gamma, Some(beta), epsilon)
}

/// See `kernels::rms_norm`.
pub fn rms_norm(x: Tensor<3>, gamma: Tensor<1>, epsilon: f64) -> Tensor<3> {
    let inverse = (x.clone().square().mean_dim(2) + epsilon).sqrt().recip(); // [batch, positions, 1]
    x * inverse * gamma.unsqueeze::<3>()
}

/// See `kernels::rotate`.
pub fn rotate(x: Tensor<3>, angles: &Tensor<2>) -> Tensor<3> {
    let [batch, positions, width] = x.dims();
    let half = angles.dims()[1];
    let heads = width / (2 * half);
    let turn = |angles: Tensor<2>| angles.reshape([1, positions, 1, half]);
    let (cos, sin) = (turn(angles.clone().cos()), turn(angles.clone().sin()));
    let x = x.reshape([batch, positions, heads, 2 * half]);
    let (a, b) = (x.clone().narrow(3, 0, half), x.narrow(3, half, half));
    let turned = [a.clone() * cos.clone() - b.clone() * sin.clone(), b * cos + a * sin];
    Tensor::cat(turned.to_vec(), 3).reshape([batch, positions, width])
}

/// See `kernels::gelu`.
pub fn gelu(x: Tensor<3>) -> Tensor<3> {
    activation::gelu(x)
}
