//! DoRA: what its norm means for weights, gradients, bias and dropout.

use burn::tensor::{Device, Tensor, TensorData};
use petl_workbench::engine::model::host;
use petl_workbench::engine::optimise::Optimiser;
use petl_workbench::engine::tuner::Tuner;
use petl_workbench::methods::{dora, lora};
use petl_workbench::session::{Place, Placed, Recipe, Value};

use crate::common::{apart, gradients, logits, merged, numbers, put, session, step, through, toy, with};

const Q: &str = "blocks.0.attn.q";

fn values<const D: usize>(t: Tensor<D>) -> Vec<f32> {
    host(t).expect("values")
}

fn columns(t: Tensor<2>) -> Vec<f32> {
    values(t.sum_dim(0))
}

#[test]
fn after_training_every_column_of_the_weight_is_as_long_as_m() {
    // methods/15 (h) 4. Norms held constant or not.
    for norm in ["constant", "through"] {
        let mut model = toy(&session(vec![with(&dora::CARD, &[("norm", Value::Text(norm.into()))])]));
        let mut optimiser = Optimiser::new(&Recipe::default(), model.plan.rates());
        (0..4).for_each(|_| {
            step(&mut model, &mut optimiser, 1e-2);
        });
        let plain = merged(&model);
        assert!(apart(&logits(&model), &logits(&plain)) < 1e-5, "{norm}");
        for site in &model.plan.members[0].sites {
            let long = columns(plain.weights[&format!("{site}.weight")].clone().square());
            let m = values(model.bag.params[&format!("0.dora/{site}/m")].clone());
            let long: Vec<f32> = long.iter().map(|v| v.sqrt()).collect();
            assert!(apart(&long, &m) < 1e-5, "{norm} {site}: {}", apart(&long, &m));
            let start = columns(model.weights[&format!("{site}.weight")].clone().square());
            assert!(start.iter().zip(&m).any(|(a, b)| (a.sqrt() - b).abs() > 1e-3), "{site}: m never moved");
        }
    }
}

#[test]
fn the_norm_is_a_constant_of_the_gradient_unless_asked() {
    // With A the identity, B's gradient is s times that of V = W + s B. Section 4.3: with the norm held constant,
    // Σ_i V_ij ∇V_ij = m_j ∇m_j in each column j. Through the norm W' does not feel the length of V, and the sum is 0.
    let sums = |norm: &str| {
        let set = [("norm", Value::Text(norm.into())), ("rank", Value::Whole(24)), ("alpha", Value::Real(24.0))]; // s = 1
        let mut model = toy(&session(vec![with(&dora::CARD, &set)]));
        let key = |name: &str| format!("0.dora/{Q}/{name}");
        put(&mut model, &key("A"), (0..576).map(|n| if n % 25 == 0 { 1.0 } else { 0.0 }).collect());
        put(&mut model, &key("B"), numbers(576, 0.7).iter().map(|v| v * 0.1).collect());
        let v = model.weights[&format!("{Q}.weight")].clone() + model.bag.params[&key("B")].clone().inner();
        let found = gradients(&model);
        let m = model.bag.params[&key("m")].clone().inner();
        (columns(v * found[&key("B")].clone()), values(m * found[&key("m")].clone()))
    };
    let (constant, of_m) = sums("constant");
    let largest = of_m.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    assert!(largest > 1e-3 && apart(&constant, &of_m) < largest * 1e-3, "{largest}: {}", apart(&constant, &of_m));
    let (through, _) = sums("through");
    assert!(through.iter().all(|v| v.abs() < largest * 1e-3), "{through:?}");
}

#[test]
fn the_bias_and_what_others_add_are_not_scaled() {
    // Twice the length gives twice x W, and once the bias and once what LoRA adds, whichever of the two comes first.
    let x = Tensor::<3>::from_data(TensorData::new(numbers(2 * 5 * 24, 0.2), [2, 5, 24]), &Device::flex());
    let at_q = |placed: Placed| Placed { place: Place::sites(&[Q]), ..placed };
    for dora_first in [true, false] {
        let mut stack = vec![at_q(with(&dora::CARD, &[])), at_q(with(&lora::CARD, &[]))];
        if !dora_first {
            stack.reverse();
        }
        let mut model = toy(&session(stack));
        let (d, l) = if dora_first { (0, 1) } else { (1, 0) };
        put(&mut model, &format!("{l}.lora/{Q}/B"), numbers(8 * 24, 0.1));
        let once = through(&model, Q, x.clone());
        let m = values(model.bag.params[&format!("{d}.dora/{Q}/m")].clone());
        put(&mut model, &format!("{d}.dora/{Q}/m"), m.iter().map(|v| v * 2.0).collect());
        let more = values(through(&model, Q, x.clone()) - once);
        let xw = values(x.clone().matmul(model.weights[&format!("{Q}.weight")].clone().unsqueeze::<3>()));
        assert!(apart(&more, &xw) < 1e-4, "{}", apart(&more, &xw));
    }
}

#[test]
fn dropout_leaves_the_first_pass_the_frozen_ones() {
    // A changed weight at door `Weight` could not do this: only the path that differs from W is dropped out.
    let model = toy(&session(vec![with(&dora::CARD, &[("dropout", Value::Real(0.5))])]));
    let x = || Tensor::<3>::from_data(TensorData::new(numbers(2 * 5 * 24, 0.2), [2, 5, 24]), &model.device);
    let bag = model.bag.frozen();
    let run = |noise| values(Tuner::new(&model.plan, &model.weights, &bag, noise).linear(Q, x()));
    assert_eq!(run(None), run(Some(9)));
    let mut moved = toy(&session(vec![with(&dora::CARD, &[("dropout", Value::Real(0.5))])]));
    put(&mut moved, &format!("0.dora/{Q}/B"), numbers(8 * 24, 0.1));
    let bag = moved.bag.frozen();
    let run = |noise| values(Tuner::new(&moved.plan, &moved.weights, &bag, noise).linear(Q, x()));
    assert!(apart(&run(None), &run(Some(9))) > 1e-3, "dropout does nothing");
}
