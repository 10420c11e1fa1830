//! DiffFit's scales: Xie et al., "DiffFit: Unlocking Transferability of Large Diffusion Models via Simple Parameter-Efficient
//! Fine-Tuning" (2023), figure 4. The whole of DiffFit is a stack: these scales, BitFit and LayerNorm tuning (preset
//! `difffit`). Called through the catalogue.

use burn::tensor::Tensor;

use super::parts::{BRANCHES, row};
use super::{Card, Family, Init, Method, ParamSpec, Placement, Published, Variant};
use crate::engine::bag::At;
use crate::plan::anatomy::{Anatomy, Door, Role, Site};
use crate::session::settings::Settings;

pub const CARD: Card = Card {
    name: "difffit",
    title: "DiffFit scales",
    family: Family::Scale,
    help: "Learns one factor for each channel of what a branch adds to the residual stream.",
    formula: "x ← x + γ_a ⊙ Attn(LN(x)),  x ← x + γ_f ⊙ FFN(LN(x))",
    drawing: "x ─┬────────────────────────────────────⊕─ y\n   └─█ LN █──█ attn or mlp █── ⊙ ▒ γ ▒ ─┘",
    count: "d a branch, d_out a linear layer",
    published: &[
        // methods/23 (b): γ ∈ R^d for each branch
        Published::new("one scale a branch", BRANCHES, 12 * 2 * 768),
    ],
    paper: "Xie et al., DiffFit: Unlocking Transferability of Large Diffusion Models via Simple Parameter-Efficient Fine-Tuning",
    year: 2023,
    learning_rate: 1e-3, // methods/23: ten times pre-training, 1e-3 in the port for Stable Diffusion
    released: "The authors' code for LLaMA scales q, k, v and o of the first 14 layers. The 0.83 M of the paper needs more scales than its figure draws; which ones is open.",
    caution: "Alone it only reweighs branches; the paper trains biases and norms with it, and places it in the shallow half (set the blocks).",
    licence: "MIT OR Apache-2.0 (own code)",
    fields: &[],
    variants: &[
        Variant::new("A scale for each branch", "As the paper's figure draws it.", BRANCHES),
        Variant::new(
            "A scale for each linear layer of attention",
            "q, k, v and o, as the authors' code for LLaMA.",
            &[Role::Q, Role::K, Role::V, Role::O],
        ),
    ],
    roles: &[Role::Attn, Role::Mlp, Role::Q, Role::K, Role::V, Role::O, Role::Gate, Role::Up, Role::Down],
    default_roles: BRANCHES,
    identity_at_start: true,
    folds: true,
    method: &DiffFit,
};

struct DiffFit;

/// The linear layer that a scale at `site` stands behind: a branch ends in one, which has the weights to fold into.
fn linear<'a>(anatomy: &'a Anatomy, site: &'a Site) -> Result<&'a Site, String> {
    let last = match site.role {
        Role::Attn => Role::O,
        Role::Mlp => Role::Down,
        _ => return Ok(site),
    };
    anatomy.beside(site, last).ok_or_else(|| format!("`{}` has no `{}` to scale", site.path, last.word()))
}

impl Method for DiffFit {
    fn plan(&self, anatomy: &Anatomy, sites: &[&Site], _set: &Settings) -> Result<Vec<Placement>, String> {
        let mut placements: Vec<Placement> = Vec::new();
        for site in sites {
            let site = linear(anatomy, site)?;
            if placements.iter().any(|p| p.site == site.path) {
                continue; // the branch and its last layer, both painted: one scale
            }
            let (n, d) = (anatomy.tokens, site.d_out);
            let gamma = ParamSpec::new("gamma", 1, d, Init::Ones);
            placements.push(Placement::new(site, Door::After, vec![gamma]).costs(n * d, n * d));
        }
        Ok(placements)
    }

    fn after(&self, at: &At, _x: &Tensor<3>, y: Tensor<3>) -> Tensor<3> {
        y * row(at.param("gamma"))
    }

    fn fold(&self, at: &At, _part: &str, w: Tensor<2>) -> Tensor<2> {
        w * at.param("gamma") // diag(γ): columns, and the bias
    }
}
