//! p-adapter: Wu et al., "p-Laplacian Adaptation for Generative Pre-trained Vision-Language Models" (2024). After attention, one
//! step of p-Laplacian message passing on the graph whose edges are the attention weights; beside the MLP, an adapter of the
//! residual stream. Called through the catalogue.

use burn::tensor::{Tensor, activation};

use super::laplacian;
use super::parts::{self, BRANCHES, dense};
use super::{Card, Family, Init, Method, ParamSpec, Placement, Published, Variant};
use crate::engine::bag::At;
use crate::engine::kernels;
use crate::plan::anatomy::{Anatomy, Door, Role, Site};
use crate::session::settings::{Field, Settings};

pub const CARD: Card = Card {
    name: "padapter",
    title: "p-adapter",
    family: Family::Adapter,
    help: "Weighs attention anew by how far query and value nodes are apart, gathers their features so, and adds them behind a gate.",
    formula: "M = A ⊙ ‖√A (F_j - F_k)‖^(p-2),  F' = (M F_v + (2 μ / p) F_q) / (Σ_k M + 2 μ / p),  y ← y + W_o(GELU(W_g y) ⊙ F')",
    drawing: "q, k ──█ A █─────────────────────┐\nq, v ──█ W_O █──▒ W_i ▒── F ──▒ p, μ ▒── F' ─┐\nx ─█ attn █─┬─▒ W_g ▒── gelu ────────────────⊙──▒ W_o ▒──⊕─ y\n            └────────────────────────────────────────────┘\nresidual ─┬─█ norm, mlp █────────────⊕─ y\n          └─▒ W_1 ▒── relu ──▒ W_2 ▒─┘",
    count: "attention: 3 · d · r + 2 · r + d + 2;  mlp: 2 · d · r + r + d;  r = d / ρ",
    published: &[
        // methods/17 (d): 2 (d r + r) + (r d + d) + 2 with d = 768, r = 96, self-attention alone
        Published::new("after every attention", &[Role::Attn], 12 * 222_146),
        // and 2 d r + r + d beside every MLP
        Published::new("attention and MLP", BRANCHES, 12 * (222_146 + 148_320)),
    ],
    paper: "Wu et al., p-Laplacian Adaptation for Generative Pre-trained Vision-Language Models",
    year: 2024,
    learning_rate: 5e-4,
    released: "The release lacks a file and the query of its self-attention. It drops β F where the nodes are queries and values, and its self-attention has value nodes alone, whose self-loops take nearly all weight for p below 2; here self-attention has query and value nodes too and keeps β F, as the paper writes. Its norm follows the residual sum (BERT); here it comes before the branch.",
    caution: "Keeps about ten maps of tokens² numbers a head for the backward pass. The paper's models are text decoders that look at images; here it stands in self-attention, and in T5's decoder where it looks at the encoder. Not identity at the start.",
    licence: "MIT OR Apache-2.0 (own code; the paper's was not used)",
    fields: &[
        Field::whole("reduction", 1, 64, 8, "ρ: divides the width; d / ρ must be a multiple of the heads."),
        Field::real(
            "p",
            1.0,
            4.0,
            1.25,
            "The exponent p at the start, trained. Below 2 near nodes count more, above 2 far ones; 2 is plain smoothing.",
        ),
        Field::real(
            "mu",
            0.001,
            100.0,
            0.1,
            "μ0: how much a node keeps of itself. What is trained stays between μ0 and 3 μ0, from 2 μ0.",
        ),
    ],
    variants: &[
        Variant::new("Entailment", "The paper's p and μ0 for SNLI-VE: most of a node is itself.", BRANCHES)
            .with(&[("p", "1.5"), ("mu", "10")]),
        Variant::new("Captions", "The paper's p and μ0 for captions.", BRANCHES).with(&[("p", "1.75")]),
        Variant::new("Attention only", "Without the adapter beside the MLP.", &[Role::Attn]),
    ],
    roles: BRANCHES,
    default_roles: BRANCHES,
    identity_at_start: false,
    folds: false,
    method: &PAdapter,
};

/// Tokens beyond which the maps of one image take gigabytes.
const MOST: usize = 1024;

struct PAdapter;

