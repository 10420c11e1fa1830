//! Data sets of a person's own files: what is found in them, how it is split, and what is said of files that are not as they
//! should be.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::Path;

use image::{Rgb, RgbImage};
use petl_workbench::backbones;
use petl_workbench::compare;
use petl_workbench::datasets::{self, Described, Holds, Loaded, Wanted};
use petl_workbench::engine::run::{self, Surroundings};
use petl_workbench::engine::{Event, model};
use petl_workbench::exports;
use petl_workbench::methods::lora;
use petl_workbench::plan::{Plan, Severity};
use petl_workbench::session::{Choice, Session, Value, edit, file};

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
    (0..samples.len()).map(|n| samples.image(n).unwrap()[0]).collect()
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

    let look = load(&choice, 1, Wanted { at_most: 7, ..Wanted::all(16) }).unwrap();
    assert_eq!((look.counts(), look.train.len()), ([28, 7], 7));
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
                    let [r, g, b] = samples.image(n).unwrap()[p * 3..p * 3 + 3] else { panic!("three channels") };
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

/// Writes the table of scores of a folder.
fn scores(root: &Path, lines: &str) {
    std::fs::write(root.join("quality.csv"), lines).unwrap();
}

#[test]
fn a_table_of_quality_scores_goes_with_its_images() {
    let scratch = tempfile::tempdir().unwrap();
    pictures(scratch.path(), &[("a", 10), ("b, or c", 10)]);
    let choice = folder(scratch.path(), &[]);
    assert_eq!(datasets::describe(&choice).unwrap().quality, None);
    assert!(load(&choice, 1, Wanted::all(8)).unwrap().train.quality.is_empty());

    // The number of every picture, a half less, in no order and as any system writes paths.
    let line = |n: usize| match n {
        3 => "./a/03.png,2.5\n".to_owned(),
        4 => "a\\04.png , 3.5\n".to_owned(),
        0..10 => format!("a/{n:02}.png,{n}.0\n"),
        _ => format!("\"b, or c/{:02}.png\",{n}\n", n - 10),
    };
    let lines: String = (0..20).map(|n| line(n * 7 % 20)).collect();
    let score = |number: u8| f32::from(number) - if [3, 4].contains(&number) { 0.5 } else { 0.0 };
    for header in ["", "path,quality\n"] {
        scores(scratch.path(), &format!("{header}{lines}"));
        let quality = datasets::describe(&choice).unwrap().quality.unwrap();
        assert_eq!((quality.lowest, quality.highest, quality.to_string().as_str()), (0.0, 19.0, "0 to 19"));
        for (wanted, more) in [
            (Wanted::all(8), &[][..]),
            (Wanted { at_most: 5, ..Wanted::all(8) }, &[]),
            (Wanted::all(8), &[("per_class", "3"), ("test", "0.4")]),
        ] {
            let loaded = load(&folder(scratch.path(), more), 2, wanted).unwrap();
            for samples in [loaded.train, loaded.test] {
                let expected: Vec<f32> = numbers(&samples).into_iter().map(score).collect();
                assert_eq!(samples.quality, expected);
                assert_eq!(samples.quality_of(&[1, 0]), [expected[1], expected[0]]);
            }
        }
    }
    // What is left out takes its score along.
    std::fs::write(scratch.path().join("a/05.png"), "no image").unwrap();
    let loaded = load(&folder(scratch.path(), &[("damaged", "leave out")]), 2, Wanted::all(8)).unwrap();
    for samples in [&loaded.train, &loaded.test] {
        assert_eq!(samples.quality, numbers(samples).into_iter().map(score).collect::<Vec<_>>());
    }
    // Runs on other scores are not compared item by item.
    let mut other = loaded.test.clone();
    other.quality[0] += 1.0;
    assert_ne!(compare::fingerprint(&loaded.test).unwrap(), compare::fingerprint(&other).unwrap());

    // With folders for train and test the paths begin with them; what is not used may have a score.
    let scratch = tempfile::tempdir().unwrap();
    pictures(scratch.path(), &[("train/a", 2), ("train/b", 2), ("test/a", 1), ("test/b", 1), ("val/a", 1), ("val/b", 1)]);
    let parts = ["train/a/00", "train/a/01", "train/b/00", "train/b/01", "test/a/00", "test/b/00", "val/a/00"];
    scores(scratch.path(), &parts.iter().zip(0..).map(|(path, n)| format!("{path}.png,{n}\n")).collect::<String>());
    let loaded = load(&folder(scratch.path(), &[]), 1, Wanted::all(8)).unwrap();
    assert_eq!((loaded.train.quality, loaded.test.quality), (vec![0.0, 1.0, 2.0, 3.0], vec![4.0, 5.0]));
}

