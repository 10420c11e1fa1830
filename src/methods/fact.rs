//! FacT: Jie and Deng, "FacT: Factor-Tuning for Lightweight Adaptation on Vision Transformer" (2023), equations of FacT-TT and
//! FacT-TK. The changes of all weights are slices of one tensor, whose factors all places share. Called through the catalogue.

use burn::tensor::Tensor;

use super::parts::{self, DROPOUT, LINEAR, kaiming};
use super::{Card, Family, Init, Method, ParamSpec, Placement, Published, Variant};
use crate::engine::bag::At;
use crate::plan::anatomy::{Anatomy, Door, Site};
use crate::session::settings::{Field, Settings};

const TRAIN: &str = "tensor train";
const TUCKER: &str = "tucker";

pub const CARD: Card = Card {
    name: "fact",
    title: "FacT",
    family: Family::LowRank,
    help: "Learns the changes of all weight matrices as one tensor in a few factors that every layer shares.",
    formula: "ΔW_i = s · U Σ_i Vᵀ;  tensor train: Σ_i free,  Tucker: Σ_i = Σ_k P_ik C_k",
    drawing: "x ─┬─█ W_i █───────────────⊕─ y     U, V, C: one for all layers\n   └─▒ U ▒─▒ Σ_i ▒─▒ Vᵀ ▒─ × s ─┘",
    count: "2 · d · r shared, and r² for each d x d piece of a place (tensor train), or r³ shared and r a piece (Tucker)",
    published: &[
        // A block is 12 pieces of 768 x 768: q, k, v, o, and 4 each of up and down. The paper's .037 M is a mean over tasks
        // of ranks up to 16; with the ranks that its code sets (4 once, 8 nine times, 16 nine times) the mean is .040 M.
        Published::new("tensor train, rank 16, every linear layer", LINEAR, 2 * 768 * 16 + 144 * 16 * 16)
            .with(&[("form", TRAIN), ("rank", "16")]),
        // the abstract's 8K
        Published::new("tensor train, rank 4, every linear layer", LINEAR, 2 * 768 * 4 + 144 * 4 * 4)
            .with(&[("form", TRAIN), ("rank", "4")]),
        // .087 M; methods/12's .07 is a mean over tasks of ranks up to 32
        Published::new("Tucker, rank 32, every linear layer", LINEAR, 2 * 768 * 32 + 32 * 32 * 32 + 144 * 32)
            .with(&[("form", TUCKER), ("rank", "32")]),
    ],
    paper: "Jie and Deng, FacT: Factor-Tuning for Lightweight Adaptation on Vision Transformer",
    year: 2023,
    learning_rate: 1e-3,
    released: "The code picks rank and scale s (0.01 to 100) for each task and drops a tenth of the r-wide activations. Its Tucker form reads the four cores of an MLP matrix interleaved, so that each piece mixes all four, and those of `down` transposed; here every piece has its own.",
    caution: "The scale matters: the paper searches it over four decades. Every place must be made of pieces as wide as the residual stream.",
    licence: "MIT",
    fields: &[
        Field::choice("form", &[TRAIN, TUCKER], "Give every piece a small matrix of its own, or mix it from a shared core."),
        Field::whole("rank", 1, 256, 16, "Rank r of the shared factors."),
        Field::real("scale", 0.0, 1000.0, 1.0, "Factor s of the change."),
        DROPOUT,
    ],
    variants: &[
        Variant::new("FacT-TT", "Tensor train, as the paper places it.", LINEAR).with(&[("form", TRAIN)]),
        Variant::new("FacT-TK", "Tucker with rank 32: more shared, less of its own for each layer.", LINEAR)
            .with(&[("form", TUCKER), ("rank", "32")]),
    ],
    roles: LINEAR,
    default_roles: LINEAR,
    identity_at_start: true,
    folds: true,
    method: &FacT,
};

struct FacT;

