//! Several tasks in one loader: only a task's own labels compete, accuracy by task, and what leaves.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use burn::tensor::{Device, Tensor, TensorData};
use common::{apart, numbers};
use petl_workbench::backbones::weights;
use petl_workbench::board::Run;
use petl_workbench::datasets::{self, Holds, Task, Wanted};
use petl_workbench::engine::batch::Rows;
use petl_workbench::engine::measure::Memory;
use petl_workbench::engine::model::{self, Model, host};
use petl_workbench::engine::run::{self, Surroundings, Trainer};
use petl_workbench::engine::{Event, Finished};
use petl_workbench::exports::{self, tensors};
use petl_workbench::session::settings::{Kind, Value};
use petl_workbench::session::{Choice, Session, file};
use petl_workbench::tasks::classify;

#[test]
fn the_tasks_of_every_data_set_part_its_classes_and_its_samples_keep_to_them() {
    let scratch = tempfile::tempdir().unwrap();
    for card in datasets::CATALOG {
        let mut few = common::files(card, scratch.path());
        for field in card.fields {
            if let Kind::Whole { min, .. } = field.kind {
                few.set(field.name, Value::Whole(min));
            }
        }
        let few = few.filled(card.fields);
        let described = (card.describe)(&few).unwrap();
        let (classes, tasks) = (&described.classes, &described.tasks);
        let ends: Vec<usize> = tasks.iter().map(|task| task.first + task.classes).collect();
        let begins: Vec<usize> = tasks.iter().map(|task| task.first).collect();
        assert_eq!([&[0], &ends[..ends.len() - 1]].concat(), begins, "{}: a gap between two tasks", card.name);
        assert_eq!(ends.last(), Some(&classes.len()), "{}", card.name);
        // Captions are no classes.
        let parted = classes.len() > 1 || (described.holds == Holds::Captions && classes.is_empty());
        assert!(parted && !described.domains.is_empty(), "{}", card.name);
        assert_eq!(classes.iter().collect::<BTreeSet<_>>().len(), classes.len(), "{}: two of one name", card.name);
        let loaded = (card.load)(&few, 1, &Wanted::all(8)).unwrap();
        assert_eq!(loaded.counts(), [loaded.train.len(), loaded.test.len()], "{}", card.name);
        for samples in [loaded.train, loaded.test] {
            let texts = samples.texts.len();
            let images = samples.pictures.len() + samples.pixels.len() / (samples.side * samples.side * 3).max(1);
            let expected = match described.holds {
                Holds::Texts => [samples.len(), 0, 0],
                Holds::Sounds => [0, 0, samples.len()],
                Holds::Captions => [samples.len(), samples.len(), 0],
                _ => [0, samples.len(), 0],
            };
            assert_eq!([texts, images, samples.sounds.len()], expected, "{}", card.name);
            assert!(!samples.is_empty(), "{}", card.name);
            let of_a_domain = samples.domains.iter().all(|domain| usize::from(*domain) < described.domains.len());
            assert!(of_a_domain && samples.domains.len() == samples.len(), "{}", card.name);
            assert_eq!(samples.tasks.len(), samples.len(), "{}", card.name);
            if described.holds == Holds::Captions {
                let (different, of) = samples.captions_of(&(0..samples.len()).collect::<Vec<_>>());
                assert_eq!((different.len(), &of), (samples.len(), &samples.labels), "each has a caption of its own");
                continue;
            }
            for (task, label) in samples.tasks.iter().zip(&samples.labels) {
                let task = tasks[usize::from(*task)];
                assert!((task.first..task.first + task.classes).contains(&(*label as usize)), "{}: {label}", card.name);
            }
        }
    }
}

const TWO: [Task; 2] = [Task { name: "a", first: 0, classes: 2 }, Task { name: "b", first: 2, classes: 3 }];

