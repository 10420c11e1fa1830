//! LayerNorm tuning: Kim, Laskin, Mordatch and Pathak, "How to Adapt Your Large-Scale Vision-and-Language Model" (2021); Zhao
//! et al., "Tuning LayerNorm in Attention: Towards Efficient Multi-Modal LLM Finetuning" (2023). Called through the catalogue.

use burn::tensor::Tensor;

use super::{Card, Family, Init, Method, ParamSpec, Placement, Published};
use crate::engine::bag::At;
use crate::plan::anatomy::{Anatomy, Door, Role, Site};
use crate::session::settings::Settings;

pub const CARD: Card = Card {
    name: "layernorm",
    title: "LayerNorm tuning",
    family: Family::Select,
    help: "Trains the gain and the shift of the normalisation layers, which the backbone already has.",
    formula: "y = γ ⊙ (x - μ) / √(σ² + ε) + β,  γ and β trained",
    drawing: "x ──█ normalise █── ⊙ ▒ γ ▒ ── + ▒ β ▒ ── y",
    count: "2 · d a norm",
    published: &[
        // every norm of ViT-B/16
        Published::new("two norms a block and the last", &[Role::Norm], (2 * 12 + 1) * 2 * 768),
    ],
    paper: "Kim et al., How to Adapt Your Large-Scale Vision-and-Language Model; Zhao et al., Tuning LayerNorm in Attention (2023)",
    year: 2021,
    learning_rate: 1e-3, // the order of the rates that methods/12 gives for every method; the papers' own are not at hand
    released: "Not compared. Zhao et al. also train the connector to the vision encoder, the word embedding and the output head, except in their simple form.",
    caution: "Very few parameters: it likes a high learning rate, and is weak on tasks far from pretraining.",
    licence: "MIT OR Apache-2.0 (own code)",
    fields: &[],
    variants: &[],
    roles: &[Role::Norm],
    default_roles: &[Role::Norm],
    identity_at_start: true,
    folds: true,
    method: &LayerNorm,
};

struct LayerNorm;

impl Method for LayerNorm {
    fn plan(&self, _anatomy: &Anatomy, sites: &[&Site], _set: &Settings) -> Result<Vec<Placement>, String> {
        let place = |site: &&Site| {
            let params = site.parts.iter().map(|p| ParamSpec::new(p.name, p.rows, p.cols, Init::Frozen(p.name))).collect();
            Placement::new(site, Door::Weight, params)
        };
        Ok(sites.iter().map(place).collect())
    }

    fn weight(&self, at: &At, part: &str, _w: Tensor<2>) -> Tensor<2> {
        at.param(part)
    }
}
