//! A planned session on a device: frozen weights, trainable bag, data. Training, evaluation, export and prediction all
//! forward through here. Called by the run and the exports.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use burn::tensor::{Device, Tensor};

use super::ahead::ahead;
use super::bag::{Bag, Weights};
use super::batch::{self, Maker, Part, Rows};
use super::shards;
use super::tuner::Tuner;
use crate::backbones::{self, Backbone, Input, Opened, Text};
use crate::datasets::{self, Loaded, Samples, Wanted};
use crate::plan::anatomy::Entry;
use crate::plan::{Plan, cost};
use crate::session::Session;
use crate::tasks::{Aim, classify, contrast};

pub struct Model {
    pub plan: Plan,
    pub backbone: Arc<dyn Backbone>,
    pub weights: Weights,
    pub bag: Bag,
    /// The plain device.
    pub device: Device,
    /// A text about each class, where the head reads such.
    pub names: Option<Text>,
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
        let names = names(&plan, &opened, device)?;
        Ok(Model { plan, backbone: opened.network, weights, bag, device: device.clone(), names })
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
        self.logits_of(Rows::default(), bag, input, noise)
    }

    /// The same of known samples: each goes through what its task has of its own, and a part of a batch gives what it gives in
    /// the whole one, dropout included.
    pub fn logits_of(&self, rows: Rows, bag: &Bag, input: impl Into<Input>, noise: Option<u64>) -> Tensor<2> {
        self.judged(bag, self.classes(bag, noise).as_ref(), self.pooled_of(rows, bag, input, noise))
    }

    /// What the texts about the classes are embedded as, `[classes, width]`; none where the head reads no texts.
    pub fn classes(&self, bag: &Bag, noise: Option<u64>) -> Option<Tensor<2>> {
        // Each class's text is of the class's own task.
        let lanes = self.plan.tasks.iter().enumerate().flat_map(|(n, task)| std::iter::repeat_n(n as u16, task.classes));
        let tasks: Vec<u16> = lanes.collect();
        let rows = Rows { tasks: &tasks, ..Rows::default() };
        self.names.clone().map(|names| self.pooled_of(rows, bag, Input::Text(names), noise))
    }

    /// Whether what `classes` gives is the same whatever trains.
    pub fn classes_are_still(&self) -> bool {
        let of_text = |site: &String| self.plan.anatomy.reading().is_some_and(|tower| tower.site(site).is_some());
        !self.plan.members.iter().flat_map(|m| &m.sites).any(of_text)
    }

    /// Logits of pooled features `[batch, width]`: their likeness to `texts` `[texts, width]` where there are such, otherwise what the head of
    /// `bag` makes of them.
    pub fn judged(&self, bag: &Bag, texts: Option<&Tensor<2>>, pooled: Tensor<2>) -> Tensor<2> {
        let Some(texts) = texts else { return classify::logits(&self.plan.aim, bag, pooled) };
        let scale = self.backbone.scale(&mut Tuner::new(&self.plan, &self.weights, bag, None));
        let scale = scale.unwrap_or_else(|| Tensor::ones([1, 1], &self.device));
        contrast::likeness(pooled, texts.clone(), scale)
    }

    /// Logits of a part of a batch, `[batch, classes]` or `[batch, captions]`. `classes` is what `classes` gives, where that is known.
    ///
    /// # Errors
    /// When nothing of it was made.
    pub fn answered(
        &self,
        bag: &Bag,
        samples: &Samples,
        part: Part,
        noise: Option<u64>,
        classes: Option<&Tensor<2>>,
    ) -> Result<Tensor<2>> {
        let some = &part.samples;
        let rows = Rows { samples: some, tasks: &samples.tasks_of(some), quality: &samples.quality_of(some) };
        let texts = match (part.captions, classes) {
            (Some(captions), _) => Some(self.pooled(bag, captions.on(&self.device)?, noise)),
            (None, Some(classes)) => Some(classes.clone()),
            (None, None) => self.classes(bag, noise),
        };
        Ok(self.judged(bag, texts.as_ref(), self.pooled_of(rows, bag, part.input.on(&self.device)?, noise)))
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
        self.on_each_as(self.plan.anatomy.entry, samples, picked, work)
    }

    /// The same of what enters so.
    fn on_each_as<R: Send>(
        &self,
        entry: Entry,
        samples: &Samples,
        picked: &[usize],
        work: impl Fn(Part) -> Result<R> + Sync,
    ) -> Result<Vec<R>> {
        let maker = Maker { entry, augment: None, parts: shards::count(&self.device), idle: false, captions: None };
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

    /// Logits of the samples `picked`, in host memory row by row; dropout off, no graph. Where images are matched with captions, those are
    /// their likenesses to all captions of `samples`.
    pub fn answers(&self, bag: &Bag, samples: &Samples, picked: &[usize]) -> Result<Vec<f32>> {
        let bag = bag.frozen();
        let texts = match self.plan.captions() {
            None => self.classes(&bag, None),
            Some(entry) => {
                let all: Vec<usize> = (0..samples.len()).collect();
                let (captions, _) = samples.captions_of(&all);
                let embed = |part: Part| Ok(self.pooled(&bag, part.input.on(&self.device)?, None));
                Some(Tensor::cat(self.on_each_as(entry, samples, &captions, embed)?, 0))
            }
        };
        let answers = self.on_each(samples, picked, |part| host(self.answered(&bag, samples, part, None, texts.as_ref())?))?;
        Ok(answers.concat())
    }
}

/// The texts about the classes of a plan whose head reads such, on a device.
fn names(plan: &Plan, opened: &Opened, device: &Device) -> Result<Option<Text>> {
    let (Aim::ZeroShot(template), Some(Entry::Text { padding, .. })) =
        (&plan.aim, plan.anatomy.reading().map(|tower| tower.entry))
    else {
        return Ok(None);
    };
    let mut samples = Samples::default();
    for class in &plan.classes {
        samples.push_text(datasets::Text { first: template.replace(classify::NAME, class), second: None }, 0, 0);
    }
    (opened.prepare)(&mut samples)?;
    let all: Vec<usize> = (0..samples.len()).collect();
    match batch::texts(padding, &samples, &all).on(device)? {
        Input::Text(names) => Ok(Some(names)),
        _ => Ok(None),
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