#[test]
fn a_table_of_quality_scores_that_does_not_fit_is_said_by_line() {
    let scratch = tempfile::tempdir().unwrap();
    pictures(scratch.path(), &[("a", 2), ("b", 2)]);
    let choice = folder(scratch.path(), &[]);
    let good = "path,quality\na/00.png,1\na/01.png,2\nb/00.png,3\n";
    for (lines, parts) in [
        (format!("{good}b/01.png,high\n"), &["quality.csv, line 5", "`high`", "`b/01.png`", "no number"][..]),
        (format!("{good}b/01.png,NaN\n"), &["line 5", "`NaN`"]),
        (format!("{good}b/01.png,\n"), &["line 5", "``", "no number"]),
        (format!("{good}b/01.png\n"), &["line 5", "`b/01.png` is not `path,quality`"]),
        (format!("{good}b/01.png,1,2\n"), &["line 5", "`b/01.png,1,2`"]),
        (format!("{good},4\n"), &["line 5", "`,4`", "`path,quality`"]),
        (format!("{good}a/01.png,4\nb/01.png,4\n"), &["line 5", "`a/01.png`", "line 3"]),
        (format!("{good}b/01.png,4\nb/02.png,5\n"), &["line 6", "no file `b/02.png`"]),
        (good.to_owned(), &["quality.csv", "no line for `b/01.png`", "Give every image a score"]),
        ("path,quality\na/00.png,1\n".to_owned(), &["`a/01.png` and 2 more images"]),
        (String::new(), &["`a/00.png` and 3 more images"]),
    ] {
        scores(scratch.path(), &lines);
        all_in(&datasets::describe(&choice).unwrap_err(), parts);
        all_in(&load(&choice, 1, Wanted::all(8)).unwrap_err(), parts);
    }
    let session = Session { data: choice.clone(), ..common::session(vec![]) };
    assert_eq!(Plan::of(&session).blocked().unwrap().place, "data.settings");
    std::fs::write(scratch.path().join("quality.csv"), b"a/00.png,1\nM\xfcll,2\n").unwrap();
    all_in(&datasets::describe(&choice).unwrap_err(), &["quality.csv, line 2", "UTF-8"]);
    // What was mended is seen at once, as is what changed.
    for (last, highest) in [("4", 4.0), ("9", 9.0)] {
        scores(scratch.path(), &format!("{good}b/01.png,{last}\n"));
        assert_eq!(Plan::of(&session).quality.unwrap().highest, highest);
    }
    std::fs::remove_file(scratch.path().join("quality.csv")).unwrap();
    assert_eq!(Plan::of(&session).quality, None);
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
    let data = model::data(&session).unwrap();
    assert_eq!((data.train.side, data.train.len(), data.test.len()), (32, 12, 3));
    assert_eq!(
        Described::found("here", vec!["a".into()], Holds::Images).unwrap_err(),
        "here has one class only (`a`); there must be two to tell apart"
    );
}

/// A choice of a table that is written here.
fn table(root: &Path, name: &str, contents: &str, more: &[(&str, &str)]) -> Choice {
    let path = root.join(name);
    std::fs::write(&path, contents).unwrap();
    let mut choice = choice("text-table", more);
    choice.settings.set("file", Value::Text(path.display().to_string()));
    choice
}

fn texts(samples: &datasets::Samples) -> Vec<&str> {
    samples.texts.iter().map(|text| text.first.as_str()).collect()
}

/// Texts of two classes with their header: `words 0`, `words 1`...
fn rows(count: usize) -> String {
    (0..count)
        .map(|n| format!("words {n},{}\n", ["yes", "no"][usize::from(n % 5 == 0)]))
        .fold("text,label\n".to_owned(), |all, row| all + &row)
}

#[test]
fn a_table_is_split_by_class_and_seed_and_shares_no_text() {
    let scratch = tempfile::tempdir().unwrap();
    let choice = table(scratch.path(), "a.csv", &rows(100), &[]);
    let described = datasets::describe(&choice).unwrap();
    assert_eq!((described.classes.as_slice(), described.holds), (&["no", "yes"].map(str::to_owned)[..], Holds::Texts));
    let first = load(&choice, 1, Wanted::all(0)).unwrap();
    assert_eq!((by_class(&first.train), by_class(&first.test)), ([(0, 16), (1, 64)].into(), [(0, 4), (1, 16)].into()));
    let (train, test): (BTreeSet<_>, BTreeSet<_>) =
        (texts(&first.train).into_iter().collect(), texts(&first.test).into_iter().collect());
    assert!(train.is_disjoint(&test) && train.len() + test.len() == 100);
    for (text, label) in first.train.texts.iter().zip(&first.train.labels) {
        let n: usize = text.first.strip_prefix("words ").unwrap().parse().unwrap();
        assert_eq!(*label == 0, n.is_multiple_of(5), "{n}");
    }
    assert_eq!(texts(&load(&choice, 1, Wanted::all(0)).unwrap().test), texts(&first.test));
    assert_ne!(texts(&load(&choice, 2, Wanted::all(0)).unwrap().test), texts(&first.test));
    let few =
        table(scratch.path(), "b.csv", &rows(100), &[("per_class", "12"), ("train", "20"), ("test_items", "7"), ("test", "0.5")]);
    let few = load(&few, 1, Wanted::all(0)).unwrap();
    assert_eq!((few.train.len(), few.test.len()), (20, 7));
    assert!(by_class(&few.train).values().all(|count| *count <= 12));
    let look = load(&choice, 1, Wanted { at_most: 6, ..Wanted::all(0) }).unwrap();
    assert_eq!((look.counts(), look.train.len(), look.test.len()), ([80, 20], 6, 6));
}

