//! How sharp an image is, without a reference to compare it with: the variance of its Laplacian (Pech-Pacheco et al., "Diatom
//! autofocusing in brightfield microscopy: a comparative study", 2000), pressed into 0 to 1. Low resolution and blur score
//! low. Fixed, so that a score means the same in every session. Called by the tuner where the data gives no score of its own.

use burn::tensor::Tensor;

/// The variance that scores one half, on grey values from -1 to 1. Digits and emoji lie above it (medians 0.57 and 0.22); at
/// half of their resolution they lie below (0.06 and 0.02).
pub const HALF: f64 = 0.1;

/// Scores `[batch, 1]` of images `[batch, channels, side, side]` with values from -1 to 1: v / (v + `HALF`).
pub fn sharpness(pixels: Tensor<4>) -> Tensor<2> {
    let [batch, _, height, width] = pixels.dims();
    let grey = pixels.mean_dim(1).reshape([batch, height, width]);
    let (h, w) = (height - 2, width - 2);
    let at = |dy, dx| grey.clone().narrow(1, dy, h).narrow(2, dx, w);
    let laplacian = at(0, 1) + at(2, 1) + at(1, 0) + at(1, 2) - at(1, 1) * 4.0; // [batch, side - 2, side - 2]
    let laplacian = laplacian.reshape([batch, h * w]);
    let variance = (laplacian.clone() - laplacian.mean_dim(1)).square().mean_dim(1); // [batch, 1]
    variance.clone() / (variance + HALF)
}
