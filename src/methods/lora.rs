//! LoRA: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021), equation 3; rsLoRA's scale by Kalajdzievski,
//! "A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA" (2023). Called through the catalogue.

use burn::tensor::Tensor;

use super::parts::{self, DROPOUT, kaiming};
use super::{Card, Family, Init, Method, ParamSpec, Placement, Published, Variant};
use crate::engine::bag::At;
use crate::plan::anatomy::{Anatomy, Door, Role, Site};
use crate::session::settings::{Field, Settings};

pub const CARD: Card = Card {
    name: "lora",
    title: "LoRA",
    family: Family::LowRank,
    help: "Learns a low-rank change beside a frozen weight matrix; nothing is added once it is merged.",
    formula: "y = x W + (x A) B · s,  s = α / r  or  α / √r",
    drawing: "x ─┬─█ W █────────────⊕─ y\n   └─▒ A ▒─▒ B ▒─ × s ─┘",
    count: "r · (d_in + d_out) a place",
    published: &[
        Published { what: "rank 8 on q, v", roles: &[Role::Q, Role::V], settings: &[("rank", "8")], trainable: 294_912 }, // methods/12: 12 · 4 · 768 · 8
    ],
    paper: "Hu et al., LoRA: Low-Rank Adaptation of Large Language Models",
    year: 2021,
    learning_rate: 2e-4,
    released: "The reference code pads merged q, k, v projections; its GPT-2 runs use α 32 at rank 4. PEFT starts A by Kaiming-uniform with a = √5, as here; the paper says Gaussian.",
    caution: "A rank that is too low for the task shows as a training loss that stays high; plain α / r makes high ranks learn slowly (scale by √r instead).",
    licence: "MIT",
    fields: &[
        Field::whole("rank", 1, 512, 8, "Width r of the low-rank path."),
        Field::real("alpha", 0.0, 4096.0, 16.0, "Strength α of the change; the scale is α / r, or α / √r by the setting below."),
        DROPOUT,
        Field::choice(
            "scaling",
            &["alpha / r", "alpha / sqrt r"],
            "The scale s; the second is rsLoRA's, which keeps high ranks learning.",
        ),
    ],
    variants: &[
        Variant { title: "LoRA on q, v", help: "The paper's choice.", roles: &[Role::Q, Role::V], settings: &[] },
        Variant {
            title: "LoRA on every linear layer",
            help: "Attention and MLP, as QLoRA does.",
            roles: &[Role::Q, Role::K, Role::V, Role::O, Role::Up, Role::Down],
            settings: &[],
        },
        Variant {
            title: "rsLoRA on q, v",
            help: "Rank-stabilised scale.",
            roles: &[Role::Q, Role::V],
            settings: &[("scaling", "alpha / sqrt r"), ("rank", "16")],
        },
    ],
    roles: &[Role::Q, Role::K, Role::V, Role::O, Role::Up, Role::Down],
    default_roles: &[Role::Q, Role::V],
    identity_at_start: true,
    folds: true,
    method: &Lora,
};

struct Lora;

/// s of equation 3.
pub fn scale(set: &Settings) -> f64 {
    let r = set.whole("rank") as f64;
    let divisor = if set.text("scaling") == "alpha / sqrt r" { r.sqrt() } else { r };
    set.real("alpha") / divisor
}

impl Method for Lora {
    fn plan(&self, anatomy: &Anatomy, sites: &[&Site], set: &Settings) -> Result<Vec<Placement>, String> {
        let r = set.whole("rank");
        let place = |site: &&Site| {
            let a = ParamSpec::new("A", site.d_in, r, kaiming(site.d_in));
            let b = ParamSpec::new("B", r, site.d_out, Init::Zeros).matrix();
            let n = anatomy.tokens;
            Placement::new(site, Door::After, vec![a, b]).costs(n * r * (site.d_in + site.d_out), n * (site.d_in + r))
        };
        Ok(sites.iter().map(place).collect())
    }

    fn after(&self, at: &At, x: &Tensor<3>, y: Tensor<3>) -> Tensor<3> {
        let a = at.param("A").unsqueeze::<3>(); // [1, d_in, r]
        let b = at.param("B").unsqueeze::<3>(); // [1, r, d_out]
        let change = parts::dropout(at, x.clone()).matmul(a).matmul(b); // [batch, positions, d_out]
        y + change * scale(at.set)
    }

    fn fold(&self, at: &At, part: &str, w: Tensor<2>) -> Tensor<2> {
        match part {
            "weight" => w + at.param("A").matmul(at.param("B")) * scale(at.set), // [d_in, d_out]
            _ => w,
        }
    }
}
