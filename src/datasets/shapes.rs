//! Shapes to count: one to eight small objects on a plain or textured ground, drawn when it is asked for.
//! Called through the catalogue (`datasets::CATALOG`); draws with `paint`.
//! Must not know methods, models or tensors.

use std::f32::consts::TAU;

use anyhow::Result;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::paint::{Canvas, Family, Place, Point, Rgb, Shape, Texture, colour_away_from};
use super::quality::Scores;
use super::{Card, Described, Loaded, Samples, Task, Wanted};
use crate::session::settings::{Field, Settings};

const SIDE: usize = 32;
const CLASSES: &[&str] = &["1", "2", "3", "4", "5", "6", "7", "8"];
/// The data's own seeds, not the session's: sessions that differ in their seed train on the same pictures.
const TRAIN_SEED: u64 = 0x7368_6170_6531;
const TEST_SEED: u64 = 0x7368_6170_6532;
/// Sides to which a degraded picture is made smaller before it is enlarged again.
const COARSE: [usize; 4] = [8, 12, 16, 24];

/// Objects that are one compact spot even at five pixels.
const OBJECTS: [Shape; 8] =
    [Shape::Disc, Shape::Square, Shape::Triangle, Shape::Star, Shape::Cross, Shape::Hexagon, Shape::Diamond, Shape::Ellipse];

/// Grounds without dots: nobody could say which of them count.
const GROUNDS: [Family; 5] = [Family::Solid, Family::Gradient, Family::Noise, Family::Stripes, Family::Checker];

pub const CARD: Card = Card {
    name: "shapes",
    title: "Shapes to count",
    help: "How many objects are there, one to eight? Their shapes, colours and sizes are mixed and say nothing. \
           A structured task as in VTAB: it needs what pretraining for naming things did not teach.",
    source: "Drawn by this program",
    licence: "MIT OR Apache-2.0, as the program",
    fields: &[
        Field::whole("train", 10, 4000, 1000, "How many pictures to train on; the numbers stay in balance."),
        Field::whole("test", 10, 4000, 1000, "How many pictures to test on; the numbers stay in balance."),
        Field::real(
            "degraded",
            0.0,
            1.0,
            0.0,
            "Which part of the pictures is made coarse: brought to 8, 12, 16 or 24 pixels and back to 32. Every picture then has a \
             quality score, this side over 32, and 1 where it is as it was drawn.",
        ),
    ],
    describe,
    load,
};

fn describe(settings: &Settings) -> Result<Described, String> {
    let degraded = settings.real("degraded");
    let sides = COARSE.into_iter().chain((degraded < 1.0).then_some(SIDE));
    let quality = Scores::of(sides.map(score)).filter(|_| degraded > 0.0);
    let task = Task { name: "shapes", first: 0, classes: CLASSES.len() };
    Ok(Described { quality, ..Described::images(CLASSES, &["drawn"], &[task]) })
}

fn load(settings: &Settings, _seed: u64, _wanted: &Wanted) -> Result<Loaded> {
    let draw = |split, seed| draw_all(settings.whole(split), seed, settings.real("degraded"));
    Ok(Loaded::new(draw("train", TRAIN_SEED)?, draw("test", TEST_SEED)?))
}

/// The quality of a picture of `side` by `side` pixels that was enlarged to the usual size.
fn score(side: usize) -> f32 {
    side as f32 / SIDE as f32
}

/// `count` pictures, this part of them `degraded`; fewer are always the first of more.
fn draw_all(count: usize, seed: u64, degraded: f64) -> Result<Samples> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut coarse = ChaCha8Rng::seed_from_u64(!seed); // of its own, so that what is drawn stays the same
    let mut samples = Samples { side: SIDE, ..Samples::default() };
    samples.pixels.reserve(count * SIDE * SIDE * 3);
    let mut labels: Vec<u32> = Vec::new();
    for _ in 0..count {
        // Every eight pictures in a row hold each number once.
        if labels.is_empty() {
            labels = (0..CLASSES.len() as u32).collect();
            labels.shuffle(&mut rng);
        }
        let label = labels.pop().unwrap_or(0);
        let mut picture = draw(label as usize + 1, &mut rng);
        if degraded > 0.0 {
            let side = if coarse.random_bool(degraded) { COARSE[coarse.random_range(0..COARSE.len())] } else { SIDE };
            picture = coarsened(picture, side)?;
            samples.quality.push(score(side));
        }
        samples.push(&picture, label, 0);
    }
    Ok(samples)
}

/// The picture brought to `side` pixels and back.
fn coarsened(picture: Vec<u8>, side: usize) -> Result<Vec<u8>> {
    let mut one = Samples { side: SIDE, pixels: picture, labels: vec![0], ..Samples::default() };
    one.resize(side)?;
    one.resize(SIDE)?;
    Ok(one.pixels)
}

/// A picture of `count` objects.
fn draw(count: usize, rng: &mut ChaCha8Rng) -> Vec<u8> {
    let family = if rng.random_bool(0.4) { Family::Solid } else { GROUNDS[rng.random_range(0..GROUNDS.len())] };
    let first: Rgb = std::array::from_fn(|_| rng.random());
    // The ground's second colour stays near the first, so that its pattern is not taken for objects.
    let second: Rgb = std::array::from_fn(|c| (first[c] + rng.random_range(-0.25..0.25_f32)).clamp(0.0, 1.0));
    let mut canvas = Canvas::new(SIDE, &Texture::random(family, first, second, rng));
    for (centre, scale) in places(count, rng) {
        let ink = colour_away_from(&[first, second], 0.4, rng);
        let shape = OBJECTS[rng.random_range(0..OBJECTS.len())];
        let place = Place { centre, scale, angle: rng.random_range(0.0..TAU), flip: false };
        canvas.fill(shape, place, &Texture::solid(ink));
    }
    canvas.pixels
}

