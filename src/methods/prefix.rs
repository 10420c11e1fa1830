//! Prefix tuning: Li and Liang, "Prefix-Tuning: Optimizing Continuous Prompts for Generation" (2021), section 4; without the
//! reparametrising network, which is thrown away after training anyway. Called through the catalogue.

use burn::tensor::Tensor;

use super::parts;
use super::{Card, Family, Init, Method, ParamSpec, Placement, Published};
use crate::engine::bag::At;
use crate::plan::anatomy::{Anatomy, Door, Role, Site};
use crate::session::settings::{Field, Settings};

pub const CARD: Card = Card {
    name: "prefix",
    title: "Prefix",
    family: Family::Prefix,
    help: "Puts trained keys and values before those of every attention layer.",
    formula: "Attn(q, [P_k; K], [P_v; V])",
    drawing: "q ─────────────┐\n[▒ P_k ▒; K] ──█ attention █── y\n[▒ P_v ▒; V] ──┘",
    count: "2 · l · d a block",
    published: &[Published {
        what: "16 keys and values a block",
        roles: &[Role::Attn],
        settings: &[("length", "16")],
        trainable: 12 * 2 * 16 * 768,
    }],
    paper: "Li and Liang, Prefix-Tuning: Optimizing Continuous Prompts for Generation",
    year: 2021,
    learning_rate: 5e-5,
    released: "The released code makes the prefixes by a network of its own (Embedding, Linear 800, tanh, Linear) and drops it after training; here they are trained directly.",
    caution: "Not identity at the start: fresh prefixes take part of the attention. Long prefixes train slowly.",
    licence: "Apache-2.0",
    fields: &[
        Field::whole("length", 1, 200, 8, "Number l of trained keys and values."),
        Field::real("deviation", 0.0, 1.0, 0.02, "Standard deviation of the first values."),
    ],
    variants: &[],
    roles: &[Role::Attn],
    default_roles: &[Role::Attn],
    identity_at_start: false,
    folds: false,
    method: &Prefix,
};

struct Prefix;

impl Method for Prefix {
    fn plan(&self, anatomy: &Anatomy, sites: &[&Site], set: &Settings) -> Result<Vec<Placement>, String> {
        let (l, n) = (set.whole("length"), anatomy.tokens);
        let spec = |d| ParamSpec::new("P", l, d, Init::Normal(set.real("deviation"))).matrix();
        let mut placements = Vec::new();
        for attention in sites {
            for role in [Role::K, Role::V] {
                let inner = |s: &&Site| s.block == attention.block && s.role == role;
                let Some(site) = anatomy.sites.iter().find(inner) else {
                    return Err(format!("`{}` has no `{}` to lengthen", attention.path, role.word()));
                };
                let d = site.d_out;
                placements
                    .push(Placement::new(site, Door::Extend, vec![spec(d)]).costs(n * l * d, l * d + anatomy.heads * n * l));
            }
        }
        Ok(placements)
    }

    fn after(&self, at: &At, _x: &Tensor<3>, y: Tensor<3>) -> Tensor<3> {
        let [batch, _, d] = y.dims();
        let p = at.param("P").unsqueeze::<3>().expand([batch, at.set.whole("length"), d]);
        parts::join(p, y) // [batch, l + positions, d]
    }
}
