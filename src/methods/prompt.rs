//! Visual prompt tuning: Jia et al., "Visual Prompt Tuning" (2022), equations 4 (shallow) and 5 (deep). Trained tokens on the
//! residual stream. Called through the catalogue.

use burn::tensor::Tensor;

use super::parts::{self, DROPOUT};
use super::{Card, Family, Init, Method, ParamSpec, Placement, Published, Variant};
use crate::engine::bag::At;
use crate::plan::anatomy::{Anatomy, Door, Role, Site};
use crate::session::settings::{Field, Settings};

pub const CARD: Card = Card {
    name: "prompt",
    title: "Prompt tokens",
    family: Family::Prompt,
    help: "Adds trained tokens to those of the sample: once before the first block (shallow), or fresh ones before each (deep).",
    formula: "[x, Z, E] = L([x, P, E]);  deep: a P of its own for every block",
    drawing: "[ tokens │ ▒ P ▒ ] ──█ block █── [ tokens │ P taken off ]",
    count: "p · d (shallow), p · d a block (deep)",
    published: &[
        Published::new("shallow, 100 tokens", &[Role::Block], 76_800).with(&[("tokens", "100"), ("depth", "shallow")]),
        Published::new("deep, 100 tokens", &[Role::Block], 12 * 76_800).with(&[("tokens", "100"), ("depth", "deep")]),
    ],
    paper: "Jia et al., Visual Prompt Tuning",
    year: 2022,
    learning_rate: 5e-3,
    released: "The released code puts prompts behind the class token; attention does not see the difference. It trains with SGD and searches rates from 0.05 to 50 (times batch / 256).",
    caution: "Every prompt makes attention longer, so it costs time in every block; sensitive to the learning rate.",
    licence: "CC-BY-NC-4.0 (paper's code, not used here)",
    fields: &[
        Field::whole("tokens", 1, 200, 8, "Number p of prompt tokens."),
        Field::choice("depth", &["shallow", "deep"], "One set at the first placed block, or one set for every placed block."),
        DROPOUT,
    ],
    variants: &[
        Variant::new("VPT-shallow", "Before the first block.", &[Role::Block]).with(&[("depth", "shallow")]),
        Variant::new("VPT-deep", "Before every block.", &[Role::Block]).with(&[("depth", "deep")]),
    ],
    roles: &[Role::Block],
    default_roles: &[Role::Block],
    identity_at_start: false,
    folds: false,
    method: &Prompt,
};

struct Prompt;

impl Method for Prompt {
    fn plan(&self, anatomy: &Anatomy, sites: &[&Site], set: &Settings) -> Result<Vec<Placement>, String> {
        anatomy.one_sequence()?;
        let (p, d, n) = (set.whole("tokens"), anatomy.width, anatomy.tokens);
        // As the paper: uniform by Glorot's bound over a patch and the width.
        let entering = anatomy.sites.iter().find(|s| s.role == Role::Embed).map_or(d, |s| s.d_in); // 3 p p
        let bound = (6.0 / (entering + d) as f64).sqrt();
        let spec = || ParamSpec::new("P", p, d, Init::Uniform(bound)).matrix();
        // What p more positions cost in one block: its linear layers and its attention.
        let macs = p * (4 * d * d + 2 * d * anatomy.hidden) + 2 * d * ((n + p) * (n + p) - n * n);
        let (kept, scores) = (p * (10 * d + anatomy.hidden), 2 * anatomy.heads * ((n + p) * (n + p) - n * n));
        let mut placements = Vec::new();
        if set.text("depth") == "deep" {
            for site in sites {
                placements.push(Placement::new(site, Door::Before, vec![spec()]).costs(macs, kept).attends(scores));
                placements.push(Placement::tidying(site, Door::After));
            }
            return Ok(placements);
        }
        if let Some((first, block)) = sites.first().and_then(|first| Some((first, first.block?)))
            && let Some(last) = anatomy.last_behind(block)
        {
            let blocks = last.block.map_or(1, |last| last + 1 - block);
            placements.push(
                Placement::new(first, Door::Before, vec![spec()]).costs(blocks * macs, blocks * kept).attends(blocks * scores),
            );
            placements.push(Placement::tidying(last, Door::After));
        }
        Ok(placements)
    }

    /// Attention does not care where a token stands, so prompts go to the end: taking them off again is one `narrow`.
    fn before(&self, at: &At, x: Tensor<3>) -> Tensor<3> {
        let [batch, _, d] = x.dims();
        let p = at.param("P").unsqueeze::<3>(); // [1, p, d]
        let p = parts::dropout(at, p.expand([batch, at.set.whole("tokens"), d]));
        parts::join(x, p) // [batch, positions + p, d]
    }

    fn after(&self, at: &At, _x: &Tensor<3>, y: Tensor<3>) -> Tensor<3> {
        let positions = y.dims()[1];
        y.narrow(1, 0, positions - at.set.whole("tokens"))
    }
}