#[test]
fn quotation_marks_of_a_tsv_swallow_no_rows() {
    let scratch = tempfile::tempdir().unwrap();
    let tsv = "text\tlabel\n\"He said hi\t1\nfoo\t0\n\"bar baz\t1\nend\t0\n";
    let words = datasets::describe(&table(scratch.path(), "a.tsv", tsv, &[])).unwrap_err();
    assert!(words.contains("line 2") && words.contains("`quotes`"), "{words}");
    let mut choice = table(scratch.path(), "a.tsv", tsv, &[]);
    choice.settings.set("quotes", Value::Flag(false));
    let loaded = load(&choice, 1, Wanted::all(0)).unwrap();
    let mut all = [texts(&loaded.train), texts(&loaded.test)].concat();
    all.sort_unstable();
    assert_eq!(all, ["\"He said hi", "\"bar baz", "end", "foo"]);
}

#[test]
fn a_long_thin_image_is_cut_before_it_is_enlarged() {
    let thin = image::RgbImage::from_fn(1, 60_000, |_, y| image::Rgb([(y % 251) as u8; 3]));
    let square = datasets::image_folder::square(&thin, 224);
    assert_eq!((square.width(), square.height()), (224, 224));
    assert!(square.pixels().all(|p| p.0 == [(29_999 % 251) as u8; 3] || p.0 == [(30_000 % 251) as u8; 3]));
}

#[test]
fn tables_of_every_kind_give_the_same_samples() {
    let scratch = tempfile::tempdir().unwrap();
    let pair = [("text", "premise"), ("second", "hypothesis"), ("label", "gold"), ("split", "part")];
    let csv = "id,premise,hypothesis,gold,part\n1,\"Es regnet, oder?\",\"A \"\"wet\"\" day\",10,train\n2,猫,🐈,9,Test\n3,\"two\nlines\",b,9,train\n";
    let tsv = "id\tpremise\thypothesis\tgold\tpart\n1\tEs regnet, oder?\t\"A \"\"wet\"\" day\"\t10\ttrain\n2\t猫\t🐈\t9\tTest\n3\t\"two\nlines\"\tb\t9\ttrain\n";
    let jsonl = r#"{"premise": "Es regnet, oder?", "hypothesis": "A \"wet\" day", "gold": 10, "part": "train"}

{"premise": "猫", "hypothesis": "🐈", "gold": 9, "part": "Test", "more": [1]}
{"premise": "two\nlines", "hypothesis": "b", "gold": "9", "part": "train"}
"#;
    for (name, contents) in [("a.csv", csv), ("a.TSV", tsv), ("a.jsonl", jsonl), ("bom.csv", &format!("\u{feff}{}", csv))] {
        let choice = table(scratch.path(), name, contents, &pair);
        assert_eq!(datasets::describe(&choice).unwrap().classes, ["9", "10"], "{name}: by number");
        let loaded = load(&choice, 1, Wanted::all(0)).unwrap();
        assert_eq!(texts(&loaded.train), ["Es regnet, oder?", "two\nlines"], "{name}");
        assert_eq!((texts(&loaded.test), loaded.train.labels), (vec!["猫"], vec![1, 0]), "{name}");
        let second: Vec<_> = loaded.train.texts.iter().map(|text| text.second.as_deref().unwrap()).collect();
        assert_eq!(second, ["A \"wet\" day", "b"], "{name}");
    }
    // Without a header by number; validation is tested on where there is no test, and left out where there is.
    let contents = "a,train,x\nb,train,y\nc,dev,x\nd,train,x\n";
    let by_number = [("header", "false"), ("text", "1"), ("label", "3"), ("split", "2")];
    let loaded = load(&table(scratch.path(), "c.csv", contents, &by_number), 1, Wanted::all(0)).unwrap();
    assert_eq!((texts(&loaded.train), texts(&loaded.test)), (vec!["a", "b", "d"], vec!["c"]));
    let loaded = load(&table(scratch.path(), "c.csv", &format!("{contents}e,test,y\n"), &by_number), 1, Wanted::all(0)).unwrap();
    assert_eq!((texts(&loaded.train), texts(&loaded.test)), (vec!["a", "b", "d"], vec!["e"]));
}

#[test]
fn a_threshold_makes_two_classes_of_scores() {
    let scratch = tempfile::tempdir().unwrap();
    let contents = "text,label\na,-1.5\nb,0\nc, 2e-1\nd,-0.01\ne,3\n";
    let choice = table(scratch.path(), "a.csv", contents, &[("threshold", "0"), ("test", "0.5")]);
    assert_eq!(datasets::describe(&choice).unwrap().classes, ["below", "above"]);
    let loaded = load(&choice, 1, Wanted::all(0)).unwrap();
    for samples in [&loaded.train, &loaded.test] {
        for (text, label) in texts(samples).into_iter().zip(&samples.labels) {
            assert_eq!(*label, u32::from("bce".contains(text)), "{text}");
        }
    }
    for (threshold, parts) in [("much", &["`threshold`", "`much`"][..]), ("9", &["one side of 9", "`label`"])] {
        all_in(&datasets::describe(&table(scratch.path(), "a.csv", contents, &[("threshold", threshold)])).unwrap_err(), parts);
    }
    let choice = table(scratch.path(), "b.csv", "text,label\na,1\nb,good\n", &[("threshold", "0")]);
    all_in(&datasets::describe(&choice).unwrap_err(), &["b.csv, line 3, column `label`", "`good`", "no number"]);
}

