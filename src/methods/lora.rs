//! LoRA: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021), equation 3; rsLoRA's scale by Kalajdzievski,
//! "A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA" (2023); LoRA+'s learning rates by Hayou, Ghosh and Yu,
//! "LoRA+: Efficient Low Rank Adaptation of Large Models" (2024); PiSSA's start by `pissa`; the gate by Mao et al., "UniPELT"
//! (2022). Called through the catalogue.

use burn::tensor::Tensor;

use super::parts::{self, DROPOUT, EVERY_LINEAR, GATE, LINEAR, kaiming};
use super::pissa;
use super::{Card, Family, Init, Method, ParamSpec, Placement, Published, Variant};
use crate::engine::bag::{At, Start};
use crate::plan::anatomy::{Anatomy, Door, Role, Site};
use crate::session::settings::{Field, Settings};

pub const CARD: Card = Card {
    name: "lora",
    title: "LoRA",
    family: Family::LowRank,
    help: "Learns a low-rank change beside a frozen weight matrix; nothing is added once it is merged.",
    formula: "y = x W + (x A) B · s,  s = α / r  or  α / √r;  PiSSA: W - A₀ B₀ · s in W's place;  gated: s = mean σ(x w + b)",
    drawing: "x ─┬─█ W █────────────⊕─ y\n   └─▒ A ▒─▒ B ▒─ × s ─┘",
    count: "r · (d_in + d_out) a place, and d_in + 1 for a gate",
    published: &[
        // methods/12: 12 · 4 · 768 · 8
        Published::new("rank 8 on q, v", &[Role::Q, Role::V], 294_912).with(&[("rank", "8")]),
        Published::new("UniPELT's part: rank 8 on q, v, gated", &[Role::Q, Role::V], 294_912 + 24 * (768 + 1))
            .with(&[("rank", "8"), ("gate", "true")]),
    ],
    paper: "Hu et al., LoRA: Low-Rank Adaptation of Large Language Models; Hayou et al., LoRA+ (2024); Meng et al., PiSSA (2024)",
    year: 2021,
    learning_rate: 2e-4,
    released: "The reference code pads merged q, k, v projections; its GPT-2 runs use α 32 at rank 4. PEFT starts A by Kaiming-uniform with a = √5, as here; the paper says Gaussian. PiSSA's code stores W - A₀ B₀ as the base model; here W stays and A₀ B₀ is subtracted. UniPELT's code, as here, leaves α / r out where there is a gate.",
    caution: "A rank that is too low for the task shows as a training loss that stays high; plain α / r makes high ranks learn slowly (scale by √r instead). LoRA+ and PiSSA want a lower learning rate than LoRA.",
    licence: "MIT",
    fields: &[
        Field::whole("rank", 1, 512, 8, "Width r of the low-rank path."),
        Field::real(
            "alpha",
            0.0,
            4096.0,
            16.0,
            "Strength α of the change; the scale is α / r, or α / √r by the setting below; a gate takes its place.",
        ),
        DROPOUT,
        Field::choice(
            "scaling",
            &["alpha / r", "alpha / sqrt r"],
            "The scale s; the second is rsLoRA's, which keeps high ranks learning.",
        ),
        Field::real("ratio", 1.0, 64.0, 1.0, "LoRA+: B learns at this many times the learning rate of A; its paper takes 16."),
        pissa::START,
        GATE,
    ],
    variants: &[
        Variant::new("LoRA on q, v", "The paper's choice.", &[Role::Q, Role::V]),
        Variant::new("LoRA on every linear layer", "Attention and MLP, as QLoRA does.", LINEAR),
        Variant::new("rsLoRA on q, v", "Rank-stabilised scale.", &[Role::Q, Role::V])
            .with(&[("scaling", "alpha / sqrt r"), ("rank", "16")]),
        Variant::new("LoRA+ on q, v", "B learns sixteen times as fast as A.", &[Role::Q, Role::V]).with(&[("ratio", "16")]),
        Variant::new("PiSSA on every linear layer", "Trains the strongest directions of the weights themselves, s = 1.", LINEAR)
            .with(&[("start", "pissa"), ("alpha", "8")]),
        Variant::new("Gated LoRA on q, v", "UniPELT's part; the preset `unipelt` is the whole.", &[Role::Q, Role::V])
            .with(&[("gate", "true")]),
    ],
    roles: EVERY_LINEAR,
    default_roles: &[Role::Q, Role::V],
    identity_at_start: true,
    folds: true,
    method: &Lora,
};

