//! AdaLoRA: Zhang et al., "Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning" (2023): the change as P Λ Q
//! (equation 3), P and Q held near orthogonal (4), singular values cut to a falling budget over all places together by `budget`.
//! Called through the catalogue.

use burn::tensor::Tensor;

use super::budget;
use super::parts::{self, DROPOUT, LINEAR, row};
use super::{Card, Family, Gradients, Init, Method, Moment, ParamSpec, Placement, Published};
use crate::engine::bag::{self, At, Bag};
use crate::plan::Member;
use crate::plan::anatomy::{Anatomy, Door, Site};
use crate::session::settings::{Field, Settings};

pub const CARD: Card = Card {
    name: "adalora",
    title: "AdaLoRA",
    family: Family::LowRank,
    help: "Starts with half as many singular directions again as asked for and, while it trains, keeps the most useful ones over all places.",
    formula: "y = x W + s (x P Λ) Q;  loss + γ Σ ‖PᵀP - I‖² + ‖QQᵀ - I‖²;  the b(t) highest scores keep their λ",
    drawing: "x ─┬─█ W █───────────────────────⊕─ y\n   └─▒ P ▒─ ⊙ ▒ Λ ▒ ─▒ Q ▒─ × s ─┘\n         the weakest λ become 0",
    count: "r₀ · (d_in + d_out + 1) a place at the start, r₀ = 1.5 r; r a place on average is alive at the end",
    published: &[
        // 12 blocks, r₀ 12; q, k, v, o and the MLP
        Published::new(
            "target rank 8 on every linear layer, at the start",
            LINEAR,
            12 * 12 * (4 * (768 + 768 + 1) + 2 * (768 + 3072 + 1)),
        )
        .with(&[("rank", "8")]),
    ],
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
        budget::T_INIT,
        budget::T_FINAL,
        budget::EVERY,
        budget::BETA1,
        budget::BETA2,
    ],
    variants: &[],
    roles: LINEAR,
    default_roles: LINEAR,
    identity_at_start: true,
    folds: true,
    method: &AdaLora,
};

struct AdaLora;

/// r₀: 1.5 times the target, as the paper starts.
fn initial(set: &Settings) -> usize {
    (3 * set.whole("rank")).div_ceil(2)
}

impl Method for AdaLora {
    fn plan(&self, anatomy: &Anatomy, sites: &[&Site], set: &Settings) -> Result<Vec<Placement>, String> {
        let (r, n) = (initial(set), anatomy.tokens);
        let place = |site: &&Site| {
            let (d_in, d_out) = (site.d_in, site.d_out);
            let mut params = vec![
                ParamSpec::new("P", d_in, r, Init::Normal(0.02)),
                ParamSpec::new("Lambda", 1, r, Init::Zeros),
                ParamSpec::new("Q", r, d_out, Init::Normal(0.02)),
            ];
            params.extend(budget::constants(d_in, r, d_out));
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
        let (set, places) = (&member.settings, member.placements.len());
        let stem = |p: &Placement| bag::key(member.index, member.card.name, &p.site, "");
        let stems: Vec<String> = member.placements.iter().map(stem).collect();
        budget::keep_within(set, &stems, [places * initial(set), places * set.whole("rank")], moment, gradients, bag);
    }
}
