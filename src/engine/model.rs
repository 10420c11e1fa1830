//! A planned session on a device: frozen weights, trainable bag, data. Training, evaluation, export and prediction all
//! forward through here. Called by the run and the exports.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use burn::tensor::{Device, Tensor};

use super::ahead::ahead;
use super::bag::{Bag, Weights};
use super::batch::{Maker, Part, Rows};
use super::shards;
use super::tuner::Tuner;
use crate::backbones::{self, Backbone, Input};
use crate::datasets::{self, Loaded, Samples, Wanted};
use crate::plan::{Plan, cost};
use crate::session::Session;
use crate::tasks::classify;

pub struct Model {
    pub plan: Plan,
    pub backbone: Arc<dyn Backbone>,
    pub weights: Weights,
    pub bag: Bag,
    /// The plain device.
    pub device: Device,
}

impl Model {
    /// Plans, loads and initialises.
    ///
    /// # Errors
    /// When the plan is blocked or the backbone's weights cannot be read.
    pub fn make(session: &Session, device: &Device) -> Result<Model> {
        let plan = Plan::of(session);
        if let Some(problem) = plan.broken() {
            bail!("{}: {}", problem.place, problem.words);
        }
        let opened = backbones::open(&session.backbone).map_err(anyhow::Error::msg)?;
        let weights = (opened.weights)(session.seed, device)?;
        let bag = Bag::make(&plan, &weights, session.seed, device)?;
        Ok(Model { plan, backbone: opened.network, weights, bag, device: device.clone() })
    }

    /// Features `[batch, positions, width]` of `input` with the parameters of `bag`; `noise` is the seed of dropout while
    /// training.
    pub fn features(&self, bag: &Bag, input: impl Into<Input>, noise: Option<u64>) -> Tensor<3> {
        let mut tuner = Tuner::new(&self.plan, &self.weights, bag, noise);
        let input = input.into();
        tuner.look(&input);
        self.backbone.forward(&mut tuner, input)
    }

    /// What the head reads of them, `[batch, width]`.
    pub fn pooled(&self, bag: &Bag, input: impl Into<Input>, noise: Option<u64>) -> Tensor<2> {
        self.pooled_of(Rows::default(), bag, input, noise)
    }

    /// The same with what is known of the samples in it.
    pub fn pooled_of(&self, rows: Rows, bag: &Bag, input: impl Into<Input>, noise: Option<u64>) -> Tensor<2> {
        let mut tuner = Tuner::new(&self.plan, &self.weights, bag, noise).on(rows);
        let input = input.into();
        tuner.look(&input);
        let features = self.backbone.forward(&mut tuner, input);
        self.backbone.pool(&mut tuner, features)
    }

    /// Logits `[batch, classes]` of `input` with the parameters of `bag`.
    pub fn logits(&self, bag: &Bag, input: impl Into<Input>, noise: Option<u64>) -> Tensor<2> {
        classify::logits(self.plan.margin, bag, self.pooled(bag, input, noise))
    }

    /// The same of known samples: each goes through what its task has of its own, and a part of a batch gives what it gives in
    /// the whole one, dropout included.
    pub fn logits_of(&self, rows: Rows, bag: &Bag, input: impl Into<Input>, noise: Option<u64>) -> Tensor<2> {
        classify::logits(self.plan.margin, bag, self.pooled_of(rows, bag, input, noise))
    }

    /// What the methods of the stack add to the loss `[1]`, if any of them adds something.
    pub fn penalty(&self, bag: &Bag) -> Option<Tensor<1>> {
        Tuner::new(&self.plan, &self.weights, bag, None).penalty()
    }

    /// Runs `work` on the samples `picked`, as they are, in parts of batches that are made while the network works on those before, and
    /// gives what it makes of them in order.
    ///
    /// # Errors
    /// When an image cannot be read any more, and with what `work` gives.
    pub fn on_each<R: Send>(
        &self,
        samples: &Samples,
        picked: &[usize],
        work: impl Fn(Part) -> Result<R> + Sync,
    ) -> Result<Vec<R>> {
        let maker = Maker { entry: self.plan.anatomy.entry, augment: None, parts: shards::count(&self.device), idle: false };
        let jobs = picked.chunks(cost::evaluated_at_once(&self.plan.anatomy));
        ahead(
            "a batch of samples",
            jobs,
            |some| maker.parts(samples, some, 0),
            |made| {
                let mut all = Vec::new();
                while let Some(parts) = made.next()? {
                    all.extend(shards::all(parts, &work).into_iter().collect::<Result<Vec<_>>>()?);
                }
                Ok(all)
            },
        )
    }

    /// Logits of the samples `picked`, in host memory row by row; dropout off, no graph.
    pub fn answers(&self, bag: &Bag, samples: &Samples, picked: &[usize]) -> Result<Vec<f32>> {
        let bag = bag.frozen();
        let answers = self.on_each(samples, picked, |Part { samples: some, input }| {
            let rows = Rows { samples: &some, tasks: &samples.tasks_of(&some), quality: &samples.quality_of(&some) };
            host(self.logits_of(rows, &bag, input.on(&self.device)?, None))
        })?;
        Ok(answers.concat())
    }
}

/// The values of a tensor, read back.
pub fn host<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>> {
    let data = tensor.inner().into_data();
    data.try_to_vec::<f32>().map_err(|e| anyhow::anyhow!("a tensor could not be read back as f32: {e:?}"))
}

/// The session's data, as its backbone takes it.
pub fn data(session: &Session) -> Result<Loaded> {
    let card = datasets::find(&session.data.name).with_context(|| format!("unknown data set `{}`", session.data.name))?;
    let opened = backbones::open(&session.backbone).map_err(anyhow::Error::msg)?;
    let anatomy = opened.network.anatomy();
    let wanted = Wanted { heard: anatomy.heard(), ..Wanted::all(anatomy.side()) };
    let mut loaded = (card.load)(&session.data.settings.filled(card.fields), session.seed, &wanted)?;
    for samples in [&mut loaded.train, &mut loaded.test] {
        (opened.prepare)(samples)?;
    }
    if loaded.train.is_empty() || loaded.test.is_empty() {
        bail!(
            "data set `{}` gives {} training and {} test samples; both are needed",
            card.name,
            loaded.train.len(),
            loaded.test.len()
        );
    }
    Ok(loaded)
}
