//! LoKr: Yeh et al., "Navigating Text-to-Image Customization: From LyCORIS Fine-Tuning to Model Evaluation" (2024), equations 4
//! and 5, after Edalati et al., "KronA" (2022). Called through the catalogue.

use burn::tensor::Tensor;

use super::parts::{LINEAR, kaiming};
use super::{Card, Family, Init, Method, ParamSpec, Placement, Published, Variant};
use crate::engine::bag::At;
use crate::plan::anatomy::{Anatomy, Door, Role, Site};
use crate::session::settings::{Field, Settings};

pub const CARD: Card = Card {
    name: "lokr",
    title: "LoKr",
    family: Family::LowRank,
    help: "Learns a change of a frozen weight as the Kronecker product of a small matrix and a low-rank one.",
    formula: "y = x W + x (C ⊗ (A B)) · s,  s = α / r",
    drawing: "x ─┬─█ W █────────────────────⊕─ y\n   └─▒ C ▒ ⊗ (▒ A ▒ ▒ B ▒)─ × s ─┘",
    count: "u_in · u_out + min(v_in · v_out, r · (v_in + v_out)) a place,  d = u · v, u the smaller",
    published: &[
        // 768 = 24 · 32
        Published::new("rank 8 on q, v", &[Role::Q, Role::V], 24 * (24 * 24 + 8 * (32 + 32))).with(&[("rank", "8")]),
        // LyCORIS's default; 768 = 8 · 96, 3072 = 8 · 384
        Published::new("factor 8, full right block, every linear layer", LINEAR, 12 * (6 * 8 * 8 + 4 * 96 * 96 + 2 * 96 * 384))
            .with(&[("factor", "8"), ("rank", "512")]),
    ],
    paper: "Yeh et al., Navigating Text-to-Image Customization: From LyCORIS Fine-Tuning to Model Evaluation",
    year: 2024,
    learning_rate: 5e-4, // section 5.3: 1e-4, 5e-4 and 1e-3
    released: "PEFT starts the left block at zero, as here; LyCORIS starts the right block's second factor at zero, and drops α where neither block is decomposed. Both take a factor that divides a width as it stands, even where it is larger than the other part; the paper's equation 5, followed here, never does.",
    caution: "How a width falls into two factors decides everything: a prime width leaves a left block of one number, and then this is LoRA or full training.",
    licence: "Apache-2.0",
    fields: &[
        Field::whole("rank", 1, 512, 8, "Rank r of the right block; from half its larger side on, the block is trained whole."),
        Field::real("alpha", 0.0, 4096.0, 8.0, "Strength α of the change; the scale is α / r."),
        Field::whole("factor", 0, 4096, 0, "Largest side of the left block; 0 cuts each width near its square root."),
        Field::flag("decompose_both", false, "Make the left block low-rank too, where that is smaller."),
    ],
    variants: &[
        Variant::new("LoKr on q, v", "As LoRA is placed.", &[Role::Q, Role::V]),
        Variant::new("LoKr, full right block", "LyCORIS's default: factor 8, attention and MLP, nothing low-rank.", LINEAR)
            .with(&[("factor", "8"), ("rank", "512"), ("alpha", "512")]),
    ],
    roles: LINEAR,
    default_roles: &[Role::Q, Role::V],
    identity_at_start: true,
    folds: true,
    method: &LoKr,
};

struct LoKr;

/// Equation 5: `d` = u · v, with u the largest divisor that is at most `factor` and at most √d.
pub fn cut(d: usize, factor: usize) -> (usize, usize) {
    let most = if factor == 0 { d } else { factor };
    let u = (1..=most.min(d)).filter(|u| d.is_multiple_of(*u) && u * u <= d).max().unwrap_or(1);
    (u, d / u)
}

/// A block by name: the matrix itself, or the product of its two factors.
fn block(at: &At, whole: &str, [a, b]: [&str; 2]) -> Tensor<2> {
    if at.has(whole) { at.param(whole) } else { at.param(a).matmul(at.param(b)) }
}

fn scale(set: &Settings) -> f64 {
    set.real("alpha") / set.whole("rank") as f64
}

impl Method for LoKr {
    fn plan(&self, anatomy: &Anatomy, sites: &[&Site], set: &Settings) -> Result<Vec<Placement>, String> {
        let (r, n) = (set.whole("rank"), anatomy.tokens);
        let low = |rows: usize, cols: usize| 2 * r < rows.max(cols);
        let place = |site: &&Site| {
            let (u_in, v_in) = cut(site.d_in, set.whole("factor"));
            let (u_out, v_out) = cut(site.d_out, set.whole("factor"));
            // The left block starts at zero, so that the first pass is the frozen network's.
            let mut params = if set.flag("decompose_both") && low(u_in, u_out) {
                vec![ParamSpec::new("C_a", u_in, r, kaiming(u_in)), ParamSpec::new("C_b", r, u_out, Init::Zeros)]
            } else {
                vec![ParamSpec::new("C", u_in, u_out, Init::Zeros)]
            };
            if low(v_in, v_out) {
                params.extend([ParamSpec::new("A", v_in, r, kaiming(v_in)), ParamSpec::new("B", r, v_out, kaiming(r))]);
            } else {
                params.push(ParamSpec::new("D", v_in, v_out, kaiming(v_in)));
            }
            let right = if low(v_in, v_out) { r * (v_in + v_out) } else { v_in * v_out };
            let kept = site.d_in + u_in * v_out + if low(v_in, v_out) { u_in * r } else { 0 };
            Placement::new(site, Door::After, params).costs(n * (u_in * right + v_out * u_in * u_out), n * kept)
        };
        Ok(sites.iter().map(place).collect())
    }

    /// x (C ⊗ D) without forming the product: channel (u, v) of x meets D along v, then C along u.
    fn after(&self, at: &At, x: &Tensor<3>, y: Tensor<3>) -> Tensor<3> {
        let c = block(at, "C", ["C_a", "C_b"]); // [u_in, u_out]
        let ([batch, positions, d_in], [u_in, u_out]) = (x.dims(), c.dims());
        let x = x.clone().reshape([batch, positions * u_in, d_in / u_in]); // [batch, positions · u_in, v_in]
        let h = match at.has("D") {
            true => x.matmul(at.param("D").unsqueeze()),
            false => x.matmul(at.param("A").unsqueeze()).matmul(at.param("B").unsqueeze()),
        }; // [batch, positions · u_in, v_out]
        let v_out = h.dims()[2];
        let h = h.reshape([batch, positions, u_in, v_out]).swap_dims(2, 3); // [batch, positions, v_out, u_in]
        let h = h.reshape([batch, positions * v_out, u_in]).matmul(c.unsqueeze()); // [batch, positions · v_out, u_out]
        let h = h.reshape([batch, positions, v_out, u_out]).swap_dims(2, 3); // [batch, positions, u_out, v_out]
        y + h.reshape([batch, positions, u_out * v_out]) * scale(at.set)
    }

    fn fold(&self, at: &At, part: &str, w: Tensor<2>) -> Tensor<2> {
        if part != "weight" {
            return w;
        }
        let (c, d) = (block(at, "C", ["C_a", "C_b"]), block(at, "D", ["A", "B"]));
        let ([u_in, u_out], [v_in, v_out]) = (c.dims(), d.dims());
        let product = c.reshape([u_in, 1, u_out, 1]) * d.reshape([1, v_in, 1, v_out]); // [u_in, v_in, u_out, v_out]
        w + product.reshape([u_in * v_in, u_out * v_out]) * scale(at.set)
    }
}
