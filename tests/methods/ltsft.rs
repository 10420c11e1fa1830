//! methods/24, LT-SFT: tests (h) 1, 2 and 4, and the pull towards the start.

use std::collections::BTreeSet;

use burn::tensor::{Tensor, TensorData};
use petl_workbench::engine::bag::{Bag, Measured};
use petl_workbench::engine::model::{Model, host};
use petl_workbench::engine::optimise::Optimiser;
use petl_workbench::engine::tuner::Tuner;
use petl_workbench::methods::ltsft;
use petl_workbench::session::settings::{Settings, Value};
use petl_workbench::session::{Recipe, Session};

use crate::common::{logits, numbers, placed, session, step, toy};

fn of(count: i64, l1: f64) -> Session {
    let mut set = Settings::default();
    set.set("count", Value::Whole(count));
    set.set("l1", Value::Real(l1));
    session(vec![placed(&ltsft::CARD, set)])
}

/// Changes as full fine-tuning may leave them: of either sign, largest in one layer, none in the biases of keys (whose gradient
/// is zero by mathematics, so that they would stay zero in φ too).
fn moved(model: &Model) -> Measured {
    let mut measured = Measured::new();
    for path in &model.plan.members[0].sites {
        let site = model.plan.anatomy.site(path).expect("a site");
        let scale = if path == "blocks.1.mlp.up" { 3.0 } else { 1.0 };
        let mut values: Vec<f32> = numbers(site.count(), path.len() as f32 + 0.1).iter().map(|v| v * scale).collect();
        if path.ends_with("attn.k") {
            values[24 * 24..].fill(0.0);
        }
        measured.insert((0, path.clone()), values);
    }
    measured
}

fn measured(session: &Session) -> (Model, Measured) {
    let mut model = toy(session);
    let found = moved(&model);
    model.bag = Bag::make_with(&model.plan, &model.weights, &found, session.seed, &model.device).expect("a bag");
    (model, found)
}

/// Where `model` differs from its frozen backbone: (site.part, position).
fn differs(model: &Model) -> BTreeSet<(String, usize)> {
    let bag = model.bag.frozen();
    let tuner = Tuner::new(&model.plan, &model.weights, &bag, None);
    let mut found = BTreeSet::new();
    for site in &model.plan.anatomy.sites {
        for part in &site.parts {
            let name = format!("{}.{}", site.path, part.name);
            let before = host(model.weights[&name].clone()).expect("read");
            let after = host(tuner.folded(site, part.name)).expect("read");
            found.extend((0..before.len()).filter(|n| before[*n].to_bits() != after[*n].to_bits()).map(|n| (name.clone(), n)));
        }
    }
    found
}

/// The K largest of all changes by a plain sort: (site.part, position).
fn largest(model: &Model, measured: &Measured, k: usize) -> BTreeSet<(String, usize)> {
    let mut all = Vec::new();
    for path in &model.plan.members[0].sites {
        let mut values = measured[&(0, path.clone())].iter();
        for part in &model.plan.anatomy.site(path).expect("a site").parts {
            all.extend(
                values.by_ref().take(part.count()).enumerate().map(|(n, v)| (v.abs(), format!("{path}.{}", part.name), n)),
            );
        }
    }
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    all.into_iter().take(k).map(|(_, name, n)| (name, n)).collect()
}

#[test]
fn exactly_k_numbers_change_and_all_others_keep_their_bits() {
    // methods/24 (h) 1 and 4.
    let (mut model, found) = measured(&of(2000, 0.0));
    assert_eq!(model.plan.trainable(), 2000);
    assert_eq!(differs(&model).len(), 0);
    let recipe = Recipe { weight_decay: 0.5, ..Recipe::default() }; // would move the others, were they in the optimiser
    let mut optimiser = Optimiser::new(&recipe, Default::default());
    (0..3).for_each(|_| {
        step(&mut model, &mut optimiser, 1e-2);
    });
    let differs = differs(&model);
    assert_eq!(differs.len(), 2000);
    assert_eq!(differs, largest(&model, &found, 2000), "the K largest of all layers together");
    let share = |site: &str, count: usize| {
        differs.iter().filter(|(name, _)| name.starts_with(&format!("{site}."))).count() as f64 / count as f64
    };
    let (moving, still) = (share("blocks.1.mlp.up", 24 * 48 + 48), share("blocks.0.mlp.up", 24 * 48 + 48));
    assert!(moving > 4.0 * still.max(0.01), "one threshold for all gives layers different shares: {moving} and {still}");
    assert!(differs.iter().all(|(name, _)| !name.contains("norm")), "norms stay frozen");
    assert!(differs.iter().any(|(name, _)| name == "embed.pos"), "every part of a place can be masked");
}

#[test]
fn the_second_phase_starts_where_the_first_one_did() {
    // methods/24 (h) 2.
    let frozen = logits(&toy(&session(vec![])));
    let (model, found) = measured(&of(500, 0.0));
    assert!(found.values().flatten().any(|v| v.abs() > 0.5), "the first phase moved");
    assert_eq!(logits(&model), frozen);
    let phi = host(model.bag.params["0.ltsft/all/phi"].clone()).expect("read");
    assert!(phi.len() == 500 && phi.iter().all(|v| *v == 0.0));
}

#[test]
fn the_pull_is_lambda_over_k_times_the_sum_of_sizes() {
    let (mut model, _) = measured(&of(300, 0.1));
    let values = numbers(300, 0.7);
    let phi = Tensor::<2>::from_data(TensorData::new(values.clone(), [1, 300]), &model.device);
    model.bag.params.insert("0.ltsft/all/phi".into(), phi.autodiff().require_grad());
    let pull = model.penalty(&model.bag).expect("a penalty");
    let expected = 0.1 / 300.0 * values.iter().map(|v| v.abs()).sum::<f32>();
    assert!((pull.clone().inner().into_scalar::<f32>() - expected).abs() < 1e-6, "{expected}");
    let gradients = model.bag.gradients(pull.backward());
    let gradient = host(gradients["0.ltsft/all/phi"].clone()).expect("read");
    for (n, (g, v)) in gradient.iter().zip(&values).enumerate() {
        let expected = if *v == 0.0 { 0.0 } else { 0.1 / 300.0 * v.signum() };
        assert!((g - expected).abs() < 1e-8, "{n}: {g} for {v}");
    }
    let (free, _) = measured(&of(300, 0.0));
    assert!(free.penalty(&free.bag).is_none());
}