#[test]
fn a_table_that_is_not_as_it_should_be_is_said_by_file_line_and_column() {
    let scratch = tempfile::tempdir().unwrap();
    let scores: String = (0..1500).map(|n| format!("t,{n}.5\n")).collect();
    type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a [&'a str]);
    let cases: [Case; 17] = [
        ("a.csv", "text,label\na,x\nb,y\n", &[("label", "gold")], &["a.csv", "`gold`", "`label`", "text, label"]),
        ("a.jsonl", "{\"text\": \"a\", \"y\": 1}\n", &[], &["a.jsonl, line 1", "`label`", "text, y"]),
        ("a.csv", "a,x\nb,y\n", &[("header", "false"), ("text", "1"), ("label", "3")], &["a.csv", "`3`", "1, 2"]),
        ("a.csv", "text,label\na,x\nb,y\n", &[("text", "")], &["`text` must name a column", "text, label"]),
        ("a.csv", "text,label\na,x\nb,y,z\n", &[], &["a.csv, line 3", "3 cells", "2", "quotes"]),
        ("a.csv", "text,label\na,x\nb,\n", &[], &["a.csv, line 3, column `label`", "no label"]),
        ("a.csv", "text,label\na,x\nb,x\n", &[], &["a.csv", "`label`", "one class only", "`x`"]),
        ("a.csv", "", &[], &["a.csv", "`text`"]),
        ("a.csv", "text,label\n", &[], &["a.csv", "no samples"]),
        ("a.jsonl", "", &[], &["a.jsonl", "no samples"]),
        ("a.jsonl", "{\"text\": \"a\", \"label\": 1}\n{\"text\"", &[], &["a.jsonl, line 2", "no JSON"]),
        ("a.jsonl", "[1]\n", &[], &["a.jsonl, line 1", "no JSON object"]),
        ("a.jsonl", "{\"text\": [1], \"label\": 1}\n", &[], &["line 1, column `text`", "neither text nor number"]),
        ("a.xlsx", "text,label\na,x\nb,y\n", &[], &["a.xlsx", ".csv, .tsv, .jsonl"]),
        ("a", "text,label\na,x\nb,y\n", &[], &[".csv, .tsv, .jsonl"]),
        ("a.csv", &format!("text,label\n{scores}"), &[], &["1000", "score", "`threshold`"]),
        ("nowhere/../gone.csv", "", &[], &["gone.csv", "cannot read"]),
    ];
    std::fs::create_dir(scratch.path().join("nowhere")).unwrap();
    for (name, contents, more, parts) in cases {
        let choice = table(scratch.path(), name, contents, more);
        if name.contains("gone") {
            std::fs::remove_file(scratch.path().join("gone.csv")).unwrap();
        }
        all_in(&datasets::describe(&choice).unwrap_err(), parts);
    }
    std::fs::write(scratch.path().join("latin.csv"), b"text,label\na,x\nM\xfcnchen,y\n").unwrap();
    let mut latin = choice("text-table", &[]);
    latin.settings.set("file", Value::Text(scratch.path().join("latin.csv").display().to_string()));
    all_in(&datasets::describe(&latin).unwrap_err(), &["latin.csv, line 3", "UTF-8"]);
    let split = [("split", "part")];
    let choice = table(scratch.path(), "s.csv", "text,label,part\na,x,train\nb,y,extra\n", &split);
    all_in(&load(&choice, 1, Wanted::all(0)).unwrap_err(), &["s.csv, line 3, column `part`", "`extra`", "train or test"]);
    let choice = table(scratch.path(), "s.csv", "text,label,part\na,x,train\nb,y,train\n", &split);
    all_in(&load(&choice, 1, Wanted::all(0)).unwrap_err(), &["2 texts to train on and 0 to test on"]);
    let choice = table(scratch.path(), "one.csv", "text,label\na,x\nb,y\nc,y\n", &[]);
    all_in(&load(&choice, 1, Wanted::all(0)).unwrap_err(), &["`x`", "one text only"]);
    // What was mended is seen at once.
    let choice = table(scratch.path(), "m.csv", "text,label\na,x\nb,y\n", &[]);
    assert_eq!(datasets::describe(&choice).unwrap().classes, ["x", "y"]);
    std::fs::write(scratch.path().join("m.csv"), "text,label\na,x\nb,y\nc,z\n").unwrap();
    assert_eq!(datasets::describe(&choice).unwrap().classes, ["x", "y", "z"]);
}

/// The tiny BERT of the fixtures with a tokenizer of whole words.
fn reader(root: &Path) -> Choice {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/backbones/bert");
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(fixture.join(name), root.join(name)).unwrap();
    }
    let words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "a", "the", "is", "was"];
    let vocabulary: BTreeMap<&str, usize> = words.into_iter().zip(0..).collect();
    let special = |id: usize| serde_json::json!({ "id": id, "content": words[id], "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true });
    let token = |id: &str, kind: usize| serde_json::json!({ "SpecialToken": { "id": id, "type_id": kind } });
    let text = |id: &str, kind: usize| serde_json::json!({ "Sequence": { "id": id, "type_id": kind } });
    let marks = |id: usize| serde_json::json!({ "id": words[id], "ids": [id], "tokens": [words[id]] });
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "decoder": null,
        "added_tokens": [special(0), special(1), special(2), special(3)],
        "normalizer": { "type": "Lowercase" },
        "pre_tokenizer": { "type": "Whitespace" },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [token("[CLS]", 0), text("A", 0), token("[SEP]", 0)],
            "pair": [token("[CLS]", 0), text("A", 0), token("[SEP]", 0), text("B", 1), token("[SEP]", 1)],
            "special_tokens": { "[CLS]": marks(2), "[SEP]": marks(3) },
        },
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]" },
    });
    std::fs::write(root.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    backbones::of_folder(root).unwrap()
}