struct Lora;

/// s of equation 3, left out where a gate takes its place.
pub fn scale(set: &Settings) -> f64 {
    if set.flag("gate") {
        return 1.0;
    }
    let r = set.whole("rank") as f64;
    let divisor = if set.text("scaling") == "alpha / sqrt r" { r.sqrt() } else { r };
    set.real("alpha") / divisor
}

impl Method for Lora {
    fn plan(&self, anatomy: &Anatomy, sites: &[&Site], set: &Settings) -> Result<Vec<Placement>, String> {
        let (r, n) = (set.whole("rank"), anatomy.tokens);
        let is_pissa = pissa::is_chosen(set);
        // Embeddings of words are rows of a table: no layer.
        let sites: Vec<&Site> = sites.iter().copied().filter(|site| site.part("weight").is_some()).collect();
        if is_pissa {
            pissa::fits(&sites, r)?;
        }
        let place = |site: &&Site| {
            let [a, b] = if is_pissa { [Init::Own; 2] } else { [kaiming(site.d_in), Init::Zeros] };
            let pair =
                |a_name, b_name| [ParamSpec::new(a_name, site.d_in, r, a), ParamSpec::new(b_name, r, site.d_out, b).matrix()];
            let [a, b] = pair("A", "B");
            let mut params = vec![a, b.rate(set.real("ratio"))];
            if is_pissa {
                params.extend(pair("A0", "B0").map(ParamSpec::constant));
            }
            let paths = params.len() / 2;
            if set.flag("gate") {
                params.extend(parts::gate_params(site.d_in));
            }
            Placement::new(site, Door::After, params).costs(paths * n * r * (site.d_in + site.d_out), n * (site.d_in + r))
        };
        Ok(sites.iter().map(place).collect())
    }

    fn start(&self, places: &[Start]) -> Vec<(String, Vec<f32>)> {
        let of = |place: &Start| pissa::start(place, place.set.whole("rank"), scale(place.set));
        places.iter().filter_map(of).flatten().collect()
    }

    /// PiSSA's A₀ B₀ is subtracted here, not from W: equal terms cancel to the last bit, and W stays whole for others.
    fn after(&self, at: &At, x: &Tensor<3>, y: Tensor<3>) -> Tensor<3> {
        let path = |x: Tensor<3>, a, b| x.matmul(at.param(a).unsqueeze::<3>()).matmul(at.param(b).unsqueeze::<3>());
        let mut change = path(parts::dropout(at, x.clone()), "A", "B"); // [batch, positions, d_out]
        if at.has("A0") {
            change = change - path(x.clone(), "A0", "B0");
        }
        if at.set.flag("gate") {
            change = change * parts::gate(at, x.clone(), at.param("gate"), at.param("gate_bias"));
        }
        y + change * scale(at.set)
    }

    fn stays_beside(&self, set: &Settings) -> Option<&'static str> {
        parts::gated(set)
    }

    fn fold(&self, at: &At, part: &str, w: Tensor<2>) -> Tensor<2> {
        let product = |a, b| at.param(a).matmul(at.param(b)) * scale(at.set); // [d_in, d_out]
        match part {
            "weight" if at.has("A0") => w + (product("A", "B") - product("A0", "B0")),
            "weight" => w + product("A", "B"),
            _ => w,
        }
    }
}
