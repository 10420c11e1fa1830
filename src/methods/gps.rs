//! GPS: Zhang et al., "Gradient-based Parameter Selection for Efficient Fine-Tuning" (2024), section 3. Of every output neuron, the k
//! input connections with the largest gradient are trained. Called through the catalogue.

use burn::tensor::Tensor;

use super::parts::{self, EXACT};
use super::{Card, Family, Init, Measure, Method, ParamSpec, Placement, Published, Variant};
use crate::engine::bag::{At, Start};
use crate::plan::anatomy::{Anatomy, Door, Role, Site};
use crate::session::settings::{Field, Settings};

const ALL: &[Role] = &[Role::Embed, Role::Q, Role::K, Role::V, Role::O, Role::Gate, Role::Up, Role::Down, Role::Merge];

pub const CARD: Card = Card {
    name: "gps",
    title: "GPS",
    family: Family::Select,
    help: "Trains, of every output neuron, the few input connections whose gradient on the task is largest.",
    formula: "W_new = W + S,  S_ij ≠ 0 where |∂L/∂W_ij| is among the k largest of neuron j",
    drawing: "x_1 ──█──┐\nx_2 ──▒──┼─ y_j     k of each neuron's inputs,\nx_3 ──█──┘          by |∂L/∂W|",
    count: "k · d_out a place (and d_out for its bias, if trained)",
    // methods/12 lists 0.22 M; no k and places that the authors' code offers give it. Counted here: a ViT-B/16 block has
    // 4 · 768 + 3072 + 768 = 6912 neurons, the patch embedding 768.
    published: &[
        Published::new("k = 1, every layer", ALL, 12 * 6_912 + 768).with(&[("k", "1")]),
        Published::new("as the authors' VTAB scripts: k = 1 and biases", ALL, 2 * (12 * 6_912 + 768))
            .with(&[("k", "1"), ("biases", "true")]),
        Published::new("as the authors' CUB script: k = 2 and biases", ALL, 3 * (12 * 6_912 + 768))
            .with(&[("k", "2"), ("biases", "true")]),
    ],
    paper: "Zhang et al., Gradient-based Parameter Selection for Efficient Fine-Tuning",
    year: 2024,
    learning_rate: 5e-3,
    released: "Trains every bias of the chosen layers too (the setting here), and sums the contrastive gradients of the whole training set over two augmented views of each image; here one view of up to 64 samples. Its counts, 0.17 M on VTAB without the head, are not the 0.22 M that tables give.",
    caution: "What is measured is the frozen network on your data: a handful of labels picks a noisy mask. A step costs about what full fine-tuning costs.",
    licence: "MIT",
    fields: &[
        Field::whole("k", 1, 16, 1, "Input connections of each output neuron that are trained; at most all of them."),
        Field::flag("biases", false, "Train the biases of these layers too, as the authors' code does."),
    ],
    variants: &[
        Variant::new("GPS, k = 1", "One connection of each neuron.", ALL).with(&[("k", "1")]),
        Variant::new("As released", "With biases.", ALL).with(&[("k", "1"), ("biases", "true")]),
    ],
    roles: ALL,
    default_roles: ALL,
    identity_at_start: true,
    folds: true,
    method: &Gps,
};

struct Gps;

impl Method for Gps {
    fn plan(&self, anatomy: &Anatomy, sites: &[&Site], set: &Settings) -> Result<Vec<Placement>, String> {
        let mut placements = Vec::new();
        for site in sites {
            let Some(weight) = site.part("weight") else { continue };
            if weight.count() > EXACT {
                return Err(format!("`{}` has {} weights; matrices of up to {EXACT} fit", site.path, weight.count()));
            }
            let k = set.whole("k").min(weight.rows) * weight.cols;
            let mut params = vec![
                ParamSpec::new("values", 1, k, Init::Zeros), // S, so that the first pass is the frozen network's
                ParamSpec::new("index", 1, k, Init::Own).constant(),
            ];
            if let Some(bias) = site.part("bias").filter(|_| set.flag("biases")) {
                params.push(ParamSpec::new("bias", 1, bias.cols, Init::Frozen("bias")));
            }
            placements.push(Placement::new(site, Door::Weight, params).costs(0, anatomy.tokens * site.d_in));
        }
        Ok(placements)
    }

    fn measures(&self, _set: &Settings) -> Option<Measure> {
        Some(Measure::Gradients)
    }

    fn start(&self, places: &[Start]) -> Vec<(String, Vec<f32>)> {
        let choose = |at: &Start| {
            let d_out = at.site.part("weight")?.cols;
            // Nothing measured (a plan's dry model, an adapter about to be loaded): the largest weights stand in.
            let scores: Vec<f32> = match at.measured {
                Some(gradients) => gradients.to_vec(),
                None => at.frozen("weight").iter().map(|w| w.abs()).collect(),
            };
            let mut chosen = Vec::new();
            for j in 0..d_out {
                let neuron: Vec<f32> = scores.iter().skip(j).step_by(d_out).copied().collect(); // [d_in]
                chosen.extend(parts::largest(&neuron, at.set.whole("k")).into_iter().map(|i| i * d_out + j));
            }
            chosen.sort_unstable();
            Some((at.key("index"), chosen.into_iter().map(|n| n as f32).collect()))
        };
        places.iter().filter_map(choose).collect()
    }

    fn weight(&self, at: &At, part: &str, w: Tensor<2>) -> Tensor<2> {
        match part {
            "weight" => parts::add_at(w, at.param("index"), at.param("values")), // [d_in, d_out]
            "bias" if at.has("bias") => at.param("bias"),
            _ => w,
        }
    }
}
