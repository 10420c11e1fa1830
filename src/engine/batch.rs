//! Batches: shuffling, augmentation, normalising; bytes of a data set to pixels on a device. Called by the run.

use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::random;
use crate::datasets::Samples;
use crate::session::Recipe;

/// What is known of the samples in the rows of a batch.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rows<'a> {
    /// Their numbers, by which dropout goes; empty where nobody asks.
    pub samples: &'a [usize],
    /// Their tasks; empty where the data set has one only, and where nobody knows.
    pub tasks: &'a [u16],
}

/// The order of one epoch, cut into batches of sample numbers. The same seed and epoch give the same order.
pub fn epoch(samples: usize, size: usize, seed: u64, epoch: usize) -> Vec<Vec<usize>> {
    let mut rng = ChaCha8Rng::seed_from_u64(random::stream(seed, &format!("epoch {epoch}")));
    random::shuffled(&mut rng, samples).chunks(size).map(<[usize]>::to_vec).collect()
}

/// Pixels `[batch, 3, side, side]` from -1 to 1 and labels `[batch]`.
pub fn tensors(
    samples: &Samples,
    picked: &[usize],
    augment: Option<(&Recipe, u64)>,
    device: &Device,
) -> (Tensor<4>, Tensor<1, Int>) {
    let side = samples.side;
    let mut values = Vec::with_capacity(picked.len() * 3 * side * side);
    for &n in picked {
        let (flip, dx, dy) = match augment {
            Some((recipe, seed)) if recipe.flip || recipe.crop > 0 => {
                let mut rng = ChaCha8Rng::seed_from_u64(random::stream(seed, "augment") ^ n as u64);
                let shift = recipe.crop as i64;
                (recipe.flip && rng.random(), rng.random_range(-shift..=shift), rng.random_range(-shift..=shift))
            }
            _ => (false, 0, 0),
        };
        let image = samples.image(n);
        for channel in 0..3 {
            for y in 0..side {
                for x in 0..side {
                    let x = if flip { side - 1 - x } else { x };
                    let clamp = |v: usize, d: i64| (v as i64 + d).clamp(0, side as i64 - 1) as usize;
                    let byte = image[(clamp(y, dy) * side + clamp(x, dx)) * 3 + channel];
                    values.push(f32::from(byte) / 127.5 - 1.0);
                }
            }
        }
    }
    let pixels = Tensor::from_data(TensorData::new(values, [picked.len(), 3, side, side]), device);
    (pixels, labels(samples, picked, device))
}

/// Labels `[batch]` of the samples `picked`.
pub fn labels(samples: &Samples, picked: &[usize], device: &Device) -> Tensor<1, Int> {
    let labels: Vec<i64> = picked.iter().map(|n| i64::from(samples.labels[*n])).collect();
    Tensor::from_data(TensorData::new(labels, [picked.len()]), device)
}
