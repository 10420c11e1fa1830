//! SCT: Zhao et al., "SCT: A Simple Baseline for Parameter-Efficient Fine-Tuning via Salient Channels" (2023). A linear layer among the
//! few channels of the residual stream that are largest on the task's samples. Called through the catalogue.

use burn::tensor::{IndexingUpdateOp, Tensor};

use super::parts;
use super::{Card, Family, Init, Measure, Method, ParamSpec, Placement, Published, Variant};
use crate::engine::bag::{At, Start};
use crate::plan::anatomy::{Anatomy, Door, Role, Site};
use crate::session::settings::{Field, Settings};

pub const CARD: Card = Card {
    name: "sct",
    title: "SCT",
    family: Family::Adapter,
    help: "Adds a linear layer among the few channels of the residual stream that are largest on the task's images.",
    formula: "h[S] ← h[S] + s · (h[S] W + b),  S the k channels with the largest L2 norm",
    drawing: "h ──█ attn █──⊕─┬──────────────────⊕── h\n              │ └ h[S] ─▒ W, b ▒─ s ┘\n              h",
    count: "k² + k a place",
    published: &[
        // methods/12: 12 (96² + 96)
        Published::new("96 channels after attention", &[Role::Mid], 111_744).with(&[("k", "96")]),
    ],
    paper: "Zhao et al., SCT: A Simple Baseline for Parameter-Efficient Fine-Tuning via Salient Channels",
    year: 2023,
    learning_rate: 1e-3,
    released: "Starts W from a normal of 0.02 and scales the change by a factor for each task (0.15 to 0.2 in those seen), so its first pass is not quite the frozen network's; here W starts at zero. It ranks channels on the whole training set, here on up to 64 samples of it.",
    caution: "The channels are those of the frozen network on your samples. On a narrow backbone choose k well below its width: the paper takes one channel in eight.",
    licence: "none stated by the authors",
    fields: &[
        Field::whole("k", 1, 4096, 96, "Channels that are tuned, the largest ones; at most all of them."),
        Field::real("scale", 0.0, 10.0, 1.0, "Strength s of the change."),
    ],
    variants: &[
        Variant::new("After attention", "The paper's choice.", &[Role::Mid]),
        Variant::new("After the MLP", "At the end of each block, as the authors' code can.", &[Role::Block]),
    ],
    roles: &[Role::Mid, Role::Block],
    default_roles: &[Role::Mid],
    identity_at_start: true,
    folds: false,
    method: &Sct,
};

struct Sct;

impl Method for Sct {
    fn plan(&self, anatomy: &Anatomy, sites: &[&Site], set: &Settings) -> Result<Vec<Placement>, String> {
        let place = |site: &&Site| {
            let (n, k) = (anatomy.tokens, set.whole("k").min(site.d_out));
            let params = vec![
                ParamSpec::new("W", k, k, Init::Zeros), // zero, so that the first pass is the frozen network's
                ParamSpec::new("b", 1, k, Init::Zeros),
                ParamSpec::new("index", 1, k, Init::Own).constant(),
            ];
            Placement::new(site, Door::After, params).costs(n * k * k, n * k)
        };
        Ok(sites.iter().map(place).collect())
    }

    fn measures(&self, _set: &Settings) -> Option<Measure> {
        Some(Measure::OutputNorms)
    }

    fn start(&self, places: &[Start]) -> Vec<(String, Vec<f32>)> {
        let choose = |at: &Start| {
            let (d, k) = (at.site.d_out, at.set.whole("k").min(at.site.d_out));
            let chosen = match at.measured {
                Some(norms) => parts::largest(norms, k),
                None => (0..k).map(|n| n * d / k).collect(), // a plan's dry model, an adapter about to be loaded: spread evenly
            };
            (at.key("index"), chosen.into_iter().map(|n| n as f32).collect())
        };
        places.iter().map(choose).collect()
    }

    fn after(&self, at: &At, _x: &Tensor<3>, h: Tensor<3>) -> Tensor<3> {
        let index = at.param("index").int().squeeze_dim::<1>(0); // [k]
        let salient = h.clone().select(2, index.clone()); // [batch, positions, k]
        let change = parts::dense(salient, at.param("W"), at.param("b")) * at.set.real("scale");
        let h = if change.is_autodiff() { h.autodiff() } else { h };
        h.select_assign(2, index, change, IndexingUpdateOp::Add) // [batch, positions, width]
    }
}
