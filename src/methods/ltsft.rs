//! LT-SFT: Ansell et al., "Composable Sparse Fine-Tuning for Cross-Lingual Transfer" (2022), section 3. Full fine-tuning finds the K
//! numbers that move most, anywhere in the network; they are set back, and they alone are trained. Called through the catalogue.

use burn::tensor::Tensor;

use super::parts::{self, EXACT};
use super::{Card, Family, Init, Measure, Method, ParamSpec, Placement, Published, Variant};
use crate::engine::bag::{At, Start};
use crate::plan::anatomy::{Anatomy, Door, Role, Site};
use crate::session::settings::{Field, Settings};

/// Everything but norms, which the paper keeps frozen.
const MASKABLE: &[Role] = &[Role::Embed, Role::Q, Role::K, Role::V, Role::O, Role::Gate, Role::Up, Role::Down, Role::Merge];
const ATTENTION: &[Role] = &[Role::Q, Role::K, Role::V, Role::O];

pub const CARD: Card = Card {
    name: "ltsft",
    title: "LT-SFT",
    family: Family::Select,
    help: "Fine-tunes everything for a while, keeps only the places of the numbers that moved most, and trains those anew from the start.",
    formula: "φ_i ≠ 0 where |θ1 − θ0|_i is among the K largest of all;  θ = θ0 + φ;  L + λ/K Σ|φ|",
    drawing: "1  x ──▒ θ1 ▒── y        all of θ, then |θ1 − θ0|\n2  x ──█ θ0 █ + ▒ φ ▒── y    K numbers, from θ0",
    count: "K in all: a share of the placed weights, or a number",
    published: &[
        // methods/24 (d): the ranking modules' K, matched to adapters of reduction 1 and 16; K is the count by definition.
        Published::new("K of reduction 1", MASKABLE, 14_174_208).with(&[("count", "14174208")]),
        Published::new("K of reduction 16", MASKABLE, 894_528).with(&[("count", "894528")]),
        // round(0.01 · (85,798,656 − 25 · 2 · 768 of the norms))
        Published::new("1 % of all but norms", MASKABLE, 857_603),
    ],
    paper: "Ansell et al., Composable Sparse Fine-Tuning for Cross-Lingual Transfer",
    year: 2022,
    learning_rate: 5e-5,
    released: "Masks gradients and lets ties at the threshold join, so that K may be exceeded; here φ itself is trained and K is exact. It can choose in several iterations, and pulls on both phases with λ; here in one, and on the second phase only.",
    caution: "The first phase is full fine-tuning, with its memory and time. Its own learning rate is low; K too small shows as a loss that stays high.",
    licence: "Apache-2.0",
    fields: &[
        Field::real("share", 0.0001, 1.0, 0.01, "K as a part of all placed weights; used while `count` is 0."),
        Field::whole("count", 0, EXACT as i64, 0, "K itself, at most all placed weights; 0 leaves it to the share."),
        Field::whole("steps", 1, 1_000_000, 200, "Steps of the first phase, full fine-tuning by the session's recipe."),
        Field::real("l1", 0.0, 1000.0, 0.0, "λ: pulls the trained numbers back to the start; the paper uses 0.1 for languages."),
    ],
    variants: &[
        Variant::new("Everything but norms", "As the paper places it.", MASKABLE),
        Variant::new("Attention only", "q, k, v and o.", ATTENTION),
    ],
    roles: MASKABLE,
    default_roles: MASKABLE,
    identity_at_start: true,
    folds: true,
    method: &LtSft,
};

struct LtSft;

/// K of `placed` weights.
fn wanted(placed: usize, set: &Settings) -> usize {
    let k = match set.whole("count") {
        0 => (set.real("share") * placed as f64).round() as usize,
        count => count,
    };
    k.clamp(1, placed.max(1))
}

impl Method for LtSft {
    fn plan(&self, anatomy: &Anatomy, sites: &[&Site], set: &Settings) -> Result<Vec<Placement>, String> {
        let k = wanted(sites.iter().map(|site| site.count()).sum(), set);
        if let Some(large) = sites.iter().map(|site| site.count()).chain([k]).find(|count| *count > EXACT) {
            return Err(format!("{large} positions are too many to be kept as f32; up to {EXACT} fit, in K and in each place"));
        }
        let mut placements = Vec::new();
        for site in sites {
            // The stretch of φ that is this site's, cut at its parts: part i has the numbers from cut i to cut i + 1.
            let mut params = vec![ParamSpec::new("cuts", 1, site.parts.len() + 1, Init::Own).constant()];
            if placements.is_empty() {
                params.push(ParamSpec::new("phi", 1, k, Init::Zeros).shared());
                params.push(ParamSpec::new("index", 1, k, Init::Own).shared().constant());
            }
            placements.push(Placement::new(site, Door::Weight, params).costs(0, anatomy.tokens * site.d_in));
        }
        Ok(placements)
    }

    fn measures(&self, set: &Settings) -> Option<Measure> {
        Some(Measure::Changes { steps: set.whole("steps") })
    }

    fn start(&self, places: &[Start]) -> Vec<(String, Vec<f32>)> {
        let Some(first) = places.first() else { return vec![] };
        // |θ1 − θ0| of all places end to end: one threshold for the whole network, not one a layer. Nothing measured (a plan's dry
        // model, an adapter about to be loaded): |θ0| stands in.
        let mut change = Vec::new();
        for at in places {
            match at.measured {
                Some(moved) => change.extend(moved.iter().map(|v| v.abs())),
                None => change.extend(at.site.parts.iter().flat_map(|part| at.frozen(part.name)).map(|w| w.abs())),
            }
        }
        let chosen = parts::largest(&change, wanted(change.len(), first.set));
        let mut values = Vec::new();
        let mut index = Vec::with_capacity(chosen.len());
        let mut begins = 0; // of the part, in `change`
        for at in places {
            let mut cuts = vec![index.len() as f32];
            for part in &at.site.parts {
                let ends = begins + part.count();
                let of_part = chosen[index.len()..].iter().take_while(|n| **n < ends).map(|n| (n - begins) as f32);
                index.extend(of_part.collect::<Vec<_>>());
                cuts.push(index.len() as f32);
                begins = ends;
            }
            values.push((at.key("cuts"), cuts));
        }
        values.push((first.shared_key("index"), index));
        values
    }

    fn weight(&self, at: &At, part: &str, w: Tensor<2>) -> Tensor<2> {
        let Some(n) = at.site.parts.iter().position(|p| p.name == part) else { return w };
        let (from, to) = (at.host("cuts")[n] as usize, at.host("cuts")[n + 1] as usize);
        if from == to {
            return w;
        }
        let stretch = |all: Tensor<2>| all.narrow(1, from, to - from); // [1, to - from]
        parts::add_at(w, stretch(at.shared("index")), stretch(at.shared("phi")))
    }

    /// λ/K Σ|φ|, each place its own stretch of it.
    fn penalty(&self, at: &At) -> Option<Tensor<1>> {
        let lambda = at.set.real("l1");
        let cuts = at.host("cuts");
        let (from, to) = (cuts[0] as usize, cuts[cuts.len() - 1] as usize);
        if lambda == 0.0 || from == to {
            return None;
        }
        let phi = at.shared("phi"); // [1, K]
        let k = phi.dims()[1] as f64;
        Some(phi.narrow(1, from, to - from).abs().sum() * (lambda / k))
    }
}
