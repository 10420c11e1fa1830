//! RepAdapter: Luo et al., "Towards Efficient Visual Adaption via Structural Re-parameterization" (2023), section 3. A linear
//! adapter before attention and MLP that merges into the layers behind it. Called through the catalogue.

use burn::tensor::Tensor;

use super::parts::{self, BRANCHES, DROPOUT, dense};
use super::{Card, Family, Init, Method, ParamSpec, Placement, Published, Variant};
use crate::engine::bag::At;
use crate::plan::anatomy::{Anatomy, Door, Role, Site};
use crate::session::settings::{Field, Settings};

pub const CARD: Card = Card {
    name: "repadapter",
    title: "RepAdapter",
    family: Family::Adapter,
    help: "A small adapter without a bend before attention and MLP; being linear, it merges into the layers behind it.",
    formula: "x ← x + s · φ_u(φ_d(x)),  φ_d(x) = x W_d + b_d,  φ_u(h) = [h_1 W_u1, …, h_k W_uk] + b_u",
    drawing: "x ─┬──────────────────────⊕──█ attn or mlp █── y\n   └─▒ W_d ▒─┬─▒ W_u1 ▒─┬─ × s ─┘\n             └─▒ W_uk ▒─┘",
    count: "d · r + r + r · d / k + d a place",
    published: &[
        // The paper's .22 M counts the matrices, 24 (768 · 8 + 8 · 768 / 2) = 221,184; the code trains both biases too.
        Published::new("8 wide, 2 groups", BRANCHES, 24 * (768 * 8 + 8 + 8 * 768 / 2 + 768))
            .with(&[("hidden", "8"), ("groups", "2")]),
        Published::new("before attention alone", &[Role::Attn], 12 * (768 * 8 + 8 + 8 * 768 / 2 + 768)),
    ],
    paper: "Luo et al., Towards Efficient Visual Adaption via Structural Re-parameterization",
    year: 2023,
    learning_rate: 1e-3,
    released: "The code drops a tenth of the hidden activations, picks s for each task, and adds the norm of W_u and b_u to the loss, which is not here. V-PETL Bench's file of this name is a plain network.",
    caution: "The scale s matters and is searched for each task. As nothing bends in it, it can do no more than a change of the weights behind it.",
    licence: "Apache-2.0",
    fields: &[
        Field::whole("hidden", 1, 1024, 8, "Width r of the hidden layer; a multiple of the groups."),
        Field::whole("groups", 1, 64, 2, "Groups k of the way up: each part of the hidden layer feeds its part of the channels."),
        Field::real("scale", 0.0, 100.0, 1.0, "Factor s of what the adapter adds."),
        DROPOUT,
    ],
    variants: &[
        Variant::new("RepAdapter", "Before attention and MLP, with dropout as in its code.", BRANCHES)
            .with(&[("dropout", "0.1")]),
        Variant::new("RepAdapter attn", "Before attention alone.", &[Role::Attn]),
    ],
    roles: BRANCHES,
    default_roles: BRANCHES,
    identity_at_start: true,
    folds: true,
    method: &RepAdapter,
};

struct RepAdapter;

/// W_u in full, zero outside its groups: `[r, d]`.
fn up(at: &At) -> Tensor<2> {
    let k = at.set.whole("groups");
    let w = at.param("up"); // [r, d / k]
    let [r, part] = w.dims();
    let own = Tensor::<2>::eye(k, &w.device().inner()).reshape([k, 1, k, 1]); // group by group
    (w.reshape([k, r / k, 1, part]) * own).reshape([r, k * part])
}

impl Method for RepAdapter {
    fn plan(&self, anatomy: &Anatomy, sites: &[&Site], set: &Settings) -> Result<Vec<Placement>, String> {
        let (r, k, n) = (set.whole("hidden"), set.whole("groups"), anatomy.tokens);
        if let Some(d) = sites.iter().map(|site| site.d_in).find(|d| r % k != 0 || d % k != 0) {
            let fit = parts::fitting(1..=64, |k| r % k == 0 && d % k == 0);
            return Err(format!("hidden {r} and width {d} cannot both be cut into {k} groups; groups that fit: {fit}"));
        }
        let place = |site: &&Site| {
            let d = site.d_in;
            let params = vec![
                ParamSpec::new("down", d, r, Init::Uniform((6.0 / (d + r) as f64).sqrt())), // Xavier's bound
                ParamSpec::new("down_bias", 1, r, Init::Zeros),
                ParamSpec::new("up", r, d / k, Init::Zeros), // zero, so that the first pass is the frozen network's
                ParamSpec::new("up_bias", 1, d, Init::Zeros),
            ];
            Placement::new(site, Door::Before, params).costs(n * 2 * d * r, n * (d + r))
        };
        Ok(sites.iter().map(place).collect())
    }

    fn before(&self, at: &At, x: Tensor<3>) -> Tensor<3> {
        let h = dense(x.clone(), at.param("down"), at.param("down_bias")); // [batch, positions, r]
        let change = dense(parts::dropout(at, h), up(at), at.param("up_bias")); // [batch, positions, d]
        x + change * at.set.real("scale")
    }

    /// (I + s W_d W_u) W at q, k, v or `up`, which read what this adapter changes.
    fn fold(&self, at: &At, part: &str, w: Tensor<2>) -> Tensor<2> {
        match part {
            "weight" => w.clone() + at.param("down").matmul(up(at).matmul(w)) * at.set.real("scale"), // [d, d_out]
            _ => w,
        }
    }

    fn shifts(&self) -> bool {
        true
    }

    /// s (b_d W_u + b_u)
    fn shift(&self, at: &At) -> Option<Tensor<2>> {
        Some((at.param("down_bias").matmul(up(at)) + at.param("up_bias")) * at.set.real("scale")) // [1, d]
    }
}
