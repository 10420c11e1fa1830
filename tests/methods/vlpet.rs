//! methods/30 (h), granularity-controlled gates.

use burn::tensor::{Tensor, activation};
use petl_workbench::engine::model::Model;
use petl_workbench::methods::vlpet;
use petl_workbench::session::settings::Value;

use crate::common::{placed, session, toy};
use crate::through::{gap, list, put, refusal, set, shake, text, through, values};

const SITE: &str = "blocks.0.mlp";

fn gated(gate: &str, start: &str, scale: f64) -> Model {
    let settings = set(&[("gate", text(gate)), ("start", text(start)), ("scale", Value::Real(scale))]);
    toy(&session(vec![placed(&vlpet::CARD, settings)]))
}

fn key(name: &str) -> String {
    format!("0.vlpet/{SITE}/{name}")
}

/// X and H of a place, no entry of H zero.
fn inputs(model: &Model) -> (Tensor<3>, Tensor<3>) {
    (values([3, 5, 24], 0.1, model), values([3, 5, 24], 0.2, model) + 2.0)
}

#[test]
fn with_ups_at_zero_the_large_gate_halves_the_branch() {
    let model = gated("large", "zero up", 0.3);
    let (x, h) = inputs(&model);
    assert_eq!(list(through(&model, SITE, &x, &h)), list(h * 0.5 * 0.3), "s · σ(0) · H, and not H");
}

#[test]
fn a_middle_y_gate_of_zero_and_a_zero_up_leave_the_branch() {
    let mut model = gated("middle y", "zero up", 1.0);
    let (x, h) = inputs(&model);
    assert!(gap(through(&model, SITE, &x, &h), h.clone()) > 1e-3, "z is drawn");
    put(&mut model.bag, &key("z"), Tensor::zeros([1, 24], &model.device));
    assert_eq!(list(through(&model, SITE, &x, &h)), list(h));
}

/// Whether G differs over samples, tokens and channels.
fn varies(g: Tensor<3>) -> [bool; 3] {
    let [batch, positions, d] = g.dims();
    let least = |a: Tensor<3>, b: Tensor<3>| gap(a, b) > 1e-5;
    [
        least(g.clone().narrow(0, 0, batch - 1), g.clone().narrow(0, 1, batch - 1)),
        least(g.clone().narrow(1, 0, positions - 1), g.clone().narrow(1, 1, positions - 1)),
        least(g.clone().narrow(2, 0, d - 1), g.narrow(2, 1, d - 1)),
    ]
}

#[test]
fn each_gate_has_its_granularity() {
    for (gate, wanted) in [
        ("large", [true, true, true]),
        ("middle x", [true, true, false]),
        ("middle y", [false, false, true]),
        ("small", [true, false, false]),
    ] {
        let mut model = gated(gate, "normal", 1.0);
        shake(&mut model, 0.5);
        // Without an adapter the place gives G ⊙ H.
        put(&mut model.bag, &key("U"), Tensor::zeros([16, 24], &model.device));
        put(&mut model.bag, &key("U_bias"), Tensor::zeros([1, 24], &model.device));
        let (x, h) = inputs(&model);
        let g = through(&model, SITE, &x, &h) / h;
        assert_eq!(varies(g.clone()), wanted, "{gate}: over samples, tokens, channels");
        let between = list(g).iter().all(|v| *v > 0.0 && *v < 1.0);
        assert!(between || gate == "middle y", "{gate}: a gate lies between 0 and 1");
    }
}

#[test]
fn gates_are_what_the_paper_writes() {
    // Middle x and small by hand; both see the adapted output.
    for gate in ["middle x", "small"] {
        let mut model = gated(gate, "normal", 1.0);
        shake(&mut model, 0.3);
        let (x, h) = inputs(&model);
        let of = |name: &str| model.bag.params[&key(name)].clone().inner().unsqueeze::<3>();
        let heads = |suffix: &str| Tensor::cat((1..=4).map(|i| of(&format!("D_{i}{suffix}"))).collect(), 2);
        let bent = activation::gelu(h.clone().matmul(heads("")) + heads("_bias"));
        let adapted = h.clone() + bent.matmul(of("U")) + of("U_bias");
        let g = match gate {
            "middle x" => activation::sigmoid((x.clone() + adapted.clone()).matmul(of("w")) + of("w_bias")),
            _ => {
                let both = Tensor::cat(vec![x.clone(), adapted.clone()], 2); // [X; Hᵃ]
                activation::sigmoid(both.matmul(of("w")) + of("w_bias")).mean_dim(1)
            }
        };
        assert!(gap(through(&model, SITE, &x, &h), g * adapted) < 1e-5, "{gate}");
    }
}

#[test]
fn heads_of_the_down_projection_are_one_matrix_side_by_side() {
    let of = |heads| {
        let settings = set(&[("heads", Value::Whole(heads)), ("gate", text("middle y"))]);
        toy(&session(vec![placed(&vlpet::CARD, settings)]))
    };
    let (four, mut one) = (of(4), of(1));
    for suffix in ["", "_bias"] {
        let parts = (1..=4).map(|i| four.bag.params[&key(&format!("D_{i}{suffix}"))].clone().inner()).collect();
        put(&mut one.bag, &key(&format!("D_1{suffix}")), Tensor::cat(parts, 1));
    }
    let (x, h) = inputs(&four);
    assert!(gap(through(&four, SITE, &x, &h), through(&one, SITE, &x, &h)) < 1e-6);
    let words = refusal(vec![placed(&vlpet::CARD, set(&[("heads", Value::Whole(3))]))]);
    assert!(words.contains("heads that fit: 1, 2, 4, 8, 16"), "{words}");
}
