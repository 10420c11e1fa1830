//! VL-PET: Hu, Li, Lyu and Wang, "VL-PET: Vision-and-Language Parameter-Efficient Tuning via Granularity Control" (2023): the
//! frozen branch and an adapter behind it, both through a gate of one of four granularities. Called through the catalogue.

use burn::tensor::{Tensor, activation};

use super::parts::{self, BRANCHES, row};
use super::{Card, Family, Init, Method, ParamSpec, Placement, Published, Variant};
use crate::engine::bag::At;
use crate::engine::kernels;
use crate::plan::anatomy::{Anatomy, Door, Site};
use crate::session::settings::{Field, Settings};

/// 2 d r + r + d with d = 768: an adapter, and the large gate.
const fn adapter(r: usize) -> usize {
    2 * 768 * r + r + 768
}

pub const CARD: Card = Card {
    name: "vlpet",
    title: "VL-PET",
    family: Family::Adapter,
    help: "Multiplies a branch and the adapter behind it by a learned gate: one for each number, token, channel or sample.",
    formula: "ΔH = gelu([H D_1 | … | H D_h]) U,  y ← s · G ⊙ (H + ΔH)",
    drawing: "X ─┬─█ attn or mlp █─ H ─┬───────────────────────⊕── ⊙ ── y\n   │                     └─▒ D_1…D_h ▒─ σ ─▒ U ▒─┘   │\n   └──────────────────────────────────────▒ gate G ▒─┘",
    count: "2 · d · r + r + d a place; the gate: 2 · d · r_g + r_g + d large, d + 1 middle x, d middle y, 2 · d + 1 small",
    published: &[
        // methods/30 (d): m(r) + m(r_g) a branch
        Published::new("large, both ranks 96", BRANCHES, 24 * 2 * adapter(96)).with(&[
            ("bottleneck", "96"),
            ("gate", "large"),
            ("gate_rank", "96"),
        ]),
        Published::new("middle x, 96 wide", BRANCHES, 24 * (adapter(96) + 768 + 1))
            .with(&[("bottleneck", "96"), ("gate", "middle x")]),
        Published::new("middle y, 96 wide", BRANCHES, 24 * (adapter(96) + 768))
            .with(&[("bottleneck", "96"), ("gate", "middle y")]),
        Published::new("small, 96 wide", BRANCHES, 24 * (adapter(96) + 2 * 768 + 1))
            .with(&[("bottleneck", "96"), ("gate", "small")]),
    ],
    paper: "Hu et al., VL-PET: Vision-and-Language Parameter-Efficient Tuning via Granularity Control",
    year: 2023,
    learning_rate: 1e-3,
    released: "The paper draws 1 + σ(z) for middle y and feeds the plain H to middle x and small; the released code has 1 + z and H + ΔH, as here. Its gelu is the tanh form, and it also trains norms.",
    caution: "The large, middle x and small gates start near one half, so the first pass halves every branch. This is the encoder's side; X is the branch's normed input here. The decoder's side is a parallel bottleneck adapter at v.",
    licence: "MIT OR Apache-2.0 (own code; the paper's was not used)",
    fields: &[
        Field::choice(
            "gate",
            &["large", "middle x", "middle y", "small"],
            "Granularity: one factor for each number, each token, each channel, or each sample.",
        ),
        Field::whole("bottleneck", 1, 4096, 16, "Width r of the adapter."),
        Field::whole("heads", 1, 16, 4, "Heads of the down-projection; must divide the bottleneck."),
        Field::whole("gate_rank", 1, 4096, 16, "Width r_g of the large gate; the others do not use it."),
        Field::real("scale", 0.0, 16.0, 1.0, "Factor s of the gated branch (1 in BART, 0.3 in T5)."),
        Field::choice(
            "start",
            &["normal", "zero up"],
            "Every matrix drawn (as for BART), or those that lead up zero (as for T5), which makes a large gate one half.",
        ),
    ],
    variants: &[
        Variant::new("VL-PET large", "A gate for each number.", BRANCHES).with(&[("gate", "large")]),
        Variant::new("VL-PET middle x", "A gate for each token.", BRANCHES).with(&[("gate", "middle x")]),
        Variant::new("VL-PET middle y", "A gate for each channel.", BRANCHES).with(&[("gate", "middle y")]),
        Variant::new("VL-PET small", "A gate for each sample.", BRANCHES).with(&[("gate", "small")]),
    ],
    roles: BRANCHES,
    default_roles: BRANCHES,
    identity_at_start: false,
    folds: false,
    method: &VlPet,
};

