//! IA3: Liu et al., "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning" (2022),
//! section 3.3. Learned scales of keys, values and the MLP's hidden layer. Called through the catalogue.

use burn::tensor::Tensor;

use super::parts::{LINEAR, row};
use super::{Card, Family, Init, Method, ParamSpec, Placement, Published};
use crate::engine::bag::At;
use crate::plan::anatomy::{Anatomy, Door, Role, Site};
use crate::session::settings::{Field, Settings};

pub const CARD: Card = Card {
    name: "ia3",
    title: "IA3",
    family: Family::Scale,
    help: "Learns one factor for each channel of keys, values and the MLP's hidden layer.",
    formula: "k ← l_k ⊙ k,  v ← l_v ⊙ v,  MLP: W_2 (l_ff ⊙ σ(W_1 x))",
    drawing: "k ── ⊙ ▒ l_k ▒     v ── ⊙ ▒ l_v ▒\nx ──█ W_1 █─ σ ─ ⊙ ▒ l_ff ▒──█ W_2 █── y",
    count: "d_out at k, v, q, o, up;  d_in at down, and wherever the input is scaled",
    published: &[Published::new("k, v and the hidden layer", &[Role::K, Role::V, Role::Down], 12 * (2 * 768 + 3072))],
    paper: "Liu et al., Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning",
    year: 2022,
    learning_rate: 3e-3,
    released: "The paper trains with Adafactor and adds unlikelihood and length-normalised losses for T0; those belong to the task, not to the method.",
    caution: "Very few parameters: it rescales what the network already computes and needs a high learning rate.",
    licence: "MIT",
    fields: &[Field::choice(
        "side",
        &["as the paper", "output", "input"],
        "Which side of a layer is scaled: the paper scales the hidden layer where it enters `down`, and what leaves every other layer.",
    )],
    variants: &[],
    roles: LINEAR,
    default_roles: &[Role::K, Role::V, Role::Down],
    identity_at_start: true,
    folds: true,
    method: &Ia3,
};

struct Ia3;

/// Whether l scales what enters the site, not what leaves it.
pub fn scales_input(set: &Settings, site: &Site) -> bool {
    match set.text("side") {
        "input" => true,
        "output" => false,
        _ => site.role == Role::Down,
    }
}

impl Method for Ia3 {
    fn plan(&self, anatomy: &Anatomy, sites: &[&Site], set: &Settings) -> Result<Vec<Placement>, String> {
        let place = |site: &&Site| {
            let (door, d) = if scales_input(set, site) { (Door::Before, site.d_in) } else { (Door::After, site.d_out) };
            Placement::new(site, door, vec![ParamSpec::new("l", 1, d, Init::Ones)]).costs(anatomy.tokens * d, anatomy.tokens * d)
        };
        Ok(sites.iter().map(place).collect())
    }

    fn before(&self, at: &At, x: Tensor<3>) -> Tensor<3> {
        x * row(at.param("l"))
    }

    fn after(&self, at: &At, _x: &Tensor<3>, y: Tensor<3>) -> Tensor<3> {
        y * row(at.param("l"))
    }

    fn fold(&self, at: &At, part: &str, w: Tensor<2>) -> Tensor<2> {
        match (scales_input(at.set, at.site), part) {
            (true, "weight") => w * at.param("l").transpose(), // [d_in, 1] scales the rows
            (true, _) => w,
            _ => w * at.param("l"), // [1, d_out] scales columns, and the bias
        }
    }
}
