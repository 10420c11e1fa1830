//! Phrases that several methods share. Knows no method.

use burn::tensor::{Tensor, TensorData, activation};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Init;
use crate::engine::bag::At;
use crate::session::settings::Field;

/// Bound of PyTorch's default for a linear layer of `d_in` inputs: Kaiming-uniform with a = sqrt 5 (He et al. 2015).
pub fn kaiming(d_in: usize) -> Init {
    Init::Uniform(1.0 / (d_in as f64).sqrt())
}

pub const DROPOUT: Field = Field::real("dropout", 0.0, 0.9, 0.0, "Part of the method's inputs set to zero while training.");

/// Sets a part of `x` `[batch, positions, channels]` to zero while training and scales the rest up, so that the mean stays.
/// Every sample draws from a stream of its own: a batch that is cut drops the same.
pub fn dropout(at: &At, x: Tensor<3>) -> Tensor<3> {
    let rate = at.set.real("dropout");
    if rate <= 0.0 || at.noise().is_none() {
        return x;
    }
    let [batch, positions, channels] = x.dims();
    let kept = (1.0 / (1.0 - rate)) as f32;
    let mut mask = Vec::with_capacity(batch * positions * channels);
    for row in 0..batch {
        let mut rng = ChaCha8Rng::seed_from_u64(at.noise_of(row).unwrap_or_default());
        mask.extend((0..positions * channels).map(|_| if rng.random_bool(rate) { 0.0 } else { kept }));
    }
    let mask = Tensor::<3>::from_data(TensorData::new(mask, x.dims()), &x.device().inner());
    x * mask
}

/// `a` then `b` along positions. The frozen trunk's tensors join the graph only here, where they meet a trained one.
pub fn join(a: Tensor<3>, b: Tensor<3>) -> Tensor<3> {
    let tracked = a.is_autodiff() || b.is_autodiff();
    match tracked {
        true => Tensor::cat(vec![a.autodiff(), b.autodiff()], 1),
        false => Tensor::cat(vec![a, b], 1),
    }
}

/// A row `[1, channels]` as `[1, 1, channels]`, to meet activations.
pub fn row(v: Tensor<2>) -> Tensor<3> {
    v.unsqueeze::<3>()
}

pub const ACTIVATION: Field = Field::choice("activation", &["relu", "gelu", "silu"], "The bend between down and up.");

pub fn bend(name: &str, x: Tensor<3>) -> Tensor<3> {
    match name {
        "gelu" => activation::gelu(x),
        "silu" => activation::silu(x),
        _ => activation::relu(x),
    }
}

/// `x · W + b`: `[batch, positions, d_in]` by `[d_in, d_out]` and `[1, d_out]`.
pub fn dense(x: Tensor<3>, w: Tensor<2>, b: Tensor<2>) -> Tensor<3> {
    burn::tensor::module::linear(x, w, Some(b.squeeze_dim::<1>(0)))
}
