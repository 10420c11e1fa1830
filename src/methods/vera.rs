//! VeRA: Kopiczko, Blankevoort and Asano, "VeRA: Vector-based Random Matrix Adaptation" (2024), equation 2. One frozen random
//! pair A, B serves every place; a place trains two vectors that scale the pair's rows and columns. Called through the
//! catalogue.

use burn::tensor::Tensor;

use super::parts::{self, DROPOUT, LINEAR, row};
use super::{Card, Family, Init, Method, ParamSpec, Placement, Published, Variant};
use crate::engine::bag::At;
use crate::plan::anatomy::{Anatomy, Door, Role, Site};
use crate::session::settings::{Field, Settings};

pub const CARD: Card = Card {
    name: "vera",
    title: "VeRA",
    family: Family::LowRank,
    help: "A low-rank change by random matrices that all places share and that stay frozen; only two scaling vectors a place are trained.",
    formula: "y = x W + ((x A) ⊙ d) B ⊙ b,  A and B random, frozen and shared",
    drawing: "x ─┬─█ W █──────────────────────────────⊕─ y\n   └─█ A █─ ⊙ ▒ d ▒ ─█ B █─ ⊙ ▒ b ▒ ────┘",
    count: "r + d_out a place",
    published: &[
        Published::new("rank 256 on q, v, the paper's 24.6 thousand for ViT-B", &[Role::Q, Role::V], 24 * (768 + 256))
            .with(&[("rank", "256")]),
        Published::new("rank 1024 on q, v, the paper's 0.043 million for RoBERTa-base", &[Role::Q, Role::V], 24 * (768 + 1024))
            .with(&[("rank", "1024")]),
    ],
    paper: "Kopiczko, Blankevoort and Asano, VeRA: Vector-based Random Matrix Adaptation",
    year: 2024,
    learning_rate: 1e-2,
    released: "No code was released with the paper. PEFT draws A and B by Kaiming-uniform (a = 0), as here, and can keep a seed in their place; here they are saved with the adapter.",
    caution: "Wants a learning rate ten times LoRA's and a high rank; the shared matrices make the saved adapter larger than its trained part.",
    licence: "Apache-2.0 (PEFT)",
    fields: &[
        Field::whole("rank", 1, 4096, 256, "Width r of the shared random pair; each place trains r numbers of it."),
        Field::real("d_initial", 0.0, 10.0, 0.1, "Where every entry of d starts; smaller is gentler."),
        DROPOUT,
    ],
    variants: &[
        Variant::new("VeRA on q, v", "The paper's choice.", &[Role::Q, Role::V]),
        Variant::new("VeRA on every linear layer", "As for its language models.", LINEAR),
    ],
    roles: LINEAR,
    default_roles: &[Role::Q, Role::V],
    identity_at_start: true,
    folds: true,
    method: &Vera,
};

struct Vera;

/// Bound of the uniform draw that keeps a ReLU's variance (He et al. 2015).
fn he(d_in: usize) -> Init {
    Init::Uniform((6.0 / d_in as f64).sqrt())
}

/// The place's share of the pair: A `[d_in, r]` and B `[r, d_out]`, cut from the one that fits the largest place.
fn pair(at: &At) -> (Tensor<2>, Tensor<2>) {
    (at.shared("A").narrow(0, 0, at.site.d_in), at.shared("B").narrow(1, 0, at.site.d_out))
}

impl Method for Vera {
    fn plan(&self, anatomy: &Anatomy, sites: &[&Site], set: &Settings) -> Result<Vec<Placement>, String> {
        let (r, n) = (set.whole("rank"), anatomy.tokens);
        let (widest_in, widest_out) = sites.iter().fold((0, 0), |(i, o), site| (i.max(site.d_in), o.max(site.d_out)));
        let place = |(index, site): (usize, &&Site)| {
            let mut params = vec![
                ParamSpec::new("d", 1, r, Init::Constant(set.real("d_initial"))),
                ParamSpec::new("b", 1, site.d_out, Init::Zeros),
            ];
            if index == 0 {
                params.push(ParamSpec::new("A", widest_in, r, he(widest_in)).shared().constant());
                params.push(ParamSpec::new("B", r, widest_out, he(r)).shared().constant());
            }
            let kept = n * (r + site.d_out); // x A and (x A ⊙ d) B, for the vectors' gradients
            Placement::new(site, Door::After, params).costs(n * (r * (site.d_in + site.d_out) + r + site.d_out), kept)
        };
        Ok(sites.iter().enumerate().map(place).collect())
    }

    fn after(&self, at: &At, x: &Tensor<3>, y: Tensor<3>) -> Tensor<3> {
        let (a, b) = pair(at);
        let h = parts::dropout(at, x.clone()).matmul(row(a)) * row(at.param("d")); // [batch, positions, r]
        y + h.matmul(row(b)) * row(at.param("b")) // [batch, positions, d_out]
    }

    fn fold(&self, at: &At, part: &str, w: Tensor<2>) -> Tensor<2> {
        let (a, b) = pair(at);
        match part {
            "weight" => w + (a * at.param("d")).matmul(b) * at.param("b"), // [d_in, d_out]
            _ => w,
        }
    }
}
