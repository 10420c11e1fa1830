//! Random values with our own generator, so that a seed gives the same start on every device. Called by the bag, the
//! backbones' random weights and the batches.

use rand::{Rng, RngCore};
use rand_chacha::ChaCha8Rng;

use crate::methods::Init;

/// A seed of its own for every name under one seed (FNV-1a over the name).
pub fn stream(seed: u64, name: &str) -> u64 {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    hash ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// `count` values drawn as `init` says; `Init::Frozen` and `Init::Own` come from elsewhere and give zeros.
pub fn values(rng: &mut ChaCha8Rng, init: Init, count: usize) -> Vec<f32> {
    match init {
        Init::Zeros | Init::Frozen(_) | Init::Own => vec![0.0; count],
        Init::Ones => vec![1.0; count],
        Init::Constant(c) => vec![c as f32; count],
        Init::Uniform(bound) => (0..count).map(|_| (rng.random_range(-1.0..1.0) * bound) as f32).collect(),
        Init::Normal(deviation) => (0..count).map(|_| (normal(rng) * deviation) as f32).collect(),
    }
}

/// One standard normal draw (Box and Muller).
fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let u: f64 = 1.0 - rng.random::<f64>(); // (0, 1]
    let v: f64 = rng.random();
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

/// The order of `count` samples in one epoch.
pub fn shuffled(rng: &mut ChaCha8Rng, count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    for n in (1..count).rev() {
        let other = (rng.next_u64() % (n as u64 + 1)) as usize;
        order.swap(n, other);
    }
    order
}
