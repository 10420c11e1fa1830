//! Bottleneck adapters: Houlsby et al., "Parameter-Efficient Transfer Learning for NLP" (2019); Pfeiffer et al., "AdapterFusion"
//! (2021); parallel and scaled parallel as He et al., "Towards a Unified View of Parameter-Efficient Transfer Learning" (2022),
//! table 1; AdaptFormer: Chen et al. (2022); shared halves as Sung, Cho and Bansal, "VL-Adapter" (2022), over places instead of
//! tasks; the gate by Mao et al., "UniPELT" (2022). One file: form, place, composition and sharing are settings. Called through
//! the catalogue.

use burn::tensor::Tensor;

use super::parts::{self, ACTIVATION, DROPOUT, GATE, kaiming, row};
use super::{Card, Family, Init, Method, ParamSpec, Placement, Published, Variant};
use crate::engine::bag::At;
use crate::plan::anatomy::{Anatomy, Door, Role, Site};
use crate::session::settings::{Field, Settings};

pub const CARD: Card = Card {
    name: "bottleneck",
    title: "Bottleneck adapter",
    family: Family::Adapter,
    help: "A small down-bend-up network in line with, or parallel to, a branch or a linear layer.",
    formula: "sequential: y ← y + s · (σ(y W_dn + b_dn) W_up + b_up);  parallel: the same of the place's input x;  gated: g · s, g = mean σ(y w + b)",
    drawing: "x ─┬─█ attn or mlp █─┬────────────────────────────⊕─ y\n   │     sequential └─▒ W_dn ▒─ σ ─▒ W_up ▒─ × s ─┘\n   └─ parallel: the same, fed by x",
    count: "2 · d · r + r + d a place (a matrix shared by all places counts once), 1 for a learned s, and d + 1 for a gate",
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
        Published {
            what: "one adapter, 96 wide, for all places",
            roles: &[Role::Attn, Role::Mlp],
            settings: &[("bottleneck", "96"), ("share", "everything")],
            trainable: 148_320, // methods/06 (d): one adapter, 2 · 768 · 96 + 96 + 768
        },
        Published {
            what: "UniPELT's part: Pfeiffer, 48 wide, gated",
            roles: &[Role::Mlp],
            settings: &[("bottleneck", "48"), ("gate", "true")],
            trainable: 12 * (2 * 768 * 48 + 48 + 768 + 768 + 1),
        },
    ],
    paper: "Houlsby et al., Parameter-Efficient Transfer Learning for NLP; He et al. (2022) for the parallel forms; Chen et al., AdaptFormer (2022)",
    year: 2019,
    learning_rate: 1e-3,
    released: "AdaptFormer's code starts W_up at zero, Houlsby's draws it from a narrow normal; V-PETL Bench's AdaptFormer norms its input once more and uses s = 1. UniPELT's code draws W_up and the gate's w from BERT's narrow normal; here W_up is zero there too.",
    caution: "It stays in the network: every forward pass pays for it. Sequential forms see a branch's output, parallel ones its normed input. The unified view's adapter on single heads has no place here: it joins before the output projection.",
    licence: "Apache-2.0",
    fields: &[
        Field::whole("bottleneck", 1, 4096, 16, "Width r of the hidden layer."),
        Field::choice("form", &["sequential", "parallel"], "In line after the place, or beside it."),
        Field::real("scale", 0.0, 16.0, 1.0, "Factor s of what the adapter adds."),
        Field::flag("learn_scale", false, "Trains s, one for each place, from the value above."),
        Field::choice(
            "share",
            &["nothing", "down", "up", "everything"],
            "What all places have in common: nothing, the matrix down and its bias, up and its bias, or the whole adapter.",
        ),
        ACTIVATION,
        DROPOUT,
        GATE,
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
        Variant {
            title: "Gated Pfeiffer",
            help: "UniPELT's part; the preset `unipelt` is the whole.",
            roles: &[Role::Mlp],
            settings: &[("form", "sequential"), ("gate", "true")],
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
        Variant {
            title: "Learned scale",
            help: "Beside the MLP, s trained.",
            roles: &[Role::Mlp],
            settings: &[("form", "parallel"), ("learn_scale", "true")],
        },
        Variant {
            title: "Half-shared",
            help: "Houlsby's places with one matrix down for all of them.",
            roles: &[Role::Attn, Role::Mlp],
            settings: &[("share", "down"), ("activation", "gelu")],
        },
        Variant {
            title: "Single",
            help: "One adapter for all of Houlsby's places.",
            roles: &[Role::Attn, Role::Mlp],
            settings: &[("share", "everything"), ("activation", "gelu")],
        },
    ],
    roles: &[Role::Attn, Role::Mlp, Role::Q, Role::K, Role::V, Role::O, Role::Up, Role::Down],
    default_roles: &[Role::Mlp],
    identity_at_start: true,
    folds: false,
    method: &Bottleneck,
};

