//! Shapes to count: one to eight small objects on a plain or textured ground, drawn when it is asked for.
//! Called through the catalogue (`datasets::CATALOG`); draws with `paint`.
//! Must not know methods, models or tensors.

use std::f32::consts::TAU;

use anyhow::Result;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::paint::{Canvas, Family, Place, Point, Rgb, Shape, Texture, colour_away_from};
use super::{Card, Described, Loaded, Samples, Task, Wanted};
use crate::session::settings::{Field, Settings};

const SIDE: usize = 32;
const CLASSES: &[&str] = &["1", "2", "3", "4", "5", "6", "7", "8"];
/// The data's own seeds, not the session's: sessions that differ in their seed train on the same pictures.
const TRAIN_SEED: u64 = 0x7368_6170_6531;
const TEST_SEED: u64 = 0x7368_6170_6532;

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
    ],
    describe: |_| Ok(Described::images(CLASSES, &["drawn"], &[Task { name: "shapes", first: 0, classes: CLASSES.len() }])),
    load,
};

fn load(settings: &Settings, _seed: u64, _wanted: &Wanted) -> Result<Loaded> {
    Ok(Loaded::new(draw_all(settings.whole("train"), TRAIN_SEED), draw_all(settings.whole("test"), TEST_SEED)))
}

/// `count` pictures; fewer are always the first of more.
fn draw_all(count: usize, seed: u64) -> Samples {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
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
        samples.push(&draw(label as usize + 1, &mut rng), label, 0);
    }
    samples
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
        let seen: HashSet<&[u8]> = (0..800).map(|n| all.train.image(n)).collect();
        assert!((0..400).all(|n| !seen.contains(all.test.image(n))));
    }

    #[test]
    fn the_session_seed_changes_nothing_and_fewer_are_the_first_of_more() {
        let (few, more) = (with(30, 10, 1), with(60, 20, 2));
        assert_eq!(few.train.pixels, more.train.pixels[..few.train.pixels.len()]);
        assert_eq!(few.test.labels, more.test.labels[..10]);
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
