//! What a plan costs: bytes by component and floating-point operations a step. Estimates of activations follow what Burn's
//! autodiff keeps for the backward pass; `tests/memory.rs` compares them with the allocator. Pure functions over plain data.

use super::Member;
use super::anatomy::{Anatomy, Door, Entry, Part, Role, Site, Stage};
use crate::methods::ParamSpec;
use crate::session::{Optimizer, Recipe};

const F32: usize = 4;

/// Bytes by component.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bytes {
    /// All that is frozen, a method's constants included.
    pub backbone: usize,
    pub trainable: usize,
    pub gradients: usize,
    pub optimizer: usize,
    /// Saved for the backward pass.
    pub activations: usize,
}

impl Bytes {
    pub fn total(&self) -> usize {
        self.backbone + self.trainable + self.gradients + self.optimizer + self.activations
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    pub bytes: Bytes,
    /// Floating-point operations of one training step: forward, and what of the backward pass is needed.
    pub flops_step: f64,
    /// Of one forward pass over one sample.
    pub flops_sample: f64,
    /// Bytes of the exported adapter, head included.
    pub export: usize,
}

/// Costs of a stack on an anatomy; `texts` pass a text tower in a step, beside the images. `on_cpu`: it is known to run there, where
/// attention keeps no weights.
pub fn of(anatomy: &Anatomy, members: &[Member], head: &[ParamSpec], recipe: &Recipe, texts: usize, on_cpu: bool) -> Cost {
    let batch = recipe.batch_size;
    let stack: usize = members.iter().map(Member::count).sum();
    let trainable = stack + head.iter().map(ParamSpec::count).sum::<usize>();
    let constants: usize =
        members.iter().flat_map(|m| &m.placements).flat_map(|p| &p.params).filter(|p| !p.trainable).map(ParamSpec::size).sum();
    let states = match recipe.optimizer {
        Optimizer::AdamW => 2, // first and second moment
        Optimizer::Sgd if recipe.momentum > 0.0 => 1,
        Optimizer::Sgd => 0,
    };

    // A sample of a step passes every site, but those of a text tower, which texts pass.
    let text_tower = anatomy.reading().filter(|_| !anatomy.towers.is_empty());
    let passes = |site: &str| if text_tower.is_some_and(|tower| tower.site(site).is_some()) { texts } else { batch };
    // The graph begins at the first site, in forward order and in each tower, at which something trains; a read-out begins none in the trunk.
    let in_trunk =
        |site: &str| members.iter().flat_map(|m| &m.placements).any(|p| p.site == site && p.door != Door::Readout && !p.tidies);
    // Where distances are added to the scores, the CPU's own attention does not serve.
    let made_again = on_cpu && anatomy.sites.iter().all(|site| site.place != "distances");
    let (mut forward, mut through, mut kept) = (0, 0, 0);
    let parts = if anatomy.towers.is_empty() { std::slice::from_ref(anatomy) } else { &anatomy.towers };
    for part in parts {
        let first = part.sites.iter().position(|site| in_trunk(&site.path)).unwrap_or(part.sites.len());
        for (n, site) in part.sites.iter().enumerate() {
            let (macs, rows) = (macs(part, site), passes(&site.path));
            forward += rows * macs;
            // Scores and mixing come after q, k and v, which stand behind their branch in the list.
            let inner = |s: &Site| {
                s.block == site.block && matches!(s.role, Role::Q | Role::K | Role::V) && part.beside(site, s.role) == Some(s)
            };
            let n = if site.role == Role::Attn { part.sites.iter().rposition(inner).unwrap_or(n) } else { n };
            if n >= first {
                through += rows * macs;
                kept += rows * kept_by(part, site, made_again);
            }
        }
    }
    let mut own = 0;
    let mut weights = 0;
    for placement in members.iter().flat_map(|m| &m.placements) {
        let rows = passes(&placement.site);
        own += rows * placement.macs;
        kept += rows * (placement.kept + if made_again { 0 } else { placement.scores });
        if placement.door == Door::Weight {
            // A mask needs the gradient of the whole matrix, however few of its numbers it trains, and keeps the input for it;
            // a bias needs and keeps nothing of the kind.
            let site = anatomy.site(&placement.site);
            let whole = site.filter(|_| placement.kept > 0).map(Site::count);
            weights += rows * whole.unwrap_or(placement.count()) * site.map_or(anatomy.tokens, |site| anatomy.tokens_at(site));
        }
    }
    let flops_sample = 2.0 * (forward + own) as f64 / batch.max(1) as f64;
    // Backward: one product for the input of what the gradient passes through, one for each trained weight.
    let flops_step = 2.0 * (forward + through + 3 * own + weights) as f64;
    Cost {
        bytes: Bytes {
            backbone: (anatomy.count() + constants) * F32 - anatomy.saved,
            trainable: trainable * F32,
            gradients: trainable * F32,
            optimizer: trainable * states * F32,
            activations: kept * F32,
        },
        flops_step,
        flops_sample,
        export: (trainable + constants) * F32,
    }
}

/// Samples that a pass without a backward one takes at once: what a block makes of them is to stay within a quarter of a gigabyte.
pub fn evaluated_at_once(anatomy: &Anatomy) -> usize {
    let block = |s: Stage| s.tokens * (6 * s.width + 4 * s.hidden) + s.attending * s.window;
    let widest = anatomy.sites.iter().map(|site| block(anatomy.stage(site))).max();
    let block = widest.unwrap_or_default();
    ((256 << 20) / (block * F32).max(1)).clamp(1, 200)
}

/// Multiply-adds of a frozen site for one sample.
fn macs(anatomy: &Anatomy, site: &Site) -> usize {
    let (n, stage, parameters) = (anatomy.tokens_at(site), anatomy.stage(site), site.count());
    match site.role {
        Role::Embed if matches!(anatomy.entry, Entry::Sound { .. }) => {
            site.part("weight").map_or(0, |weight| weight.count() * convolved(anatomy, site).unwrap_or(n))
        }
        Role::Embed if matches!(anatomy.entry, Entry::Text { .. }) => 0, // rows of tables are looked up
        Role::Embed if site.stage.is_some() => n * site.part("weight").map_or(0, Part::count), // no class token
        Role::Embed => (n - 1) * parameters.saturating_sub(n * anatomy.width),
        Role::Distance => 0,
        Role::Pool => parameters,                         // one row
        Role::Attn => 2 * n * stage.window * stage.width, // scores and mixing
        _ => n * parameters,
    }
}

/// Places of one of two convolutions before the blocks; the second takes every other one. None elsewhere.
fn convolved(anatomy: &Anatomy, site: &Site) -> Option<usize> {
    let mut convolutions = anatomy.sites.iter().filter(|s| s.role == Role::Embed && s.part("weight").is_some());
    match (convolutions.next(), convolutions.next()) {
        (Some(first), Some(_)) if first == site => Some(2 * anatomy.tokens),
        (_, Some(second)) if second == site => Some(anatomy.tokens),
        _ => None,
    }
}

/// Numbers that one frozen site keeps for the backward pass when the gradient passes through it, one sample. A frozen
/// linear layer keeps nothing: its gradient needs the weight alone. `made_again`: attention weights are, from two numbers a row.
fn kept_by(anatomy: &Anatomy, site: &Site, made_again: bool) -> usize {
    let (n, stage) = (anatomy.tokens_at(site), anatomy.stage(site));
    let of_row = if made_again { 2 } else { stage.window };
    match site.role {
        Role::Norm => n * site.d_in,                                       // its input
        Role::Attn => 3 * n * stage.width + stage.heads * n * of_row,      // q, k, v and the attention weights
        Role::Embed => convolved(anatomy, site).unwrap_or(0) * site.d_out, // GELU's input
        Role::Act => n * stage.hidden * crate::plan::anatomy::bend_keeps(site.place),
        _ => 0,
    }
}
