//! Bottleneck adapters: Houlsby et al., "Parameter-Efficient Transfer Learning for NLP" (2019); Pfeiffer et al., "AdapterFusion"
//! (2021); parallel and scaled parallel as He et al., "Towards a Unified View of Parameter-Efficient Transfer Learning" (2022);
//! AdaptFormer: Chen et al. (2022). One file: form and place are settings. Called through the catalogue.

use burn::tensor::Tensor;

use super::parts::{self, ACTIVATION, DROPOUT, kaiming};
use super::{Card, Family, Init, Method, ParamSpec, Placement, Published, Variant};
use crate::engine::bag::At;
use crate::plan::anatomy::{Anatomy, Door, Role, Site};
use crate::session::settings::{Field, Settings};

pub const CARD: Card = Card {
    name: "bottleneck",
    title: "Bottleneck adapter",
    family: Family::Adapter,
    help: "A small down-bend-up network in line with, or parallel to, the attention or the MLP branch.",
    formula: "sequential: y ← y + s · σ(y W_dn + b_dn) W_up + b_up;  parallel: the same of the branch's input x",
    drawing: "x ─┬─█ attn or mlp █─┬───────────────────────⊕─ y\n   │     sequential └─▒ W_dn ▒─ σ ─▒ W_up ▒─ × s ─┘\n   └─ parallel: the same, fed by x",
    count: "2 · d · r + r + d a place",
    published: &[
        Published {
            what: "AdaptFormer, 8 wide",
            roles: &[Role::Mlp],
            settings: &[("bottleneck", "8"), ("form", "parallel"), ("scale", "0.1")],
            trainable: 156_768,
        }, // methods/12: 12 (2 · 768 · 8 + 8 + 768)
        Published {
            what: "Houlsby, 16 wide",
            roles: &[Role::Attn, Role::Mlp],
            settings: &[("bottleneck", "16")],
            trainable: 24 * (2 * 768 * 16 + 16 + 768),
        },
    ],
    paper: "Houlsby et al., Parameter-Efficient Transfer Learning for NLP; He et al. (2022) for the parallel forms; Chen et al., AdaptFormer (2022)",
    year: 2019,
    learning_rate: 1e-3,
    released: "AdaptFormer's code starts W_up at zero, Houlsby's draws it from a narrow normal; V-PETL Bench's AdaptFormer norms its input once more and uses s = 1.",
    caution: "It stays in the network: every forward pass pays for it. Sequential forms see the branch's output, parallel ones its normed input.",
    licence: "Apache-2.0",
    fields: &[
        Field::whole("bottleneck", 1, 4096, 16, "Width r of the hidden layer."),
        Field::choice("form", &["sequential", "parallel"], "In line after the branch, or beside it."),
        Field::real("scale", 0.0, 16.0, 1.0, "Factor s of what the adapter adds."),
        ACTIVATION,
        DROPOUT,
    ],
    variants: &[
        Variant {
            title: "Houlsby",
            help: "Sequential after attention and after the MLP.",
            roles: &[Role::Attn, Role::Mlp],
            settings: &[("form", "sequential"), ("activation", "gelu")],
        },
        Variant {
            title: "Pfeiffer",
            help: "Sequential after the MLP only.",
            roles: &[Role::Mlp],
            settings: &[("form", "sequential"), ("activation", "relu")],
        },
        Variant { title: "Parallel", help: "Beside the MLP.", roles: &[Role::Mlp], settings: &[("form", "parallel")] },
        Variant {
            title: "Scaled parallel",
            help: "Beside the MLP with s = 4, as the unified view found best.",
            roles: &[Role::Mlp],
            settings: &[("form", "parallel"), ("scale", "4")],
        },
        Variant {
            title: "AdaptFormer",
            help: "Beside the MLP, 8 wide, s = 0.1.",
            roles: &[Role::Mlp],
            settings: &[("form", "parallel"), ("scale", "0.1"), ("bottleneck", "8"), ("dropout", "0.1")],
        },
    ],
    roles: &[Role::Attn, Role::Mlp],
    default_roles: &[Role::Mlp],
    identity_at_start: true,
    folds: false,
    method: &Bottleneck,
};

struct Bottleneck;

impl Method for Bottleneck {
    fn plan(&self, anatomy: &Anatomy, sites: &[&Site], set: &Settings) -> Result<Vec<Placement>, String> {
        let r = set.whole("bottleneck");
        let place = |site: &&Site| {
            let d = site.d_out;
            let params = vec![
                ParamSpec::new("down", d, r, kaiming(d)),
                ParamSpec::new("down_bias", 1, r, Init::Zeros),
                ParamSpec::new("up", r, d, Init::Zeros).matrix(), // zero, so that the first pass is the frozen network's
                ParamSpec::new("up_bias", 1, d, Init::Zeros),
            ];
            let n = anatomy.tokens;
            Placement::new(site, Door::After, params).costs(n * 2 * d * r, n * (d + 2 * r))
        };
        Ok(sites.iter().map(place).collect())
    }

    fn after(&self, at: &At, x: &Tensor<3>, y: Tensor<3>) -> Tensor<3> {
        let seen = if at.set.text("form") == "parallel" { x.clone() } else { y.clone() };
        let h = parts::dense(seen, at.param("down"), at.param("down_bias")); // [batch, positions, r]
        let h = parts::dropout(at, parts::bend(at.set.text("activation"), h));
        let change = parts::dense(h, at.param("up"), at.param("up_bias")); // [batch, positions, d]
        y + change * at.set.real("scale")
    }
}