/// Films that are good or bad, in as many words as it takes.
fn films(count: usize) -> String {
    let line = |n: usize| {
        let word = ["good", "bad"][n % 2];
        format!("\"the film {}is {word}\",{word}\n", "a ".repeat(n % 4))
    };
    (0..count).map(line).fold("text,label\n".to_owned(), |all, row| all + &row)
}

#[test]
fn a_text_encoder_learns_from_a_table_and_its_run_knows_the_files_from_everywhere() {
    let scratch = tempfile::tempdir().unwrap();
    let model_folder = scratch.path().join("model");
    std::fs::create_dir(&model_folder).unwrap();
    let backbone = reader(&model_folder);
    let data = table(scratch.path(), "films.csv", &films(60), &[]);
    let mut session = Session { backbone, data, ..common::session(vec![common::placed(&lora::CARD, Default::default())]) };
    (session.recipe.epochs, session.recipe.batch_size, session.recipe.learning_rate) = (4, 8, 1e-2);
    session.recipe.report_every = 1;
    assert!(Plan::of(&session).blocked().is_none(), "{:?}", Plan::of(&session).blocked());
    let prepared = model::data(&session).unwrap();
    assert!(prepared.train.texts.is_empty() && prepared.train.tokens.len() == 48);
    assert_eq!((prepared.train.tokens[0].ids[0], prepared.train.tokens[0].ids.last()), (2, Some(&3)));

    let losses = RefCell::new(vec![]);
    let send = |event: Event| {
        match event {
            Event::Step(step) => losses.borrow_mut().push(step.loss),
            Event::Finished(finished) => assert!(finished.accuracy >= 0.5, "{}", finished.accuracy),
            _ => {}
        }
        Ok(())
    };
    let folder = scratch.path().join("run");
    let around = Surroundings { run: "test", folder: &folder, send: &send, ask: &|| Ok(ControlFlow::Continue(())) };
    run::train(&session, &around).unwrap();
    let losses = losses.into_inner();
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    let (first, last) = (mean(&losses[..6]), mean(&losses[losses.len() - 6..]));
    assert!(last < 0.8 * first, "{first} to {last}");
    let kept = file::open(&folder.join("session.petl.toml")).unwrap();
    assert!(Path::new(kept.data.settings.text("file")).is_absolute());
    let done = exports::export(&folder, "petl", &scratch.path().join("out")).unwrap();
    assert_eq!((done.difference, done.samples), (0.0, 12));
}

#[test]
fn pairs_are_told_apart_by_the_tokens_kinds() {
    let scratch = tempfile::tempdir().unwrap();
    let model_folder = scratch.path().join("model");
    std::fs::create_dir(&model_folder).unwrap();
    let rows: String = (0..10).map(|n| format!("a film,the film was good,{}\n", n % 2)).collect();
    let data = table(scratch.path(), "p.csv", &format!("text,other,label\n{rows}"), &[("second", "other")]);
    let session = Session { backbone: reader(&model_folder), data, ..common::session(vec![]) };
    let tokens = &model::data(&session).unwrap().train.tokens[0];
    assert_eq!(tokens.ids, [2, 7, 6, 3, 8, 6, 10, 4, 3]);
    assert_eq!(tokens.kinds, [0, 0, 0, 0, 1, 1, 1, 1, 1]);
}

#[test]
fn texts_are_not_for_a_network_that_sees_nor_images_for_one_that_reads() {
    let scratch = tempfile::tempdir().unwrap();
    let model_folder = scratch.path().join("model");
    std::fs::create_dir(&model_folder).unwrap();
    let data = table(scratch.path(), "films.csv", &films(10), &[]);
    let seeing = Session { data, ..common::session(vec![]) };
    let reading = Session { backbone: reader(&model_folder), ..common::session(vec![]) };
    for (session, parts) in [(seeing, &["holds texts", "sees images"]), (reading, &["holds images", "reads texts"])] {
        let plan = Plan::of(&session);
        let problem = plan.blocked().unwrap();
        assert_eq!(problem.place, "data");
        all_in(&problem.words, parts);
        let mended = edit::apply(&session, &plan.anatomy, &problem.remedy.as_ref().unwrap().edit()).unwrap();
        assert!(Plan::of(&mended).blocked().is_none(), "{:?}", Plan::of(&mended).blocked());
    }
}

