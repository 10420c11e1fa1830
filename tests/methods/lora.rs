//! LoRA+'s learning rates and PiSSA's start. LoRA itself is held by the laws.

use burn::tensor::Tensor;
use petl_workbench::engine::model::host;
use petl_workbench::engine::optimise::Optimiser;
use petl_workbench::methods::lora::CARD;
use petl_workbench::plan::Plan;
use petl_workbench::session::{Optimizer, Recipe, Value};

use crate::common::{CLASSES, TOY, apart, logits, merged, session, step, toy, with};

fn pissa() -> (&'static str, Value) {
    ("start", Value::Text("pissa".into()))
}

fn values(t: &Tensor<2>) -> Vec<f32> {
    host(t.clone()).expect("values")
}

#[test]
fn lora_plus_moves_b_as_many_times_farther() {
    // Plain SGD, so that a step is the learning rate times the gradient. PiSSA's start, so that A has a gradient too.
    let recipe = Recipe { optimizer: Optimizer::Sgd, momentum: 0.0, weight_decay: 0.0, clip_norm: 0.0, ..Recipe::default() };
    let moved = |ratio: f64| {
        let mut model = toy(&session(vec![with(&CARD, &[pissa(), ("ratio", Value::Real(ratio))])]));
        let before = model.bag.frozen();
        let mut optimiser = Optimiser::new(&recipe, model.plan.rates());
        step(&mut model, &mut optimiser, 1e-3);
        let by = |key: &str| values(&(model.bag.params[key].clone().inner() - before.params[key].clone()));
        (by("0.lora/blocks.1.attn.v/A"), by("0.lora/blocks.1.attn.v/B"), by("head/weight"))
    };
    let ((a, b, head), (a_plus, b_plus, head_plus)) = (moved(1.0), moved(16.0));
    assert!(a.iter().any(|v| *v != 0.0) && head.iter().any(|v| *v != 0.0));
    assert_eq!((a, head), (a_plus, head_plus), "the ratio is B's alone");
    let farther: Vec<f32> = b.iter().map(|v| v * 16.0).collect();
    let largest = farther.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    assert!(largest > 1e-5 && apart(&farther, &b_plus) < largest * 1e-2, "{largest}: {}", apart(&farther, &b_plus));
}

#[test]
fn pissa_starts_as_the_frozen_network() {
    let frozen = logits(&toy(&session(vec![])));
    for more in [vec![], vec![("scaling", Value::Text("alpha / sqrt r".into()))], vec![("alpha", Value::Real(0.0))]] {
        let model = toy(&session(vec![with(&CARD, &[vec![pissa()], more.clone()].concat())]));
        let difference = apart(&frozen, &logits(&model));
        assert!(difference < 1e-6, "{more:?}: {difference}");
        let key = "0.lora/blocks.0.attn.q/B";
        assert!(values(&model.bag.params[key]).iter().any(|v| v.abs() > 1e-2), "nothing starts there");
    }
}

#[test]
fn pissa_takes_the_strongest_singular_directions() {
    let s = 16.0 / 8.0;
    let model = toy(&session(vec![with(&CARD, &[pissa()])]));
    for site in model.plan.members[0].sites.clone() {
        let of = |name: &str| model.bag.constants[&format!("0.lora/{site}/{name}")].tensor.clone();
        let (w, a, b) = (model.weights[&format!("{site}.weight")].clone(), of("A0"), of("B0"));
        assert_eq!(values(&model.bag.params[&format!("0.lora/{site}/A")]), values(&a), "A starts at A0");
        // AᵀA and BBᵀ are S / s: diagonal, equal and falling.
        let (gram_a, gram_b) =
            (values(&a.clone().transpose().matmul(a.clone())), values(&b.clone().matmul(b.clone().transpose())));
        let strength: Vec<f32> = (0..8).map(|n| gram_a[n * 9] * s).collect();
        let diagonal: Vec<f32> = (0..64).map(|n| if n % 9 == 0 { strength[n / 9] / s } else { 0.0 }).collect();
        assert!(apart(&gram_a, &diagonal) < 1e-4 && apart(&gram_b, &diagonal) < 1e-4, "{site}: not balanced");
        assert!(strength.is_sorted_by(|a, b| a >= b), "{strength:?}");
        // The rest of W has nothing along them, and nothing in it is stronger than the weakest of them.
        let rest = w.clone() - a.clone().matmul(b.clone()) * s;
        let along = values(&a.transpose().matmul(rest.clone()));
        assert!(along.iter().all(|v| v.abs() < 1e-4), "{site}: the rest is not orthogonal to A");
        let mut x = Tensor::<2>::ones([24, 1], &model.device);
        for _ in 0..300 {
            x = rest.clone().transpose().matmul(rest.clone().matmul(x));
            x = x.clone() / x.square().sum().sqrt().unsqueeze::<2>();
        }
        let strongest = rest.matmul(x).square().sum().sqrt().into_scalar::<f32>();
        assert!(strongest <= strength[7] + 1e-4, "{site}: {strongest} is left, {strength:?} was taken");
        assert!(strongest > strength[7] * 0.5, "{site}: a rest this weak shows nothing");
    }
}

#[test]
fn pissa_folds_after_training() {
    let mut model = toy(&session(vec![with(&CARD, &[pissa()])]));
    let mut optimiser = Optimiser::new(&Recipe::default(), model.plan.rates());
    (0..4).for_each(|_| {
        step(&mut model, &mut optimiser, 1e-2);
    });
    let (unfolded, folded) = (logits(&model), logits(&merged(&model)));
    assert!(apart(&unfolded, &folded) < 1e-5, "{}", apart(&unfolded, &folded));
    // Without the subtraction the fold would be far off.
    model.bag.constants.retain(|key, _| !key.ends_with("0"));
    assert!(apart(&unfolded, &logits(&merged(&model))) > 1e-2);
}

#[test]
fn pissa_refuses_more_directions_than_a_weight_has() {
    let mut problems = vec![];
    Plan::on(&session(vec![with(&CARD, &[pissa(), ("rank", Value::Whole(25))])]), TOY.declare(), CLASSES, &mut problems);
    assert!(problems.len() == 1 && problems[0].words.contains("ranks that fit: 1 to 24"), "{problems:?}");
}