#[test]
fn only_the_classes_of_a_samples_task_compete_for_it() {
    let (labels, of) = ([1_u32, 4, 2, 0], [0_u16, 1, 1, 0]);
    let values: Vec<f32> = numbers(4 * 5, 0.3).iter().map(|v| v * 4.0).collect();
    let leaf = Tensor::<2>::from_data(TensorData::new(values.clone(), [4, 5]), &Device::flex()).autodiff().require_grad();
    let targets = Tensor::from_data(TensorData::new(labels.map(i64::from).to_vec(), [4]), &Device::flex());
    for smoothing in [0.0, 0.3] {
        let own = classify::own(&TWO, &of, &leaf);
        let loss = classify::loss_among(own, leaf.clone(), targets.clone(), smoothing);
        // Each sample by itself, among the two or three classes that are its own.
        let mut sum = 0.0;
        for ((row, label), task) in values.chunks(5).zip(labels).zip(of) {
            let Task { first, classes, .. } = TWO[usize::from(task)];
            let row: Vec<f64> = row[first..first + classes].iter().map(|v| f64::from(*v)).collect();
            let all = row.iter().map(|v| v.exp()).sum::<f64>().ln();
            let hit = row[label as usize - first] - all;
            let even = row.iter().map(|v| v - all).sum::<f64>() / classes as f64;
            sum -= hit * (1.0 - smoothing) + even * smoothing;
        }
        let found = f64::from(host(loss.clone()).unwrap()[0]);
        assert!((found - sum / 4.0).abs() < 1e-5, "smoothing {smoothing}: {found} and {}", sum / 4.0);
        let gradient = host(leaf.grad(&loss.backward()).unwrap()).unwrap();
        for (row, task) in gradient.chunks(5).zip(of) {
            let Task { first, classes, .. } = TWO[usize::from(task)];
            for (class, value) in row.iter().enumerate() {
                assert_eq!(*value != 0.0, (first..first + classes).contains(&class), "class {class} of task {task}: {value}");
            }
        }
    }
    let rivals = classify::rivals(&values, &TWO, &of);
    for (n, rivals) in rivals.iter().enumerate() {
        let Task { first, classes, .. } = TWO[usize::from(of[n])];
        let own = &values[n * 5 + first..n * 5 + first + classes];
        assert_eq!(rivals.label() as usize, first + classify::argmax(own));
        assert_eq!(rivals.logit(labels[n]), Some(values[n * 5 + labels[n] as usize]));
        assert_eq!(rivals.logit(if first == 0 { 2 } else { 1 }), None, "it does not compete");
    }
    // One task, or a data set that nobody knows: all compete, and nothing is masked.
    assert!(classify::own(&TWO[..1], &of, &leaf).is_none() && classify::own(&[], &of, &leaf).is_none());
    assert!(classify::rivals(&values, &[], &of).iter().all(|rivals| rivals.logits.len() == 5));
}

/// A preset on a few samples and random weights.
fn tiny(preset: &str, more: &[&str]) -> Session {
    let usual = ["recipe.epochs=1", "device=cpu", "backbone.settings.weights=random", "recipe.report_every=1"];
    let mut set: Vec<String> = usual.map(str::to_owned).to_vec();
    let session = file::find(preset).unwrap();
    let three = session.data.name == "three-tasks" || more.contains(&"data.name=three-tasks");
    set.extend(more.iter().map(|s| (*s).to_owned()));
    let sizes = if three { &["digits=24", "emoji=30", "shapes=18", "test=20"][..] } else { &["train=40", "test=64"] };
    set.extend(sizes.iter().map(|size| format!("data.settings.{size}")));
    file::set(&session, &set).unwrap()
}

/// Trains it into `folder`; its last event.
fn train(session: &Session, folder: &Path) -> Finished {
    let last = RefCell::new(None);
    let send = |event: Event| {
        if let Event::Finished(finished) = event {
            last.replace(Some(finished));
        }
        Ok(())
    };
    let around = Surroundings { run: "test", folder, send: &send, ask: &|| Ok(ControlFlow::Continue(())) };
    run::train(session, &around).unwrap();
    last.into_inner().unwrap()
}

fn trained(preset: &str, more: &[&str]) -> (tempfile::TempDir, PathBuf, Finished) {
    let scratch = tempfile::tempdir().unwrap();
    let run = scratch.path().join("run");
    let finished = train(&tiny(preset, more), &run);
    (scratch, run, finished)
}

const MULTIPLE: &str = "vl-adapter-multiple";

