//! Bottleneck adapters: Houlsby et al., "Parameter-Efficient Transfer Learning for NLP" (2019); Pfeiffer et al., "AdapterFusion"
//! (2021); parallel and scaled parallel as He et al., "Towards a Unified View of Parameter-Efficient Transfer Learning" (2022),
//! table 1; AdaptFormer: Chen et al. (2022); one, half-shared or several for many tasks: Sung, Cho and Bansal, "VL-Adapter" (2022),
//! section 3.3; the gate by Mao et al., "UniPELT" (2022). One file: form, place, composition and sharing, between places and between
//! tasks, are settings. Called through the catalogue.

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
    formula: "sequential: y ← y + s · (σ(y W_dn + b_dn) W_up + b_up);  parallel: the same of the place's input x, or of the stream before its norm;  gated: g · s, g = mean σ(y w + b)",
    drawing: "x ─┬─█ attn or mlp █─┬────────────────────────────⊕─ y\n   │     sequential └─▒ W_dn ▒─ σ ─▒ W_up ▒─ × s ─┘\n   └─ parallel: the same, fed by x",
    count: "2 · d · r + r + d a place (a matrix shared by all places counts once), 1 for a learned s, d + 1 for a gate; what each task has of its own counts once a task",
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
    released: "AdaptFormer's code starts W_up at zero, Houlsby's draws it from a narrow normal; V-PETL Bench's AdaptFormer norms its input once more and uses s = 1. UniPELT's code draws W_up and the gate's w from BERT's narrow normal; here W_up is zero there too. VL-Adapter also trains the norms of its language model and marks the task by words before the text; here only the head's classes tell tasks apart where one adapter serves all.",
    caution: "It stays in the network: every forward pass pays for it. Sequential forms see a branch's output, parallel ones its normed input. The unified view's adapter on single heads has no place here: it joins before the output projection.",
    licence: "Apache-2.0",
    fields: &[
        Field::whole("bottleneck", 1, 4096, 16, "Width r of the hidden layer."),
        Field::choice(
            "form",
            &["sequential", "parallel", "parallel to the stream"],
            "In line after the place; beside it; or, for the MLP of a network that norms before it, beside the norm too, so that it reads the residual stream.",
        ),
        Field::real("scale", 0.0, 16.0, 1.0, "Factor s of what the adapter adds."),
        Field::flag("learn_scale", false, "Trains s, one for each place, from the value above."),
        Field::choice(
            "share",
            &["nothing", "down", "up", "everything"],
            "What all places have in common: nothing, the matrix down and its bias, up and its bias, or the whole adapter.",
        ),
        Field::choice(
            "tasks",
            &["one for all", "one each", "down shared", "up shared"],
            "With a data set of several tasks: one adapter for all of them, one for each, or one for each with the matrix down (or up) \
             and its bias in common.",
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
        Variant {
            title: "One for each task",
            help: "VL-Adapter's Multiple: Houlsby's places, and every task of the data set has adapters of its own.",
            roles: &[Role::Attn, Role::Mlp],
            settings: &[("tasks", "one each"), ("activation", "gelu")],
        },
        Variant {
            title: "Half-shared by tasks",
            help: "VL-Adapter's Half-shared: every task has its matrix down, and up is common to all tasks.",
            roles: &[Role::Attn, Role::Mlp],
            settings: &[("tasks", "up shared"), ("activation", "gelu")],
        },
    ],
    roles: &[Role::Attn, Role::Mlp, Role::Mid, Role::Block, Role::Q, Role::K, Role::V, Role::O, Role::Gate, Role::Up, Role::Down],
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

/// Whether each task has the parameter `name` of its own.
fn by_task(set: &Settings, name: &str) -> bool {
    match set.text("tasks") {
        "one each" => true,
        "down shared" => name.starts_with("up"),
        "up shared" => name.starts_with("down"),
        _ => false,
    }
}

/// What the adapter at `site` reads, which is the place's input or its output, and what it adds to.
fn widths(site: &Site, set: &Settings) -> (usize, usize) {
    (if set.text("form") == "sequential" { site.d_out } else { site.d_in }, site.d_out)
}

/// The form that reads the residual stream where its norm has not been yet.
pub const STREAM: &str = "parallel to the stream";

impl Method for Bottleneck {
    fn plan(&self, anatomy: &Anatomy, sites: &[&Site], set: &Settings) -> Result<Vec<Placement>, String> {
        let (r, n) = (set.whole("bottleneck"), anatomy.tokens);
        let mut placements: Vec<Placement> = Vec::new();
        for site in sites {
            if set.text("form") == STREAM && site.role != Role::Mlp {
                return Err(format!("`{STREAM}` stands beside an MLP, not at `{}`; `parallel` fits everywhere", site.path));
            }
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
            let params = params.into_iter().map(|spec| if by_task(set, &spec.name) { spec.by_task() } else { spec });
            let (common, own): (Vec<_>, Vec<_>) = params.partition(|spec| shared(set, &spec.name));
            // The first place declares what all have in common.
            let common = common.into_iter().filter(|_| placements.is_empty()).map(ParamSpec::shared);
            let params = common.chain(own).collect();
            placements.push(Placement::new(site, Door::After, params).costs(n * r * (d_in + d_out), n * (d_in + 2 * r)));
        }
        Ok(placements)
    }

    fn reads(&self) -> &'static [Role] {
        &[Role::Mid]
    }

    fn after(&self, at: &At, x: &Tensor<3>, y: Tensor<3>) -> Tensor<3> {
        let seen = match at.set.text("form") {
            STREAM => at.left(Role::Mid),
            "parallel" => x.clone(),
            _ => y.clone(),
        };
        let h = with(at, ["down", "down_bias"], seen.clone(), |x, [w, b]| parts::dense(x, w, b)); // [batch, positions, r]
        let h = parts::dropout(at, parts::bend(at.set.text("activation"), h));
        let mut change = with(at, ["up", "up_bias"], h, |h, [w, b]| parts::dense(h, w, b)); // [batch, positions, d]
        if at.set.flag("gate") {
            change = change * with(at, ["gate", "gate_bias"], seen, |x, [w, b]| parts::gate(at, x, w, b)); // g [batch, 1, 1]
        }
        match at.set.flag("learn_scale") {
            true => y + with(at, ["s"], change, |change, [s]| change * row(s)),
            false => y + change * at.set.real("scale"),
        }
    }
}

/// `act` on `x` with the parameters `names`; where each task has its own, on the samples of every task with that task's.
fn with<const N: usize>(
    at: &At,
    names: [&str; N],
    x: Tensor<3>,
    act: impl Fn(Tensor<3>, [Tensor<2>; N]) -> Tensor<3>,
) -> Tensor<3> {
    let all = names.map(|name| if shared(at.set, name) { at.shared(name) } else { at.param(name) });
    match by_task(at.set, names[0]) {
        true => parts::by_task(at, x, |task, x| act(x, all.clone().map(|of_all| at.of_task(task, of_all)))),
        false => act(x, all),
    }
}
