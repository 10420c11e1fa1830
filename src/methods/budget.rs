//! A falling budget of singular values, and who lives within it: Zhang et al., "Adaptive Budget Allocation for Parameter-Efficient
//! Fine-Tuning" (2023), sections 3.2 and 3.3. For methods that train `P`, `Lambda` and `Q` at every place and have the fields and
//! the constants of this file. Knows no method.

use burn::tensor::{Tensor, TensorData};

use super::{Gradients, Init, Moment, ParamSpec, parts};
use crate::engine::bag::{self, Bag};
use crate::engine::model;
use crate::session::settings::{Field, Settings};

pub const T_INIT: Field = Field::real("t_init", 0.0, 0.9, 0.1, "Part of the steps before the budget begins to fall.");
pub const T_FINAL: Field =
    Field::real("t_final", 0.0, 0.9, 0.5, "Part of the steps at the end with the budget reached and the choice fixed.");
pub const EVERY: Field = Field::whole("every", 1, 1000, 10, "Steps between two choices; in between a cut value may grow back.");
pub const BETA1: Field = Field::real("beta1", 0.0, 0.999, 0.85, "Smoothing of the sensitivity.");
pub const BETA2: Field = Field::real("beta2", 0.0, 0.999, 0.85, "Smoothing of the sensitivity's own unrest.");

/// What is kept of a place with `r` singular values: smoothed sensitivity I of P, Λ and Qᵀ, its smoothed unrest U, and who lives.
pub fn constants(d_in: usize, r: usize, d_out: usize) -> [ParamSpec; 3] {
    let kept = |name, rows, init| ParamSpec::new(name, rows, r, init).constant();
    [kept("I", d_in + 1 + d_out, Init::Zeros), kept("U", d_in + 1 + d_out, Init::Zeros), kept("mask", 1, Init::Ones)]
}

/// b(t): singular values of all places together that may live after step `t` of `steps`, and the step `end` from which the
/// budget stays and the choice is fixed. It falls as a cubic from `first` to `last`.
pub fn at(set: &Settings, [first, last]: [usize; 2], t: usize, steps: usize) -> (usize, usize) {
    let part = |name: &str| (set.real(name) * steps as f64).round() as usize;
    let (t_i, end) = (part("t_init"), (steps - part("t_final")).max(1));
    let left = || 1.0 - (t - t_i) as f64 / (end - t_i) as f64;
    let now = match t {
        t if t >= end => last,
        t if t <= t_i => first,
        _ => last + ((first - last) as f64 * left().powi(3)) as usize,
    };
    (now, end)
}

/// Between two steps: takes in the last one's `gradients`, chooses anew when it is time, and cuts the λ of who does not live. The
/// places are given by the stem of their keys; the budget of all of them goes `from_to`.
pub fn keep_within(set: &Settings, stems: &[String], from_to: [usize; 2], moment: Moment, gradients: &Gradients, bag: &mut Bag) {
    let t = moment.done;
    let (budget, end) = at(set, from_to, t, moment.steps);
    if t <= end {
        stems.iter().for_each(|stem| observe(set, stem, gradients, bag));
    }
    if t == end || t < end && t.is_multiple_of(set.whole("every")) {
        choose(stems, budget, bag);
    } else if t < end {
        return; // between two choices a cut value may grow back
    }
    for stem in stems {
        let mask = bag.constants[&format!("{stem}mask")].tensor.clone();
        let cut = |lambda: &mut Tensor<2>| *lambda = bag::trainable(lambda.clone().inner() * mask);
        bag.params.get_mut(&format!("{stem}Lambda")).map(cut);
    }
}

/// Takes one step's sensitivity |w ∇w| into the running means of a place.
fn observe(set: &Settings, stem: &str, gradients: &Gradients, bag: &mut Bag) {
    let stack = |of: &Gradients| {
        let of = |name: &str| of.get(&format!("{stem}{name}")).map(|m| m.clone().inner());
        Some(Tensor::cat(vec![of("P")?, of("Lambda")?, of("Q")?.transpose()], 0)) // [d_in + 1 + d_out, r]
    };
    let (Some(w), Some(gradient)) = (stack(&bag.params), stack(gradients)) else { return };
    let now = (w * gradient).abs();
    let (beta1, beta2) = (set.real("beta1"), set.real("beta2"));
    let before = |name: &str| bag.constants[&format!("{stem}{name}")].tensor.clone();
    let i = before("I") * beta1 + now.clone() * (1.0 - beta1);
    let u = before("U") * beta2 + (now - i.clone()).abs() * (1.0 - beta2);
    bag.keep(&format!("{stem}I"), i);
    bag.keep(&format!("{stem}U"), u);
}

/// Masks all but the `budget` singular values of the highest scores, over all places together.
fn choose(stems: &[String], budget: usize, bag: &mut Bag) {
    let score = |stem: &String| {
        let kept = |name: &str| bag.constants[&format!("{stem}{name}")].tensor.clone();
        let s = kept("I") * kept("U"); // [d_in + 1 + d_out, r]
        let (d_in, rows) = (bag.params[&format!("{stem}P")].dims()[0], s.dims()[0]);
        let mean = |from: usize, to: usize| s.clone().narrow(0, from, to - from).mean_dim(0); // [1, r]
        mean(0, d_in) + mean(d_in, d_in + 1) + mean(d_in + 1, rows)
    };
    let scores = Tensor::cat(stems.iter().map(score).collect(), 0); // [places, r]
    let (r, device) = (scores.dims()[1], scores.device());
    let Ok(scores) = model::host(scores) else { return };
    for (stem, mask) in stems.iter().zip(parts::strongest(&scores, budget).chunks(r)) {
        bag.keep(&format!("{stem}mask"), Tensor::from_data(TensorData::new(mask.to_vec(), [1, r]), &device));
    }
}