/// Middles and radii of circles that keep a pixel and a half from each other and stay inside the picture.
fn places(count: usize, rng: &mut ChaCha8Rng) -> Vec<(Point, f32)> {
    let mut found: Vec<(Point, f32)> = Vec::with_capacity(count);
    let mut misses = 0;
    while found.len() < count {
        // The sizes do not depend on the number; where the picture is full they give way a little.
        let radius = (rng.random_range(2.6..4.4_f32) - 0.01 * misses as f32).max(2.2);
        let room = radius + 0.5..SIDE as f32 - radius - 0.5;
        let at: Point = std::array::from_fn(|_| rng.random_range(room.clone()));
        let free = |(other, size): &(Point, f32)| (at[0] - other[0]).hypot(at[1] - other[1]) > radius + size + 1.5;
        if found.iter().all(free) {
            found.push((at, radius));
        } else if misses > 400 {
            // A bad start can leave no room at all: begin again.
            found.clear();
            misses = 0;
        } else {
            misses += 1;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::settings::Value;
    use std::collections::HashSet;

    fn with(train: i64, test: i64, seed: u64) -> Loaded {
        let mut settings = Settings::default();
        settings.set("train", Value::Whole(train));
        settings.set("test", Value::Whole(test));
        load(&settings.filled(CARD.fields), seed, &Wanted::all(32)).unwrap()
    }

    #[test]
    fn the_numbers_are_in_balance_and_the_splits_share_no_picture() {
        let all = with(800, 400, 1);
        for (samples, each) in [(&all.train, 100), (&all.test, 50)] {
            for label in 0..8 {
                assert_eq!(samples.labels.iter().filter(|l| **l == label).count(), each);
            }
        }
        let seen: HashSet<_> = (0..800).map(|n| all.train.image(n).unwrap()).collect();
        assert!((0..400).all(|n| !seen.contains(&all.test.image(n).unwrap())));
    }

    #[test]
    fn the_session_seed_changes_nothing_and_fewer_are_the_first_of_more() {
        let (few, more) = (with(30, 10, 1), with(60, 20, 2));
        assert_eq!(few.train.pixels, more.train.pixels[..few.train.pixels.len()]);
        assert_eq!(few.test.labels, more.test.labels[..10]);
    }

    #[test]
    fn degraded_pictures_are_the_same_ones_coarser_and_say_how_much() {
        let with = |degraded: f64, count| {
            let mut settings = Settings::default();
            settings.set("degraded", Value::Real(degraded));
            settings.set("train", Value::Whole(count));
            let settings = settings.filled(CARD.fields);
            (describe(&settings).unwrap().quality, load(&settings, 1, &Wanted::all(32)).unwrap().train)
        };
        let ((none, plain), (range, half)) = (with(0.0, 200), with(0.5, 200));
        assert!(none.is_none() && plain.quality.is_empty());
        assert_eq!(Scores::of(half.quality.iter().copied()), range);
        assert_eq!(range, Some(Scores { lowest: 0.25, highest: 1.0 }));
        let untouched = half.quality.iter().filter(|q| **q == 1.0).count();
        assert!((80..120).contains(&untouched), "{untouched}");
        // The coarser, the farther from what was drawn.
        let mut apart: std::collections::BTreeMap<usize, Vec<f64>> = Default::default();
        for n in 0..200 {
            let images = (plain.image(n).unwrap(), half.image(n).unwrap());
            let pairs = images.0.iter().zip(images.1.iter());
            let sum: f64 = pairs.map(|(a, b)| f64::from(a.abs_diff(*b))).sum();
            apart.entry((half.quality[n] * SIDE as f32) as usize).or_default().push(sum / (SIDE * SIDE * 3) as f64);
        }
        let means: Vec<f64> = apart.values().map(|of| of.iter().sum::<f64>() / of.len() as f64).collect();
        assert_eq!((apart.len(), means.last()), (5, Some(&0.0)));
        assert!(means.is_sorted_by(|a, b| a > b), "{means:?}");
        assert_eq!(plain.labels, half.labels);
        let few = with(0.5, 30).1;
        assert_eq!((few.pixels.as_slice(), few.quality.as_slice()), (&half.pixels[..few.pixels.len()], &half.quality[..30]));
        let (range, all) = with(1.0, 200);
        assert_eq!(range, Some(Scores { lowest: 0.25, highest: 0.75 }));
        assert_eq!(Scores::of(all.quality), range);
    }

    #[test]
    fn objects_keep_apart_and_inside() {
        let mut rng = ChaCha8Rng::seed_from_u64(9);
        for _ in 0..200 {
            let spots = places(8, &mut rng);
            for (n, (at, radius)) in spots.iter().enumerate() {
                assert!(at.iter().all(|v| *v >= *radius && *v <= SIDE as f32 - radius));
                for (other, size) in &spots[..n] {
                    assert!((at[0] - other[0]).hypot(at[1] - other[1]) > radius + size + 1.0);
                }
            }
        }
    }
}
