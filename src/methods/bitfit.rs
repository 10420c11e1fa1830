//! BitFit: Ben Zaken, Goldberg and Ravfogel, "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked
//! Language-models" (2022). Trains the biases alone. Called through the catalogue.

use burn::tensor::Tensor;

use super::{Card, Family, Init, Method, ParamSpec, Placement, Published};
use crate::engine::bag::At;
use crate::plan::anatomy::{Anatomy, Door, Role, Site};
use crate::session::settings::Settings;

const ALL: &[Role] = ROLES.split_at(ROLES.len() - 1).0;

/// And that of the pretrained layer between the first token and a head, where there is one.
const ROLES: &[Role] =
    &[Role::Embed, Role::Norm, Role::Q, Role::K, Role::V, Role::O, Role::Gate, Role::Up, Role::Down, Role::Merge, Role::Pool];

pub const CARD: Card = Card {
    name: "bitfit",
    title: "BitFit",
    family: Family::Select,
    help: "Trains only the bias vectors that the backbone already has.",
    formula: "y = x W + b,  b trained",
    drawing: "x ──█ W █── + ▒ b ▒── y",
    count: "d_out a place that has a bias",
    published: &[Published::new("every bias", ALL, 102_912)],
    paper: "Ben Zaken et al., BitFit: Simple Parameter-efficient Fine-tuning",
    year: 2022,
    learning_rate: 1e-3,
    released: "The released code also trains the task head and lets the user pick biases by name.",
    caution: "Weak on tasks far from pretraining; likes a learning rate ten times that of full fine-tuning.",
    licence: "Apache-2.0",
    fields: &[],
    variants: &[],
    roles: ROLES,
    default_roles: ALL,
    identity_at_start: true,
    folds: true,
    method: &BitFit,
};

struct BitFit;

impl Method for BitFit {
    fn plan(&self, _anatomy: &Anatomy, sites: &[&Site], _set: &Settings) -> Result<Vec<Placement>, String> {
        let place = |site: &&Site| {
            let bias = site.part("bias")?;
            Some(Placement::new(site, Door::Weight, vec![ParamSpec::new("bias", 1, bias.cols, Init::Frozen("bias"))]))
        };
        Ok(sites.iter().filter_map(place).collect())
    }

    fn weight(&self, at: &At, part: &str, w: Tensor<2>) -> Tensor<2> {
        if part == "bias" { at.param("bias") } else { w }
    }
}
