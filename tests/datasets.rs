//! Data sets of a person's own files: what is found in them, how it is split, and what is said of files that are not as they
//! should be.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use image::{Rgb, RgbImage};
use petl_workbench::backbones;
use petl_workbench::datasets::{self, Described, Holds, Loaded, Wanted};
use petl_workbench::engine::model;
use petl_workbench::plan::{Plan, Severity};
use petl_workbench::session::{Choice, Session, Value, edit};

/// A choice of this data set; numbers and flags are told from texts.
fn choice(name: &str, settings: &[(&str, &str)]) -> Choice {
    let mut choice = Choice::named(name);
    for (name, text) in settings {
        let value = match (text.parse::<i64>(), text.parse::<f64>(), text.parse::<bool>()) {
            (Ok(whole), ..) if !["text", "label", "second", "split", "threshold"].contains(name) => Value::Whole(whole),
            (_, Ok(real), _) if *name == "test" => Value::Real(real),
            (.., Ok(flag)) => Value::Flag(flag),
            _ => Value::Text((*text).to_owned()),
        };
        choice.settings.set(name, value);
    }
    choice
}

fn load(choice: &Choice, seed: u64, wanted: Wanted) -> Result<Loaded, String> {
    let card = datasets::find(&choice.name).unwrap();
    assert_eq!(choice.settings.faults(card.fields), [], "a test sets what there is");
    (card.load)(&choice.settings.filled(card.fields), seed, &wanted).map_err(|fault| format!("{fault:#}"))
}

fn all_in(words: &str, parts: &[&str]) {
    assert!(parts.iter().all(|part| words.contains(part)), "{words}\nlacks one of {parts:?}");
}

/// A picture of one colour, by which it is known again.
fn picture(path: &Path, number: u8) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    RgbImage::from_pixel(20, 16, Rgb([number, 255 - number, 7])).save(path).unwrap();
}

/// Folders with this many pictures each, every one of its own colour.
fn pictures(root: &Path, folders: &[(&str, usize)]) {
    let mut number = 0;
    for (folder, count) in folders {
        for n in 0..*count {
            picture(&root.join(folder).join(format!("{n:02}.png")), number);
            number += 1;
        }
    }
}

fn folder(root: &Path, more: &[(&str, &str)]) -> Choice {
    let mut choice = choice("image-folder", more);
    choice.settings.set("folder", Value::Text(root.display().to_string()));
    choice
}

/// The colours of a split, which are the numbers of its pictures.
fn numbers(samples: &datasets::Samples) -> Vec<u8> {
    (0..samples.len()).map(|n| samples.image(n)[0]).collect()
}

fn by_class(samples: &datasets::Samples) -> BTreeMap<u32, usize> {
    samples.labels.iter().fold(BTreeMap::new(), |mut counts, label| {
        *counts.entry(*label).or_default() += 1;
        counts
    })
}

#[test]
fn a_folder_of_folders_is_split_by_class_and_seed_and_shares_no_image() {
    let scratch = tempfile::tempdir().unwrap();
    pictures(scratch.path(), &[("Ärger", 10), ("b", 20), ("猫", 5), (".hidden", 3)]);
    picture(&scratch.path().join("b/.hidden.png"), 99);
    std::fs::write(scratch.path().join("b/notes.txt"), "no image").unwrap();
    std::fs::rename(scratch.path().join("b/03.png"), scratch.path().join("b/03.PNG")).unwrap();
    let choice = folder(scratch.path(), &[]);
    let described = datasets::describe(&choice).unwrap();
    assert_eq!(described.classes, ["b", "Ärger", "猫"]);
    assert_eq!((described.holds, described.tasks.len()), (Holds::Images, 1));

    let first = load(&choice, 1, Wanted::all(16)).unwrap();
    assert_eq!(by_class(&first.train), [(0, 16), (1, 8), (2, 4)].into());
    assert_eq!(by_class(&first.test), [(0, 4), (1, 2), (2, 1)].into());
    let (train, test): (BTreeSet<_>, BTreeSet<_>) =
        (numbers(&first.train).into_iter().collect(), numbers(&first.test).into_iter().collect());
    assert!(train.is_disjoint(&test) && train.len() + test.len() == 35);
    for (samples, number) in [(&first.train, numbers(&first.train)), (&first.test, numbers(&first.test))] {
        for (number, label) in number.into_iter().zip(&samples.labels) {
            let expected = if number < 10 {
                1
            } else if number < 30 {
                0
            } else {
                2
            };
            assert_eq!(*label, expected, "image {number}");
        }
    }
    assert_eq!(numbers(&load(&choice, 1, Wanted::all(16)).unwrap().test), numbers(&first.test));
    assert_ne!(numbers(&load(&choice, 2, Wanted::all(16)).unwrap().test), numbers(&first.test));

    let few = folder(scratch.path(), &[("per_class", "3"), ("test", "0.4")]);
    let few = load(&few, 1, Wanted::all(16)).unwrap();
    assert_eq!((by_class(&few.train), by_class(&few.test)), ([(0, 3), (1, 3), (2, 3)].into(), [(0, 8), (1, 4), (2, 2)].into()));

    let look = load(&choice, 1, Wanted { side: 16, at_most: 6 }).unwrap();
    assert_eq!((look.counts(), look.train.len()), ([28, 7], 6));
    assert!(numbers(&look.train).iter().all(|n| train.contains(n)));
    assert_eq!(by_class(&look.train).len(), 3, "spread over all classes");
}