/// Σ of a place, its pieces side by side: `[p_in · r, p_out · r]`.
fn sigma(at: &At) -> Tensor<2> {
    if at.has("S") {
        return at.param("S");
    }
    let (c, p) = (at.shared("C"), at.param("P")); // [r, r · r], [p_in · p_out, r]
    let (r, d) = (c.dims()[0], at.shared("U").dims()[0]);
    let (p_in, p_out) = (at.site.d_in / d, at.site.d_out / d);
    let pieces = p.matmul(c).reshape([p_in, p_out, r, r]).swap_dims(1, 2); // [p_in, r, p_out, r]
    pieces.reshape([p_in * r, p_out * r])
}

impl Method for FacT {
    fn plan(&self, anatomy: &Anatomy, sites: &[&Site], set: &Settings) -> Result<Vec<Placement>, String> {
        let (d, r, n) = (anatomy.width, set.whole("rank"), anatomy.tokens);
        if let Some(site) = sites.iter().find(|s| s.d_in % d != 0 || s.d_out % d != 0) {
            return Err(format!(
                "`{}` is {} x {}; only places whose sides are multiples of the width {d} fit",
                site.path, site.d_in, site.d_out
            ));
        }
        let tucker = set.text("form") == TUCKER;
        let pieces: usize = sites.iter().map(|s| (s.d_in / d) * (s.d_out / d)).sum();
        let xavier = |fan_in: usize, fan_out: usize| Init::Uniform((6.0 / (fan_in + fan_out) as f64).sqrt());
        let mut shared = vec![
            ParamSpec::new("U", d, r, kaiming(d)).shared(),
            ParamSpec::new("V", d, r, Init::Zeros).shared(), // zero, so that the first pass is the frozen network's
        ];
        if tucker {
            shared.push(ParamSpec::new("C", r, r * r, xavier(r * r, r * r)).shared());
        }
        let place = |site: &&Site| {
            let (p_in, p_out) = (site.d_in / d, site.d_out / d);
            let mut params = std::mem::take(&mut shared); // declared once, by the first place
            params.push(match tucker {
                true => ParamSpec::new("P", p_in * p_out, r, xavier(r, pieces)),
                false => ParamSpec::new("S", p_in * r, p_out * r, kaiming(p_in * r)),
            });
            let (wide, small) = (site.d_in + site.d_out, p_in + p_out);
            Placement::new(site, Door::After, params).costs(n * r * (wide + p_in * p_out * r), n * (site.d_in + small * r))
        };
        Ok(sites.iter().map(place).collect())
    }

    fn after(&self, at: &At, x: &Tensor<3>, y: Tensor<3>) -> Tensor<3> {
        let (u, v, s) = (at.shared("U"), at.shared("V"), sigma(at)); // [d, r], [d, r], [p_in · r, p_out · r]
        let ([batch, positions, d_in], [d, r]) = (x.dims(), u.dims());
        let x = x.clone().reshape([batch, positions * (d_in / d), d]); // a wide input is a few inputs of width d
        let h = x.matmul(u.unsqueeze()).reshape([batch, positions, d_in / d * r]); // [batch, positions, p_in · r]
        let h = parts::dropout(at, h.matmul(s.unsqueeze())); // [batch, positions, p_out · r]
        let h = h.reshape([batch, positions * (at.site.d_out / d), r]).matmul(v.transpose().unsqueeze());
        y + h.reshape([batch, positions, at.site.d_out]) * at.set.real("scale")
    }

    fn fold(&self, at: &At, part: &str, w: Tensor<2>) -> Tensor<2> {
        if part != "weight" {
            return w;
        }
        let (u, v) = (at.shared("U"), at.shared("V"));
        let [d, r] = u.dims();
        let (p_in, p_out) = (at.site.d_in / d, at.site.d_out / d);
        let s = sigma(at).reshape([p_in, r, p_out, r]).swap_dims(1, 2); // [p_in, p_out, r, r]
        let change = u.unsqueeze::<4>().matmul(s).matmul(v.transpose().unsqueeze()); // [p_in, p_out, d, d]
        w + change.swap_dims(1, 2).reshape([at.site.d_in, at.site.d_out]) * at.set.real("scale")
    }
}
