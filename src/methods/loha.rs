//! LoHa: Hyeon-Woo, Ye-Bin and Oh, "FedPara: Low-Rank Hadamard Product for Communication-Efficient Federated Learning" (2022),
//! proposition 1; as a change of weights by Yeh et al., "Navigating Text-to-Image Customization" (LyCORIS, 2024), equation 3.
//! Called through the catalogue.

use burn::tensor::Tensor;

use super::parts::LINEAR;
use super::{Card, Family, Init, Method, ParamSpec, Placement, Published, Variant};
use crate::engine::bag::At;
use crate::plan::anatomy::{Anatomy, Door, Role, Site};
use crate::session::settings::{Field, Settings};

pub const CARD: Card = Card {
    name: "loha",
    title: "LoHa",
    family: Family::LowRank,
    help: "Learns a change of a frozen weight as the elementwise product of two low-rank matrices, whose rank can reach r².",
    formula: "y = x (W + s · (A_1 B_1) ⊙ (A_2 B_2)),  s = α / r",
    drawing: "x ─┬─█ W █────────────────────────⊕─ y\n   └─(▒ A_1 ▒ B_1 ▒ ⊙ ▒ A_2 ▒ B_2 ▒)─ × s ─┘",
    count: "2 · r · (d_in + d_out) a place",
    published: &[
        // FedPara, proposition 2: 2 R (m + n) a matrix
        Published::new("rank 8 on q, v", &[Role::Q, Role::V], 24 * 2 * 8 * (768 + 768)).with(&[("rank", "8")]),
        // LyCORIS's default
        Published::new("rank 4 on every linear layer", LINEAR, 12 * 2 * 4 * (4 * (768 + 768) + 2 * (768 + 3072)))
            .with(&[("rank", "4"), ("alpha", "2")]),
    ],
    paper: "Hyeon-Woo et al., FedPara: Low-Rank Hadamard Product; Yeh et al. (LyCORIS, 2024) for fine-tuning",
    year: 2022,
    learning_rate: 5e-4, // LyCORIS, section 5.3: 1e-4, 5e-4 and 1e-3
    released: "LyCORIS draws A_1, B_1, A_2 from normals of deviation 1, 0.1, 1 and starts B_2 at zero, as here; PEFT draws them Kaiming-uniform. FedPara itself trains whole networks from the start and may bend the factors with tanh. Rank dropout is not here.",
    caution: "The change is formed as a dense matrix in every pass, so training costs memory and time like full fine-tuning of the layer; only what is stored is small.",
    licence: "Apache-2.0",
    fields: &[
        Field::whole("rank", 1, 512, 8, "Rank r of each of the two factors; their product has rank up to r²."),
        Field::real("alpha", 0.0, 4096.0, 8.0, "Strength α of the change; the scale is α / r."),
    ],
    variants: &[
        Variant::new("LoHa on q, v", "As LoRA is placed.", &[Role::Q, Role::V]),
        Variant::new("LoHa on every linear layer", "LyCORIS's attention and MLP, rank 4 and α 2.", LINEAR)
            .with(&[("rank", "4"), ("alpha", "2")]),
    ],
    roles: LINEAR,
    default_roles: &[Role::Q, Role::V],
    identity_at_start: true,
    folds: true,
    method: &LoHa,
};

struct LoHa;

impl Method for LoHa {
    fn plan(&self, anatomy: &Anatomy, sites: &[&Site], set: &Settings) -> Result<Vec<Placement>, String> {
        let r = set.whole("rank");
        let place = |site: &&Site| {
            let params = vec![
                ParamSpec::new("A1", site.d_in, r, Init::Normal(1.0)),
                ParamSpec::new("B1", r, site.d_out, Init::Normal(0.1)),
                ParamSpec::new("A2", site.d_in, r, Init::Normal(1.0)),
                ParamSpec::new("B2", r, site.d_out, Init::Zeros), // zero, so that the first pass is the frozen network's
            ];
            // At the weight, since the change is dense anyhow: one product with the input instead of two.
            Placement::new(site, Door::Weight, params).costs(0, anatomy.tokens * site.d_in)
        };
        Ok(sites.iter().map(place).collect())
    }

    fn weight(&self, at: &At, part: &str, w: Tensor<2>) -> Tensor<2> {
        if part != "weight" {
            return w;
        }
        let s = at.set.real("alpha") / at.set.whole("rank") as f64;
        let factor = |a: &str, b: &str| at.param(a).matmul(at.param(b)); // [d_in, d_out]
        w + factor("A1", "B1") * factor("A2", "B2") * s
    }
}