#[test]
fn train_and_test_folders_are_the_split() {
    for test in ["test", "val", "validation"] {
        let scratch = tempfile::tempdir().unwrap();
        let tested = |class: &str| format!("{test}/{class}");
        pictures(scratch.path(), &[("train/a", 4), ("train/b", 6), (&tested("a"), 2), (&tested("b"), 3)]);
        let choice = folder(scratch.path(), &[("per_class", "4")]);
        let loaded = load(&choice, 1, Wanted::all(8)).unwrap();
        assert_eq!(by_class(&loaded.train), [(0, 4), (1, 4)].into());
        assert_eq!(numbers(&loaded.test), [10, 11, 12, 13, 14]);
        pictures(scratch.path(), &[(&tested("c"), 1)]);
        all_in(&datasets::describe(&choice).unwrap_err(), &["`c`", test, "same subfolders"]);
    }
    // `test` comes before `val`, and `train` alone is split.
    let scratch = tempfile::tempdir().unwrap();
    pictures(scratch.path(), &[("train/a", 5), ("train/b", 5), ("val/a", 1), ("val/b", 1), ("test/a", 2), ("test/b", 2)]);
    assert_eq!(load(&folder(scratch.path(), &[]), 1, Wanted::all(8)).unwrap().counts(), [10, 4]);
    for part in ["val", "test"] {
        std::fs::remove_dir_all(scratch.path().join(part)).unwrap();
    }
    assert_eq!(load(&folder(scratch.path(), &[]), 1, Wanted::all(8)).unwrap().counts(), [8, 2]);
    // A class that is called `train` is a class.
    let scratch = tempfile::tempdir().unwrap();
    pictures(scratch.path(), &[("bus", 3), ("train", 3)]);
    assert_eq!(datasets::describe(&folder(scratch.path(), &[])).unwrap().classes, ["bus", "train"]);
}

#[test]
fn images_are_brought_to_size_by_their_shortest_side_and_cut_in_the_middle() {
    // Thirds of red, green and blue, wide and high: the middle square is all green, whatever size it comes in.
    let scratch = tempfile::tempdir().unwrap();
    for (class, turned) in [("high", true), ("wide", false)] {
        std::fs::create_dir(scratch.path().join(class)).unwrap();
        for (n, scale) in [1, 2, 5].into_iter().enumerate() {
            let colour = |at: u32| {
                let mut c = [0; 3];
                c[(at / (20 * scale)) as usize] = 250;
                Rgb(c)
            };
            let image = match turned {
                true => RgbImage::from_fn(20 * scale, 60 * scale, |_, y| colour(y)),
                false => RgbImage::from_fn(60 * scale, 20 * scale, |x, _| colour(x)),
            };
            image.save(scratch.path().join(class).join(format!("{n}.{}", ["png", "webp", "jpeg"][n]))).unwrap();
        }
    }
    let choice = folder(scratch.path(), &[]);
    for side in [10, 20, 40] {
        let loaded = load(&choice, 1, Wanted::all(side)).unwrap();
        for samples in [loaded.train, loaded.test] {
            assert_eq!(samples.side, side);
            for n in 0..samples.len() {
                let inner = |p: &usize| {
                    let (x, y) = (p % side, p / side);
                    (side / 5..side * 4 / 5).contains(&x) && (side / 5..side * 4 / 5).contains(&y)
                };
                for p in (0..side * side).filter(inner) {
                    let [r, g, b] = samples.image(n)[p * 3..p * 3 + 3] else { panic!("three channels") };
                    assert!(r < 12 && g > 235 && b < 12, "{side} pixels, image {n}, {p}: {r} {g} {b}");
                }
            }
        }
    }
    // Made larger, the picture keeps its middle: no shift by rounding.
    let odd = RgbImage::from_fn(5, 3, |x, _| Rgb([x as u8 * 50, 0, 0]));
    let square = datasets::image_folder::square(&odd, 3);
    assert_eq!((0..3).map(|x| square.get_pixel(x, 1)[0]).collect::<Vec<_>>(), [50, 100, 150]);
}

