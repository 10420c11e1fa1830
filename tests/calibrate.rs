//! What is measured before training: the right channels, gradients that finite differences confirm, changes that one plain step
//! confirms; the same for the same seed; a run that says so, obeys Stop while it measures, and keeps what it chose.

mod common;

use std::cell::RefCell;
use std::ops::ControlFlow;

use burn::tensor::{Device, Tensor, TensorData};
use common::{CLASSES, numbers, placed, session, toy};
use petl_workbench::datasets::{Loaded, Samples};
use petl_workbench::engine::bag::{Bag, Measured};
use petl_workbench::engine::measure::Memory;
use petl_workbench::engine::model::{Model, host};
use petl_workbench::engine::run::{self, Surroundings};
use petl_workbench::engine::{Event, Finished, batch, calibrate};
use petl_workbench::exports;
use petl_workbench::methods::{Card, full, gps, ltsft, sct};
use petl_workbench::session::settings::{Settings, Value};
use petl_workbench::session::{Optimizer, Recipe, Schedule, Session, file};
use petl_workbench::tasks::classify;

/// 12 pictures of 8 x 8, four of each class.
fn pictures() -> Loaded {
    let mut train = Samples { side: 8, ..Samples::default() };
    for n in 0..12 {
        let picture: Vec<u8> = numbers(8 * 8 * 3, n as f32).iter().map(|v| (v * 127.0 + 128.0) as u8).collect();
        train.push(&picture, n % CLASSES as u32, 0);
    }
    Loaded::new(train.clone(), train)
}

fn of(card: &Card, settings: &[(&str, Value)]) -> Session {
    let mut set = Settings::default();
    settings.iter().for_each(|(name, value)| set.set(name, value.clone()));
    session(vec![placed(card, set)])
}

fn measure(session: &Session, model: &Model) -> Measured {
    let memory = Memory::start(0, &model.device);
    let go_on = |_| Ok(ControlFlow::Continue(()));
    calibrate::measure(session, model, &pictures(), &memory, &go_on).expect("measured").expect("not stopped")
}

/// Adds `by` to number `n` of a frozen matrix.
fn nudge(model: &mut Model, name: &str, n: usize, by: f32) {
    change(model, name, |values| values[n] += by);
}

fn change(model: &mut Model, name: &str, change: impl Fn(&mut [f32])) {
    let shape = model.weights[name].dims();
    let mut values = host(model.weights[name].clone()).expect("read");
    change(&mut values);
    model.weights.insert(name.to_owned(), Tensor::from_data(TensorData::new(values, shape), &model.device));
}

#[test]
fn the_channel_that_was_blown_up_is_found() {
    let session = of(&sct::CARD, &[("k", Value::Whole(1))]);
    let mut model = toy(&session);
    nudge(&mut model, "blocks.0.attn.o.bias", 5, 30.0); // on the residual stream from here on, at every position
    nudge(&mut model, "embed.cls", 7, 400.0); // on the class token alone, which is left out
    let measured = measure(&session, &model);
    let bag = Bag::make_with(&model.plan, &model.weights, &measured, session.seed, &model.device).expect("a bag");
    for block in 0..2 {
        assert_eq!(*bag.constants[&format!("0.sct/blocks.{block}.mid/index")].host, [5.0], "block {block}");
    }
    // The numbers themselves: the mean over the classes of the norms that the frozen stream has.
    let norms = &measured[&(0, "blocks.0.mid".to_owned())];
    assert_eq!(norms.len(), 24);
    assert!(norms[5] > 4.0 * 29.0 && norms[5] < 4.0 * 31.5, "sqrt(4 pictures x 4 patches x 30²): {}", norms[5]);
}

#[test]
fn the_planted_connection_has_the_largest_gradient() {
    let session = of(&gps::CARD, &[]);
    let mut model = toy(&session);
    // Input 9 of `up` is loud, and nothing listens to it yet: of all connections of a neuron, that one would change most.
    nudge(&mut model, "blocks.1.norm2.bias", 9, 1e4);
    change(&mut model, "blocks.1.mlp.up.weight", |w| w[9 * 48..10 * 48].fill(0.0));
    let measured = measure(&session, &model);
    let bag = Bag::make_with(&model.plan, &model.weights, &measured, session.seed, &model.device).expect("a bag");
    let index = &bag.constants["0.gps/blocks.1.mlp.up/index"].host;
    let expected: Vec<f32> = (0..48).map(|j| (9 * 48 + j) as f32).collect();
    assert_eq!(**index, expected);
    let other = &bag.constants["0.gps/blocks.0.mlp.up/index"].host;
    assert!(other.iter().any(|n| *n as usize / 48 != 9), "elsewhere nothing was planted");
}

