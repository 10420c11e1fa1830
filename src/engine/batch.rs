//! Batches: shuffling, augmentation, normalising; bytes, tokens and spectrograms of a data set to numbers in host memory, which any thread
//! may make, and these to tensors on a device. Called by the run and the model.

use anyhow::{Result, bail};
use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{random, shards};
use crate::backbones::{Input, Text};
use crate::datasets::Samples;
use crate::plan::anatomy::{Entry, Pixels};
use crate::session::Recipe;

/// Threads that decode images of one batch, at most.
const DECODERS: usize = 16;

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

/// What enters the network, in host memory.
#[derive(Clone, Debug, PartialEq)]
pub enum Raw {
    /// `[batch, 3, side, side]`, normalised.
    Pixels { side: usize, values: Vec<f32> },
    /// Filled up to `length`, text after text; `seen` is false for padding.
    Text { length: usize, ids: Vec<u32>, kinds: Vec<u8>, seen: Vec<bool> },
    /// `[batch, bins, frames]`.
    Sound { bins: usize, frames: usize, values: Vec<f32> },
    /// Was not made, since what the network makes of it is known already.
    Known,
}

impl Raw {
    /// It on a device.
    ///
    /// # Errors
    /// When it was not made.
    pub fn on(self, device: &Device) -> Result<Input> {
        Ok(match self {
            Raw::Pixels { side, values } => {
                let batch = values.len() / (3 * side * side).max(1);
                Input::Pixels(Tensor::from_data(TensorData::new(values, [batch, 3, side, side]), device))
            }
            Raw::Text { length, ids, kinds, seen } => Input::Text(Text { length, ids, kinds, seen, device: device.clone() }),
            Raw::Sound { bins, frames, values } => {
                let batch = values.len() / (bins * frames).max(1);
                Input::Sound(Tensor::from_data(TensorData::new(values, [batch, bins, frames]), device))
            }
            Raw::Known => bail!("nothing enters the network: its features were to be known"),
        })
    }
}

/// A part of a batch: what one shard works on.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Numbers of its samples.
    pub samples: Vec<usize>,
    pub input: Raw,
    /// The captions of its images, each different one once, in the order in which they come; none where there are no captions, or nobody
    /// matches them.
    pub captions: Option<Raw>,
    /// What should win for each sample: its class, or its caption among these.
    pub labels: Vec<u32>,
}

/// How the batches of one pass over samples are made. Knows no device, and may go to another thread.
#[derive(Clone, Debug)]
pub struct Maker {
    pub entry: Entry,
    /// What changes images from epoch to epoch, and the session's seed; none where nothing does.
    pub augment: Option<(Recipe, u64)>,
    /// Parts of a batch.
    pub parts: usize,
    /// What enters the network is not needed.
    pub idle: bool,
    /// Captions go along; the number fills them up to one length.
    pub captions: Option<u32>,
}

impl Maker {
    /// The samples `picked` in its parts. A text is filled up to the longest of its part.
    ///
    /// # Errors
    /// When an image cannot be read any more.
    ///
    /// # Panics
    /// As `raw`.
    pub fn parts(&self, samples: &Samples, picked: &[usize], epoch: usize) -> Result<Vec<Part>> {
        let augment = self.augment.as_ref().map(|(recipe, seed)| (recipe, seed ^ (epoch as u64) << 32));
        let part = |some: &[usize]| {
            let input = if self.idle { Raw::Known } else { raw(&self.entry, samples, some, augment)? };
            let (captions, labels) = match self.captions {
                None => (None, some.iter().map(|n| samples.labels[*n]).collect()),
                Some(padding) => {
                    let (different, of) = samples.captions_of(some);
                    (Some(texts(padding, samples, &different)), of)
                }
            };
            Ok(Part { samples: some.to_vec(), input, captions, labels })
        };
        shards::cut(picked, self.parts).map(part).collect()
    }
}

/// What the network takes of the samples `picked`, and their labels `[batch]`.
///
/// # Errors
/// When an image cannot be read any more.
///
/// # Panics
/// As `raw`.
pub fn tensors(
    entry: &Entry,
    samples: &Samples,
    picked: &[usize],
    augment: Option<(&Recipe, u64)>,
    device: &Device,
) -> Result<(Input, Tensor<1, Int>)> {
    Ok((raw(entry, samples, picked, augment)?.on(device)?, labels(samples, picked, device)))
}

/// The same without labels, in host memory.
///
/// # Errors
/// When an image cannot be read any more.
///
/// # Panics
/// When they are not what `entry` says; the plan lets no such session train.
pub fn raw(entry: &Entry, samples: &Samples, picked: &[usize], augment: Option<(&Recipe, u64)>) -> Result<Raw> {
    Ok(match entry {
        Entry::Image { pixels, .. } => Raw::Pixels { side: samples.side, values: images(pixels, samples, picked, augment)? },
        Entry::Text { padding, .. } => texts(*padding, samples, picked),
        Entry::Sound { bins, frames, .. } => {
            let (bins, frames) = (*bins, *frames);
            let mut values = Vec::with_capacity(picked.len() * bins * frames);
            picked.iter().for_each(|n| samples.spectrograms[*n].fill(frames, &mut values));
            Raw::Sound { bins, frames, values }
        }
    })
}

/// Tokens, filled up to the longest text of the batch.
pub fn texts(padding: u32, samples: &Samples, picked: &[usize]) -> Raw {
    let of = |n: &usize| &samples.tokens[*n];
    let length = picked.iter().map(|n| of(n).ids.len()).max().unwrap_or(1);
    let (mut ids, mut kinds, mut seen) = (vec![], vec![], vec![]);
    for (row, tokens) in picked.iter().map(of).enumerate() {
        ids.extend(&tokens.ids);
        kinds.extend(&tokens.kinds);
        seen.resize(ids.len(), true);
        ids.resize((row + 1) * length, padding);
        kinds.resize((row + 1) * length, 0);
        seen.resize((row + 1) * length, false);
    }
    Raw::Text { length, ids, kinds, seen }
}

/// Pixels `[batch, 3, side, side]`, normalised; by several threads where images have to be decoded first.
fn images(pixels: &Pixels, samples: &Samples, picked: &[usize], augment: Option<(&Recipe, u64)>) -> Result<Vec<f32>> {
    let threads = if samples.decodes(picked) { rayon::current_num_threads().min(DECODERS) } else { 1 };
    let mut made = shards::each(picked, threads, |some| rows(pixels, samples, some, augment));
    match made.len() {
        1 => made.remove(0), // as it is, not copied
        _ => Ok(made.into_iter().collect::<Result<Vec<_>>>()?.concat()),
    }
}

/// The same of some of them, by one thread.
fn rows(pixels: &Pixels, samples: &Samples, picked: &[usize], augment: Option<(&Recipe, u64)>) -> Result<Vec<f32>> {
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
        let image = samples.image(n)?;
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
    Ok(values)
}

/// Labels `[batch]` of the samples `picked`.
pub fn labels(samples: &Samples, picked: &[usize], device: &Device) -> Tensor<1, Int> {
    let labels: Vec<u32> = picked.iter().map(|n| samples.labels[*n]).collect();
    numbers(&labels, device)
}

/// These on a device, `[batch]`.
pub fn numbers(labels: &[u32], device: &Device) -> Tensor<1, Int> {
    let labels: Vec<i64> = labels.iter().map(|label| i64::from(*label)).collect();
    let count = labels.len();
    Tensor::from_data(TensorData::new(labels, [count]), device)
}
