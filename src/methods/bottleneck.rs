//! Bottleneck adapters: Houlsby et al., "Parameter-Efficient Transfer Learning for NLP" (2019); Pfeiffer et al., "AdapterFusion"
//! (2021); parallel and scaled parallel as He et al., "Towards a Unified View of Parameter-Efficient Transfer Learning" (2022),
//! table 1; AdaptFormer: Chen et al. (2022); what places and tasks have in common by `sharing`; the gate by Mao et al., "UniPELT"
//! (2022). One file: form, place and composition are settings. Called through the catalogue.

use burn::tensor::Tensor;

use super::parts::{self, ACTIVATION, BRANCHES, DROPOUT, GATE, kaiming, row};
use super::sharing;
use super::{Card, Family, Init, Method, ParamSpec, Placement, Published, Variant};
use crate::engine::bag::At;
use crate::plan::anatomy::{Anatomy, Door, Role, Site};
use crate::session::settings::{Field, Settings};

const MLP: &[Role] = &[Role::Mlp];
/// The form that reads the residual stream where its norm has not been yet.
pub const STREAM: &str = "parallel to the stream";
/// The form that reads what the norm behind the branch would make of the sum, and adds to the branch before it.
pub const NORMED: &str = "through the norm";

pub const CARD: Card = Card {
    name: "bottleneck",
    title: "Bottleneck adapter",
    family: Family::Adapter,
    help: "A small down-bend-up network in line with, or parallel to, a branch or a linear layer.",
    formula: "sequential: y ← y + s · (σ(y W_dn + b_dn) W_up + b_up);  parallel: the same of the place's input x, or of the stream before its norm;  gated: g · s, g = mean σ(y w + b)",
    drawing: "x ─┬─█ attn or mlp █─┬────────────────────────────⊕─ y\n   │     sequential └─▒ W_dn ▒─ σ ─▒ W_up ▒─ × s ─┘\n   └─ parallel: the same, fed by x",
    count: "2 · d · r + r + d a place (a matrix shared by all places counts once), 1 for a learned s, d + 1 for a gate; what each task has of its own counts once a task",
    published: &[
        // methods/12: 12 (2 · 768 · 8 + 8 + 768)
        Published::new("AdaptFormer, 8 wide", MLP, 156_768).with(&[("bottleneck", "8"), ("form", "parallel"), ("scale", "0.1")]),
        Published::new("Houlsby, 16 wide", BRANCHES, 24 * (2 * 768 * 16 + 16 + 768)).with(&[("bottleneck", "16")]),
        // methods/06 (d): one adapter, 2 · 768 · 96 + 96 + 768
        Published::new("one adapter, 96 wide, for all places", BRANCHES, 148_320)
            .with(&[("bottleneck", "96"), ("share", "everything")]),
        Published::new("UniPELT's part: Pfeiffer, 48 wide, gated", MLP, 12 * (2 * 768 * 48 + 48 + 768 + 768 + 1))
            .with(&[("bottleneck", "48"), ("gate", "true")]),
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
            &["sequential", "parallel", STREAM, NORMED],
            "In line after the place; beside it; for the MLP of a network that norms before it, beside the norm too, so that it reads the residual stream; or, for a branch of a network that norms behind it (BERT), in line, but reading what that norm makes of the sum, as AdapterHub's `seq_bn` does there.",
        ),
        Field::real("scale", 0.0, 16.0, 1.0, "Factor s of what the adapter adds."),
        Field::flag("learn_scale", false, "Trains s, one for each place, from the value above."),
        sharing::SHARE,
        sharing::TASKS,
        ACTIVATION,
        DROPOUT,
        GATE,
    ],
    variants: &[
        Variant::new("Houlsby", "Sequential after attention and after the MLP.", BRANCHES)
            .with(&[("form", "sequential"), ("activation", "gelu")]),
        Variant::new("Pfeiffer", "Sequential after the MLP only.", MLP).with(&[("form", "sequential"), ("activation", "relu")]),
        Variant::new("Gated Pfeiffer", "UniPELT's part; the preset `unipelt` is the whole.", MLP)
            .with(&[("form", "sequential"), ("gate", "true")]),
        Variant::new("Parallel", "Beside the MLP.", MLP).with(&[("form", "parallel")]),
        Variant::new("Scaled parallel", "Beside the MLP with s = 4, as the unified view found best.", MLP)
            .with(&[("form", "parallel"), ("scale", "4")]),
        Variant::new("AdaptFormer", "Beside the MLP, 8 wide.", MLP).with(&[
            ("form", "parallel"),
            ("scale", "0.1"),
            ("bottleneck", "8"),
            ("dropout", "0.1"),
        ]),
        Variant::new("Learned scale", "Beside the MLP, s trained.", MLP).with(&[("form", "parallel"), ("learn_scale", "true")]),
        Variant::new("Half-shared", "Houlsby's places with one matrix down for all of them.", BRANCHES)
            .with(&[("share", "down"), ("activation", "gelu")]),
        Variant::new("Single", "One adapter for all of Houlsby's places.", BRANCHES)
            .with(&[("share", "everything"), ("activation", "gelu")]),
        Variant::new("One for each task", "VL-Adapter's Multiple: every task of the data set has adapters of its own.", BRANCHES)
            .with(&[("tasks", "one each"), ("activation", "gelu")]),
        Variant::new("Half-shared by tasks", "VL-Adapter's: every task has its matrix down, up is common to all.", BRANCHES)
            .with(&[("tasks", "up shared"), ("activation", "gelu")]),
    ],
    roles: &[Role::Attn, Role::Mlp, Role::Mid, Role::Block, Role::Q, Role::K, Role::V, Role::O, Role::Gate, Role::Up, Role::Down],
    default_roles: MLP,
    identity_at_start: true,
    folds: false,
    method: &Bottleneck,
};