#[test]
fn idx_files_give_their_images_in_three_channels() {
    let scratch = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: Vec<u8>| std::fs::write(scratch.path().join(name), bytes).unwrap();
    let images = |count: u8| [vec![0, 0, 8, 3, 0, 0, 0, count, 0, 0, 0, 2, 0, 0, 0, 2], (0..count * 4).collect()].concat();
    write("train-images-idx3-ubyte", images(6));
    write("train-labels-idx1-ubyte", vec![0, 0, 8, 1, 0, 0, 0, 6, 0, 1, 2, 0, 1, 2]);
    write("t10k-images.idx3-ubyte", images(2));
    write("t10k-labels.idx1-ubyte.gz", vec![1]);
    let mut choice = choice("idx", &[("per_class", "1"), ("test", "1")]);
    choice.settings.set("folder", Value::Text(scratch.path().display().to_string()));
    all_in(&datasets::describe(&choice).unwrap_err(), &["t10k-labels", "packed", "gunzip"]);
    write("t10k-labels.idx1-ubyte", vec![0, 0, 8, 1, 0, 0, 0, 2, 2, 1]);
    assert_eq!(datasets::describe(&choice).unwrap().classes, ["0", "1", "2"]);
    let loaded = load(&choice, 1, Wanted::all(32)).unwrap();
    assert_eq!((by_class(&loaded.train), loaded.test.len(), loaded.train.side), ([(0, 1), (1, 1), (2, 1)].into(), 1, 2));
    for n in 0..3 {
        let first = loaded.train.image(n).unwrap()[0];
        assert_eq!(loaded.train.labels[n], u32::from(first / 4 % 3));
        let image: Vec<u8> = (first..first + 4).flat_map(|byte| [byte; 3]).collect();
        assert_eq!(loaded.train.image(n).unwrap(), image);
    }
    write("train-images-idx3-ubyte", images(5));
    all_in(&load(&choice, 1, Wanted::all(32)).unwrap_err(), &["5 images", "6 labels"]);
    write("train-images-idx3-ubyte", images(6)[..30].to_vec());
    all_in(&load(&choice, 1, Wanted::all(32)).unwrap_err(), &["train-images-idx3-ubyte", "30 bytes", "[6, 2, 2]"]);
}

#[test]
fn cifar_gives_its_planes_as_pixels_and_either_of_its_labels() {
    let scratch = tempfile::tempdir().unwrap();
    let record = |labels: &[u8], red: u8| [labels.to_vec(), vec![red; 1024], vec![2; 1024], vec![3; 1024]].concat();
    let write = |name: &str, bytes: Vec<u8>| std::fs::write(scratch.path().join(name), bytes).unwrap();
    let mut choice = choice("cifar", &[]);
    choice.settings.set("folder", Value::Text(scratch.path().display().to_string()));
    all_in(&datasets::describe(&choice).unwrap_err(), &["data_batch_1.bin", "train.bin"]);
    write("train.bin", [record(&[1, 50], 9), record(&[19, 99], 8)].concat());
    write("test.bin", record(&[2, 51], 7));
    let names: Vec<String> = (0..20).map(|n| format!("group {n}")).collect();
    write("coarse_label_names.txt", names.join("\n").into_bytes());
    assert_eq!(datasets::describe(&choice).unwrap().classes.len(), 100);
    let loaded = load(&choice, 1, Wanted::all(0)).unwrap();
    assert_eq!((loaded.train.labels.as_slice(), loaded.test.labels.as_slice()), (&[50, 99][..], &[51][..]));
    assert_eq!((&loaded.train.image(1).unwrap()[..6], loaded.train.image(1).unwrap().len()), (&[8, 2, 3, 8, 2, 3][..], 3072));
    choice.settings.set("labels", Value::Text("coarse".into()));
    assert_eq!(datasets::describe(&choice).unwrap().classes[19], "group 19");
    assert_eq!(load(&choice, 1, Wanted::all(0)).unwrap().train.labels, [1, 19]);
    write("data_batch_1.bin", [record(&[3], 9), record(&[9], 8)].concat());
    all_in(&load(&choice, 1, Wanted::all(0)).unwrap_err(), &["test_batch.bin", "cannot read"]);
    write("test_batch.bin", record(&[10], 9));
    all_in(&load(&choice, 1, Wanted::all(0)).unwrap_err(), &["test_batch.bin", "beyond 9"]);
    write("test_batch.bin", record(&[4], 9)[1..].to_vec());
    all_in(&load(&choice, 1, Wanted::all(0)).unwrap_err(), &["test_batch.bin", "3072 bytes", "3073"]);
}

#[test]
fn another_data_set_by_an_override_takes_over_only_what_it_knows() {
    let scratch = tempfile::tempdir().unwrap();
    pictures(scratch.path(), &[("a", 5), ("b", 5)]);
    let preset = file::find("digits-lora").unwrap(); // it tests on 500, which is no part
    let set = |more: &[&str]| file::set(&preset, &more.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()).unwrap();
    let path = format!("data.settings.folder={}", scratch.path().display());
    for order in [["data.name=image-folder", &path], [&path, "data.name=image-folder"]] {
        let session = set(&order);
        assert_eq!(session.data.settings.0.keys().collect::<Vec<_>>(), ["folder"]);
        assert!(Plan::of(&session).blocked().is_none());
    }
    assert_eq!(set(&["data.name=shapes"]).data.settings.whole("test"), 500, "what fits stays");
    // A slip of the pen is not dropped.
    let plan = Plan::of(&set(&["data.settings.trian=5", "data.name=shapes"]));
    assert_eq!(plan.blocked().unwrap().place, "data.settings.trian");
    // A column that is called by a number is text.
    assert_eq!(set(&["data.name=text-table", "data.settings.text=1"]).data.settings.text("text"), "1");
}

fn parquet(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parquet").join(name).display().to_string()
}