/// Khosla et al. 2020, equation 2, straight from the formula and in f64.
fn contrast(features: &[f32], labels: &[u32]) -> f64 {
    let d = features.len() / labels.len();
    let z: Vec<Vec<f64>> = (features.chunks(d))
        .map(|row| {
            let length = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            row.iter().map(|v| f64::from(*v) / length).collect()
        })
        .collect();
    let near = |i: usize, j: usize| (z[i].iter().zip(&z[j]).map(|(a, b)| a * b).sum::<f64>() / 0.07).exp();
    let n = labels.len();
    let of_anchor = |i: usize| {
        let all: f64 = (0..n).filter(|a| *a != i).map(|a| near(i, a)).sum();
        let same: Vec<usize> = (0..n).filter(|p| *p != i && labels[*p] == labels[i]).collect();
        -same.iter().map(|p| (near(i, *p) / all).ln()).sum::<f64>() / same.len() as f64
    };
    (0..n).map(of_anchor).sum::<f64>() / n as f64
}

#[test]
fn the_measured_gradient_is_that_of_the_contrastive_loss() {
    let session = of(&gps::CARD, &[]);
    let model = toy(&session);
    let measured = measure(&session, &model);
    let data = pictures();
    let all: Vec<usize> = (0..12).collect();
    let loss = |model: &Model| {
        let (pixels, _) = batch::tensors(&model.plan.anatomy.entry, &data.train, &all, None, &model.device).expect("a batch");
        let features = model.pooled(&model.bag.frozen(), pixels, None);
        contrast(&host(features).expect("read"), &data.train.labels)
    };
    for (site, n) in [("blocks.0.attn.q", 100), ("blocks.1.mlp.down", 700), ("embed", 33)] {
        let at = |by: f32| {
            let mut moved = toy(&session);
            nudge(&mut moved, &format!("{site}.weight"), n, by);
            loss(&moved)
        };
        let step = 4e-3;
        let slope = (at(step) - at(-step)).abs() / (2.0 * f64::from(step));
        let found = f64::from(measured[&(0, site.to_owned())][n]);
        assert!((found - slope).abs() < 0.03 * slope + 2e-4, "{site} {n}: measured {found}, by differences {slope}");
        assert!(slope > 1e-3, "{site} {n} shows nothing: {slope}");
    }
}

#[test]
fn one_plain_step_of_full_fine_tuning_changes_by_its_gradient() {
    let mut session = of(&ltsft::CARD, &[("steps", Value::Whole(1))]);
    session.recipe = Recipe {
        optimizer: Optimizer::Sgd,
        momentum: 0.0,
        weight_decay: 0.0,
        clip_norm: 0.0,
        warm_up: 0.0,
        schedule: Schedule::Constant,
        learning_rate: 0.1,
        batch_size: 12,
        ..Recipe::default()
    };
    let measured = measure(&session, &toy(&session));
    let whole = toy(&common::session(vec![placed(&full::CARD, Settings::default())]));
    let data = pictures();
    let (pixels, labels) =
        batch::tensors(&whole.plan.anatomy.entry, &data.train, &(0..12).collect::<Vec<_>>(), None, &whole.device)
            .expect("a batch");
    let gradients = whole.bag.gradients(classify::loss(whole.logits(&whole.bag, pixels, None), labels, 0.0).backward());
    for site in ["embed", "blocks.1.attn.v"] {
        let found = &measured[&(0, site.to_owned())];
        let parts = &whole.plan.anatomy.site(site).expect("a site").parts;
        let mut expected = vec![];
        for part in parts {
            expected.extend(host(gradients[&format!("0.full/{site}/{}", part.name)].clone()).expect("read"));
        }
        assert_eq!(found.len(), parts.iter().map(|p| p.count()).sum::<usize>());
        let far = found.iter().zip(&expected).map(|(f, g)| (f + 0.1 * g).abs()).fold(0.0, f32::max);
        assert!(far < 1e-6, "{site}: {far}");
        assert!(found.iter().any(|v| v.abs() > 1e-4));
    }
}

