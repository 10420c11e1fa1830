//! Loading keeps up with training: images in files are decoded on demand and kept within a limit, and batches are made ahead by a thread of
//! their own. One test at a time: they count threads.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use burn::tensor::Device;
use image::{Rgb, RgbImage};
use petl_workbench::compare;
use petl_workbench::datasets::image_folder::{self, File};
use petl_workbench::datasets::pictures::{Memory, Picture};
use petl_workbench::datasets::{self, Loaded, Samples, Wanted};
use petl_workbench::engine::ahead::{AHEAD, Ahead, ahead};
use petl_workbench::engine::measure::Memory as Measured;
use petl_workbench::engine::model::{self, Model};
use petl_workbench::engine::run::{self, Surroundings, Trainer};
use petl_workbench::engine::{Event, Finished, batch, shards};
use petl_workbench::session::{Choice, Session, Value, file};

static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Threads of this program that make things ahead; none where the system does not list threads. One that has done its work may take a
/// moment to go.
fn makers() -> usize {
    let clock = Instant::now();
    while listed() > 0 && clock.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(1));
    }
    listed()
}

fn listed() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten();
    let name = |task: std::io::Result<std::fs::DirEntry>| std::fs::read_to_string(task.ok()?.path().join("comm")).ok();
    tasks.filter_map(name).filter(|name| name.trim() == "petl-ahead").count()
}

/// `count` pictures of their own, in turn of two classes.
fn pictures(root: &Path, count: usize) -> Vec<File> {
    let one = |n: usize| {
        let label = n % 2;
        let path = root.join(["cats", "dogs"][label]).join(format!("{n:04}.png"));
        let colour = |x: u32, y: u32| Rgb([(x * 5 + n as u32) as u8, (y * 7) as u8 ^ n as u8, (x * y) as u8 + label as u8 * 90]);
        RgbImage::from_fn(41, 37, colour).save(&path).expect("written");
        File { path, label: label as u32, quality: None }
    };
    ["cats", "dogs"].into_iter().for_each(|class| std::fs::create_dir_all(root.join(class)).expect("a folder"));
    (0..count).map(one).collect()
}

/// A preset on random weights and the images in a folder, with so many MB for those that are decoded.
fn session(root: &Path, memory: i64, more: &[&str]) -> Session {
    let usual = ["device=cpu", "backbone.settings.weights=random", "recipe.report_every=1", "recipe.epochs=2"];
    let set: Vec<String> = usual.iter().chain(more).map(|s| (*s).to_owned()).collect();
    let mut session = file::set(&file::find("digits-lora").expect("a preset"), &set).expect("set");
    session.data = Choice::named("image-folder");
    session.data.settings.set("folder", Value::Text(root.display().to_string()));
    session.data.settings.set("memory", Value::Whole(memory));
    session
}

fn bytes(samples: &Samples) -> Vec<Vec<u8>> {
    (0..samples.len()).map(|n| samples.image(n).expect("an image").into_owned()).collect()
}

// What is kept.

#[test]
fn what_fits_is_decoded_once_and_never_more_is_held_than_the_limit() {
    let _alone = alone();
    let scratch = tempfile::tempdir().expect("a folder");
    let files = pictures(scratch.path(), 30);
    let (side, size) = (16, 16 * 16 * 3);
    let all = Memory::new(usize::MAX);
    let (whole, damaged) = image_folder::read(&files, side, &all);
    assert!(damaged.is_empty() && whole.len() == 30 && whole.side == side);
    let expected = bytes(&whole);
    assert_eq!(bytes(&whole), expected);
    assert_eq!((all.decoded(), all.held()), (30, 30 * size), "all fits: decoded when it was loaded, and never again");
    assert!(!whole.decodes(&(0..30).collect::<Vec<_>>()));

    for (limit, kept) in [(0, 0), (size - 1, 0), (11 * size + size / 2, 11), (30 * size, 30)] {
        let memory = Memory::new(limit);
        let (samples, _) = image_folder::read(&files, side, &memory);
        // Three passes, in and out of order, by one thread and by several at once.
        assert_eq!(bytes(&samples), expected);
        let order: Vec<usize> = (0..30).map(|n| n * 7 % 30).collect();
        shards::each(&order, 4, |some| {
            some.iter().for_each(|n| assert_eq!(samples.image(*n).expect("an image")[..], expected[*n]));
        });
        assert_eq!(bytes(&samples), expected);
        assert_eq!((memory.held(), memory.most()), (kept * size, kept * size), "limit {limit}");
        assert_eq!(memory.decoded(), 30 + 3 * (30 - kept), "what is kept stays, limit {limit}");
        let is_kept = |n: &usize| !samples.decodes(&[*n]);
        assert_eq!((0..30).filter(is_kept).count(), kept);
        drop(samples);
        assert_eq!(memory.held(), 0, "what has gone gives its room back");
    }
}

