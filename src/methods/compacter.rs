//! Compacter: Karimi Mahabadi, Henderson and Ruder, "Compacter: Efficient Low-Rank Hypercomplex Adapter Layers" (2021),
//! equations 5 to 7: a bottleneck adapter whose two matrices are sums of Kronecker products. Called through the catalogue.

use burn::tensor::Tensor;

use super::parts::{self, BRANCHES, DROPOUT};
use super::{Card, Family, Init, Method, ParamSpec, Placement, Published, Variant};
use crate::engine::bag::At;
use crate::plan::anatomy::{Anatomy, Door, Role, Site};
use crate::session::settings::{Field, Settings};

pub const CARD: Card = Card {
    name: "compacter",
    title: "Compacter",
    family: Family::Adapter,
    help: "A bottleneck adapter whose matrices are sums of n Kronecker products, with about 1/n of the parameters or far fewer.",
    formula: "y ← y + σ(y W_dn + b_dn) W_up + b_up,  W = Σ_i A_i ⊗ B_i,  B_i = s_i t_i",
    drawing: "x ──█ attn or mlp █─┬─────────────────────────────────⊕─ y\n                    └─▒ Σ A ⊗ s t ▒─ σ ─▒ Σ A ⊗ s t ▒─┘",
    count: "k · (2 d + 2 r) + r + d a place, and n³ for A; with B whole, 2 · d · r / n instead of the first term",
    published: &[
        // methods/06 (d): 2 · 2³ + 2 · 768 · 96 / 2 + 96 + 768
        Published::new("PHM layers with B whole, n 2, 96 wide, nothing shared", BRANCHES, 24 * 74_608).with(&[
            ("bottleneck", "96"),
            ("n", "2"),
            ("rank", "0"),
            ("share_rule", "false"),
        ]),
        // methods/06 (b): s_i and t_i of both layers, biases
        Published::new("n 4, rank 1, 24 wide, A shared", BRANCHES, 4 * 4 * 4 + 24 * (2 * (768 + 24) + 24 + 768)).with(&[
            ("bottleneck", "24"),
            ("n", "4"),
            ("rank", "1"),
            ("share_rule", "true"),
        ]),
    ],
    paper: "Karimi Mahabadi, Henderson and Ruder, Compacter: Efficient Low-Rank Hypercomplex Adapter Layers",
    year: 2021,
    learning_rate: 3e-3,
    released: "The released code also trains the language model's norms and starts A with a deviation of 0.0001; here it is VL-Adapter's 0.01. Its gelu is the tanh form.",
    caution: "Near the frozen network at the start, but not exactly it. W is put together anew in every pass; n must divide both widths.",
    licence: "MIT",
    fields: &[
        Field::whole("bottleneck", 1, 4096, 24, "Width r of the hidden layer."),
        Field::whole("n", 1, 64, 4, "Kronecker products in a sum; must divide the place's width and the bottleneck."),
        Field::whole("rank", 0, 64, 1, "Rank k of each B_i; 0 keeps B_i whole (PHM layers)."),
        Field::flag("share_rule", true, "One set of A_i for both matrices of every place, instead of one a matrix."),
        Field::real("deviation", 1e-6, 1.0, 0.01, "Standard deviation of the first A_i."),
        Field::choice("activation", &["gelu", "relu", "silu"], "The bend between down and up."),
        DROPOUT,
    ],
    variants: &[
        Variant::new("Compacter", "After attention and after the MLP.", BRANCHES),
        Variant::new("Compacter++", "After the MLP only.", &[Role::Mlp]),
        Variant::new("PHM adapter", "B whole and nothing shared, n = 2: VL-Adapter's best.", BRANCHES).with(&[
            ("n", "2"),
            ("rank", "0"),
            ("share_rule", "false"),
        ]),
    ],
    roles: BRANCHES,
    default_roles: BRANCHES,
    identity_at_start: false,
    folds: false,
    method: &Compacter,
};

struct Compacter;

/// Bound of Glorot and Bengio (2010).
fn glorot(rows: usize, cols: usize) -> Init {
    Init::Uniform((6.0 / (rows + cols) as f64).sqrt())
}

impl Method for Compacter {
    fn plan(&self, anatomy: &Anatomy, sites: &[&Site], set: &Settings) -> Result<Vec<Placement>, String> {
        let (r, n, k) = (set.whole("bottleneck"), set.whole("n"), set.whole("rank"));
        let rule = |name: String| ParamSpec::new(name, n * n, n, Init::Normal(set.real("deviation")));
        let mut placements: Vec<Placement> = Vec::new();
        for site in sites {
            let d = site.d_out;
            if d % n != 0 || r % n != 0 {
                let fit = parts::fitting(1..=64, |n| d % n == 0 && r % n == 0);
                return Err(format!("n {n} does not divide width {d} and bottleneck {r}; n that fit: {fit}"));
            }
            let mut params = Vec::new();
            if set.flag("share_rule") && placements.is_empty() {
                params.push(rule("A".into()).shared());
            }
            for (name, d_in, d_out) in [("dn", d, r), ("up", r, d)] {
                let (p, q) = (d_in / n, d_out / n); // rows and columns of B_i
                if !set.flag("share_rule") {
                    params.push(rule(format!("A_{name}")));
                }
                if k == 0 {
                    params.push(ParamSpec::new(format!("B_{name}"), n * p, q, glorot(p, q)));
                } else {
                    params.push(ParamSpec::new(format!("s_{name}"), n * p, k, glorot(p, k)));
                    params.push(ParamSpec::new(format!("t_{name}"), n * k, q, glorot(k, q)));
                }
                params.push(ParamSpec::new(format!("b_{name}"), 1, d_out, Init::Zeros));
            }
            let tokens = anatomy.tokens;
            placements.push(Placement::new(site, Door::After, params).costs(tokens * 2 * d * r, tokens * (d + 2 * r)));
        }
        Ok(placements)
    }

    fn after(&self, at: &At, _x: &Tensor<3>, y: Tensor<3>) -> Tensor<3> {
        let (d, r) = (at.site.d_out, at.set.whole("bottleneck"));
        let h = parts::dense(y.clone(), hypercomplex(at, "dn", d, r), at.param("b_dn")); // [batch, positions, r]
        let h = parts::dropout(at, parts::bend(at.set.text("activation"), h));
        y + parts::dense(h, hypercomplex(at, "up", r, d), at.param("b_up")) // [batch, positions, d]
    }
}

/// W = Σ_i A_i ⊗ B_i, `[d_in, d_out]`.
fn hypercomplex(at: &At, name: &str, d_in: usize, d_out: usize) -> Tensor<2> {
    let (n, k) = (at.set.whole("n"), at.set.whole("rank"));
    let (p, q) = (d_in / n, d_out / n);
    let a = if at.set.flag("share_rule") { at.shared("A") } else { at.param(&format!("A_{name}")) }; // [n n, n]
    let b = match k {
        0 => at.param(&format!("B_{name}")), // [n p, q]
        k => {
            let s = at.param(&format!("s_{name}")).reshape([n, p, k]);
            s.matmul(at.param(&format!("t_{name}")).reshape([n, k, q])).reshape([n * p, q])
        }
    };
    // Row i of the one is A_i, of the other B_i: their product holds Σ_i a_i b_i for every pair of entries.
    let pairs = a.reshape([n, n * n]).transpose().matmul(b.reshape([n, p * q])); // [n n, p q]
    pairs.reshape([n, n, p, q]).permute([0, 2, 1, 3]).reshape([d_in, d_out])
}