#[test]
fn the_same_seed_measures_the_same_and_nothing_of_the_model_moves() {
    let session = of(&ltsft::CARD, &[("steps", Value::Whole(4))]);
    let model = toy(&session);
    let (weights, bag) = (model.weights.clone(), model.bag.data());
    let first = measure(&session, &model);
    assert_eq!(first, measure(&session, &model));
    assert!(weights.iter().all(|(name, value)| value.to_data() == model.weights[name].to_data()));
    assert_eq!(bag, model.bag.data());
    let other = Session { seed: 4, ..session };
    assert_ne!(first, measure(&other, &toy(&other)));
}

#[test]
fn a_measurement_stops_when_it_is_told_to() {
    for (card, batches) in [(&sct::CARD, 1), (&gps::CARD, 1), (&ltsft::CARD, 3)] {
        let session = of(card, &[]);
        let model = toy(&session);
        let said = RefCell::new(0);
        let tell = |words: String| {
            assert!(words.contains(card.title), "{words}");
            *said.borrow_mut() += 1;
            Ok(if *said.borrow() == batches { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        };
        let memory = Memory::start(0, &Device::flex());
        let found = calibrate::measure(&session, &model, &pictures(), &memory, &tell).expect("no fault");
        assert!(found.is_none() && *said.borrow() == batches, "{}", card.name);
    }
}

/// A preset on 40 digits for one epoch, on random weights.
fn tiny(preset: &str, more: &[&str]) -> Session {
    let mut set: Vec<String> =
        ["recipe.epochs=1", "device=cpu", "backbone.settings.weights=random", "data.settings.train=40", "data.settings.test=40"]
            .map(str::to_owned)
            .to_vec();
    set.extend(more.iter().map(|s| (*s).to_owned()));
    file::set(&file::find(preset).expect("a preset"), &set).expect("set")
}

fn train(session: &Session, ask: &dyn Fn() -> anyhow::Result<ControlFlow<()>>) -> (tempfile::TempDir, Vec<Event>) {
    let scratch = tempfile::tempdir().expect("a folder");
    let events = RefCell::new(vec![]);
    let send = |event| {
        events.borrow_mut().push(event);
        Ok(())
    };
    run::train(session, &Surroundings { run: "test", folder: scratch.path(), send: &send, ask }).expect("trained");
    (scratch, events.into_inner())
}

#[test]
fn a_run_says_what_it_prepares_and_an_adapter_brings_its_choice_along() {
    for (preset, key, more) in [
        ("lt-sft", "0.ltsft/all/index", &["methods.0.settings.steps=6"][..]),
        ("gps", "0.gps/blocks.2.mlp.up/index", &[]),
        ("sct", "0.sct/blocks.2.mid/index", &[]),
    ] {
        let session = tiny(preset, more);
        let (folder, events) = train(&session, &|| Ok(ControlFlow::Continue(())));
        let at = |wanted: fn(&Event) -> bool| events.iter().position(wanted).expect("the event");
        let prepared = at(|e| matches!(e, Event::Preparing { words, .. } if words.contains(" for ")));
        assert!(at(|e| matches!(e, Event::Started(_))) < prepared && prepared < at(|e| matches!(e, Event::Step(_))), "{preset}");
        let (_, loaded) = exports::load_run(folder.path()).expect("loaded");
        let dry = Model::make(&session, &Device::flex()).expect("a model");
        assert_ne!(loaded.bag.constants[key].host, dry.bag.constants[key].host, "{preset}: what was measured made no difference");
        // Read back without measuring: the same logits, bit for bit.
        let into = folder.path().join("out");
        let done = exports::export(folder.path(), "petl", &into).expect("exported");
        assert_eq!(done.difference, 0.0, "{preset}");
    }
}

#[test]
fn a_run_that_is_stopped_while_it_measures_keeps_an_untrained_adapter() {
    let (folder, events) = train(&tiny("lt-sft", &[]), &|| Ok(ControlFlow::Break(())));
    let Some(Event::Finished(Finished { stopped, steps, .. })) = events.last() else { panic!("{:?}", events.last()) };
    assert!(*stopped && *steps == 0);
    assert!(!events.iter().any(|e| matches!(e, Event::Step(_))));
    assert!(exports::load_run(folder.path()).is_ok());
}