#[test]
fn samples_in_files_are_resized_cut_joined_and_hashed_as_those_in_memory() {
    let _alone = alone();
    let scratch = tempfile::tempdir().expect("a folder");
    let files = pictures(scratch.path(), 9);
    let memory = Memory::new(5 * 12 * 12 * 3);
    let read = |files: &[File], side| image_folder::read(files, side, &memory).0;
    let packed = |from: &Samples| {
        let mut packed = Samples { side: from.side, ..Samples::default() };
        (0..from.len()).for_each(|n| packed.push(&from.image(n).expect("an image"), from.labels[n], 0));
        packed
    };
    let mut samples = read(&files, 12);
    let same = |a: &Samples, b: &Samples| {
        assert_eq!((bytes(a), &a.labels, a.side), (bytes(b), &b.labels, b.side));
        assert_eq!(compare::fingerprint(a).expect("read"), compare::fingerprint(b).expect("read"));
    };
    same(&samples, &packed(&samples));
    samples.truncate(4);
    let mut joined = packed(&samples);
    joined.append(&mut packed(&read(&files[6..], 12)));
    samples.append(&mut read(&files[6..], 12));
    assert_eq!(samples.len(), 7);
    same(&samples, &joined);
    // Of the file itself, not of what was made of it before.
    samples.resize(20).expect("resized");
    same(&samples, &packed(&read(&[&files[..4], &files[6..]].concat(), 20)));
    assert!(memory.most() <= memory.limit(), "{} of {}", memory.most(), memory.limit());
}

#[test]
fn the_setting_is_in_megabytes_and_a_note_says_when_it_is_too_little() {
    let _alone = alone();
    let scratch = tempfile::tempdir().expect("a folder");
    pictures(scratch.path(), 40);
    let load = |memory, wanted: Wanted| -> Loaded {
        let card = datasets::find("image-folder").expect("a card");
        let settings = session(scratch.path(), memory, &[]).data.settings.filled(card.fields);
        (card.load)(&settings, 1, &wanted).expect("loaded")
    };
    // An image of 120 pixels a side has 43,200 bytes: 23 of them in a megabyte.
    let little = load(1, Wanted::all(120));
    let kept = |samples: &Samples| samples.pictures.iter().filter(|picture| picture.is_kept()).count();
    assert_eq!(kept(&little.train) + kept(&little.test), 23);
    assert_eq!(little.train.pictures[0].memory().held(), 23 * 43_200, "one limit for all that is loaded");
    let note = &little.notes[0];
    for part in ["23 of 40 images", "`memory` (1 MB)", "2 MB"] {
        assert!(note.contains(part), "{note}");
    }
    assert!(load(2, Wanted::all(120)).notes.is_empty());
    assert!(load(0, Wanted { at_most: 9, ..Wanted::all(120) }).notes.is_empty(), "a look at a few of them needs no words");
    // It is nothing that tells two runs apart.
    let alike = |memory| compare::alike(&session(scratch.path(), memory, &[]));
    assert_eq!(alike(1), alike(2));
}

/// Row groups of six rows, pages of two, a row without a picture: what is read by itself is what was read with all others.
#[test]
fn a_picture_in_parquet_is_found_by_itself() {
    let _alone = alone();
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/parquet/pages");
    let load = |memory| {
        let mut choice = Choice::named("image-parquet");
        choice.settings.set("folder", Value::Text(root.to_owned()));
        choice.settings.set("damaged", Value::Text("leave out".to_owned()));
        choice.settings.set("memory", Value::Whole(memory));
        let card = datasets::find("image-parquet").expect("a card");
        (card.load)(&choice.settings.filled(card.fields), 1, &Wanted::all(4)).expect("loaded")
    };
    let (all, none) = (load(2048), load(0));
    let mut seen = vec![];
    for (all, none) in [(&all.train, &none.train), (&all.test, &none.test)] {
        assert!(none.pictures.iter().all(|picture| !picture.is_kept()));
        let (all, none) = (bytes(all), bytes(none));
        assert_eq!(all, none);
        seen.extend(none.into_iter().map(|image| image[0]));
    }
    seen.sort_unstable();
    let expected: Vec<u8> = (0..3).flat_map(|file| (0..13).filter(|n| *n != 4).map(move |n| file * 20 + n)).collect();
    assert_eq!(seen, expected, "every picture by its colour");
    assert!(all.notes[0].contains("3 of 39 images cannot be read") && all.notes[0].contains("train-0.parquet, row 4"));
}