struct Bottleneck;

/// What the adapter at `site` reads, which is the place's input or its output, and what it adds to.
fn widths(site: &Site, set: &Settings) -> (usize, usize) {
    (if matches!(set.text("form"), "sequential" | NORMED) { site.d_out } else { site.d_in }, site.d_out)
}

impl Method for Bottleneck {
    fn plan(&self, anatomy: &Anatomy, sites: &[&Site], set: &Settings) -> Result<Vec<Placement>, String> {
        let (r, n) = (set.whole("bottleneck"), anatomy.tokens);
        sharing::fits(set, sites, |site| widths(site, set))?;
        let mut placements: Vec<Placement> = Vec::new();
        for site in sites {
            if set.text("form") == STREAM && site.role != Role::Mlp {
                return Err(format!("`{STREAM}` stands beside an MLP, not at `{}`; `parallel` fits everywhere", site.path));
            }
            if set.text("form") == NORMED && anatomy.norm_behind(site).is_none() {
                return Err(format!("`{NORMED}` fits a branch that a norm follows, as BERT has them, not `{}`", site.path));
            }
            let (d_in, d_out) = widths(site, set);
            let up = parts::linear("up", r, d_out, Init::Zeros); // zero, so that the first pass is the frozen network's
            let mut params = [parts::linear("down", d_in, r, kaiming(d_in)), up].concat();
            if set.flag("learn_scale") {
                params.push(ParamSpec::new("s", 1, 1, Init::Constant(set.real("scale"))));
            }
            if set.flag("gate") {
                params.extend(parts::gate_params(d_in));
            }
            let params = sharing::declared(set, params, placements.is_empty());
            let normed = if set.text("form") == NORMED { n * d_out } else { 0 }; // the norm's input
            placements.push(Placement::new(site, Door::After, params).costs(n * r * (d_in + d_out), n * (d_in + 2 * r) + normed));
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
            NORMED => at.norm_behind(x.clone() + y.clone()), // x is the stream here
            _ => y.clone(),
        };
        let h = sharing::through(at, "down", seen.clone()); // [batch, positions, r]
        let h = parts::dropout(at, parts::bend(at.set.text("activation"), h));
        let mut change = sharing::through(at, "up", h); // [batch, positions, d]
        if at.set.flag("gate") {
            change = change * sharing::with(at, ["gate", "gate_bias"], seen, |x, [w, b]| parts::gate(at, x, w, b)); // g [batch, 1, 1]
        }
        match at.set.flag("learn_scale") {
            true => y + sharing::with(at, ["s"], change, |change, [s]| change * row(s)),
            false => y + change * at.set.real("scale"),
        }
    }
}
