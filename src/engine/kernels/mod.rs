//! What a transformer spends its time in beside products, fused for the CPU: attention, layer and root-mean-square norms, rotary
//! positions, GELU. Burn's
//! autodiff composes the first two of about a dozen passes over memory each, one core, with the system's scalar `exp` and
//! `erf`; here each is one pass forward and one backward (`cpu`), with the gradient written by hand. On any other device
//! `reference` runs: Burn's own operations, which the GPU backend fuses by itself. `tests/kernels.rs` holds the two to each
//! other. Called by the backbones and methods; knows neither.

mod attention;
mod autodiff;
mod cpu;
mod lanes;
pub mod packed;
mod product;
pub mod reference;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{DType, Device, Tensor};

/// Softmax attention over heads that lie side by side in the channels: q `[batch, queries, width]`, k and v
/// `[batch, keys, width]`, to `[batch, queries, width]`; scores are divided by √(width / heads). Keys may outnumber queries.
pub fn attention(q: Tensor<3>, k: Tensor<3>, v: Tensor<3>, heads: usize, mask: Mask) -> Tensor<3> {
    if !fused(&q) {
        return reference::attention(q, k, v, heads, mask);
    }
    let (q, k, v) = (q.into_dispatch(), k.into_dispatch(), v.into_dispatch());
    Tensor::from_dispatch(match mask.seen {
        None => <Dispatch as Fused>::fused_attention(q, k, v, heads, mask.causal),
        Some(seen) => <Dispatch as Fused>::fused_masked_attention(q, k, v, seen.into_dispatch(), heads, mask.causal),
    })
}

/// Who may attend to what; by default everybody to everything.
#[derive(Clone, Debug, Default)]
pub struct Mask {
    /// `[batch, keys]`: 0 at padding, which nobody attends to; elsewhere 1. None where there is no padding.
    pub seen: Option<Tensor<2>>,
    /// How many of the queries are tokens of a text that is read in order. Keys are a prefix, which only keys have, then those
    /// tokens, then prompts; queries are the tokens and the prompts. A prompt counts as if it stood before all tokens: everybody
    /// attends to the prefix, a token to all prompts, itself and the tokens before it, a prompt to itself and the prompts before it.
    pub causal: Option<usize>,
}

impl Mask {
    /// What query `row` may not attend to: two ranges of keys. Nothing where the order does not count.
    pub(crate) fn hidden(causal: usize, queries: usize, keys: usize, row: usize) -> [std::ops::Range<usize>; 2] {
        let first = keys - queries; // of the tokens' keys
        match row < causal {
            true => [first + row + 1..first + causal, 0..0],
            false => [first..first + causal, first + row + 1..keys],
        }
    }
}

/// `(x - mean) / √(variance + ε) · γ + β` over the channels of `[batch, positions, channels]`.
pub fn layer_norm(x: Tensor<3>, gamma: Tensor<1>, beta: Tensor<1>, epsilon: f64) -> Tensor<3> {
    if !fused(&x) {
        return reference::layer_norm(x, gamma, beta, epsilon);
    }
    let y = <Dispatch as Fused>::fused_layer_norm(x.into_dispatch(), gamma.into_dispatch(), beta.into_dispatch(), epsilon as f32);
    Tensor::from_dispatch(y)
}

/// `x / √(mean square + ε) · γ` over the channels of `[batch, positions, channels]` (Zhang and Sennrich 2019, equation 4).
pub fn rms_norm(x: Tensor<3>, gamma: Tensor<1>, epsilon: f64) -> Tensor<3> {
    if !fused(&x) {
        return reference::rms_norm(x, gamma, epsilon);
    }
    Tensor::from_dispatch(<Dispatch as Fused>::fused_rms_norm(x.into_dispatch(), gamma.into_dispatch(), epsilon as f32))
}

/// Rotary positions (Su et al. 2021, equation 34, channels paired as transformers pairs them): in every head of `[batch, positions,
/// heads · depth]` channel c and channel c + depth / 2 are turned by the angle of their position and pair. `angles` `[positions,
/// depth / 2]` are in radians.
pub fn rotate(x: Tensor<3>, angles: &Tensor<2>) -> Tensor<3> {
    if !fused(&x) {
        return reference::rotate(x, angles);
    }
    Tensor::from_dispatch(<Dispatch as Fused>::fused_rotate(x.into_dispatch(), angles.clone().into_dispatch()))
}

/// The exact GELU, `x · Φ(x)` (Hendrycks and Gimpel 2016).
pub fn gelu(x: Tensor<3>) -> Tensor<3> {
    if !fused(&x) {
        return reference::gelu(x);
    }
    Tensor::from_dispatch(<Dispatch as Fused>::fused_gelu(x.into_dispatch()))
}

/// Whether the CPU kernels serve this tensor.
fn fused(x: &Tensor<3>) -> bool {
    x.dtype() == DType::F32 && x.device().inner() == Device::flex()
}

/// The fused operations as Burn dispatches them.
#[backend_extension(Flex, Autodiff)]
pub trait Fused: Backend {
    fn fused_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        heads: usize,
        causal: Option<usize>,
    ) -> FloatTensor<Self>;
    fn fused_masked_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        seen: FloatTensor<Self>,
        heads: usize,
        causal: Option<usize>,
    ) -> FloatTensor<Self>;
    fn fused_layer_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f32,
    ) -> FloatTensor<Self>;
    fn fused_gelu(x: FloatTensor<Self>) -> FloatTensor<Self>;
    fn fused_rms_norm(x: FloatTensor<Self>, gamma: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self>;
    fn fused_rotate(x: FloatTensor<Self>, angles: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// What a backend must compute so that `autodiff` can make `Fused` of it.
pub trait Kernels: Backend {
    /// The answer, and what the backward pass needs of each row of scores, `[batch, heads, queries, 2]`: its largest, and one over the
    /// sum that softmax divides by.
    fn attention(
        inputs: [FloatTensor<Self>; 3],
        seen: Option<FloatTensor<Self>>,
        causal: Option<usize>,
        heads: usize,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// Gradients of q, k and v from that of the answer. The scores are made again: cheaper than keeping them.
    fn attention_backward(
        inputs: [FloatTensor<Self>; 3],
        seen: Option<FloatTensor<Self>>,
        causal: Option<usize>,
        sums: FloatTensor<Self>,
        heads: usize,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3];

    fn layer_norm(x: FloatTensor<Self>, gamma: FloatTensor<Self>, beta: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self>;

    /// Gradients of x, γ and β. What a row's mean and variance were is found again: cheaper than keeping it.
    fn layer_norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        epsilon: f32,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3];

    fn gelu(x: FloatTensor<Self>) -> FloatTensor<Self>;

    fn gelu_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self>;

    fn rms_norm(x: FloatTensor<Self>, gamma: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self>;

    /// Gradients of x and γ.
    fn rms_norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        epsilon: f32,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 2];

    /// Turned by the angles; `back` by their negatives, which is its gradient.
    fn rotate(x: FloatTensor<Self>, angles: FloatTensor<Self>, back: bool) -> FloatTensor<Self>;
}