// What is made ahead.

#[test]
fn things_come_in_order_and_never_more_than_two_ahead() {
    let _alone = alone();
    let made = AtomicUsize::new(0);
    let make = |n: usize| {
        made.fetch_add(1, SeqCst);
        Ok(n)
    };
    let work = |next: &Ahead<usize>| {
        for n in 0..20 {
            std::thread::sleep(Duration::from_millis(5));
            assert!(made.load(SeqCst) <= n + AHEAD, "{} are made, {n} were taken", made.load(SeqCst));
            assert_eq!(next.next()?, Some(n));
        }
        assert_eq!(next.next()?, None);
        Ok("done")
    };
    assert_eq!(ahead("a number", 0..20, make, work).expect("worked"), "done");
    assert_eq!((made.load(SeqCst), makers()), (20, 0));
}

#[test]
fn however_the_work_ends_the_thread_goes() {
    let _alone = alone();
    let (made, taken) = (AtomicUsize::new(0), 3);
    let make = |n: usize| {
        made.fetch_add(1, SeqCst);
        Ok(n)
    };
    let take = |next: &Ahead<usize>| -> Result<()> {
        (0..taken).try_for_each(|n| {
            assert_eq!(next.next()?, Some(n));
            Ok(())
        })
    };
    let ends: [&dyn Fn() -> Result<()>; 3] = [&|| Ok(()), &|| bail!("the disk is full"), &|| panic!("the tensors do not fit")];
    for (n, end) in ends.iter().enumerate() {
        made.store(0, SeqCst);
        let all = || ahead("a number", 0.., make, |next| take(next).and_then(|()| end()));
        let how = catch_unwind(AssertUnwindSafe(all));
        assert!(made.load(SeqCst) <= taken + AHEAD, "{} were made", made.load(SeqCst));
        assert_eq!(makers(), 0, "a thread is left behind");
        match (n, how) {
            (0, Ok(Ok(()))) | (2, Err(_)) => {}
            (1, Ok(Err(fault))) => assert_eq!(fault.to_string(), "the disk is full"),
            (_, how) => panic!("end {n} gave {:?}", how.map_err(|_| "a panic")),
        }
    }
}

#[test]
fn what_cannot_be_made_is_said_in_its_turn_with_its_cause() {
    let _alone = alone();
    for cause in ["the file has gone", "index 9 is too far"] {
        let fail = || if cause.starts_with("index") { panic!("{cause}") } else { bail!("{cause}") };
        let make = |n: usize| if n == 2 { fail() } else { Ok(n) };
        let work = |next: &Ahead<usize>| {
            assert_eq!((next.next()?, next.next()?), (Some(0), Some(1)), "those before are whole");
            let fault = next.next().expect_err("the third");
            assert!(next.next()?.is_none(), "nothing comes after it");
            Err::<(), _>(fault)
        };
        let words = format!("{:#}", ahead("a batch of numbers", 0..9, make, work).expect_err("a fault"));
        assert!(words.contains("a batch of numbers cannot be made") && words.contains(cause), "{words}");
        assert_eq!(makers(), 0);
    }
}

#[test]
fn while_one_works_the_next_is_made() {
    let _alone = alone();
    let pause = |ms| std::thread::sleep(Duration::from_millis(ms));
    let make = |n: usize| {
        pause(30);
        Ok(n)
    };
    let mut waited = Duration::ZERO;
    let work = |next: &Ahead<usize>| {
        for _ in 0..10 {
            let clock = Instant::now();
            next.next()?;
            waited += clock.elapsed();
            pause(45);
        }
        Ok(())
    };
    ahead("a number", 0..10, make, work).expect("worked");
    // 300 ms of making; only the first 30 have nothing to hide behind.
    assert!(waited < Duration::from_millis(150), "{waited:?}");
}