#[test]
fn damaged_images_stop_by_name_or_are_left_out_when_the_person_says_so() {
    let scratch = tempfile::tempdir().unwrap();
    pictures(scratch.path(), &[("a", 10), ("b", 10)]);
    let whole = std::fs::read(scratch.path().join("a/00.png")).unwrap();
    std::fs::write(scratch.path().join("a/03.png"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(scratch.path().join("b/07.png"), "no image").unwrap();
    std::fs::write(scratch.path().join("b/08.png"), "").unwrap();
    let words = load(&folder(scratch.path(), &[]), 1, Wanted::all(8)).unwrap_err();
    all_in(&words, &["3 of 20", "a/03.png", "b/07.png", "b/08.png", "`damaged`", "`leave out`"]);
    let loaded = load(&folder(scratch.path(), &[("damaged", "leave out")]), 1, Wanted::all(8)).unwrap();
    assert_eq!(loaded.train.len() + loaded.test.len(), 17);
    assert_eq!(loaded.counts(), [loaded.train.len(), loaded.test.len()]);
    let seen: BTreeSet<u8> = numbers(&loaded.train).into_iter().chain(numbers(&loaded.test)).collect();
    assert!(seen.is_disjoint(&[3, 17, 18].into()) && seen.len() == 17);
    all_in(&loaded.notes[0], &["3 of 20", "a/03.png", "left out"]);
}

#[test]
fn a_folder_that_is_not_as_it_should_be_is_said_in_words_with_a_remedy() {
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    pictures(scratch.path(), &[("loose", 2), ("one/a", 3), ("hollow/a", 2), ("single/a", 1), ("single/b", 5)]);
    for name in ["empty", "hollow/b"] {
        std::fs::create_dir_all(at(name)).unwrap();
    }
    for (name, parts) in [
        ("nowhere", &["nowhere", "cannot read"][..]),
        ("empty", &["empty", "is empty"]),
        ("loose", &["loose", "no subfolders"]),
        ("one", &["one class only", "`a`"]),
        ("hollow", &["hollow/b", "no image", "webp"]),
        ("loose/00.png", &["cannot read"]),
    ] {
        let choice = folder(&at(name), &[]);
        all_in(&datasets::describe(&choice).unwrap_err(), parts);
        let session = Session { data: choice, ..common::session(vec![]) };
        let plan = Plan::of(&session);
        let problem = plan.blocked().unwrap();
        assert_eq!(problem.place, "data.settings");
        let mended = edit::apply(&session, &plan.anatomy, &problem.remedy.as_ref().unwrap().edit()).unwrap();
        assert!(Plan::of(&mended).blocked().is_none());
    }
    all_in(&load(&folder(&at("single"), &[]), 1, Wanted::all(8)).unwrap_err(), &["`a`", "one image only"]);
    all_in(&datasets::describe(&Choice::named("image-folder")).unwrap_err(), &["no folder is chosen"]);
    // What was mended is seen at once, though the folder itself did not change.
    picture(&at("hollow/b/0.png"), 1);
    assert_eq!(datasets::describe(&folder(&at("hollow"), &[])).unwrap().classes, ["a", "b"]);
    pictures(&at("hollow"), &[("c", 1)]);
    assert_eq!(datasets::describe(&folder(&at("hollow"), &[])).unwrap().classes, ["a", "b", "c"]);
}

#[test]
fn a_run_on_an_image_folder_learns_its_classes_at_the_networks_size() {
    let scratch = tempfile::tempdir().unwrap();
    pictures(scratch.path(), &[("a", 5), ("b", 5), ("c", 5)]);
    let session = Session { data: folder(scratch.path(), &[]), ..common::session(vec![]) };
    let plan = Plan::of(&session);
    assert!(plan.problems.iter().all(|p| p.severity != Severity::Blocks), "{:?}", plan.problems);
    assert_eq!((plan.classes.as_slice(), plan.head[0].cols), (&["a", "b", "c"].map(str::to_owned)[..], 3));
    assert_eq!(backbones::wants(&session.backbone).unwrap(), Wanted::all(32));
    let data = model::data(&session).unwrap();
    assert_eq!((data.train.side, data.train.len(), data.test.len()), (32, 12, 3));
    assert_eq!(
        Described::found("here", vec!["a".into()], Holds::Images).unwrap_err(),
        "here has one class only (`a`); there must be two to tell apart"
    );
}
