//! HyperFormer++: Karimi Mahabadi, Ruder, Dehghani and Henderson, "Parameter-efficient Multi-task Fine-tuning for Transformers
//! via Shared Hypernetworks" (2021), section 2.3: one network writes the adapters of every task and place.
//! Called through the catalogue.

use burn::tensor::{Tensor, activation, module};

use super::parts::{self, BRANCHES};
use super::{Card, Family, Init, Method, ParamSpec, Placement, Published, Variant};
use crate::engine::bag::At;
use crate::plan::anatomy::{Anatomy, Door, Site};
use crate::session::settings::{Field, Settings};

pub const CARD: Card = Card {
    name: "hyperformer",
    title: "HyperFormer",
    family: Family::Adapter,
    help: "Adapters whose weights a small shared network writes from what it knows of the task, the layer and the place.",
    formula: "I = LN(M_2 ReLU(M_1 [z; l_i; p_j])),  (W_dn, b_dn, W_up, b_up, γ, β) = G I,  y ← y + LN_γβ(σ(y W_dn + b_dn) W_up + b_up)",
    drawing: "[▒ task ▒ layer ▒ place ▒]─▒ M ▒─ I ─▒ G ▒─┐ writes\nx ──█ attn or mlp █─┬───────────────────────────────⊕─ y\n                    └─ W_dn ─ σ ─ W_up ─ LN ────────┘",
    count: "(p + 1)(2 d r + r + 3 d) for all places, 3 e h + h + h p + 3 p for the network, e for each task, layer and kind of place",
    published: &[
        // Every generator is a linear layer from 64 to what it writes; 1 task, 12 layers, 2 kinds of place.
        Published::new(
            "sizes of HyperFormer++",
            BRANCHES,
            65 * (2 * 768 * 24 + 24 + 3 * 768) + (192 * 128 + 128) + (128 * 64 + 64) + 2 * 64 + (1 + 12 + 2) * 64,
        )
        .with(&[("bottleneck", "24"), ("code", "64"), ("embedding", "64"), ("hidden", "128"), ("norm", "true")]),
        Published::new(
            "code 8 and no norm, as VL-Adapter",
            BRANCHES,
            9 * (2 * 768 * 96 + 96 + 768) + (1536 * 128 + 128) + (128 * 8 + 8) + 2 * 8 + (1 + 12 + 2) * 512,
        )
        .with(&[("bottleneck", "96"), ("code", "8"), ("embedding", "512"), ("hidden", "128"), ("norm", "false")]),
    ],
    paper: "Karimi Mahabadi et al., Parameter-efficient Multi-task Fine-tuning for Transformers via Shared Hypernetworks",
    year: 2021,
    learning_rate: 3e-4,
    released: "The released code also trains the language model's own norms. VL-Adapter has a set of generators for each kind of place instead of an embedding of it, and no norm behind the adapter.",
    caution: "Made for many tasks at once: on a data set of one task its task embedding is one row, and what it shares is between layers. Not exactly the frozen network at the start.",
    licence: "MIT",
    fields: &[
        Field::whole("bottleneck", 1, 512, 16, "Width r of every adapter."),
        Field::whole("code", 2, 256, 8, "Width p of the code I from which the weights are written."),
        Field::whole("embedding", 1, 1024, 64, "Width e of the embeddings of task, layer and place."),
        Field::whole("hidden", 1, 1024, 128, "Width h of the hidden layer that makes the code."),
        Field::flag("norm", true, "A layer norm behind the adapter, with a gain and a shift that are written too."),
        Field::choice("activation", &["gelu", "relu", "silu"], "The bend between down and up."),
    ],
    variants: &[
        Variant::new("HyperFormer++", "After attention and after the MLP, with the written norm.", BRANCHES),
        Variant::new("As in VL-Adapter", "Without the norm.", BRANCHES).with(&[("norm", "false")]),
    ],
    roles: BRANCHES,
    default_roles: BRANCHES,
    identity_at_start: false,
    folds: false,
    method: &HyperFormer,
};

struct HyperFormer;