#[test]
fn what_is_measured_is_not_disturbed() {
    let _alone = alone();
    let making = AtomicUsize::new(0);
    let make = |n: usize| {
        making.store(1, SeqCst);
        std::thread::sleep(Duration::from_millis(5));
        making.store(0, SeqCst);
        Ok(n)
    };
    let work = |next: &Ahead<usize>| {
        for _ in 0..10 {
            next.next()?;
            next.still(|| {
                for _ in 0..8 {
                    assert_eq!(making.load(SeqCst), 0);
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
        }
        Ok(())
    };
    ahead("a number", 0..10, make, work).expect("worked");
}

// What is trained.

/// The losses of a run's steps and evaluations and its predictions, to the last bit, and its summary.
fn trained(session: &Session, on: impl Fn(&Event)) -> Result<(Vec<u64>, Vec<u32>, Finished)> {
    let folder = tempfile::tempdir().expect("a folder");
    let (losses, end) = (RefCell::new(vec![]), RefCell::new(None));
    let send = |event: Event| {
        on(&event);
        match event {
            Event::Step(step) => {
                assert!(step.wait_ms >= 0.0 && step.wait_ms <= step.step_ms, "{step:?}");
                losses.borrow_mut().extend([step.loss.to_bits(), step.gradient_norm.to_bits()]);
            }
            Event::Evaluated(test) => losses.borrow_mut().push(test.loss.to_bits()),
            Event::Finished(finished) => drop(end.replace(Some(finished))),
            _ => {}
        }
        Ok(())
    };
    let around = Surroundings { run: "test", folder: folder.path(), send: &send, ask: &|| Ok(ControlFlow::Continue(())) };
    run::train(session, &around)?;
    assert_eq!(makers(), 0, "a thread is left behind");
    let finished = end.take().expect("an end");
    assert!(finished.wait_ms <= finished.step_ms, "{finished:?}");
    Ok((losses.into_inner(), finished.predictions.clone(), finished))
}

/// The same by hand: every batch is made when it is needed, by the thread that trains.
fn trained_without(session: &Session, data: &Loaded) -> (Vec<u64>, Vec<u32>) {
    let mut model = Model::make(session, &Device::flex()).expect("a model");
    let mut trainer = Trainer::new(session, &model, data).expect("a trainer");
    let (memory, mut losses) = (Measured::start(0, &model.device), vec![]);
    let maker = trainer.maker(&model, shards::count(&model.device));
    for epoch in 0..session.recipe.epochs {
        for picked in batch::epoch(data.train.len(), session.recipe.batch_size, session.seed, epoch) {
            let parts = maker.parts(&data.train, &picked, epoch).expect("a batch");
            let step = trainer.step(&mut model, &data.train, parts, &memory).expect("a step").expect("a report");
            losses.extend([step.loss.to_bits(), step.gradient_norm.to_bits()]);
        }
        losses.push(trainer.evaluate(&model, data, epoch + 1).expect("evaluated").loss.to_bits());
    }
    (losses, trainer.predictions)
}

#[test]
fn a_run_gives_the_same_to_the_last_bit_with_and_without_batches_made_ahead() {
    let _alone = alone();
    // Everything by which samples and epochs differ is on, and the last batch is a short one.
    let more = [
        "methods.0.settings.dropout=0.3",
        "recipe.flip=true",
        "recipe.crop=2",
        "data.settings.train=72",
        "data.settings.test=30",
    ];
    for preset in ["digits-lora", "digits-probe"] {
        let usual = ["device=cpu", "backbone.settings.weights=random", "recipe.report_every=1", "recipe.epochs=2"];
        let more = if preset == "digits-probe" { &more[3..] } else { &more[..] };
        let set: Vec<String> = usual.iter().chain(more).map(|s| (*s).to_owned()).collect();
        let session = file::set(&file::find(preset).expect("a preset"), &set).expect("set");
        let (losses, predictions, _) = trained(&session, |_| ()).expect("trained");
        let steps = 72_usize.div_ceil(session.recipe.batch_size);
        assert!(72 % session.recipe.batch_size != 0 && losses.len() == 2 * (2 * steps + 1));
        let data = model::data(&session).expect("data");
        assert_eq!(trained_without(&session, &data), (losses, predictions), "{preset}");
    }
}

#[test]
fn a_run_gives_the_same_with_any_memory_and_decodes_only_what_does_not_fit() {
    let _alone = alone();
    let scratch = tempfile::tempdir().expect("a folder");
    // 32 pixels a side, 3,072 bytes: 325 of them in a megabyte.
    let (count, tested, epochs) = (400, 80, 2);
    pictures(scratch.path(), count);
    let more = ["recipe.flip=true", "recipe.crop=1"];
    let mut first = None;
    for (memory, kept) in [(2048, count), (1, 325), (0, 0)] {
        let session = session(scratch.path(), memory, &more);
        let (losses, predictions, _) = trained(&session, |_| ()).expect("trained");
        let data = model::data(&session).expect("data");
        assert_eq!((data.train.len(), data.test.len()), (count - tested, tested));
        let cache = data.train.pictures[0].memory();
        assert_eq!((cache.decoded(), cache.held()), (count, kept * 3072));
        assert_eq!(trained_without(&session, &data), (losses.clone(), predictions.clone()), "memory {memory}");
        // Every epoch sees all training and all test images once.
        assert_eq!(cache.decoded(), count + epochs * (count - kept), "memory {memory}");
        assert!(cache.most() <= cache.limit(), "memory {memory}");
        let (losses_before, predictions_before) = first.get_or_insert((losses.clone(), predictions.clone()));
        assert_eq!((&losses, &predictions), (&*losses_before, &*predictions_before), "memory {memory}");
    }
}

#[test]
fn an_image_that_goes_while_it_is_needed_ends_the_run_with_its_name() {
    let _alone = alone();
    let scratch = tempfile::tempdir().expect("a folder");
    let gone = pictures(scratch.path(), 40)[6].path.clone();
    for spoil in [|path: &Path| std::fs::remove_file(path), |path: &Path| std::fs::write(path, "no image")] {
        pictures(scratch.path(), 40);
        // Loaded, and not kept; it goes before the first step.
        let on = |event: &Event| {
            if matches!(event, Event::Started(_)) {
                spoil(&gone).expect("spoilt");
            }
        };
        let words = format!("{:#}", trained(&session(scratch.path(), 0, &[]), on).expect_err("a fault"));
        for part in [gone.to_str().expect("a name"), "cannot be read now", "Put it back"] {
            assert!(words.contains(part), "{words}\nlacks {part}");
        }
        assert_eq!(makers(), 0, "a thread is left behind");
        // What is kept needs no file any more.
        pictures(scratch.path(), 40);
        trained(&session(scratch.path(), 1, &[]), on).expect("trained");
    }
}

#[test]
fn stopping_a_run_leaves_no_thread_behind() {
    let _alone = alone();
    let scratch = tempfile::tempdir().expect("a folder");
    pictures(scratch.path(), 40);
    let session = session(scratch.path(), 0, &["recipe.epochs=500", "recipe.batch_size=4"]);
    for end in ["stop", "fault", "panic"] {
        let folder = tempfile::tempdir().expect("a folder");
        let steps = AtomicUsize::new(0);
        let ask = || match (steps.fetch_add(1, SeqCst), end) {
            (5, "stop") => Ok(ControlFlow::Break(())),
            (5, "fault") => bail!("the log is full"),
            (5, _) => panic!("the window has gone"),
            _ => Ok(ControlFlow::Continue(())),
        };
        let around = Surroundings { run: "test", folder: folder.path(), send: &|_| Ok(()), ask: &ask };
        let how = catch_unwind(AssertUnwindSafe(|| run::train(&session, &around)));
        assert_eq!(makers(), 0, "{end}: a thread is left behind");
        match (end, how) {
            ("stop", Ok(Ok(()))) | ("panic", Err(_)) => {}
            ("fault", Ok(Err(fault))) => assert_eq!(fault.to_string(), "the log is full"),
            (end, how) => panic!("{end} gave {:?}", how.map_err(|_| "a panic")),
        }
    }
}

#[test]
fn a_probe_loads_once_and_then_no_more() {
    let _alone = alone();
    let scratch = tempfile::tempdir().expect("a folder");
    pictures(scratch.path(), 40);
    let mut probe = session(scratch.path(), 0, &["recipe.epochs=20"]);
    probe.methods.clear();
    let data = model::data(&probe).expect("data");
    trained_without(&probe, &data);
    assert_eq!(data.train.pictures[0].memory().decoded(), 80, "once to look at, once for the features");
}

/// A picture is what it was, whoever holds it.
#[test]
fn a_picture_at_another_side_is_another_one() {
    let _alone = alone();
    let scratch = tempfile::tempdir().expect("a folder");
    let files = pictures(scratch.path(), 1);
    let memory = Memory::new(1 << 20);
    let picture = Picture::in_file(&files[0].path, 8, &memory).expect("a picture");
    let larger = picture.at(16);
    assert!(picture.is_kept() && !larger.is_kept());
    assert_eq!((picture.bytes().expect("bytes").len(), larger.bytes().expect("bytes").len()), (8 * 8 * 3, 16 * 16 * 3));
    assert_eq!(memory.held(), (8 * 8 + 16 * 16) * 3);
    drop(picture);
    assert_eq!(memory.held(), 16 * 16 * 3);
    let words = Picture::in_file(&scratch.path().join("none.png"), 8, &memory).expect_err("no picture");
    assert!(words.contains("none.png ("), "{words}");
}