struct Bottleneck;

/// Whether all places have the parameter `name` in common.
fn shared(set: &Settings, name: &str) -> bool {
    match set.text("share") {
        "everything" => true,
        half => name.starts_with(half), // `down` and `down_bias`, or `up` and `up_bias`
    }
}

/// What the adapter at `site` reads, which is the place's input or its output, and what it adds to.
fn widths(site: &Site, set: &Settings) -> (usize, usize) {
    (if set.text("form") == "parallel" { site.d_in } else { site.d_out }, site.d_out)
}

impl Method for Bottleneck {
    fn plan(&self, anatomy: &Anatomy, sites: &[&Site], set: &Settings) -> Result<Vec<Placement>, String> {
        let (r, n) = (set.whole("bottleneck"), anatomy.tokens);
        let mut placements: Vec<Placement> = Vec::new();
        for site in sites {
            let (d_in, d_out) = widths(site, set);
            if set.text("share") != "nothing" && widths(sites[0], set) != (d_in, d_out) {
                return Err(format!(
                    "what places share must fit all of them, but `{}` goes from {d_in} to {d_out} and `{}` does not",
                    site.path, sites[0].path
                ));
            }
            let mut params = vec![
                ParamSpec::new("down", d_in, r, kaiming(d_in)),
                ParamSpec::new("down_bias", 1, r, Init::Zeros),
                ParamSpec::new("up", r, d_out, Init::Zeros).matrix(), // zero, so that the first pass is the frozen network's
                ParamSpec::new("up_bias", 1, d_out, Init::Zeros),
            ];
            if set.flag("learn_scale") {
                params.push(ParamSpec::new("s", 1, 1, Init::Constant(set.real("scale"))));
            }
            if set.flag("gate") {
                params.extend(parts::gate_params(d_in));
            }
            let (common, own): (Vec<_>, Vec<_>) = params.into_iter().partition(|spec| shared(set, &spec.name));
            // The first place declares what all have in common.
            let common = common.into_iter().filter(|_| placements.is_empty()).map(ParamSpec::shared);
            let params = common.chain(own).collect();
            placements.push(Placement::new(site, Door::After, params).costs(n * r * (d_in + d_out), n * (d_in + 2 * r)));
        }
        Ok(placements)
    }

    fn after(&self, at: &At, x: &Tensor<3>, y: Tensor<3>) -> Tensor<3> {
        let of = |name: &str| if shared(at.set, name) { at.shared(name) } else { at.param(name) };
        let seen = if at.set.text("form") == "parallel" { x.clone() } else { y.clone() };
        let h = parts::dense(seen.clone(), of("down"), of("down_bias")); // [batch, positions, r]
        let h = parts::dropout(at, parts::bend(at.set.text("activation"), h));
        let mut change = parts::dense(h, of("up"), of("up_bias")); // [batch, positions, d]
        if at.set.flag("gate") {
            change = change * parts::gate(seen, of("gate"), of("gate_bias"));
        }
        match at.set.flag("learn_scale") {
            true => y + change * row(of("s")),
            false => y + change * at.set.real("scale"),
        }
    }
}
