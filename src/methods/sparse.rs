//! Sparse masks that stay as they are: Bhardwaj et al., "Sparse High Rank Adapters" (2024). A small part of each weight's numbers is
//! trained, the rest is frozen. SHiRA-Rand draws them, SHiRA-WM takes the largest weights. Called through the catalogue.

use burn::tensor::Tensor;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::parts::{self, EXACT, LINEAR};
use super::{Card, Family, Init, Method, ParamSpec, Placement, Published, Variant};
use crate::engine::bag::{At, Start};
use crate::engine::random;
use crate::plan::anatomy::{Anatomy, Door, Part, Site};
use crate::session::settings::{Field, Settings};

pub const CARD: Card = Card {
    name: "sparse",
    title: "Sparse mask (SHiRA)",
    family: Family::Select,
    help: "Trains a small, fixed part of the numbers in each weight matrix, chosen at random or by size.",
    formula: "W_new = W + S,  S = 0 outside a fixed mask M of k numbers",
    drawing: "    █ █ █ █ █\n    █ ▒ █ █ █\nx ──█ █ █ █ ▒── y\n    █ █ █ ▒ █",
    count: "share · d_in · d_out a place, rounded",
    published: &[
        // The paper trains 1 to 2 % of each matrix: 12 (4 · round(0.01 · 768²) + 2 · round(0.01 · 768 · 3072))
        Published::new("1 % of every linear layer", LINEAR, 12 * (4 * 5_898 + 2 * 23_593)),
    ],
    paper: "Bhardwaj et al., Sparse High Rank Adapters",
    year: 2024,
    learning_rate: 3e-4, // PEFT's own SHiRA run; the paper's tables were not at hand
    released: "The authors' code is that in PEFT: it sizes the mask as a LoRA of rank r would be, r (d_in + d_out), and comes with random masks only.",
    caution: "Few numbers are trained, but the gradient of each whole matrix is computed on the way to them: a step costs about what full fine-tuning costs.",
    licence: "Apache-2.0",
    fields: &[
        Field::real("share", 0.0001, 1.0, 0.01, "Part of each weight matrix that is trained, at least one number."),
        Field::choice("choose", &["random", "magnitude"], "Which numbers: drawn by the seed, or the largest weights."),
    ],
    variants: &[
        Variant::new("SHiRA-Rand", "Drawn by the seed.", LINEAR).with(&[("choose", "random")]),
        Variant::new("SHiRA-WM", "The largest weights.", LINEAR).with(&[("choose", "magnitude")]),
    ],
    roles: LINEAR,
    default_roles: LINEAR,
    identity_at_start: true,
    folds: true,
    method: &Sparse,
};

struct Sparse;

/// k: numbers that are trained in one matrix.
fn count(weight: &Part, set: &Settings) -> usize {
    ((set.real("share") * weight.count() as f64).round() as usize).clamp(1, weight.count())
}

impl Method for Sparse {
    fn plan(&self, anatomy: &Anatomy, sites: &[&Site], set: &Settings) -> Result<Vec<Placement>, String> {
        let mut placements = Vec::new();
        for site in sites {
            let Some(weight) = site.part("weight") else { continue };
            if weight.count() > EXACT {
                return Err(format!("`{}` has {} weights; matrices of up to {EXACT} fit", site.path, weight.count()));
            }
            let k = count(weight, set);
            let params = vec![
                ParamSpec::new("values", 1, k, Init::Zeros), // S, so that the first pass is the frozen network's
                ParamSpec::new("index", 1, k, Init::Own).constant(),
            ];
            placements.push(Placement::new(site, Door::Weight, params).costs(0, anatomy.tokens * site.d_in));
        }
        Ok(placements)
    }

    fn start(&self, places: &[Start]) -> Vec<(String, Vec<f32>)> {
        let choose = |at: &Start| {
            let weight = at.site.part("weight")?;
            let k = count(weight, at.set);
            let chosen = match at.set.text("choose") {
                "magnitude" => parts::largest(&at.frozen("weight").iter().map(|w| w.abs()).collect::<Vec<_>>(), k),
                _ => {
                    let mut drawn = random::shuffled(&mut ChaCha8Rng::seed_from_u64(at.seed), weight.count());
                    drawn.truncate(k);
                    drawn.sort_unstable();
                    drawn
                }
            };
            Some((at.key("index"), chosen.into_iter().map(|n| n as f32).collect()))
        };
        places.iter().filter_map(choose).collect()
    }

    fn weight(&self, at: &At, part: &str, w: Tensor<2>) -> Tensor<2> {
        match part {
            "weight" => parts::add_at(w, at.param("index"), at.param("values")), // [d_in, d_out]
            _ => w,
        }
    }
}
