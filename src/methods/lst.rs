//! Ladder side-tuning: Sung, Cho and Bansal, "LST: Ladder Side-Tuning for Parameter and Memory Efficient Transfer Learning"
//! (2022). A small side transformer reads the frozen blocks' outputs; no gradient enters the backbone. Called through the
//! catalogue.

use burn::tensor::{Tensor, activation};

use super::parts::{self, kaiming};
use super::{Card, Family, Init, Method, ParamSpec, Placement, Published};
use crate::engine::bag::At;
use crate::engine::kernels;
use crate::plan::anatomy::{Anatomy, Door, Role, Site};
use crate::session::settings::{Field, Settings};

pub const CARD: Card = Card {
    name: "lst",
    title: "Ladder side network",
    family: Family::Side,
    help: "A narrow transformer beside the backbone reads every block through a gate and answers alone; no gradient enters the trunk.",
    formula: "s_i = Side_i(μ_i s_(i-1) + (1 - μ_i) D_i h_i),  μ_i = σ(a_i / T),  out = U · LN(s_L)",
    drawing: "█ block 1 █──█ block 2 █── … ──█ block L █\n    │            │                 │\n ▒ D, μ ▒     ▒ D, μ ▒          ▒ D, μ ▒\n ▒ side ▒─────▒ side ▒─── … ────▒ side ▒──▒ U ▒── y",
    count: "blocks · (4 d_s² + 2 d_s h/r + vectors) + (blocks + 1)(d d_s + d_s) + d_s d + d,  d_s = d / r",
    published: &[
        // methods/05: n (4 d_s² + 2 d_s h/r + vectors) + (n + 1)(d d_s + d_s) + the last norm + d_s d + d, with d_s = 96
        Published::new(
            "reduction 8",
            &[Role::Head],
            12 * (4 * (96 * 96 + 96) + (96 * 384 + 384) + (384 * 96 + 96) + 4 * 96 + 1)
                + 13 * (768 * 96 + 96)
                + 2 * 96
                + 96 * 768
                + 768,
        )
        .with(&[("reduction", "8")]),
    ],
    paper: "Sung, Cho and Bansal, LST: Ladder Side-Tuning",
    year: 2022,
    learning_rate: 3e-3,
    released: "The released code can start the side network from pruned backbone weights (Fisher or magnitude); here it starts at random.",
    caution: "Its gain is memory, not parameters. It starts untrained, so the first pass is not the frozen network's; give it a high learning rate.",
    licence: "BSD-2-Clause",
    fields: &[
        Field::whole("reduction", 1, 64, 8, "Divides every width of the backbone block; d / r must be a multiple of the heads."),
        Field::real("temperature", 0.01, 10.0, 0.1, "T of the gates."),
        Field::whole("every", 1, 12, 1, "Read every n-th block only; always the last."),
    ],
    variants: &[],
    roles: &[Role::Head],
    default_roles: &[Role::Head],
    identity_at_start: false,
    folds: false,
    method: &Ladder,
};

struct Ladder;

/// The blocks (from 0) that have a rung.
fn rungs(blocks: usize, every: usize) -> Vec<usize> {
    (0..blocks).filter(|n| (blocks - 1 - n).is_multiple_of(every.max(1))).collect()
}

impl Method for Ladder {
    fn plan(&self, anatomy: &Anatomy, sites: &[&Site], set: &Settings) -> Result<Vec<Placement>, String> {
        anatomy.one_sequence()?;
        let r = set.whole("reduction");
        let (d, n, heads) = (anatomy.width, anatomy.tokens, anatomy.heads);
        if d % (r * heads) != 0 {
            let fit = parts::fitting(1..=64, |r| d % (r * heads) == 0);
            return Err(format!("width {d} / reduction {r} is not a multiple of {heads} heads; reductions that fit: {fit}"));
        }
        let (s, h) = (d / r, (anatomy.hidden / r).max(1));
        let mut params = Vec::new();
        let linear = |params: &mut Vec<ParamSpec>, name: &str, d_in, d_out| {
            params.extend(parts::linear(name, d_in, d_out, kaiming(d_in)));
        };
        let norm = |params: &mut Vec<ParamSpec>, name: &str| {
            params.push(ParamSpec::new(name, 1, s, Init::Ones));
            params.push(ParamSpec::new(format!("{name}_bias"), 1, s, Init::Zeros));
        };
        linear(&mut params, "D_0", d, s);
        let rungs = rungs(anatomy.blocks, set.whole("every"));
        for n in &rungs {
            let i = n + 1;
            params.push(ParamSpec::new(format!("a_{i}"), 1, 1, Init::Zeros)); // μ = 0.5
            linear(&mut params, &format!("D_{i}"), d, s);
            norm(&mut params, &format!("norm1_{i}"));
            for name in ["q", "k", "v", "o"] {
                linear(&mut params, &format!("{name}_{i}"), s, s);
            }
            norm(&mut params, &format!("norm2_{i}"));
            linear(&mut params, &format!("up_{i}"), s, h);
            linear(&mut params, &format!("down_{i}"), h, s);
        }
        norm(&mut params, "norm");
        linear(&mut params, "U", s, d);
        let k = rungs.len();
        let macs = n * ((k + 1) * d * s + k * (4 * s * s + 2 * s * h) + s * d) + k * 2 * n * n * s;
        let kept = (k + 1) * n * d + k * n * (16 * s + 2 * h) + 3 * n * s;
        let place =
            |site: &&Site| Placement::new(site, Door::Readout, params.clone()).costs(macs, kept).attends(2 * k * heads * n * n);
        Ok(sites.iter().map(place).collect())
    }

    fn readout(&self, at: &At, taps: &[Tensor<3>], _y: Tensor<3>) -> Tensor<3> {
        let linear = |name: String, x| parts::through(at, &name, x);
        let norm = |name: String, x: Tensor<3>| {
            let bias = at.param(&format!("{name}_bias")).squeeze_dim::<1>(0);
            kernels::layer_norm(x, at.param(&name).squeeze_dim::<1>(0), bias, 1e-6)
        };
        let temperature = at.set.real("temperature");
        let mut s = linear("D_0".into(), taps[0].clone()); // [batch, positions, d/r]
        for n in rungs(taps.len() - 1, at.set.whole("every")) {
            let i = n + 1;
            let gate = activation::sigmoid(at.param(&format!("a_{i}")) / temperature).unsqueeze::<3>(); // [1, 1, 1]
            let rung = linear(format!("D_{i}"), taps[i].clone());
            let u = rung.clone() + gate * (s - rung); // μ s + (1 - μ) D h
            let h = norm(format!("norm1_{i}"), u.clone());
            let u = u + side_attention(at, i, h, linear);
            let h = norm(format!("norm2_{i}"), u.clone());
            let h = linear(format!("down_{i}"), kernels::gelu(linear(format!("up_{i}"), h)));
            s = u + h;
        }
        linear("U".into(), norm("norm".into(), s)) // [batch, positions, d]
    }
}

/// Self-attention of side block `i`; `linear(name, x)` applies that block's layers.
fn side_attention(at: &At, i: usize, h: Tensor<3>, linear: impl Fn(String, Tensor<3>) -> Tensor<3>) -> Tensor<3> {
    let positions = h.dims()[1];
    let [q, k, v] = ["q", "k", "v"].map(|name| linear(format!("{name}_{i}"), h.clone()));
    linear(format!("o_{i}"), kernels::attention(q, k, v, at.heads, at.mask(positions, positions))) // [batch, positions, d/r]
}