#[test]
fn images_in_parquet_are_split_by_their_files_and_named_as_the_hub_names_them() {
    let root = parquet("images");
    let of = |more: &[(&str, &str)]| choice("image-parquet", &[&[("folder", root.as_str())], more].concat());
    let described = datasets::describe(&of(&[])).unwrap();
    assert_eq!(described.classes, ["cat", "dog", "cow"]);
    all_in(
        &load(&of(&[]), 0, Wanted::all(8)).unwrap_err(),
        &["1 of 10 images cannot be read", "train-00000-of-00001.parquet, row 5", "`leave out`"],
    );
    let loaded = load(&of(&[("damaged", "leave out")]), 0, Wanted::all(8)).unwrap();
    assert_eq!((&loaded.train.labels[..], &loaded.test.labels[..]), (&[0, 1, 2, 0, 1, 0][..], &[0, 1, 2][..]));
    assert_eq!(loaded.train.image(3).unwrap()[..3], [120, 165, 21]); // the fourth picture's colour
    assert!(loaded.notes[0].contains("left out"), "{:?}", loaded.notes);
    let one = load(&of(&[("damaged", "leave out"), ("per_class", "1"), ("test_items", "2")]), 0, Wanted::all(8)).unwrap();
    assert_eq!((one.train.len(), one.test.len()), (3, 2));
    let lacks = datasets::describe(&of(&[("label", "kind")])).unwrap_err();
    all_in(&lacks, &["there is no column `kind`", "image, label"]);
    let folder = tempfile::tempdir().unwrap();
    let nothing = choice("image-parquet", &[("folder", folder.path().to_str().unwrap())]);
    all_in(&datasets::describe(&nothing).unwrap_err(), &["holds no parquet file", "Choose"]);
    let spoilt = folder.path().join("train.parquet");
    std::fs::write(&spoilt, b"PAR1 and no more").unwrap();
    all_in(&datasets::describe(&nothing).unwrap_err(), &["train.parquet is no whole parquet file"]);
}

#[test]
fn a_table_in_parquet_gives_what_one_in_csv_gives() {
    let file = parquet("texts.parquet");
    let of = |more: &[(&str, &str)]| choice("text-table", &[&[("file", file.as_str())], more].concat());
    assert_eq!(datasets::describe(&of(&[])).unwrap().classes, ["cat", "cow", "dog"]);
    let loaded = load(&of(&[]), 3, Wanted::all(0)).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let lines: String = (0..9).map(|n| format!("text {n},{}\n", ["cat", "dog", "cow"][n % 3])).collect();
    let csv = table(scratch.path(), "same.csv", &format!("text,label\n{lines}"), &[]);
    let same = load(&csv, 3, Wanted::all(0)).unwrap();
    assert_eq!((texts(&loaded.train), &loaded.train.labels), (texts(&same.train), &same.train.labels));
    let scores = datasets::describe(&of(&[("label", "score"), ("threshold", "1")])).unwrap();
    assert_eq!(scores.classes, ["below", "above"]);
}

/// The released VTAB-1k: a path and a number in each line.
#[test]
fn lists_of_images_are_trained_and_tested_on_as_they_stand() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path();
    for n in 0..6 {
        picture(&root.join(format!("images/a picture {n}.png")), n);
    }
    let list = |numbers: &[usize]| numbers.iter().map(|n| format!("images/a picture {n}.png {}\n", n % 3)).collect::<String>();
    std::fs::write(root.join("train800.txt"), list(&[4, 1, 2])).unwrap();
    std::fs::write(root.join("val200.txt"), list(&[0, 5])).unwrap();
    let of = |more: &[(&str, &str)]| choice("image-list", &[&[("folder", root.to_str().unwrap())], more].concat());
    assert_eq!(datasets::describe(&of(&[])).unwrap().classes, ["0", "1", "2"]);
    let loaded = load(&of(&[]), 0, Wanted::all(16)).unwrap();
    assert_eq!((numbers(&loaded.train), &loaded.train.labels[..]), (vec![4, 1, 2], &[1, 1, 2][..]));
    assert_eq!(numbers(&loaded.test), [0, 5]);
    std::fs::write(root.join("classes.txt"), "red\ngreen\nblue\n").unwrap();
    std::fs::write(root.join("test.txt"), list(&[3]) + "images/lost.png\n").unwrap();
    all_in(&load(&of(&[("test_list", "test.txt")]), 0, Wanted::all(16)).unwrap_err(), &["test.txt, line 2", "Mend the line"]);
    std::fs::write(root.join("test.txt"), list(&[3]) + "images/lost.png 1\n").unwrap();
    let renamed = of(&[("test_list", "test.txt")]);
    assert_eq!(datasets::describe(&renamed).unwrap().classes, ["red", "green", "blue"]);
    all_in(&load(&renamed, 0, Wanted::all(16)).unwrap_err(), &["1 of 5 images cannot be read", "lost.png"]);
}

/// Images of one grey each, by number, and a table of pairs over them.
fn pairs(folder: &Path, name: &str, lines: &str) -> Choice {
    for n in 0..12_u8 {
        image::RgbImage::from_pixel(6, 6, image::Rgb([n * 20; 3])).save(folder.join(format!("{n}.png"))).unwrap();
    }
    std::fs::write(folder.join(name), lines).unwrap();
    with("image-captions", &[("file", folder.join(name).to_str().unwrap())])
}

fn with(name: &str, settings: &[(&str, &str)]) -> Choice {
    let mut choice = Choice::named(name);
    for (name, value) in settings {
        let value = value.parse().map_or_else(|_| Value::Text((*value).to_owned()), Value::Real);
        choice.settings.set(name, value);
    }
    choice
}

