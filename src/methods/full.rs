//! Full fine-tuning: every frozen matrix of the placed sites is trained from its pretrained value. The other end of the
//! scale from a linear probe. Called through the catalogue.

use burn::tensor::Tensor;

use super::{Card, Family, Init, Method, ParamSpec, Placement, Published, Variant};
use crate::engine::bag::At;
use crate::plan::anatomy::{Anatomy, Door, Role, Site};
use crate::session::settings::Settings;

const ALL: &[Role] = &[
    Role::Embed,
    Role::Norm,
    Role::Q,
    Role::K,
    Role::V,
    Role::Distance,
    Role::O,
    Role::Scale,
    Role::Gate,
    Role::Up,
    Role::Down,
    Role::Merge,
    Role::Pool,
    Role::Temperature,
];

pub const CARD: Card = Card {
    name: "full",
    title: "Full fine-tuning",
    family: Family::Full,
    help: "Trains the weights themselves, of every place or of those you paint.",
    formula: "W trained from its pretrained value",
    drawing: "x ──▒ W ▒── y",
    count: "all parameters of a place",
    published: &[Published::new("everything but the head", ALL, 85_798_656)],
    paper: "the common practice that parameter-efficient methods are measured against",
    year: 2014,
    learning_rate: 1e-5,
    released: "None of its own.",
    caution: "Needs gradients, optimiser state and activations for everything it trains, and a learning rate about ten times lower.",
    licence: "MIT OR Apache-2.0",
    fields: &[],
    variants: &[
        Variant::new("Everything", "Every weight of the backbone.", ALL),
        Variant::new("Attention only", "q, k, v and o.", &[Role::Q, Role::K, Role::V, Role::O]),
    ],
    roles: ALL,
    default_roles: ALL,
    identity_at_start: true,
    folds: true,
    method: &Full,
};

struct Full;

impl Method for Full {
    fn plan(&self, anatomy: &Anatomy, sites: &[&Site], _set: &Settings) -> Result<Vec<Placement>, String> {
        let place = |site: &&Site| {
            let params = site.parts.iter().map(|p| ParamSpec::new(p.name, p.rows, p.cols, Init::Frozen(p.name))).collect();
            Placement::new(site, Door::Weight, params).costs(0, anatomy.tokens * site.d_in)
        };
        Ok(sites.iter().map(place).collect())
    }

    fn weight(&self, at: &At, part: &str, _w: Tensor<2>) -> Tensor<2> {
        at.param(part)
    }
}
