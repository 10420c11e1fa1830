//! AdaLoRA: the budget's schedule, its reaching, what is kept, and orthogonality.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use burn::tensor::Tensor;
use petl_workbench::engine::model::{Model, host};
use petl_workbench::engine::optimise::Optimiser;
use petl_workbench::engine::run::{self, Surroundings};
use petl_workbench::exports;
use petl_workbench::methods::adalora::CARD;
use petl_workbench::methods::{Gradients, Moment, budget};
use petl_workbench::session::{Recipe, Settings, Value, file};
use petl_workbench::tasks::classify;

use crate::common::{batch, put, session, toy, with};

fn settings(set: &[(&str, Value)]) -> Settings {
    with(&CARD, set).settings.filled(CARD.fields)
}

/// Singular values that are not zero, by place.
fn live(model: &Model) -> BTreeMap<String, usize> {
    let lambdas = model.bag.params.iter().filter(|(key, _)| key.ends_with("/Lambda"));
    let count = |v: &Tensor<2>| host(v.clone()).expect("values").iter().filter(|v| **v != 0.0).count();
    lambdas.map(|(key, v)| (key.split('/').nth(1).unwrap_or_default().to_owned(), count(v))).collect()
}

#[test]
fn the_budget_falls_as_a_cubic_between_t_init_and_t_final() {
    let set = settings(&[("t_init", Value::Real(0.1)), ("t_final", Value::Real(0.3))]);
    let at = |t| budget::at(&set, [120, 80], t, 1000).0;
    assert_eq!((at(1), at(100)), (120, 120), "the first until t_i");
    assert_eq!(at(400), 80 + 5, "half way 40 / 2³ more than the target");
    assert_eq!(at(250), 80 + 16, "a quarter of the way 40 (3 / 4)³ = 16.9 more");
    assert_eq!((at(699), at(700), at(1000)), (80, 80, 80), "the target from T - t_f");
    let falls: Vec<usize> = (1..=1000).map(at).collect();
    assert!(falls.is_sorted_by(|a, b| a >= b));
    // Parts that leave no middle, odd targets and one single step.
    let set = settings(&[("t_init", Value::Real(0.9)), ("t_final", Value::Real(0.9))]);
    assert_eq!(budget::at(&set, [5, 3], 1, 1), (3, 1));
    assert_eq!([9, 10].map(|t| budget::at(&set, [5, 3], t, 100).0), [5, 3]);
}

#[test]
fn after_training_exactly_the_target_is_alive() {
    let scratch = tempfile::tempdir().expect("a folder");
    let set = ["recipe.epochs=8", "device=cpu", "data.settings.train=40", "data.settings.test=40", "methods.0.settings.rank=3"];
    let mut session = file::set(&file::find("adalora").expect("the preset"), &set.map(str::to_owned)).expect("set");
    session.methods[0].settings.set("every", Value::Whole(2));
    let around = Surroundings { run: "test", folder: scratch.path(), send: &|_| Ok(()), ask: &|| Ok(ControlFlow::Continue(())) };
    run::train(&session, &around).expect("trained");
    let (_, model) = exports::load_run(scratch.path()).expect("loaded");
    let live = live(&model);
    assert_eq!(live.len(), 36);
    assert_eq!(live.values().sum::<usize>(), 36 * 3, "{live:?}");
    assert!(live.values().any(|n| *n > 3) && live.values().any(|n| *n < 3), "the budget was not shared out: {live:?}");
    let masks = model.bag.constants.iter().filter(|(key, _)| key.ends_with("/mask"));
    let kept: f32 = masks.map(|(_, c)| c.host.iter().sum::<f32>()).sum();
    assert_eq!(kept, 108.0, "the choice is saved with the adapter");
}

/// Gradients of step `t` that are a thousand times larger at the keys that `of` picks, and restless, as real ones are.
fn gradients(model: &Model, t: usize, of: impl Fn(&str) -> bool) -> Gradients {
    let size = |key: &str| if of(key) { 1.0 } else { 1e-3 } * (1 + 2 * (t % 2)) as f64;
    let like = |(key, v): (&String, &Tensor<2>)| (key.clone(), v.clone().inner().ones_like() * size(key));
    model.bag.params.iter().map(like).collect()
}