#[test]
fn captions_keep_to_their_images_and_what_shares_one_is_never_parted() {
    let scratch = tempfile::tempdir().unwrap();
    // 0, 1 and 2 hang together: by a caption, and by an image with two of them. So do 3 and 4.
    let mut lines =
        "file_name,text\n0.png,red\n1.png,red\n1.png,\"warm, red\"\n2.png,\"warm, red\"\n3.png,blue\n4.png,blue\n".to_owned();
    (5..12).for_each(|n| lines += &format!("{n}.png,number {n}\n"));
    let choice = pairs(scratch.path(), "metadata.csv", &lines);
    let described = datasets::describe(&choice).unwrap();
    assert_eq!((described.holds, described.classes.len()), (Holds::Captions, 0));
    for seed in 0..20 {
        let loaded = load(&choice, seed, Wanted::all(6)).unwrap();
        assert_eq!(loaded.counts().iter().sum::<usize>(), 13);
        let mut tested = BTreeSet::new();
        for (samples, other) in [(&loaded.train, &loaded.test), (&loaded.test, &loaded.train)] {
            let greys: BTreeSet<u8> = (0..samples.len()).map(|n| samples.image(n).unwrap()[0] / 20).collect();
            let others: BTreeSet<u8> = (0..other.len()).map(|n| other.image(n).unwrap()[0] / 20).collect();
            assert!(greys.is_disjoint(&others), "an image on both sides");
            for group in [[0, 1, 2].as_slice(), &[3, 4]] {
                assert!(group.iter().all(|n| greys.contains(n)) || group.iter().all(|n| others.contains(n)));
            }
            // A label is the caption's number in its split.
            let (different, of) = samples.captions_of(&(0..samples.len()).collect::<Vec<_>>());
            assert_eq!(of, samples.labels);
            let texts: BTreeSet<&str> = samples.texts.iter().map(|text| text.first.as_str()).collect();
            assert_eq!(texts.len(), different.len());
            assert!((0..samples.len()).all(|n| {
                let grey = samples.image(n).unwrap()[0] / 20;
                grey < 5 || samples.texts[n].first == format!("number {grey}")
            }));
            tested = others;
        }
        assert!(!tested.is_empty());
    }
    assert_ne!(
        load(&choice, 1, Wanted::all(6)).unwrap().test.texts,
        load(&choice, 2, Wanted::all(6)).unwrap().test.texts,
        "the seed chooses"
    );
}

#[test]
fn pairs_come_from_tables_of_every_kind_and_faults_are_said_by_line() {
    let scratch = tempfile::tempdir().unwrap();
    let said: String = (0..12)
        .map(|n| {
            format!("{{\"f\": \"{n}.png\", \"words\": \"number {n}\", \"part\": \"{}\"}}\n", if n < 8 { "train" } else { "test" })
        })
        .collect();
    let mut choice = pairs(scratch.path(), "pairs.jsonl", &said);
    for (name, column) in [("image", "f"), ("caption", "words"), ("split", "part")] {
        choice.settings.set(name, Value::Text(column.to_owned()));
    }
    let loaded = load(&choice, 1, Wanted::all(6)).unwrap();
    assert_eq!(loaded.counts(), [8, 4]);
    assert_eq!(
        loaded.test.texts.iter().map(|t| t.first.as_str()).collect::<Vec<_>>(),
        ["number 8", "number 9", "number 10", "number 11"]
    );

    // Pictures in parquet themselves, one of them damaged, with the label's column for captions.
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/parquet/images/data/train-00000-of-00001.parquet");
    let parquet = [("file", file), ("image", "image"), ("caption", "label"), ("damaged", "leave out"), ("test", "0.34")];
    let loaded = load(&with("image-captions", &parquet), 1, Wanted::all(6)).unwrap();
    assert_eq!((loaded.train.len() + loaded.test.len(), loaded.notes.len()), (6, 1), "{:?}", loaded.notes);
    let fault =
        load(&with("image-captions", &[&parquet[..3], &parquet[4..]].concat()), 1, Wanted::all(6)).unwrap_err().to_string();
    all_in(&fault, &["1 of 7 images cannot be read", "row 5"]);

    for (lines, words) in [
        ("file_name,text\n0.png,red\n1.png,\n", vec!["line 3", "`text`", "there is no caption"]),
        ("file_name,text\n0.png,red\n ,blue\n", vec!["line 3", "`file_name`", "there is no image"]),
        ("file_name,words\n0.png,red\n", vec!["no column `text` for `caption`", "file_name, words"]),
    ] {
        all_in(&datasets::describe(&pairs(scratch.path(), "bad.csv", lines)).unwrap_err(), &words);
    }
    let one = load(&pairs(scratch.path(), "one.csv", "file_name,text\n0.png,red\n1.png,red\n"), 1, Wanted::all(6)).unwrap_err();
    all_in(&one.to_string(), &["0 pairs to train on and 2 to test on", "both are needed"]);
    let gone =
        load(&pairs(scratch.path(), "gone.csv", "file_name,text\n0.png,red\n77.png,blue\n"), 1, Wanted::all(6)).unwrap_err();
    all_in(&gone.to_string(), &["1 of 2 images cannot be read", "77.png"]);
}
