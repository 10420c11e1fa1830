//! BOFT: Liu et al., "Parameter-Efficient Orthogonal Finetuning via Butterfly Factorization" (2024), section 4. Called through
//! the catalogue.

use burn::tensor::Tensor;

use super::cayley;
use super::parts::LINEAR;
use super::{Card, Family, Init, Method, ParamSpec, Placement, Published, Variant};
use crate::engine::bag::At;
use crate::plan::anatomy::{Anatomy, Door, Role, Site};
use crate::session::settings::{Field, Settings};

pub const CARD: Card = Card {
    name: "boft",
    title: "BOFT",
    family: Family::LowRank,
    help: "Turns a layer's input by m rounds of small rotations, each round between channels twice as far apart, as in a fast Fourier transform.",
    formula: "y = x R (W ⊙ s) + b,  R = B_m ⋯ B_1,  B_i = P_iᵀ diag((I + Q)(I − Q)⁻¹) P_i,  Q = −Qᵀ",
    drawing: "x ─▒╲ ╱▒─▒╲   ╱▒──█ W █── ⊙ ▒ s ▒── y\n  ─▒ ╳ ▒─▒ ╲ ╱ ▒\n  ─▒╱ ╲▒─▒  ╳  ▒   m rounds, pairs ever further apart",
    count: "m · d_in · (b − 1) / 2 + d_out a place",
    published: &[
        // Table 1: .75 M on DeBERTaV3-base, whose blocks have these shapes, with the 82,944 biases that its runs train too:
        // 746,496.
        Published::new("m 2, b 8 on every linear layer", LINEAR, 12 * ((5 * 768 + 3072) * 2 * 7 / 2 + (4 * 768 + 3072 + 768)))
            .with(&[("factors", "2"), ("block_size", "8")]),
        // section 4: (b − 1) d m / 2
        Published::new("m 4, b 4 on every linear layer, rotations alone", LINEAR, 12 * (5 * 768 + 3072) * 4 * 3 / 2).with(&[
            ("factors", "4"),
            ("block_size", "4"),
            ("scale", "false"),
        ]),
    ],
    paper: "Liu et al., Parameter-Efficient Orthogonal Finetuning via Butterfly Factorization",
    year: 2024,
    learning_rate: 1e-3, // table 8: 2e-4 to 5e-3 on VTAB-1k
    released: "PEFT trains whole b x b blocks, of which only the skew-symmetric half counts, with the opposite sign; without its CUDA extension it silently falls back to m = 1. The authors' runs also train the layers' biases (add BitFit to the stack) and drop whole blocks by chance, which is not here.",
    caution: "Every round is one more pass over the input, so it is slow for its size. Rounds beyond log2(2 d / b) do not fit.",
    licence: "Apache-2.0",
    fields: &[
        Field::whole("block_size", 2, 1024, 4, "Channels b that one rotation turns together."),
        Field::whole("factors", 1, 12, 2, "Rounds m; the layer's inputs must be a multiple of b · 2^(m − 1)."),
        Field::flag("scale", true, "Also learn a factor s for each output, as the authors' code does."),
    ],
    variants: &[
        Variant::new("BOFT on every linear layer", "The paper's choice.", LINEAR),
        Variant::new("BOFT, rotations alone", "Without output scales.", &[Role::Q, Role::V]).with(&[("scale", "false")]),
    ],
    roles: LINEAR,
    default_roles: &[Role::Q, Role::K, Role::V, Role::O],
    identity_at_start: true,
    folds: true,
    method: &Boft,
};

struct Boft;

/// `x · R`: `[batch, positions, d_in]`, the same shape. Round i pairs half-blocks that stand 2^i half-blocks apart, which is a
/// reshape and a swap; the furthest act on the input first.
fn turned(at: &At, x: Tensor<3>) -> Tensor<3> {
    let (b, m) = (at.set.whole("block_size"), at.set.whole("factors"));
    let [batch, positions, d] = x.dims();
    let n = d / b;
    let r = cayley::exact(cayley::skew(at.param("Q"), b)); // [m · n, b, b], round after round
    (0..m).rev().fold(x, |x, i| {
        let factor = r.clone().narrow(0, i * n, n); // [n, b, b]
        if i == 0 {
            return cayley::turn(x, factor);
        }
        let (apart, rows) = (1 << i, batch * positions);
        let x = x.reshape([rows, n >> i, 2, apart, b / 2]).swap_dims(2, 3); // [rows, groups, apart, 2, b / 2]
        let x = cayley::turn(x.reshape([batch, positions, d]), factor);
        let x = x.reshape([rows, n >> i, apart, 2, b / 2]).swap_dims(2, 3); // [rows, groups, 2, apart, b / 2]
        x.reshape([batch, positions, d])
    })
}

impl Method for Boft {
    fn plan(&self, anatomy: &Anatomy, sites: &[&Site], set: &Settings) -> Result<Vec<Placement>, String> {
        let (b, m, n) = (set.whole("block_size"), set.whole("factors"), anatomy.tokens);
        let mut places = Vec::new();
        for site in sites {
            let d = site.d_in;
            let step = 1 << (m - 1);
            if d % (b * step) != 0 || (m > 1 && b % 2 != 0) {
                let fits = match cayley::fitting(d, step) {
                    none if none.is_empty() => "none; take fewer factors".to_owned(),
                    sizes => sizes,
                };
                return Err(format!(
                    "the {d} inputs of `{}` are no multiple of block size {b} (even) times {step} for {m} factors; block sizes that fit: {fits}",
                    site.path
                ));
            }
            let q = ParamSpec::new("Q", m * d / b, cayley::numbers(b), Init::Zeros); // R starts as the identity
            places.push(Placement::new(site, Door::Before, vec![q]).costs(m * n * d * b, m * n * d));
            if set.flag("scale") {
                let s = ParamSpec::new("s", 1, site.d_out, Init::Ones);
                places.push(Placement::new(site, Door::Weight, vec![s]).costs(0, n * d));
            }
        }
        Ok(places)
    }

    fn before(&self, at: &At, x: Tensor<3>) -> Tensor<3> {
        turned(at, x)
    }

    fn weight(&self, at: &At, part: &str, w: Tensor<2>) -> Tensor<2> {
        if part == "weight" { w * at.param("s") } else { w } // [d_in, d_out]; the bias keeps its size
    }

    fn fold(&self, at: &At, part: &str, w: Tensor<2>) -> Tensor<2> {
        if part == "weight" { cayley::fold(w, |x| turned(at, x)) } else { w }
    }
}