#[test]
fn a_run_says_how_it_does_task_by_task() {
    for preset in [MULTIPLE, "hyperformer-tasks"] {
        let (_scratch, folder, finished) = trained(preset, &["recipe.label_smoothing=0.1"]);
        assert_eq!(finished.tasks.keys().collect::<Vec<_>>(), ["digits", "emoji", "shapes"]);
        assert!(finished.domains.is_empty());
        let test = model::data(&exports::load_run(&folder).unwrap().0).unwrap().test;
        let tasks = datasets::describe(&Choice::named("three-tasks")).unwrap().tasks;
        for (index, task) in tasks.iter().enumerate() {
            let of_it = |n: &usize| usize::from(test.tasks[*n]) == index;
            let own: Vec<usize> = (0..test.len()).filter(of_it).collect();
            let here = |n: &usize| (task.first..task.first + task.classes).contains(&(finished.predictions[*n] as usize));
            assert!(own.iter().all(here), "{}: a label of another task", task.name);
            let right = own.iter().filter(|n| finished.predictions[**n] == test.labels[**n]).count();
            assert_eq!(finished.tasks[task.name], right as f64 / 20.0);
        }
        assert!((finished.tasks.values().sum::<f64>() / 3.0 - finished.accuracy).abs() < 1e-12);
        let summary: Finished = serde_json::from_slice(&std::fs::read(folder.join("summary.json")).unwrap()).unwrap();
        assert_eq!((summary.tasks, summary.predictions), (finished.tasks, finished.predictions));
        // Chance is 1/10 to 1/7: no loss is as if all 25 classes competed (ln 25 = 3.2).
        assert!(finished.loss < 2.6, "{}", finished.loss);
    }
    let (_scratch, folder, finished) = trained("digits-lora", &[]);
    assert!(finished.tasks.is_empty());
    assert!(!std::fs::read_to_string(folder.join("summary.json")).unwrap().contains("\"tasks\""));
}

#[test]
fn the_board_has_the_tasks_in_the_data_sets_order() {
    let session = file::find(MULTIPLE).unwrap();
    let mut run = Run::new("run", Path::new("/nowhere"), Some(session));
    assert!(run.accuracy_by_task().is_empty());
    let tasks = [("shapes", 0.25), ("emoji", 0.5), ("digits", 0.75)].map(|(name, a)| (name.to_owned(), a)).into();
    run.fold(&Event::Finished(Finished { tasks, ..Finished::default() }));
    assert_eq!(run.accuracy_by_task(), [("digits", 0.75), ("emoji", 0.5), ("shapes", 0.25)]);
}

#[test]
fn a_batch_of_several_tasks_in_parts_gives_what_the_whole_batch_gives() {
    for (preset, more) in [
        (MULTIPLE, &["methods.0.settings.dropout=0.5"][..]),
        ("vl-adapter-half-shared", &[]),
        ("hyperformer-tasks", &[]),
        ("digits-probe", &["data.name=three-tasks"]),
    ] {
        let session = tiny(preset, &[more, &["recipe.label_smoothing=0.1"]].concat());
        let model = Model::make(&session, &Device::flex()).unwrap();
        let data = model::data(&session).unwrap();
        let trainer = Trainer::new(&session, &model, &data).unwrap();
        let picked: Vec<usize> = (0..13).map(|n| n * 5 % 64).collect();
        assert_eq!(data.train.tasks_of(&picked).iter().collect::<BTreeSet<_>>().len(), 3);
        let of = |parts| {
            let parts = trainer.maker(&model, parts).parts(&data.train, &picked, 0).unwrap();
            let all = trainer.gradients(&model, &data.train, parts, &Memory::start(0, &model.device)).unwrap();
            let mut values = host(all.loss).unwrap();
            values.extend(host(Tensor::cat(all.answers, 0)).unwrap());
            // A part that lacks a task has no gradient for nothing of it: the sum has all.
            all.gradients.into_values().for_each(|gradient| values.extend(host(gradient).unwrap()));
            values
        };
        let whole = of(1);
        for parts in [2, 5, 13] {
            assert!(apart(&whole, &of(parts)) < 2e-5, "{preset} in {parts} parts: {}", apart(&whole, &of(parts)));
        }
    }
}

