//! Batches: shuffling, augmentation, normalising; bytes, tokens and spectrograms of a data set to tensors on a device. Called by the run.

use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::random;
use crate::backbones::{Input, Text};
use crate::datasets::Samples;
use crate::plan::anatomy::{Entry, Pixels};
use crate::session::Recipe;

/// What is known of the samples in the rows of a batch.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rows<'a> {
    /// Their numbers, by which dropout goes; empty where nobody asks.
    pub samples: &'a [usize],
    /// Their tasks; empty where the data set has one only, and where nobody knows.
    pub tasks: &'a [u16],
    /// Their quality scores; empty where the data set gives none.
    pub quality: &'a [f32],
}

/// The order of one epoch, cut into batches of sample numbers. The same seed and epoch give the same order.
pub fn epoch(samples: usize, size: usize, seed: u64, epoch: usize) -> Vec<Vec<usize>> {
    let mut rng = ChaCha8Rng::seed_from_u64(random::stream(seed, &format!("epoch {epoch}")));
    random::shuffled(&mut rng, samples).chunks(size).map(<[usize]>::to_vec).collect()
}

/// What the network takes of the samples `picked`, and their labels `[batch]`.
///
/// # Panics
/// When they are not what `entry` says; the plan lets no such session train.
pub fn tensors(
    entry: &Entry,
    samples: &Samples,
    picked: &[usize],
    augment: Option<(&Recipe, u64)>,
    device: &Device,
) -> (Input, Tensor<1, Int>) {
    let input = match entry {
        Entry::Image { pixels, .. } => Input::Pixels(images(pixels, samples, picked, augment, device)),
        Entry::Text { padding, .. } => Input::Text(texts(*padding, samples, picked, device)),
        Entry::Sound { bins, frames, .. } => Input::Sound(sounds(*bins, *frames, samples, picked, device)),
    };
    (input, labels(samples, picked, device))
}

/// Tokens, filled up to the longest text of the batch.
fn texts(padding: u32, samples: &Samples, picked: &[usize], device: &Device) -> Text {
    let of = |n: &usize| &samples.tokens[*n];
    let length = picked.iter().map(|n| of(n).ids.len()).max().unwrap_or(1);
    let mut text = Text { length, ids: vec![], kinds: vec![], seen: vec![], device: device.clone() };
    for (row, tokens) in picked.iter().map(of).enumerate() {
        text.ids.extend(&tokens.ids);
        text.kinds.extend(&tokens.kinds);
        text.seen.resize(text.ids.len(), true);
        text.ids.resize((row + 1) * length, padding);
        text.kinds.resize((row + 1) * length, 0);
        text.seen.resize((row + 1) * length, false);
    }
    text
}

/// Spectrograms `[batch, bins, frames]`, filled up.
fn sounds(bins: usize, frames: usize, samples: &Samples, picked: &[usize], device: &Device) -> Tensor<3> {
    let mut values = Vec::with_capacity(picked.len() * bins * frames);
    picked.iter().for_each(|n| samples.spectrograms[*n].fill(frames, &mut values));
    Tensor::from_data(TensorData::new(values, [picked.len(), bins, frames]), device)
}

/// Pixels `[batch, 3, side, side]`, normalised.
fn images(pixels: &Pixels, samples: &Samples, picked: &[usize], augment: Option<(&Recipe, u64)>, device: &Device) -> Tensor<4> {
    let side = samples.side;
    // (byte / 255 - mean) / deviation
    let (factor, shift) = (pixels.deviation.map(|d| 255.0 * d), [0, 1, 2].map(|c| pixels.mean[c] / pixels.deviation[c]));
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
                    values.push(f32::from(byte) / factor[channel] - shift[channel]);
                }
            }
        }
    }
    Tensor::from_data(TensorData::new(values, [picked.len(), 3, side, side]), device)
}

/// Labels `[batch]` of the samples `picked`.
pub fn labels(samples: &Samples, picked: &[usize], device: &Device) -> Tensor<1, Int> {
    let labels: Vec<i64> = picked.iter().map(|n| i64::from(samples.labels[*n])).collect();
    Tensor::from_data(TensorData::new(labels, [picked.len()]), device)
}
