//! Three tasks in one loader: digits to read, emoji to sort and shapes to count, mixed. For methods that share between tasks.
//! Called through the catalogue (`datasets::CATALOG`); reads the three data sets through their cards.
//! Must not know methods, models or tensors.

use anyhow::Result;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::{Card, Described, Loaded, Samples, Task, Wanted, digits, emoji, shapes, sheet};
use crate::session::settings::{Field, Settings, Value};

/// One for each task, in the order of `TASKS`.
const PARTS: [&Card; 3] = [&digits::CARD, &emoji::CARD, &shapes::CARD];

const TASKS: &[Task] = &[
    Task { name: "digits", first: 0, classes: 10 },
    Task { name: "emoji", first: 10, classes: 7 },
    Task { name: "shapes", first: 17, classes: 8 },
];

/// The three lists one after the other, under the task's name: a 3 that was written is no 3 that was counted.
#[rustfmt::skip]
const CLASSES: &[&str] = &[
    "digits: 0", "digits: 1", "digits: 2", "digits: 3", "digits: 4",
    "digits: 5", "digits: 6", "digits: 7", "digits: 8", "digits: 9",
    "emoji: emotion", "emoji: people", "emoji: nature", "emoji: food", "emoji: place", "emoji: object", "emoji: symbol",
    "shapes: 1", "shapes: 2", "shapes: 3", "shapes: 4", "shapes: 5", "shapes: 6", "shapes: 7", "shapes: 8",
];

pub const CARD: Card = Card {
    name: "three-tasks",
    title: "Three tasks in one",
    help: "Read digits, sort emoji and count shapes, mixed in every batch. Each picture says which task it belongs to, and only that \
           task's labels compete for it. Here methods show what sharing between tasks is worth.",
    source: "The data sets `digits`, `emoji` (Noto's drawings) and `shapes`",
    licence: "As the three data sets: MIT, Apache-2.0, MIT OR Apache-2.0",
    fields: &[
        Field::whole("digits", 10, 1000, 500, "How many digits to train on."),
        Field::whole("emoji", 10, 595, 500, "How many emoji to train on."),
        Field::whole("shapes", 10, 4000, 500, "How many pictures of shapes to train on."),
        Field::whole("test", 10, 301, 200, "How many pictures of each task to test on."),
    ],
    describe: |_| Ok(Described::images(CLASSES, &["mixed"], TASKS)),
    load,
};

fn load(settings: &Settings, seed: u64, wanted: &Wanted) -> Result<Loaded> {
    let mut parts = Vec::new();
    for (task, card) in TASKS.iter().zip(PARTS) {
        let mut own = Settings::default();
        own.set("train", Value::Whole(settings.whole(task.name) as i64));
        own.set("test", Value::Whole(settings.whole("test") as i64));
        own.set("test_style", Value::Text("noto".to_owned())); // emoji alone has it: tested in the style it trains on
        parts.push((card.load)(&own.filled(card.fields), seed, wanted)?);
    }
    let (train, test): (Vec<_>, Vec<_>) = parts.into_iter().map(|part| (part.train, part.test)).unzip();
    // The session's seed mixes what is trained on. What is tested on stays as it is, so that runs of several seeds can be
    // compared picture by picture; the tasks take turns there.
    let mut order = turns(&train);
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    Ok(Loaded::new(mixed(&train, &order)?, mixed(&test, &turns(&test))?))
}

/// Every sample of all parts as (part, number), a first one of each, then a second one of each.
fn turns(parts: &[Samples]) -> Vec<(usize, usize)> {
    let mut all: Vec<_> = parts.iter().enumerate().flat_map(|(part, s)| (0..s.len()).map(move |n| (part, n))).collect();
    all.sort_by_key(|(part, n)| (*n, *part));
    all
}

/// The samples of `parts` in this order, each with its task.
fn mixed(parts: &[Samples], order: &[(usize, usize)]) -> Result<Samples> {
    let mut all = Samples { side: sheet::SIDE, ..Samples::default() };
    for &(part, n) in order {
        all.push_of(part as u16, &parts[part].image(n)?, TASKS[part].first as u32 + parts[part].labels[n], 0);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(entries: &[(&str, i64)], seed: u64) -> Loaded {
        let mut settings = Settings::default();
        entries.iter().for_each(|(name, value)| settings.set(name, Value::Whole(*value)));
        load(&settings.filled(CARD.fields), seed, &Wanted::all(32)).unwrap()
    }

    fn counts(samples: &Samples) -> Vec<usize> {
        (0..3).map(|task| samples.tasks.iter().filter(|t| **t == task).count()).collect()
    }

    #[test]
    fn classes_are_the_three_lists_one_after_the_other() {
        let classes = |card: &Card| (card.describe)(&Settings::default()).unwrap().classes;
        let lists =
            TASKS.iter().zip(PARTS).flat_map(|(t, card)| classes(card).into_iter().map(move |c| format!("{}: {c}", t.name)));
        assert_eq!(CLASSES, lists.collect::<Vec<_>>());
        assert!(TASKS.iter().zip(PARTS).all(|(task, card)| task.name == card.name && task.classes == classes(card).len()));
    }

    #[test]
    fn every_sample_is_one_of_its_tasks_own() {
        let all = with(&[("digits", 40), ("emoji", 70), ("shapes", 16), ("test", 20)], 3);
        assert_eq!((counts(&all.train), counts(&all.test)), (vec![40, 70, 16], vec![20, 20, 20]));
        let mut digits = Settings::default();
        digits.set("train", Value::Whole(40));
        let digits = (digits::CARD.load)(&digits.filled(digits::CARD.fields), 3, &Wanted::all(32)).unwrap().train;
        for n in 0..all.train.len() {
            let task = &TASKS[usize::from(all.train.tasks[n])];
            let label = all.train.labels[n] as usize;
            assert!((task.first..task.first + task.classes).contains(&label), "{label} is no label of {}", task.name);
            let own = (0..digits.len()).find(|m| digits.image(*m).unwrap() == all.train.image(n).unwrap());
            assert_eq!(own.map(|m| digits.labels[m] as usize), (task.name == "digits").then_some(label));
        }
    }

    #[test]
    fn the_seed_mixes_what_is_trained_on_and_nothing_else() {
        let few = [("digits", 30), ("emoji", 30), ("shapes", 30), ("test", 10)];
        let (one, again, other) = (with(&few, 1), with(&few, 1), with(&few, 2));
        assert_eq!((&one.train.pixels, &one.train.tasks), (&again.train.pixels, &again.train.tasks));
        assert_ne!(one.train.tasks, other.train.tasks);
        assert_eq!((&one.test.pixels, &one.test.labels), (&other.test.pixels, &other.test.labels));
        assert_eq!(one.test.tasks[..6], [0, 1, 2, 0, 1, 2]);
        // Mixed: not one task after the other.
        assert!(one.train.tasks[..30].iter().any(|t| *t != one.train.tasks[0]));
    }
}
