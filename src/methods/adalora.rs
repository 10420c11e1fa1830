//! AdaLoRA: Zhang et al., "Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning" (2023): the change as P Λ Q
//! (equation 3), P and Q held near orthogonal (4), singular values scored by smoothed sensitivity (section 3.2) and cut to a
//! falling budget over all places together (section 3.3). Called through the catalogue.

use burn::tensor::{Tensor, TensorData};

use super::parts::{self, DROPOUT, row};
use super::{Card, Family, Gradients, Init, Method, Moment, ParamSpec, Placement, Published};
use crate::engine::bag::{self, At, Bag};
use crate::engine::model;
use crate::plan::Member;
use crate::plan::anatomy::{Anatomy, Door, Role, Site};
use crate::session::settings::{Field, Settings};

const ALL: &[Role] = &[Role::Q, Role::K, Role::V, Role::O, Role::Gate, Role::Up, Role::Down];

pub const CARD: Card = Card {
    name: "adalora",
    title: "AdaLoRA",
    family: Family::LowRank,
    help: "Starts with half as many singular directions again as asked for and, while it trains, keeps the most useful ones over all places.",
    formula: "y = x W + s (x P Λ) Q;  loss + γ Σ ‖PᵀP - I‖² + ‖QQᵀ - I‖²;  the b(t) highest scores keep their λ",
    drawing: "x ─┬─█ W █───────────────────────⊕─ y\n   └─▒ P ▒─ ⊙ ▒ Λ ▒ ─▒ Q ▒─ × s ─┘\n         the weakest λ become 0",
    count: "r₀ · (d_in + d_out + 1) a place at the start, r₀ = 1.5 r; r a place on average is alive at the end",
    published: &[Published {
        what: "target rank 8 on every linear layer, at the start",
        roles: ALL,
        settings: &[("rank", "8")],
        trainable: 12 * 12 * (4 * (768 + 768 + 1) + 2 * (768 + 3072 + 1)), // 12 blocks, r₀ 12; q, k, v, o and the MLP
    }],
    paper: "Zhang et al., Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning",
    year: 2023,
    learning_rate: 5e-4,
    released: "Scales the change by α / r₀ with α = 16, and its penalty is γ times the mean of the unsquared norms; here s is a setting of 1 and the penalty the paper's sum of squares. It scores with the weights after the step, as here.",
    caution: "The budget falls over the whole run, so the number of steps matters and a run that is stopped early keeps more than asked for. Its scores take twice the memory of what it trains. r₀ above a layer's width cannot be orthogonal.",
    licence: "MIT",
    fields: &[
        Field::whole("rank", 1, 512, 8, "Singular values a place at the end, on average; 1.5 times as many at the start."),
        Field::real("scale", 0.0, 64.0, 1.0, "Factor s of the change."),
        DROPOUT,
        Field::real("orthogonality", 0.0, 10.0, 0.1, "γ: how strongly P and Q are drawn towards orthogonal."),
        Field::real("t_init", 0.0, 0.9, 0.1, "Part of the steps before the budget begins to fall."),
        Field::real("t_final", 0.0, 0.9, 0.5, "Part of the steps at the end with the budget reached and the choice fixed."),
        Field::whole("every", 1, 1000, 10, "Steps between two choices; in between a cut value may grow back."),
        Field::real("beta1", 0.0, 0.999, 0.85, "Smoothing of the sensitivity."),
        Field::real("beta2", 0.0, 0.999, 0.85, "Smoothing of the sensitivity's own unrest."),
    ],
    variants: &[],
    roles: ALL,
    default_roles: ALL,
    identity_at_start: true,
    folds: true,
    method: &AdaLora,
};

struct AdaLora;

/// r₀: 1.5 times the target, as the paper starts.
fn initial(set: &Settings) -> usize {
    (3 * set.whole("rank")).div_ceil(2)
}

/// b(t): singular values of all `places` together that may live after step `t` of `steps`, and the step `end` from which the
/// budget stays and the choice is fixed. It falls as a cubic.
pub fn budget(set: &Settings, places: usize, t: usize, steps: usize) -> (usize, usize) {
    let (first, last) = (places * initial(set), places * set.whole("rank"));
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

impl Method for AdaLora {
    fn plan(&self, anatomy: &Anatomy, sites: &[&Site], set: &Settings) -> Result<Vec<Placement>, String> {
        let (r, n) = (initial(set), anatomy.tokens);
        let place = |site: &&Site| {
            let (d_in, d_out) = (site.d_in, site.d_out);
            let kept = |name, rows, init| ParamSpec::new(name, rows, r, init).constant();
            let params = vec![
                ParamSpec::new("P", d_in, r, Init::Normal(0.02)),
                ParamSpec::new("Lambda", 1, r, Init::Zeros),
                ParamSpec::new("Q", r, d_out, Init::Normal(0.02)),
                kept("I", d_in + 1 + d_out, Init::Zeros), // smoothed sensitivity of P, Λ and Qᵀ
                kept("U", d_in + 1 + d_out, Init::Zeros), // its smoothed unrest
                kept("mask", 1, Init::Ones),
            ];
            Placement::new(site, Door::After, params).costs(n * (r * (d_in + d_out) + r), n * (d_in + 2 * r))
        };
        Ok(sites.iter().map(place).collect())
    }

    fn after(&self, at: &At, x: &Tensor<3>, y: Tensor<3>) -> Tensor<3> {
        let h = parts::dropout(at, x.clone()).matmul(row(at.param("P"))) * row(at.param("Lambda")); // [batch, positions, r]
        y + h.matmul(row(at.param("Q"))) * at.set.real("scale") // [batch, positions, d_out]
    }

    fn fold(&self, at: &At, part: &str, w: Tensor<2>) -> Tensor<2> {
        let change = || (at.param("P") * at.param("Lambda")).matmul(at.param("Q")) * at.set.real("scale"); // [d_in, d_out]
        if part == "weight" { w + change() } else { w }
    }

    fn penalty(&self, at: &At) -> Option<Tensor<1>> {
        let (p, q, gamma) = (at.param("P"), at.param("Q"), at.set.real("orthogonality"));
        let one = Tensor::<2>::eye(q.dims()[0], &q.device().inner()); // [r, r]
        let off = |gram: Tensor<2>| (gram - one.clone()).square().sum();
        (gamma > 0.0).then(|| (off(p.clone().transpose().matmul(p)) + off(q.clone().matmul(q.transpose()))) * gamma)
    }

    fn acts_between(&self) -> bool {
        true
    }

    fn between(&self, moment: Moment, member: &Member, gradients: &Gradients, bag: &mut Bag) {
        let (set, t) = (&member.settings, moment.done);
        let (budget, end) = budget(set, member.placements.len(), t, moment.steps);
        let stem = |p: &Placement| bag::key(member.index, member.card.name, &p.site, "");
        let stems: Vec<String> = member.placements.iter().map(stem).collect();
        if t <= end {
            stems.iter().for_each(|stem| observe(set, stem, gradients, bag));
        }
        if t == end || t < end && t.is_multiple_of(set.whole("every")) {
            choose(&stems, budget, bag);
        } else if t < end {
            return; // between two choices a cut value may grow back
        }
        for stem in &stems {
            let mask = bag.constants[&format!("{stem}mask")].tensor.clone();
            let cut = |lambda: &mut Tensor<2>| *lambda = bag::trainable(lambda.clone().inner() * mask);
            bag.params.get_mut(&format!("{stem}Lambda")).map(cut);
        }
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
