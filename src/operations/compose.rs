//! Composition: the changes that several runs made to one backbone, added up. Ansell et al., "Composable Sparse Fine-Tuning for
//! Cross-Lingual Transfer" (2022), section 3.3, for every method that folds. Called by the command line; must not know any method.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use burn::tensor::{Device, Tensor, TensorData};

use super::Card;
use crate::engine::model::{self, Model};
use crate::exports::tensors::{self, Named};
use crate::exports::{self, Done, merged};
use crate::session::Session;
use crate::tasks::classify;

pub const CARD: Card = Card {
    name: "compose",
    title: "Compose",
    help: "Adds what several runs changed in one backbone, each with a factor, and keeps the head of one of them.",
    formula: "θ = θ0 + a φ_a + b φ_b + …,  φ_r = θ_r − θ0",
    paper: "Ansell et al., Composable Sparse Fine-Tuning for Cross-Lingual Transfer",
    year: 2022,
    caution: "Changes that touch the same numbers add up where either alone was right: sparse ones get in each other's way least.",
};

/// φ: what a run changed, by name of the matrix, row by row. In f64, where the difference of two f32 is kept to the last bit that
/// counts.
pub type Change = BTreeMap<String, Vec<f64>>;

/// A run that takes part.
pub struct Part {
    /// As the person calls it.
    pub name: String,
    pub folder: PathBuf,
    /// Strength of its change; -1 takes it back.
    pub factor: f64,
}

/// Runs that fit together, added up.
pub struct Composition {
    /// Of the run that gives the head, without its stack.
    pub session: Session,
    pub model: Model,
    /// What was added, in words.
    pub words: String,
}

impl Composition {
    /// Adds the changes of `parts` to the weights that run `base` started from (the only ones there are, where all started from
    /// the same) and takes the head of run `head`.
    ///
    /// # Errors
    /// When a run has no adapter or does not fold, and when the runs are not of one backbone.
    pub fn of(parts: &[Part], head: usize, base: Option<usize>) -> Result<Composition> {
        let mut start: Option<Named> = None;
        let mut taken = None;
        let mut changes = Vec::new();
        let mut words = Vec::new();
        for (n, part) in parts.iter().enumerate() {
            let (session, model) = exports::load_run(&part.folder).with_context(|| format!("run `{}`", part.name))?;
            merged::fits(&model.plan).map_err(|words| anyhow::anyhow!("run `{}`: {words}", part.name))?;
            let own = model.weights.data();
            match &start {
                Some(first) if !alike(first, &own) => bail!(
                    "run `{}` has another backbone than `{}` ({}). Changes can only be added where they fit",
                    part.name,
                    parts[0].name,
                    session.backbone.name
                ),
                Some(first) if base.is_none() && !same(first, &own) => bail!(
                    "run `{}` started from other weights than `{}`. Say with --base which run's start the changes shall be added to",
                    part.name,
                    parts[0].name
                ),
                _ => {}
            }
            changes.push((change(&model, &own)?, part.factor));
            words.push(format!("{} of {} x {}", model.plan.words(), part.name, part.factor));
            if n == head {
                taken = Some((session, model.bag.data()));
            }
            if base.is_none_or(|base| base == n) || start.is_none() {
                start = Some(own);
            }
        }
        let (Some(start), Some((mut session, bag))) = (start, taken) else { bail!("there is no run to take the head from") };
        session.methods.clear();
        let device = Device::flex();
        let mut model = Model::make(&session, &device)?;
        model.weights = sum(&start, &changes)?.into_iter().map(|(k, v)| (k, Tensor::from_data(v, &device))).collect();
        model.bag.load(&bag.into_iter().filter(|(key, _)| key.starts_with("head/")).collect(), &device)?;
        words.sort(); // the order of the runs makes no difference, here neither
        Ok(Composition { session, model, words: words.join(" + ") })
    }

    /// Writes it as the export `merged` does, reads it back, compares, and only then moves it into place.
    ///
    /// # Errors
    /// When a file cannot be written or read back, or gives other logits.
    pub fn write(&self, into: &Path) -> Result<Done> {
        exports::staged(into, |stage| {
            let weights = self.model.weights.data();
            merged::write_folder(&self.session, &self.model.plan, &weights, &self.model.bag.data(), &self.words, stage)?;
            exports::verify(&merged::CARD, &self.session, &self.model, stage)
        })
    }

    /// Accuracy on the test set of the run that gave the head.
    ///
    /// # Errors
    /// When the data cannot be read.
    pub fn accuracy(&self) -> Result<Option<f64>> {
        if self.model.plan.has_no_samples() {
            return Ok(None);
        }
        let test = model::data(&self.session)?.test;
        let all: Vec<usize> = (0..test.len()).collect();
        let logits = self.model.answers(&self.model.bag, &test, &all)?;
        let rivals = classify::rivals(&logits, &self.model.plan.tasks, &test.tasks);
        Ok(Some(classify::right(&rivals, &test.labels) as f64 / test.len() as f64))
    }
}

/// What the stack of `model` makes of the weights `start` that it stands on.
///
/// # Errors
/// When a matrix cannot be read back.
pub fn change(model: &Model, start: &Named) -> Result<Change> {
    let mut change = Change::new();
    for (name, after) in merged::folded(model)? {
        let before = start.get(&name).with_context(|| format!("the backbone lacks `{name}`"))?;
        let (after, before) = (tensors::values(&name, &after)?, tensors::values(&name, before)?);
        change.insert(name, after.iter().zip(&before).map(|(a, b)| f64::from(*a) - f64::from(*b)).collect());
    }
    Ok(change)
}

/// `start` with every change times its factor added. The order of the changes makes no difference, to the last bit.
///
/// # Errors
/// When a change is of another backbone.
pub fn sum(start: &Named, changes: &[(Change, f64)]) -> Result<Named> {
    let mut out = Named::new();
    for (name, data) in start {
        let values = tensors::values(name, data)?;
        let mut of_it = Vec::new();
        for (change, factor) in changes {
            let found = change.get(name).filter(|found| found.len() == values.len());
            of_it.push((found.with_context(|| format!("a change has nothing that fits `{name}`"))?, *factor));
        }
        let mut terms = Vec::with_capacity(of_it.len());
        let mut add = |(n, value): (usize, &f32)| {
            terms.clear();
            terms.extend(of_it.iter().map(|(found, factor)| found[n] * factor));
            terms.sort_by(f64::total_cmp); // floating-point sums depend on their order
            (f64::from(*value) + terms.iter().sum::<f64>()) as f32
        };
        let sums: Vec<f32> = values.iter().enumerate().map(&mut add).collect();
        out.insert(name.clone(), TensorData::new(sums, data.shape().to_vec()));
    }
    Ok(out)
}

fn alike(a: &Named, b: &Named) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|((n, x), (m, y))| n == m && x.shape() == y.shape())
}

fn same(a: &Named, b: &Named) -> bool {
    a.iter().zip(b).all(|((_, x), (_, y))| x.as_bytes() == y.as_bytes())
}
