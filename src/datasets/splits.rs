//! Which samples are trained on and which are tested on, where the files do not say so: by class and by seed.
//! Called by the data sets that read a person's files. Numbers only: knows no files.

use std::collections::BTreeMap;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::session::settings::Field;

pub const PER_CLASS: Field = Field::whole(
    "per_class",
    0,
    1_000_000,
    0,
    "At most how many samples of each class to train on, chosen by the seed; 0 for all.",
);
pub const TRAIN: Field =
    Field::whole("train", 0, 10_000_000, 0, "At most how many samples to train on, chosen by the seed; 0 for all.");
pub const TEST: Field =
    Field::whole("test", 0, 10_000_000, 0, "At most how many samples to test on, chosen by the seed; 0 for all.");

/// The numbers of `labels` by class, each class in an order of its own that hangs on the seed and on nothing of another class.
fn shuffled(labels: &[u32], seed: u64) -> BTreeMap<u32, Vec<usize>> {
    let mut classes: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (n, label) in labels.iter().enumerate() {
        classes.entry(*label).or_default().push(n);
    }
    for (label, of_it) in &mut classes {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(u64::from(*label));
        of_it.shuffle(&mut rng);
    }
    classes
}

/// Numbers of training and of test samples, `part` of every class tested on, in the order in which they stand. Every class has
/// one of each at least.
///
/// # Errors
/// The label of a class that has one sample only.
pub fn stratified(labels: &[u32], part: f64, seed: u64) -> Result<[Vec<usize>; 2], u32> {
    let (mut train, mut test) = (vec![], vec![]);
    for (label, of_it) in shuffled(labels, seed) {
        if of_it.len() < 2 {
            return Err(label);
        }
        let count = (of_it.len() as f64 * part).round() as usize;
        let (tested, trained) = of_it.split_at(count.clamp(1, of_it.len() - 1));
        test.extend(tested);
        train.extend(trained);
    }
    train.sort_unstable();
    test.sort_unstable();
    Ok([train, test])
}

/// At most `most` of every class (0: all), chosen by the seed, in the order in which they stand.
fn few(labels: &[u32], most: usize, seed: u64) -> Vec<usize> {
    if most == 0 {
        return (0..labels.len()).collect();
    }
    let mut kept: Vec<usize> =
        shuffled(labels, seed).into_values().flat_map(|of_it| of_it.into_iter().take(most).collect::<Vec<_>>()).collect();
    kept.sort_unstable();
    kept
}

/// At most `most` of `count` samples (0: all), chosen by the seed, in the order in which they stand.
fn some(count: usize, most: usize, seed: u64) -> Vec<usize> {
    let mut all: Vec<usize> = (0..count).collect();
    if most > 0 && most < count {
        all.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        all.truncate(most);
        all.sort_unstable();
    }
    all
}

/// At most `most` in all of at most `per_class` of every class, each 0 for no limit.
pub fn limited(labels: &[u32], per_class: usize, most: usize, seed: u64) -> Vec<usize> {
    let few = few(labels, per_class, seed);
    some(few.len(), most, seed).into_iter().map(|n| few[n]).collect()
}