#[test]
fn the_places_with_the_highest_scores_keep_their_values() {
    let mut model = toy(&session(vec![with(&CARD, &[("rank", Value::Whole(2))])]));
    for key in model.bag.params.keys().filter(|k| k.ends_with("Lambda")).cloned().collect::<Vec<_>>() {
        put(&mut model, &key, vec![0.5; 3]);
    }
    let member = &model.plan.members[0];
    let mut bag = model.bag.clone();
    let at = |done: usize, bag: &mut _| {
        let felt = gradients(&model, done, |key| key.contains("attn.v") || key.contains("mlp"));
        CARD.method.between(Moment { done, steps: 100 }, member, &felt, bag);
    };
    (1..10).for_each(|t| at(t, &mut bag));
    let sum = |bag: &petl_workbench::engine::bag::Bag| -> Vec<f32> {
        let lambdas = bag.params.iter().filter(|(key, _)| key.ends_with("Lambda"));
        lambdas.map(|(_, v)| host(v.clone()).expect("values").iter().sum()).collect()
    };
    assert_eq!(sum(&bag), vec![1.5; 12], "nothing is cut before t_init is over");
    (11..=50).for_each(|t| at(t, &mut bag));
    // 24 of 36 stay. Six places of the twelve feel a thousand times more: their 18, and 6 of the others' 18.
    model.bag = bag.clone();
    let alive = live(&model);
    assert_eq!(alive.values().sum::<usize>(), 24);
    assert!(alive.iter().filter(|(site, _)| site.contains("attn.v") || site.contains("mlp")).all(|(_, n)| *n == 3), "{alive:?}");

    // A value that an optimiser brings back after the last choice is cut again; the choice does not change.
    let grown = "0.adalora/blocks.0.attn.q/Lambda".to_owned();
    put(&mut model, &grown, vec![0.5; 3]);
    let mut bag = model.bag.clone();
    let last = model.plan.members.first().expect("a member");
    CARD.method.between(Moment { done: 77, steps: 100 }, last, &gradients(&model, 77, |key| key.contains("attn.q")), &mut bag);
    model.bag = bag;
    assert_eq!(live(&model), alive);
}

#[test]
fn p_and_q_are_drawn_towards_orthogonal() {
    let trained = |gamma: f64| {
        let set = [("rank", Value::Whole(4)), ("orthogonality", Value::Real(gamma))];
        let mut model = toy(&session(vec![with(&CARD, &set)]));
        let mut optimiser = Optimiser::new(&Recipe { weight_decay: 0.0, ..Recipe::default() }, model.plan.rates());
        let (pixels, labels) = batch(&model.device);
        for _ in 0..60 {
            let mut loss = classify::loss(model.logits(&model.bag, pixels.clone(), Some(1)), labels.clone(), 0.0);
            if let Some(more) = model.penalty(&model.bag) {
                loss = loss + more;
            }
            let found = model.bag.gradients(loss.backward());
            optimiser.step(&mut model.bag, found, 1e-2);
        }
        // ‖PᵀP - I‖² of all places, worked out here.
        let mut off = 0.0;
        for p in model.bag.params.iter().filter(|(key, _)| key.ends_with("/P")).map(|(_, p)| p.clone().inner()) {
            let gram = p.clone().transpose().matmul(p); // r₀ = 6
            off += (gram - Tensor::eye(6, &model.device)).square().sum().into_scalar::<f32>();
        }
        (off, model.penalty(&model.bag.frozen()).map(|p| p.into_scalar::<f32>()))
    };
    let ((free, none), (held, penalty)) = (trained(0.0), trained(0.1));
    assert!(none.is_none(), "γ = 0 adds nothing to the loss");
    assert!(free > 12.0 * 3.0 && held < free * 0.05, "{free} without the penalty, {held} with it");
    // Q's share is of the same kind, so the penalty is at least γ times P's.
    assert!(penalty.is_some_and(|p| p >= 0.1 * held * 0.999 && p < 0.1 * free), "{penalty:?} {held}");
}