struct VlPet;

impl Method for VlPet {
    fn plan(&self, anatomy: &Anatomy, sites: &[&Site], set: &Settings) -> Result<Vec<Placement>, String> {
        let [r, heads, rank] = ["bottleneck", "heads", "gate_rank"].map(|name| set.whole(name));
        if r % heads != 0 {
            let fit = parts::fitting(1..=16, |h| r % h == 0);
            return Err(format!("{heads} heads do not divide bottleneck {r}; heads that fit: {fit}"));
        }
        let drawn = Init::Normal(0.02);
        let up = if set.text("start") == "zero up" { Init::Zeros } else { drawn };
        let n = anatomy.tokens;
        let place = |site: &&Site| {
            let d = site.d_out;
            let mut params = Vec::new();
            for i in 1..=heads {
                params.extend(parts::linear(&format!("D_{i}"), d, r / heads, drawn));
            }
            params.extend(parts::linear("U", r, d, up));
            let gate = match set.text("gate") {
                "large" => {
                    params.extend([parts::linear("W_d", d, rank, drawn), parts::linear("W_u", rank, d, up)].concat());
                    2 * d * rank
                }
                "middle y" => {
                    params.push(ParamSpec::new("z", 1, d, drawn));
                    0
                }
                wide => {
                    let d_in = if wide == "small" { 2 * d } else { d };
                    params.extend(parts::linear("w", d_in, 1, drawn));
                    d_in
                }
            };
            Placement::new(site, Door::After, params).costs(n * (2 * d * r + gate + d), n * (5 * d + 2 * r + 2 * rank))
        };
        Ok(sites.iter().map(place).collect())
    }

    /// `x` is the paper's X, `y` its H.
    fn after(&self, at: &At, x: &Tensor<3>, y: Tensor<3>) -> Tensor<3> {
        let heads = 1..=at.set.whole("heads");
        let down = Tensor::cat(heads.clone().map(|i| at.param(&format!("D_{i}"))).collect(), 1); // [d, r]
        let bias = Tensor::cat(heads.map(|i| at.param(&format!("D_{i}_bias"))).collect(), 1); // [1, r]
        let h = kernels::gelu(parts::dense(y.clone(), down, bias)); // [batch, positions, r]
        let adapted = y + parts::through(at, "U", h); // [batch, positions, d]
        let gate = match at.set.text("gate") {
            "middle x" => {
                activation::sigmoid(parts::through(at, "w", x.clone() + adapted.clone())) // [batch, positions, 1]
            }
            "middle y" => row(at.param("z")) + 1.0, // [1, 1, d]
            "small" => {
                let (w, d) = (at.param("w"), at.site.d_out);
                let of_x = parts::dense(x.clone(), w.clone().narrow(0, 0, d), at.param("w_bias"));
                let of_adapted = adapted.clone().matmul(row(w.narrow(0, d, d)));
                parts::mean(at, activation::sigmoid(of_x + of_adapted)) // [batch, 1, 1]
            }
            _ => {
                let h = kernels::gelu(parts::through(at, "W_d", x.clone())); // [batch, positions, r_g]
                activation::sigmoid(parts::through(at, "W_u", h)) // [batch, positions, d]
            }
        };
        gate * adapted * at.set.real("scale")
    }
}
