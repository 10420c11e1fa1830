//! OFT: Qiu et al., "Controlling Text-to-Image Diffusion by Orthogonal Finetuning" (2023), equations 2 and 3, in the
//! input-centric form of their "Orthogonal Finetuning Made Scalable" (2025). Called through the catalogue.

use burn::tensor::Tensor;

use super::cayley;
use super::parts::LINEAR;
use super::{Card, Family, Init, Method, ParamSpec, Placement, Published, Variant};
use crate::engine::bag::At;
use crate::plan::anatomy::{Anatomy, Door, Role, Site};
use crate::session::settings::{Field, Settings};

pub const CARD: Card = Card {
    name: "oft",
    title: "OFT",
    family: Family::LowRank,
    help: "Turns a layer's input by learned rotations of small groups of channels, so that the angles between its neurons stay.",
    formula: "y = x R W + b,  R = diag(R_1, …, R_n),  R_i = (I + Q_i)(I − Q_i)⁻¹,  Q_i = −Q_iᵀ",
    drawing: "x ──▒ R_1 ▒     ▒──█ W █── y\n    ▒    ▒ R_2 ▒ ▒\n    ▒     … R_n ▒  rotations on the diagonal",
    count: "d_in · (b − 1) / 2 a place",
    published: &[
        // Liu et al. (2024), table 1: .79 M on DeBERTaV3-base, whose blocks have these shapes, with 82,944 output scales and
        // as many biases trained beside the rotations: 787,968.
        Published::new("blocks of 16 on every linear layer", LINEAR, 12 * (5 * 768 + 3072) * 15 / 2)
            .with(&[("block_size", "16")]),
    ],
    paper: "Qiu et al., Controlling Text-to-Image Diffusion by Orthogonal Finetuning",
    year: 2023,
    learning_rate: 1e-3, // Liu et al. (2024), table 8: 2e-4 to 4e-3 on VTAB-1k
    released: "The first code trains whole b x b blocks and turns the weight; PEFT, like here, trains the upper triangles and turns the input, but takes five terms of the inverse's series unless told otherwise, and moves a block size that does not fit to the nearest that does. The constrained form (COFT) and dropout of whole blocks are not here.",
    caution: "It cannot change a weight's singular values, nor mix channels of different blocks. Small blocks train few parameters; the exact inverse of large ones takes time.",
    licence: "MIT",
    fields: &[
        Field::whole(
            "block_size",
            2,
            1024,
            8,
            "Channels b that one rotation turns together; the layer's inputs must be a multiple.",
        ),
        Field::choice(
            "inverse",
            &["exact", "five terms"],
            "How a rotation is made of its numbers: exactly orthogonal, or PEFT's faster approximation, good while rotations are small.",
        ),
        Field::flag("share", false, "One rotation for all blocks of a layer."),
    ],
    variants: &[
        Variant::new("OFT on attention", "The paper's choice.", &[Role::Q, Role::K, Role::V, Role::O]),
        Variant::new("OFT on every linear layer", "Attention and MLP.", LINEAR),
        Variant::new("OFT as PEFT computes it", "Five terms in place of the exact inverse.", &[Role::Q, Role::V])
            .with(&[("inverse", "five terms")]),
    ],
    roles: LINEAR,
    default_roles: &[Role::Q, Role::K, Role::V, Role::O],
    identity_at_start: true,
    folds: true,
    method: &Oft,
};

struct Oft;

/// `x · R`: `[batch, positions, d_in]`, the same shape.
fn turned(at: &At, x: Tensor<3>) -> Tensor<3> {
    let b = at.set.whole("block_size");
    let q = cayley::skew(at.param("Q"), b); // [n, b, b], or [1, b, b] where all blocks share it
    let r = if at.set.text("inverse") == "five terms" { cayley::five_terms(q) } else { cayley::exact(q) };
    cayley::turn(x, r.expand([at.site.d_in / b, b, b]))
}

impl Method for Oft {
    fn plan(&self, anatomy: &Anatomy, sites: &[&Site], set: &Settings) -> Result<Vec<Placement>, String> {
        let b = set.whole("block_size");
        let place = |site: &&Site| {
            let d = site.d_in;
            if !d.is_multiple_of(b) {
                let fits = cayley::fitting(d, 1);
                return Err(format!(
                    "the {d} inputs of `{}` are no multiple of block size {b}; block sizes that fit: {fits}",
                    site.path
                ));
            }
            let blocks = if set.flag("share") { 1 } else { d / b };
            let q = ParamSpec::new("Q", blocks, cayley::numbers(b), Init::Zeros); // R starts as the identity
            let n = anatomy.tokens;
            Ok(Placement::new(site, Door::Before, vec![q]).costs(n * d * b, n * d))
        };
        sites.iter().map(place).collect()
    }

    fn before(&self, at: &At, x: Tensor<3>) -> Tensor<3> {
        turned(at, x)
    }

    fn fold(&self, at: &At, part: &str, w: Tensor<2>) -> Tensor<2> {
        if part == "weight" { cayley::fold(w, |x| turned(at, x)) } else { w }
    }
}
