//! methods/01 (h) 2 and 3, the Conformer adapter.

use burn::tensor::Tensor;
use petl_workbench::engine::model::Model;
use petl_workbench::methods::{conformer, layernorm};
use petl_workbench::session::Place;
use petl_workbench::session::settings::{Settings, Value};

use crate::common::{placed, session, toy};
use crate::through::{at, gap, list, on_b16, refusal, set, shake, text, through, values};

const SITE: &str = "blocks.0.mlp";

fn adapter(settings: Settings) -> Model {
    let mut model = toy(&session(vec![placed(&conformer::CARD, settings)]));
    shake(&mut model, 0.3);
    model
}

/// What the adapter adds to a branch that gives nothing, `[1, positions, 24]`.
fn added(model: &Model, x: &Tensor<3>) -> Tensor<3> {
    through(model, SITE, x, &x.zeros_like())
}

/// The tokens at which two sequences differ.
fn differing(a: Tensor<3>, b: Tensor<3>) -> Vec<usize> {
    let moved: Vec<f32> = list((a - b).abs().max_dim(2));
    (0..moved.len()).filter(|i| moved[*i] > 1e-6).collect()
}

#[test]
fn a_token_hears_fifteen_neighbours_on_either_side() {
    for normalisation in ["each token", "gain and shift"] {
        let model = adapter(set(&[("normalisation", text(normalisation))]));
        let x = values([1, 60, 24], 0.1, &model);
        let bumped =
            Tensor::cat(vec![x.clone().narrow(1, 0, 30), x.clone().narrow(1, 30, 1) + 1.0, x.clone().narrow(1, 31, 29)], 1);
        let heard = differing(added(&model, &x), added(&model, &bumped));
        assert_eq!(heard, (15..=45).collect::<Vec<_>>(), "{normalisation}");
    }
    // A kernel of one token is a bottleneck adapter: each token for itself.
    let alone = adapter(set(&[("kernel", Value::Whole(1))]));
    let x = values([1, 9, 24], 0.1, &alone);
    let bumped = Tensor::cat(vec![x.clone().narrow(1, 0, 1) + 1.0, x.clone().narrow(1, 1, 8)], 1);
    assert_eq!(differing(added(&alone, &x), added(&alone, &bumped)), [0]);
}

#[test]
fn a_shift_of_the_sequence_shifts_the_answer_away_from_the_ends() {
    let model = adapter(Settings::default());
    let x = values([1, 60, 24], 0.1, &model);
    let shifted = Tensor::cat(vec![values([1, 1, 24], 0.7, &model), x.clone().narrow(1, 0, 59)], 1);
    let inner = |t: Tensor<3>, from| t.narrow(1, from, 24);
    let (a, b) = (added(&model, &x), added(&model, &shifted));
    assert!(gap(inner(a.clone(), 17), inner(b.clone(), 18)) < 1e-5);
    assert!(gap(inner(a, 17), inner(b, 17)) > 1e-2, "the answer does depend on the place");
}

#[test]
fn the_residual_adds_the_adapters_input() {
    let (x, y) = {
        let model = adapter(Settings::default());
        (values([2, 5, 24], 0.1, &model), values([2, 5, 24], 0.2, &model))
    };
    let out = |form: &str, residual: bool| {
        through(&adapter(set(&[("form", text(form)), ("residual", Value::Flag(residual))])), SITE, &x, &y)
    };
    assert!(gap(out("parallel", true) - out("parallel", false), x.clone()) < 1e-5, "LN(x), which enters the branch");
    assert!(gap(out("sequential", true) - out("sequential", false), y.clone()) < 1e-5, "the branch's output");
    // The same module, fed by the other end.
    let beside = out("parallel", false) - y.clone();
    let swapped = through(&adapter(set(&[("form", text("sequential"))])), SITE, &y, &x);
    assert!(gap(beside, swapped) < 1e-5);
}

#[test]
fn with_the_norm_before_the_mlp_it_has_the_papers_count() {
    // methods/01 (d): 270,720 (published as 271 K), of which 12 · 2 · 768 belong to the norm that is declared and not used.
    let norms: Vec<_> = (0..12).map(|n| format!("blocks.{n}.norm2")).collect();
    let norms = Place::sites(&norms.iter().map(String::as_str).collect::<Vec<_>>());
    let stack = vec![placed(&conformer::CARD, Settings::default()), at(&layernorm::CARD, Settings::default(), norms)];
    assert_eq!(on_b16(stack).trainable(), 270_720 - 12 * 2 * 768);
}

#[test]
fn an_even_kernel_is_refused() {
    let words = refusal(vec![placed(&conformer::CARD, set(&[("kernel", Value::Whole(30))]))]);
    assert!(words.contains("odd ones fit"), "{words}");
}

#[test]
fn the_released_start_is_not_the_frozen_network() {
    let fresh = |start: &str| toy(&session(vec![placed(&conformer::CARD, set(&[("start", text(start))]))]));
    let x = values([1, 5, 24], 0.1, &fresh("exact"));
    assert_eq!(list(added(&fresh("exact"), &x)), vec![0.0; 120]);
    assert!(gap(added(&fresh("as released"), &x), x.zeros_like()) > 1e-3);
}