#[test]
fn an_adapter_of_several_tasks_leaves_as_petl_and_is_refused_elsewhere_in_words() {
    for preset in [MULTIPLE, "vl-adapter-half-shared", "hyperformer-tasks"] {
        let (scratch, run, _) = trained(preset, &[]);
        let into = |kind: &str| scratch.path().join(kind);
        let done = exports::export(&run, "petl", &into("petl")).unwrap();
        assert_eq!((done.difference, done.samples), (0.0, 60));
        let again = exports::export(&into("petl"), "petl", &into("again")).unwrap(); // it stands without the run
        assert_eq!(again.difference, 0.0);
        for kind in ["peft", "merged", "transformers"] {
            let words = format!("{:#}", exports::export(&run, kind, &into(kind)).unwrap_err());
            assert!(words.contains("`petl`") && !into(kind).exists(), "{preset} as {kind}: {words}");
        }
    }
}

#[test]
fn an_adapter_is_not_loaded_for_another_number_of_tasks() {
    let (_scratch, run, _) = trained(MULTIPLE, &[]);
    let values = exports::own::values(&run).unwrap();
    let mut other = Model::make(&tiny("houlsby", &[]), &Device::flex()).unwrap();
    let words = format!("{:#}", other.bag.load(&values, &other.device).unwrap_err());
    assert!(words.contains("in the adapter, but this session makes it"), "{words}");
}

#[test]
fn what_does_not_know_tasks_leaves_with_the_labels_of_all() {
    let (scratch, run, _) = trained("digits-lora", &["data.name=three-tasks"]);
    for kind in ["petl", "peft", "merged", "transformers"] {
        let done = exports::export(&run, kind, &scratch.path().join(kind)).unwrap();
        assert_eq!(done.samples, 60, "{kind}");
    }
    let config = tensors::read_json(&scratch.path().join("transformers/config.json")).unwrap();
    assert_eq!((&config["id2label"]["3"], &config["id2label"]["19"]), (&"digits: 3".into(), &"shapes: 3".into()));
    // A label of another task is no answer of this run.
    let path = run.join("summary.json");
    let mut summary = tensors::read_json(&path).unwrap();
    summary["predictions"][0] = 24.into(); // the first test sample is a digit
    tensors::write_json(&path, &summary).unwrap();
    let words = format!("{:#}", exports::export(&run, "petl", &scratch.path().join("no")).unwrap_err());
    assert!(words.contains("1 of 60 samples"), "{words}");
}

fn petl(home: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_petl")).args(arguments).env("PETL_HOME", home).output().unwrap()
}

#[test]
fn predict_must_know_the_task_where_it_matters() {
    let (home, run, _) = trained(MULTIPLE, &[]);
    let at = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    let pixels: Vec<f32> = (0..2 * 3 * 32 * 32).map(|n| (n % 255) as f32 / 127.5 - 1.0).collect();
    let inputs = [("pixel_values".to_owned(), TensorData::new(pixels.clone(), [2, 3, 32, 32]))].into();
    weights::write(Path::new(&at("in.safetensors")), &inputs, false, Default::default()).unwrap();
    let predict = |more: &[&str]| {
        let usual = ["predict", run.to_str().unwrap(), "--inputs", &at("in.safetensors"), "--out", &at("out.safetensors")];
        petl(home.path(), &[&usual, more].concat())
    };
    for (more, words) in [
        (&[][..], &["Bottleneck adapter", "digits, emoji, shapes", "--task"][..]),
        (&["--task", "letters"], &["no task `letters`", "digits, emoji, shapes"]),
    ] {
        let output = predict(more);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(words.iter().all(|word| said.contains(word)) && !said.contains("panicked"), "{said}");
    }
    let (_, model) = exports::load_run(&run).unwrap();
    let mut seen = vec![];
    for (task, name) in ["digits", "emoji", "shapes"].into_iter().enumerate() {
        assert!(predict(&["--task", name]).status.success());
        let written = tensors::read(Path::new(&at("out.safetensors")), "").unwrap();
        let found = tensors::values("logits", &written["logits"]).unwrap().to_vec();
        let pixels = Tensor::<4>::from_data(TensorData::new(pixels.clone(), [2, 3, 32, 32]), &model.device);
        let rows = Rows { tasks: &[task as u16; 2], ..Rows::default() };
        assert!(apart(&found, &host(model.logits_of(rows, &model.bag.frozen(), pixels, None)).unwrap()) < 1e-5, "{name}");
        assert!(!seen.contains(&found), "{name} answers as another task");
        seen.push(found);
    }
}
