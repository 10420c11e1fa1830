//! Prefix tuning: Li and Liang, "Prefix-Tuning: Optimizing Continuous Prompts for Generation" (2021), section 4; without the
//! reparametrising network, which is thrown away after training anyway. The gate by Mao et al., "UniPELT" (2022). Called through
//! the catalogue.

use burn::tensor::Tensor;

use super::parts::{self, GATE};
use super::{Card, Family, Init, Method, ParamSpec, Placement, Published, Variant};
use crate::engine::bag::At;
use crate::plan::anatomy::{Anatomy, Door, Entry, Role, Site};
use crate::session::settings::{Field, Settings};

pub const CARD: Card = Card {
    name: "prefix",
    title: "Prefix",
    family: Family::Prefix,
    help: "Puts trained keys and values before those of every attention layer.",
    formula: "Attn(q, [P_k; K], [P_v; V]);  gated: g P_k, g P_v, g = mean σ(x w + b)",
    drawing: "q ─────────────┐\n[▒ P_k ▒; K] ──█ attention █── y\n[▒ P_v ▒; V] ──┘",
    count: "2 · l · d a block, and d + 1 for a gate",
    published: &[
        Published::new("16 keys and values a block", &[Role::Attn], 12 * 2 * 16 * 768).with(&[("length", "16")]),
        Published::new("UniPELT's part: 10 keys and values a block, gated", &[Role::Attn], 12 * (2 * 10 * 768 + 768 + 1))
            .with(&[("length", "10"), ("gate", "true")]),
    ],
    paper: "Li and Liang, Prefix-Tuning: Optimizing Continuous Prompts for Generation",
    year: 2021,
    learning_rate: 5e-5,
    released: "The released code makes the prefixes by a network of its own (Embedding, Linear 800, tanh, Linear) and drops it after training; here they are trained directly.",
    caution: "Not identity at the start: fresh prefixes take part of the attention. Long prefixes train slowly.",
    licence: "Apache-2.0",
    fields: &[
        Field::whole("length", 1, 200, 8, "Number l of trained keys and values."),
        Field::real("deviation", 0.0, 1.0, 0.02, "Standard deviation of the first values."),
        GATE,
        Field::flag(
            COUNT_ON,
            false,
            "The text's tokens are counted on from the prefix, as PEFT has it: in a table of positions each takes the row l further on, so that texts may be l tokens shorter. Where positions turn queries and keys it makes no difference.",
        ),
    ],
    variants: &[Variant::new("Gated prefix", "UniPELT's part; the preset `unipelt` is the whole.", &[Role::Attn])
        .with(&[("gate", "true")])],
    roles: &[Role::Attn],
    default_roles: &[Role::Attn],
    identity_at_start: false,
    folds: false,
    method: &Prefix,
};

/// The setting by which tokens move.
pub const COUNT_ON: &str = "count_on";
/// The table of positions at the embedding of a text.
const POSITIONS: &str = "pos";

struct Prefix;

/// Where tokens are counted on in the table of positions; nowhere where there is none to move in.
fn counted_on(anatomy: &Anatomy) -> Result<Option<Placement>, String> {
    if !matches!(anatomy.entry, Entry::Text { .. }) {
        return Err(format!("`{COUNT_ON}` fits texts alone: no other positions begin behind a prefix"));
    }
    if anatomy.rotary {
        return Ok(None);
    }
    let holds = |site: &&Site| site.role == Role::Embed && site.parts.iter().any(|part| part.name == POSITIONS);
    let table = anatomy.sites.iter().find(holds);
    let table =
        table.ok_or_else(|| format!("`{COUNT_ON}` fits a table of positions or rotary ones, and this network has neither"))?;
    Ok(Some(Placement::tidying(table, Door::Weight)))
}

/// The names of the gate's w and b in this block's attention. Keys and values of one attention go through one gate, so it belongs to the
/// method and not to one of their sites.
pub fn gate_names(site: &Site) -> [String; 2] {
    let n = site.block.unwrap_or_default();
    let across = if site.crosses() { "_cross" } else { "" };
    [format!("gate_{n}{across}"), format!("gate_bias_{n}{across}")]
}

impl Method for Prefix {
    fn plan(&self, anatomy: &Anatomy, sites: &[&Site], set: &Settings) -> Result<Vec<Placement>, String> {
        anatomy.one_sequence()?;
        let (l, n) = (set.whole("length"), anatomy.tokens);
        let spec = |d| ParamSpec::new("P", l, d, Init::Normal(set.real("deviation"))).matrix();
        let mut placements = Vec::new();
        if set.flag(COUNT_ON) {
            placements.extend(counted_on(anatomy)?);
        }
        for attention in sites {
            for role in [Role::K, Role::V] {
                let Some(site) = anatomy.beside(attention, role) else {
                    return Err(format!("`{}` has no `{}` to lengthen", attention.path, role.word()));
                };
                let d = site.d_out;
                let mut params = vec![spec(d)];
                if set.flag("gate") && role == Role::K {
                    let gate = parts::gate_params(site.d_in).into_iter().zip(gate_names(site));
                    params.extend(gate.map(|(spec, name)| ParamSpec { name, ..spec.shared() }));
                }
                placements
                    .push(Placement::new(site, Door::Extend, params).costs(n * l * d, l * d).attends(anatomy.heads * n * l));
            }
        }
        Ok(placements)
    }

    fn positions_taken(&self, set: &Settings) -> usize {
        if set.flag(COUNT_ON) { set.whole("length") } else { 0 }
    }

    fn weight(&self, at: &At, part: &str, w: Tensor<2>) -> Tensor<2> {
        if part != POSITIONS {
            return w;
        }
        let ([rows, _], l) = (w.dims(), at.set.whole("length"));
        Tensor::cat(vec![w.clone().narrow(0, l, rows - l), w.narrow(0, 0, l)], 0) // token i finds row l + i where its own was
    }

    fn after(&self, at: &At, x: &Tensor<3>, y: Tensor<3>) -> Tensor<3> {
        let [batch, _, d] = y.dims();
        let mut p = parts::row(at.param("P")).expand([batch, at.set.whole("length"), d]);
        if at.set.flag("gate") {
            let [w, b] = gate_names(at.site).map(|name| at.shared(&name));
            p = p * parts::gate(at, x.clone(), w, b); // keys and values have the same x
        }
        parts::join(p, y) // [batch, l + positions, d]
    }
}