/// The embedding of the site's layer.
fn layer(site: &Site) -> String {
    format!("layer_{}", site.block.unwrap_or(0))
}

/// The embedding of the site's kind of place.
fn place(site: &Site) -> String {
    let across = if site.crosses() { "cross_" } else { "" };
    format!("place_{across}{}", site.role.word())
}

impl Method for HyperFormer {
    fn plan(&self, anatomy: &Anatomy, sites: &[&Site], set: &Settings) -> Result<Vec<Placement>, String> {
        let Some(d) = sites.first().map(|site| site.d_out) else { return Ok(vec![]) };
        if let Some(other) = sites.iter().find(|site| site.d_out != d) {
            return Err(format!(
                "one network writes adapters of one width, but `{}` is {} wide and not {d}",
                other.path, other.d_out
            ));
        }
        let [r, p, e, h] = ["bottleneck", "code", "embedding", "hidden"].map(|name| set.whole(name));
        let mut params = vec![ParamSpec::new("task", 1, e, Init::Normal(1.0)).by_task()];
        for name in sites.iter().flat_map(|site| [layer(site), place(site)]) {
            if !params.iter().any(|spec| spec.name == name) {
                params.push(ParamSpec::new(name, 1, e, Init::Normal(1.0)));
            }
        }
        let mut layers = vec![("M_1", 3 * e, h), ("M_2", h, p)];
        layers.extend([("G_W_dn", p, d * r), ("G_b_dn", p, r), ("G_W_up", p, r * d), ("G_b_up", p, d)]);
        if set.flag("norm") {
            layers.extend([("G_gamma", p, d), ("G_beta", p, d)]);
        }
        params.extend(layers.into_iter().flat_map(|(name, d_in, d_out)| parts::linear(name, d_in, d_out, Init::Normal(0.01))));
        params.push(ParamSpec::new("norm", 1, p, Init::Ones));
        params.push(ParamSpec::new("norm_bias", 1, p, Init::Zeros));

        // All of it belongs to the method; the first place declares it.
        let n = anatomy.tokens;
        let mut all: Vec<ParamSpec> = params.into_iter().map(ParamSpec::shared).collect();
        let stand = |site: &&Site| {
            Placement::new(site, Door::After, std::mem::take(&mut all)).costs(n * 2 * d * r, n * (3 * d + 2 * r) + 2 * d * r)
        };
        Ok(sites.iter().map(stand).collect())
    }

    fn after(&self, at: &At, _x: &Tensor<3>, y: Tensor<3>) -> Tensor<3> {
        y.clone() + parts::by_task(at, y, |task, y| adapter(at, task, y))
    }
}

/// What the adapter that is written for `task` adds to `y` `[batch, positions, d]`.
fn adapter(at: &At, task: usize, y: Tensor<3>) -> Tensor<3> {
    let (d, r) = (at.site.d_out, at.set.whole("bottleneck"));
    let linear = |name: &str, x: Tensor<2>| x.matmul(at.shared(name)) + at.shared(&format!("{name}_bias"));
    let task = at.of_task(task, at.shared("task")); // [1, e]
    let known = Tensor::cat(vec![task, at.shared(&layer(at.site)), at.shared(&place(at.site))], 1); // [1, 3 e]
    let code = linear("M_2", activation::relu(linear("M_1", known))); // [1, p]
    let code = module::layer_norm(code, vector(at.shared("norm")), Some(vector(at.shared("norm_bias"))), 1e-6);
    let write = |name: &str| linear(name, code.clone()); // [1, size]

    let h = parts::dense(y, write("G_W_dn").reshape([d, r]), write("G_b_dn")); // [batch, positions, r]
    let h = parts::bend(at.set.text("activation"), h);
    let change = parts::dense(h, write("G_W_up").reshape([r, d]), write("G_b_up")); // [batch, positions, d]
    match at.set.flag("norm") {
        true => module::layer_norm(change, vector(write("G_gamma")), Some(vector(write("G_beta"))), 1e-6),
        false => change,
    }
}

fn vector(row: Tensor<2>) -> Tensor<1> {
    row.squeeze_dim::<1>(0)
}