impl Method for PAdapter {
    fn plan(&self, anatomy: &Anatomy, sites: &[&Site], set: &Settings) -> Result<Vec<Placement>, String> {
        anatomy.one_sequence()?;
        let (d, n, heads, rho) = (anatomy.width, anatomy.tokens, anatomy.heads, set.whole("reduction"));
        if d % (rho * heads) != 0 {
            let fit = parts::fitting(1..=64, |rho| d % (rho * heads) == 0);
            return Err(format!("width {d} / {rho} is not a multiple of {heads} heads; reductions that fit: {fit}"));
        }
        if let Some(why) = sites.iter().find_map(|site| anatomy.joins_scores(site)) {
            return Err(format!("it works out the attention map from queries and keys as they leave their layers, but {why}"));
        }
        if n > MOST {
            return Err(format!("it keeps maps of {n} by {n} tokens for each head; networks of up to {MOST} tokens fit"));
        }
        let r = d / rho;
        let drawn = |name, d_in, d_out| ParamSpec::new(name, d_in, d_out, Init::Normal(0.02)).matrix();
        let bias = |name, d_out| ParamSpec::new(name, 1, d_out, Init::Zeros);
        let mut placements = Vec::new();
        for site in sites {
            let seen: &[Role] = if site.role == Role::Attn { &[Role::Q, Role::K, Role::V, Role::O] } else { &[Role::Mid] };
            if let Some(role) = seen.iter().find(|role| anatomy.beside(site, **role).is_none()) {
                return Err(format!("`{}` has no `{}` in its block, which it reads", site.path, role.word()));
            }
            placements.push(match site.role {
                Role::Attn => {
                    let scalars = [("p", Init::Constant(set.real("p"))), ("theta", Init::Zeros)];
                    let mut params = vec![drawn("W_i", d, r), bias("b_i", r), drawn("W_g", d, r), bias("b_g", r)];
                    params.extend([drawn("W_o", r, d), bias("b_o", d)]);
                    params.extend(scalars.map(|(name, init)| ParamSpec::new(name, 1, 1, init)));
                    let macs = 4 * n * d * r + n * n * (d + 2 * r);
                    Placement::new(site, Door::After, params).costs(macs, 10 * heads * n * n + n * (d + 8 * r))
                }
                _ => {
                    let params = vec![drawn("W_1", d, r), bias("b_1", r), drawn("W_2", r, d), bias("b_2", d)];
                    Placement::new(site, Door::After, params).costs(2 * n * d * r, n * (d + 2 * r))
                }
            });
        }
        Ok(placements)
    }

    fn reads(&self) -> &'static [Role] {
        &[Role::Q, Role::K, Role::V, Role::Mid]
    }

    fn after(&self, at: &At, _x: &Tensor<3>, y: Tensor<3>) -> Tensor<3> {
        match at.site.role {
            Role::Attn => y.clone() + message(at, y),
            _ => {
                let h = activation::relu(dense(at.left(Role::Mid), at.param("W_1"), at.param("b_1"))); // [batch, positions, r]
                y + dense(h, at.param("W_2"), at.param("b_2")) // [batch, positions, d]
            }
        }
    }
}

/// What is added to `h`, the attention's answer. The graph's nodes are queries and values, its edges Ã = [[0, A], [Aᵀ, 0]]: only
/// the query rows are used, and in them only the edges to values are not zero, so that block is all that is worked out.
fn message(at: &At, h: Tensor<3>) -> Tensor<3> {
    let [batch, _, d] = h.dims();
    let split = |x: Tensor<3>| {
        let [_, positions, width] = x.dims();
        x.reshape([batch, positions, at.heads, width / at.heads]).swap_dims(1, 2) // [batch, heads, positions, width/heads]
    };
    let [q, k, v] = [Role::Q, Role::K, Role::V].map(|role| at.left(role));
    let scores = split(q.clone()).matmul(split(k).swap_dims(2, 3)) / at.divisor(d / at.heads);
    let scores = kernels::reference::hide(scores.clone(), &at.mask(scores.dims()[2], scores.dims()[3]));
    let a = activation::softmax(scores, 3); // [batch, heads, queries, values]

    let w = at.frozen_within(Role::O, "weight").matmul(at.param("W_i")); // [d, r]
    let b = at.bias_within(Role::O).matmul(at.param("W_i")) + at.param("b_i"); // [1, r]
    let features = |x| split(dense(x, w.clone(), b.clone()));
    let (f_q, f_v) = (features(q), features(v)); // [batch, heads, queries or values, r/heads]

    let mu = (at.param("theta").tanh() + 2.0) * at.set.real("mu"); // between μ0 and 3 μ0
    let f = laplacian::step(a, f_q, f_v, at.param("p"), mu); // [batch, heads, queries, r/heads]
    let f = f.swap_dims(1, 2).flatten::<3>(2, 3); // [batch, queries, r]

    let gate = kernels::gelu(dense(h, at.param("W_g"), at.param("b_g"))); // [batch, queries, r]
    dense(gate * f, at.param("W_o"), at.param("b_o")) // [batch, queries, d]
}
