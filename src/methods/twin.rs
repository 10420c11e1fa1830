//! Twin quality-weighted LoRA: Narayan, Nair, Xu, Chellappa and Patel, "PETALface: Parameter Efficient Transfer Learning for
//! Low-Resolution Face Recognition" (2025). Two LoRA modules at q, k, v, mixed by each image's quality α: one learns low
//! quality, the other high. Called through the catalogue.

use burn::tensor::Tensor;

use super::parts::{self, row};
use super::{Card, Family, Init, Method, ParamSpec, Placement, Published, Variant};
use crate::engine::bag::At;
use crate::plan::anatomy::{Anatomy, Door, Entry, Role, Site};
use crate::session::settings::{Field, Settings};

const QKV: &[Role] = &[Role::Q, Role::K, Role::V];

pub const CARD: Card = Card {
    name: "twin",
    title: "Twin quality-weighted LoRA",
    family: Family::LowRank,
    help: "Two LoRA modules at queries, keys and values: the higher the quality of an image, the more the second one speaks and the less the first. The quality is the score that the data gives, or else the image's sharpness.",
    formula: "y = x W + s (1 - α) (x A₁) B₁ + s α (x A₂) B₂,  α = clamp(1/2 + k (q - τ), 0, 1)",
    drawing: "x ─┬─█ W █──────────────────────────⊕─ y\n   ├─▒ A₁ ▒─▒ B₁ ▒─ × s (1 - α) ────┤\n   └─▒ A₂ ▒─▒ B₂ ▒─ × s α ──────────┘\n     α from each image's quality q",
    count: "2 · r · (d + d · places) a block: q, k, v share A, as in a fused layer",
    published: &[
        // methods/03: Σ_blocks 2 · r · (d + 3 d)
        Published::new("rank 8 on q, k, v", QKV, 12 * 2 * 8 * (768 + 3 * 768)).with(&[("rank", "8")]),
    ],
    paper: "Narayan et al., PETALface: Parameter Efficient Transfer Learning for Low-Resolution Face Recognition",
    year: 2025,
    learning_rate: 5e-4,
    released: "The released code draws B again after its zero start (truncated normal 0.02), so it does not begin at the frozen model; here B stays zero, as the paper means it. It scores quality with BRISQUE (higher is worse) or CNN-IQA; here the data may give any score, and where it gives none it is the variance of the Laplacian (0 to 1). Its plain LoRA on the face model's last projection has no place in these backbones, and its margin loss belongs to the task.",
    caution: "The weights depend on the image, so it cannot be merged. Where all images are equally good it is one LoRA at twice the cost. The raw rule gives negative weights when q leaves τ by more than one half. Scores on another scale than 0 to 1 want another k and τ.",
    licence: "The authors' repository states none; this is our own code.",
    fields: &[
        Field::whole("rank", 1, 512, 8, "Width r of each module."),
        Field::real("scale", 0.0, 64.0, 1.0, "Factor s of the change."),
        Field::real("dropout", 0.0, 0.9, 0.1, "Part of each module's output set to zero while training."),
        Field::choice(
            "rule",
            &["clamped", "raw"],
            "Clamped: α = 1/2 + k (q - τ), held within 0 and 1. Raw: 1/2 + (q - τ) as released, neither scaled nor held.",
        ),
        Field::real("k", 0.0, 100.0, 1.0, "How steeply α follows the quality."),
        Field::real("threshold", -100.0, 100.0, 0.5, "τ: the quality at which both modules speak equally."),
    ],
    variants: &[
        Variant::new("Twin LoRA", "α held within 0 and 1.", QKV),
        Variant::new("Twin LoRA, raw rule", "α as the released code has it.", QKV).with(&[("rule", "raw")]),
    ],
    roles: QKV,
    default_roles: QKV,
    identity_at_start: true,
    folds: false,
    method: &Twin,
};

struct Twin;

/// α of every image, `[batch, 1, 1]`. Nothing is learned here, so it carries no gradient.
fn alpha(at: &At) -> Tensor<3> {
    let above = at.quality().unsqueeze_dim::<3>(2) - at.set.real("threshold");
    match at.set.text("rule") {
        "raw" => above + 0.5,
        _ => (above * at.set.real("k") + 0.5).clamp(0.0, 1.0),
    }
}

/// The name of A of module `n` for the block of `site`: shared by the block's q, k and v.
fn shared_a(n: usize, site: &Site) -> String {
    format!("A{n}_{}", site.block.unwrap_or_default())
}

impl Method for Twin {
    fn plan(&self, anatomy: &Anatomy, sites: &[&Site], set: &Settings) -> Result<Vec<Placement>, String> {
        if !matches!(anatomy.entry, Entry::Image { .. }) {
            return Err("it mixes by the quality of each image, but this backbone sees none".to_owned());
        }
        let (r, n) = (set.whole("rank"), anatomy.tokens);
        let place = |(index, site): (usize, &&Site)| {
            let (d_in, d_out) = (site.d_in, site.d_out);
            let mut params = [1, 2].map(|n| ParamSpec::new(format!("B{n}"), r, d_out, Init::Zeros)).to_vec();
            if !sites[..index].iter().any(|before| before.block == site.block) {
                let a = |n| ParamSpec::new(shared_a(n, site), d_in, r, Init::Normal(1.0 / r as f64)).shared();
                params.extend([1, 2].map(a));
            }
            Placement::new(site, Door::After, params).costs(n * 2 * r * (d_in + d_out), n * (d_in + 4 * r))
        };
        Ok(sites.iter().enumerate().map(place).collect())
    }

    fn reads_quality(&self) -> bool {
        true
    }

    fn after(&self, at: &At, x: &Tensor<3>, y: Tensor<3>) -> Tensor<3> {
        let alpha = alpha(at); // [batch, 1, 1]
        let module = |n: usize, weight: Tensor<3>| {
            let h = x.clone().matmul(row(at.shared(&shared_a(n, at.site)))) * weight; // [batch, positions, r]
            parts::dropout_of(at, n as u64, h.matmul(row(at.param(&format!("B{n}"))))) // [batch, positions, d_out]
        };
        let low = module(1, -alpha.clone() + 1.0);
        let high = module(2, alpha);
        y + (low + high) * at.set.real("scale")
    }
}
