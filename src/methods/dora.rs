//! DoRA: Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation" (2024), equation 5 and section 4.3. Splits a weight
//! into the length and the direction of each output channel's column; trains the lengths, and LoRA turns the directions.
//! Called through the catalogue.

use burn::tensor::Tensor;

use super::parts::{self, DROPOUT, EVERY_LINEAR, kaiming, row};
use super::{Card, Family, Init, Method, ParamSpec, Placement, Published, Variant};
use crate::engine::bag::{At, Start};
use crate::engine::model;
use crate::plan::anatomy::{Anatomy, Door, Role, Site};
use crate::session::settings::{Field, Settings};

const PAPERS: &[Role] = &[Role::Q, Role::K, Role::V, Role::Up, Role::Down];

pub const CARD: Card = Card {
    name: "dora",
    title: "DoRA",
    family: Family::LowRank,
    help: "LoRA that learns the length of each weight column apart from its direction, as full fine-tuning tends to change them.",
    formula: "y = x W',  W' = m ⊙ (W + s A B) / ‖W + s A B‖_c,  s = α / r",
    drawing: "x ─┬─█ W █────────────⊕─ ÷ ‖·‖ ─ ⊙ ▒ m ▒── y\n   └─▒ A ▒─▒ B ▒─ × s ─┘",
    count: "r · (d_in + d_out) + d_out a place",
    published: &[
        // LoRA's, and one length for each output channel
        Published::new("rank 8 on q, v", &[Role::Q, Role::V], 294_912 + 24 * 768).with(&[("rank", "8")]),
        Published::new(
            "rank 8 where the paper puts it",
            PAPERS,
            12 * (3 * (8 * 1536 + 768) + (8 * 3840 + 3072) + (8 * 3840 + 768)),
        )
        .with(&[("rank", "8")]),
    ],
    paper: "Liu et al., DoRA: Weight-Decomposed Low-Rank Adaptation",
    year: 2024,
    learning_rate: 2e-4,
    released: "As here, the released code and PEFT send the dropped-out input through W as well wherever the change differs from W, and leave the bias alone. They decay m like any weight; here vectors are not decayed.",
    caution: "Every training step multiplies by W twice and composes W + s A B for its norms, so it is slower than LoRA; once merged it costs nothing. Try half of LoRA's rank.",
    licence: "NVIDIA Source Code License-NC (the authors' code; this is our own)",
    fields: &[
        Field::whole("rank", 1, 512, 8, "Width r of the low-rank path that turns the columns."),
        Field::real("alpha", 0.0, 4096.0, 16.0, "Strength α of the low-rank path; the scale is α / r."),
        DROPOUT,
        Field::choice(
            "norm",
            &["constant", "through"],
            "Whether the gradient passes through the columns' norms; the paper holds them constant, which saves memory.",
        ),
    ],
    variants: &[
        Variant::new("DoRA on q, k, v and the MLP", "The paper's choice.", PAPERS),
        Variant::new("DoRA on q, v", "Beside LoRA's usual place.", &[Role::Q, Role::V]),
        Variant::new("DoRA, gradient through the norms", "Equation 5 without the shortcut of section 4.3.", PAPERS)
            .with(&[("norm", "through")]),
    ],
    roles: EVERY_LINEAR,
    default_roles: PAPERS,
    identity_at_start: true,
    folds: true,
    method: &Dora,
};

struct Dora;

fn scale(set: &Settings) -> f64 {
    set.real("alpha") / set.whole("rank") as f64
}

/// Length of each column of `[d_in, d_out]`: `[1, d_out]`. An empty column gets a length too, so that nothing divides by zero.
fn norms(v: Tensor<2>) -> Tensor<2> {
    v.square().sum_dim(0).clamp_min(1e-24).sqrt()
}

/// m / ‖W + s A B‖_c, `[1, d_out]`: what each output channel is multiplied by.
fn gain(at: &At, w: Tensor<2>) -> Tensor<2> {
    let held = |m: Tensor<2>| if at.set.text("norm") == "constant" { m.inner() } else { m };
    let v = w + held(at.param("A")).matmul(held(at.param("B"))) * scale(at.set); // [d_in, d_out]
    at.param("m") / norms(v)
}

impl Method for Dora {
    fn plan(&self, anatomy: &Anatomy, sites: &[&Site], set: &Settings) -> Result<Vec<Placement>, String> {
        let (r, n) = (set.whole("rank"), anatomy.tokens);
        let place = |site: &&Site| {
            let (d_in, d_out) = (site.d_in, site.d_out);
            let a = ParamSpec::new("A", d_in, r, kaiming(d_in));
            let b = ParamSpec::new("B", r, d_out, Init::Zeros);
            let m = ParamSpec::new("m", 1, d_out, Init::Own);
            let macs = n * (d_in * d_out + r * (d_in + d_out) + d_out);
            Placement::new(site, Door::After, vec![a, b, m]).costs(macs, n * (d_in + r + d_out))
        };
        // Embeddings of words are rows of a table: no layer.
        Ok(sites.iter().filter(|site| site.part("weight").is_some()).map(place).collect())
    }

    /// m starts as the frozen columns' lengths, by the very operations of the pass: the first gain is then exactly one.
    fn start(&self, places: &[Start]) -> Vec<(String, Vec<f32>)> {
        let of = |place: &Start| Some((place.key("m"), model::host(norms(place.weight("weight")?)).ok()?));
        places.iter().filter_map(of).collect()
    }

    /// y + x (W' - W), at door `After`: the bias, which the norm does not concern, is in y and stays as it is; what other
    /// methods added stays too; and x can be dropped out, which a changed weight could not do. Taking x W off again costs a
    /// product, but makes the first pass exact and keeps less than the gradient of a dense W' would.
    fn after(&self, at: &At, x: &Tensor<3>, y: Tensor<3>) -> Tensor<3> {
        let w = at.frozen("weight");
        let gain = gain(at, w.clone());
        let x = parts::dropout(at, x.clone());
        let frozen = x.clone().matmul(row(w)); // [batch, positions, d_out]
        let turned = x.matmul(row(at.param("A"))).matmul(row(at.param("B"))) * scale(at.set);
        y + ((frozen.clone() + turned) * row(gain) - frozen)
    }

    fn fold(&self, at: &At, part: &str, w: Tensor<2>) -> Tensor<2> {
        if part != "weight" {
            return w;
        }
        let frozen = at.frozen("weight");
        let turned = at.param("A").matmul(at.param("B")) * scale(at.set); // [d_in, d_out]
        w + ((frozen.clone() + turned) * gain(at, frozen.clone()) - frozen)
    }
}
