//! SSF: Lian, Zhou, Feng and Wang, "Scaling & Shifting Your Features: A New Baseline for Efficient Model Tuning" (2022),
//! equation 4; folding is their equation 5. Called through the catalogue.

use burn::tensor::Tensor;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::parts::row;
use super::{Card, Family, Init, Method, ParamSpec, Placement, Published};
use crate::engine::bag::{At, Start};
use crate::engine::random;
use crate::plan::anatomy::{Anatomy, Door, Role, Site};
use crate::session::settings::{Field, Settings};

const ALL: &[Role] =
    &[Role::Embed, Role::Norm, Role::Q, Role::K, Role::V, Role::O, Role::Gate, Role::Up, Role::Down, Role::Merge];

pub const CARD: Card = Card {
    name: "ssf",
    title: "SSF",
    family: Family::Scale,
    help: "Scales and shifts every channel after each operation of the backbone; nothing is added once it is folded.",
    formula: "y = γ ⊙ x + β",
    drawing: "x ──█ embedding, norm or linear █── ⊙ ▒ γ ▒ ── + ▒ β ▒ ── y",
    count: "2 · d_out a place",
    published: &[
        // methods/12: 205,824. Patches 2 · 768; a block's two norms, q, k, v, o, up, down; the last norm 2 · 768.
        Published::new(
            "after every operation of ViT-B/16",
            ALL,
            2 * 768 + 12 * 2 * (2 * 768 + 3 * 768 + 768 + 3072 + 768) + 2 * 768,
        ),
    ],
    paper: "Lian et al., Scaling & Shifting Your Features: A New Baseline for Efficient Model Tuning",
    year: 2022,
    learning_rate: 1e-2,
    released: "The released code draws γ from N(1, 0.02²) and β from N(0, 0.02²), so its first pass is not the frozen network's (start = \"as released\"), and evaluates a moving average of the weights.",
    caution: "It rescales channels and never mixes them; a task that needs new features wants an adapter or LoRA. A place without a bias can be trained, but its shift cannot be folded.",
    licence: "MIT OR Apache-2.0 (own code; the paper's was not used)",
    fields: &[Field::choice(
        "start",
        &["exact", "as released"],
        "γ = 1 and β = 0, so that the first pass is the frozen network's; or drawn narrowly around them.",
    )],
    variants: &[],
    roles: ALL,
    default_roles: ALL,
    identity_at_start: true,
    folds: true,
    method: &Ssf,
};

struct Ssf;

impl Method for Ssf {
    fn plan(&self, anatomy: &Anatomy, sites: &[&Site], set: &Settings) -> Result<Vec<Placement>, String> {
        let (gamma, beta) = match set.text("start") {
            "as released" => (Init::Own, Init::Normal(0.02)),
            _ => (Init::Ones, Init::Zeros),
        };
        let place = |site: &&Site| {
            let d = site.d_out;
            let params = vec![ParamSpec::new("gamma", 1, d, gamma), ParamSpec::new("beta", 1, d, beta)];
            Placement::new(site, Door::After, params).costs(anatomy.tokens * d, anatomy.tokens * d)
        };
        Ok(sites.iter().map(place).collect())
    }

    /// γ around one, for "as released".
    fn start(&self, places: &[Start]) -> Vec<(String, Vec<f32>)> {
        let around_one = |place: &Start| {
            let mut rng = ChaCha8Rng::seed_from_u64(place.seed);
            random::values(&mut rng, Init::Normal(0.02), place.site.d_out).into_iter().map(|v| 1.0 + v).collect()
        };
        places.iter().map(|place| (place.key("gamma"), around_one(place))).collect()
    }

    fn after(&self, at: &At, _x: &Tensor<3>, y: Tensor<3>) -> Tensor<3> {
        y * row(at.param("gamma")) + row(at.param("beta"))
    }

    /// The embedding folds too: class token and positions join behind this door, so they stay as they are.
    fn shifts(&self) -> bool {
        true
    }

    fn fold(&self, at: &At, part: &str, w: Tensor<2>) -> Tensor<2> {
        match part {
            "weight" => w * at.param("gamma"), // columns; a norm's weight is one row
            "bias" => w * at.param("gamma") + at.param("beta"),
            _ => w,
        }
    }
}
