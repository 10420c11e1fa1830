//! One run: the training loop, straight down. Every fact leaves as an event; every file of the run's folder is written
//! here. Called by the worker.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Context, Result, bail};
use burn::tensor::{Int, Tensor, TensorData};

use super::ahead::ahead;
use super::bag::Bag;
use super::batch::{Maker, Part};
use super::clock::{Clock, Speed};
use super::measure::{Memory, Phase};
use super::model::{self, Model, host};
use super::optimise::{Optimiser, learning_rate};
use super::watch::{self, Watch};
use super::{Evaluated, Event, Finished, Started, Step, batch, calibrate, devices, measure, random, shards};
use crate::backbones;
use crate::datasets::{Loaded, Samples};
use crate::exports;
use crate::methods::Moment;
use crate::plan::anatomy::Entry;
use crate::session::{Session, file};
use crate::tasks::Aim;
use crate::tasks::classify::{self, Rivals};
use crate::tasks::contrast;

/// What a run needs of its surroundings.
pub struct Surroundings<'a> {
    pub run: &'a str,
    pub folder: &'a Path,
    /// Fails when the event cannot be kept in the run's log; the run ends with that.
    pub send: &'a dyn Fn(Event) -> Result<()>,
    /// Asked between two steps: go on, or stop and keep. Waits while the run is paused.
    pub ask: &'a dyn Fn() -> Result<ControlFlow<()>>,
}

/// Trains `session`; keeps session, adapter and summary in the folder.
///
/// # Errors
/// When something cannot be read or written, and when the loss is no longer a number.
pub fn train(session: &Session, around: &Surroundings) -> Result<()> {
    let before = measure::in_use();
    let mut session = session.clone();
    backbones::settle(&mut session.backbone);
    backbones::settle(&mut session.data);
    let session = &session;
    let (device, device_name) = devices::open(&session.device)?;
    std::fs::create_dir_all(around.folder)
        .with_context(|| format!("cannot make the run's folder {}. May you write there?", around.folder.display()))?;
    file::save(session, &around.folder.join("session.petl.toml"))?;
    // The weights before the data: sizes that no file holds are found out before anything is made as large as they say.
    let mut model = Model::make(session, &device)?;
    let data = model::data(session)?;
    let mut trainer = Trainer::new(session, &model, &data)?;
    let plan = &model.plan;
    (around.send)(Event::Started(Started {
        run: around.run.to_owned(),
        title: session.title.clone(),
        stack: plan.words(),
        device: device_name,
        steps: trainer.steps,
        trainable: plan.trainable(),
        head: plan.head_count(),
        predicted_bytes: plan.cost.bytes.total(),
        predicted_activations: plan.cost.bytes.activations,
        notes: data.notes.clone(),
    }))?;

    let memory = Memory::start(before, &device);
    let mut clock = Clock::default();
    let mut stopped = false;
    if calibrate::wanted(&model.plan) {
        match calibrate::measure(session, &model, &data, &memory, &preparing(around))? {
            Some(measured) => model.bag = Bag::make_with(&model.plan, &model.weights, &measured, session.seed, &device)?,
            None => stopped = true, // what is kept then has not been trained
        }
    }
    let mut last = Evaluated::default();
    let batches = |epoch| batch::epoch(data.train.len(), session.recipe.batch_size, session.seed, epoch);
    let jobs = (0..).flat_map(|epoch| batches(epoch).into_iter().map(move |picked| (epoch, picked)));
    let jobs = jobs.take(if stopped { 0 } else { trainer.steps });
    let maker = trainer.maker(&model, shards::count(&model.device));
    let make = |(epoch, picked): (usize, Vec<usize>)| maker.parts(&data.train, &picked, epoch);
    ahead("a batch of training samples", jobs, make, |made| {
        // Where nothing trains, the network is tested as it is.
        let epochs = if trainer.steps == 0 { 1 } else { session.recipe.epochs };
        for epoch in 0..epochs {
            for picked in if trainer.steps == 0 { vec![] } else { batches(epoch) } {
                if stopped || clock.wait(|| (around.ask)())?.is_break() {
                    stopped = true;
                    break;
                }
                let parts = clock.load(|| made.next())?.context("the batches ended before the epochs")?;
                let step = || memory.during(Phase::Training, || trainer.step(&mut model, &data.train, parts, &memory));
                let report = clock.step(picked.len(), step)?;
                if trainer.done == 1 {
                    made.still(|| trainer.measure(&model, &data.train, &picked, epoch, &memory))?;
                }
                if let Some(mut step) = report {
                    step.run = around.run.to_owned();
                    step.epoch = epoch + 1;
                    Speed { step_ms: step.step_ms, wait_ms: step.wait_ms, samples_per_second: step.samples_per_second } =
                        clock.lap();
                    step.seconds_left = clock.left(trainer.steps - trainer.done, session.recipe.epochs - epoch, data.test.len());
                    step.bytes = memory.now();
                    step.peak_bytes = memory.training_peak();
                    step.activation_bytes = trainer.activation_bytes;
                    (around.send)(Event::Step(step))?;
                }
            }
            let test = || memory.during(Phase::Evaluation, || trainer.evaluate(&model, &data, epoch + 1));
            last = clock.evaluate(test)?;
            last.run = around.run.to_owned();
            last.peak_bytes = memory.evaluation_peak();
            (around.send)(Event::Evaluated(last.clone()))?;
            if stopped {
                break;
            }
        }
        Ok(())
    })?;

    watch::values(&model.bag, &model.plan, &session.recipe, trainer.done)?;
    exports::own::write(session, &model, around.folder)?;
    (around.send)(Event::Saved { run: around.run.to_owned(), path: around.folder.join("adapter.safetensors") })?;
    let Speed { step_ms, wait_ms, samples_per_second } = clock.speed();
    let finished = Finished {
        run: around.run.to_owned(),
        stopped,
        steps: trainer.done,
        accuracy: last.accuracy,
        loss: last.loss,
        domains: last.domains,
        tasks: last.tasks,
        seconds: clock.seconds(),
        step_ms,
        samples_per_second,
        wait_ms,
        peak_bytes: memory.training_peak(),
        evaluation_peak_bytes: memory.evaluation_peak(),
        activation_bytes: trainer.activation_bytes,
        predictions: trainer.predictions,
        imported: None,
    };
    let summary = serde_json::to_vec_pretty(&finished).context("cannot write the summary as JSON")?;
    let path = around.folder.join("summary.json");
    file::write_whole(&path, &summary)?;
    // No summary of a run whose log could not say that it finished.
    (around.send)(Event::Finished(finished)).inspect_err(|_| drop(std::fs::remove_file(&path)))
}

/// Says what the run prepares, each words once, and asks whether to go on.
fn preparing(around: &Surroundings) -> impl Fn(String) -> Result<ControlFlow<()>> {
    let said = RefCell::new(String::new());
    move |words| {
        if *said.borrow() != words {
            (around.send)(Event::Preparing { run: around.run.to_owned(), words: words.clone() })?;
            said.replace(words);
        }
        (around.ask)()
    }
}

/// What a batch gives: loss `[1]`, logits of its parts in order, gradients by key; all plain.
pub struct Gathered {
    pub loss: Tensor<1>,
    pub answers: Vec<Tensor<2>>,
    pub gradients: BTreeMap<String, Tensor<2>>,
}

/// The state between two steps.
pub struct Trainer {
    recipe: crate::session::Recipe,
    seed: u64,
    optimiser: Optimiser,
    watch: Watch,
    pub steps: usize,
    pub done: usize,
    pub activation_bytes: usize,
    pub predictions: Vec<u32>,
    /// Pooled features of training and test samples `[samples, width]`, where the trunk never changes: a linear probe
    /// without augmentation runs the backbone once.
    probe: Option<(Tensor<2>, Tensor<2>)>,
    /// What the texts about the classes are embedded as, `[classes, width]`, where nothing that trains changes that.
    classes: Option<Tensor<2>>,
}

impl Trainer {
    pub fn new(session: &Session, model: &Model, data: &Loaded) -> Result<Trainer> {
        let optimiser = Optimiser::new(&session.recipe, model.plan.rates());
        let batches = data.train.len().div_ceil(session.recipe.batch_size);
        let trains = model.plan.trainable() + model.plan.head_count() > 0;
        let still = model.plan.members.is_empty() && trains && !session.recipe.flip && session.recipe.crop == 0;
        let classes = if model.classes_are_still() { model.classes(&Bag::default(), None) } else { None };
        let probe = match still {
            true => Some((features(model, &data.train)?, features(model, &data.test)?)),
            false => None,
        };
        Ok(Trainer {
            recipe: session.recipe.clone(),
            seed: session.seed,
            optimiser,
            watch: Watch::default(),
            steps: if trains { batches * session.recipe.epochs } else { 0 },
            done: 0,
            activation_bytes: 0,
            predictions: vec![],
            probe,
            classes,
        })
    }

    /// How the batches of `model` are made, each in so many parts.
    pub fn maker(&self, model: &Model, parts: usize) -> Maker {
        let augment = Some((self.recipe.clone(), self.seed));
        let captions = match model.plan.captions() {
            Some(Entry::Text { padding, .. }) => Some(padding),
            _ => None,
        };
        // All images of a batch compete for its captions, so that it is worked on as a whole.
        let parts = if captions.is_some() { 1 } else { parts };
        Maker { entry: model.plan.anatomy.entry, augment, parts, idle: self.probe.is_some(), captions }
    }

    /// Logits `[batch, classes]` of a part of the step to come.
    fn answers(&self, model: &Model, bag: &Bag, train: &Samples, part: Part) -> Result<Tensor<2>> {
        if let Some((features, _)) = &self.probe {
            let rows: Vec<i64> = part.samples.iter().map(|n| *n as i64).collect();
            let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, [part.samples.len()]), &model.device);
            return Ok(model.judged(bag, self.classes.as_ref(), features.clone().select(0, rows)));
        }
        let noise = random::stream(self.seed, &format!("step {}", self.done));
        model.answered(bag, train, part, Some(noise), self.classes.as_ref())
    }

    /// Their loss `[1]`, what the methods add to it included, and their logits.
    fn loss(&self, model: &Model, bag: &Bag, train: &Samples, part: Part) -> Result<(Tensor<1>, Tensor<2>)> {
        let (tasks, labels) = (train.tasks_of(&part.samples), part.labels.clone());
        let logits = self.answers(model, bag, train, part)?;
        let answers = logits.clone().inner();
        let loss = if model.plan.aim == Aim::Contrast {
            contrast::loss(logits, &labels, self.recipe.label_smoothing)
        } else {
            let labels = batch::numbers(&labels, &model.device);
            let own = classify::own(&model.plan.tasks, &tasks, &logits);
            let logits = model.plan.aim.margin().map_or(logits.clone(), |margin| margin.held_back(logits, &labels));
            classify::loss_among(own, logits, labels, self.recipe.label_smoothing)
        };
        Ok(match model.penalty(bag) {
            Some(more) => (loss + more, answers),
            None => (loss, answers),
        })
    }

    /// Loss, logits and gradients of a batch, its parts worked out side by side.
    ///
    /// # Errors
    /// When the batch is of another maker, or empty.
    pub fn gradients(&self, model: &Model, train: &Samples, parts: Vec<Part>, memory: &Memory) -> Result<Gathered> {
        let count: usize = parts.iter().map(|part| part.samples.len()).sum();
        let part = |part: Part| -> Result<Gathered> {
            let (bag, share) = (model.bag.leaves(), part.samples.len() as f64 / count as f64);
            let (loss, answers) = self.loss(model, &bag, train, part)?;
            let loss = loss * share;
            memory.now(); // a GPU keeps no peak of its own, and what the backward pass needs is all there now
            Ok(Gathered { loss: loss.clone().inner(), answers: vec![answers], gradients: bag.gradients(loss.backward()) })
        };
        let sum = |mut all: Gathered, more: Gathered| {
            for (key, gradient) in more.gradients {
                let sum = match all.gradients.remove(&key) {
                    Some(first) => first + gradient,
                    None => gradient,
                };
                all.gradients.insert(key, sum);
            }
            all.answers.extend(more.answers);
            Gathered { loss: all.loss + more.loss, ..all }
        };
        let gathered = shards::all(parts, part).into_iter().collect::<Result<Vec<_>>>()?;
        gathered.into_iter().reduce(sum).context("a batch without samples")
    }

    /// Measures what the forward pass over the batch `picked`, not cut, holds for the backward pass. After the first step,
    /// when nothing is set up any more; no step is part of it.
    fn measure(&mut self, model: &Model, train: &Samples, picked: &[usize], epoch: usize, memory: &Memory) -> Result<()> {
        self.activation_bytes = memory.during(Phase::Aside, || {
            let bag = model.bag.leaves();
            let held = measure::on_device(&model.device);
            let whole =
                self.maker(model, 1).parts(train, picked, epoch)?.into_iter().next().context("a batch without samples")?;
            let (loss, _) = self.loss(model, &bag, train, whole)?;
            let kept = measure::on_device(&model.device).saturating_sub(held);
            drop(loss.backward()); // a graph that never runs backward is kept by Burn for long
            anyhow::Ok(kept)
        })?;
        Ok(())
    }

    /// One step on a batch that `maker` made. Reads values back, and reports, every `report_every` steps only.
    ///
    /// # Errors
    /// When a number of the steps before is none.
    pub fn step(&mut self, model: &mut Model, train: &Samples, parts: Vec<Part>, memory: &Memory) -> Result<Option<Step>> {
        let picked: Vec<usize> = parts.iter().flat_map(|part| part.samples.iter().copied()).collect();
        let labels: Vec<u32> = parts.iter().flat_map(|part| part.labels.iter().copied()).collect();
        let reports = self.done.is_multiple_of(self.recipe.report_every) || self.done + 1 == self.steps;
        let rate = learning_rate(&self.recipe, self.done, self.steps);
        let Gathered { loss, answers, gradients } = self.gradients(model, train, parts, memory)?;
        memory.now();
        let acting = || model.plan.members.iter().filter(|m| m.card.method.acts_between());
        let kept = if acting().next().is_some() { gradients.clone() } else { BTreeMap::new() };
        let squares = self.optimiser.step(&mut model.bag, gradients, rate);
        self.done += 1;
        let moment = Moment { done: self.done, steps: self.steps };
        for member in acting() {
            member.card.method.between(moment, member, &kept, &mut model.bag);
        }
        self.watch.keep(self.done, loss, squares);
        if !reports {
            return Ok(None);
        }

        let Some(seen) = self.watch.read(&model.plan, &self.recipe, self.steps)? else { return Ok(None) };
        let answers = host(Tensor::cat(answers, 0))?;
        let right = classify::right(&classify::rivals(&answers, &model.plan.tasks, &train.tasks_of(&picked)), &labels);
        Ok(Some(Step {
            step: self.done,
            loss: seen.loss,
            accuracy: right as f64 / labels.len() as f64,
            learning_rate: rate,
            gradient_norm: seen.norm,
            gradients: seen.gradients.clone(),
            ..Step::default()
        }))
    }

    /// Accuracy and loss on the test set, and its predictions kept.
    ///
    /// # Errors
    /// When a number of the steps before, or of the answers, is none.
    pub fn evaluate(&mut self, model: &Model, data: &Loaded, epoch: usize) -> Result<Evaluated> {
        self.watch.read(&model.plan, &self.recipe, self.steps)?;
        let test = &data.test;
        let all: Vec<usize> = (0..test.len()).collect();
        let logits = match &self.probe {
            Some((_, features)) => host(model.judged(&model.bag.frozen(), self.classes.as_ref(), features.clone()))?,
            None => model.answers(&model.bag, test, &all)?,
        };
        let classes = logits.len() / test.len();
        if let Some(at) = logits.iter().position(|v| !v.is_finite()) {
            bail!(
                "the answer to test sample {} is no number after step {}. {}",
                at / classes,
                self.done,
                watch::remedies(&model.plan, &self.recipe)
            );
        }
        let rivals = classify::rivals(&logits, &model.plan.tasks, &test.tasks);
        self.predictions = rivals.iter().map(Rivals::label).collect();
        let loss = rivals.iter().zip(&test.labels).map(|(row, label)| row.cross_entropy(*label)).sum::<f64>();
        let right = |n: &usize| self.predictions[*n] == test.labels[*n];
        let by = |names: Vec<&str>, of: &[u16]| {
            let mut found = BTreeMap::new();
            for (index, name) in names.iter().enumerate() {
                let of_it: Vec<usize> = all.iter().copied().filter(|n| usize::from(of[*n]) == index).collect();
                if !of_it.is_empty() && names.len() > 1 {
                    let hits = of_it.iter().filter(|n| right(n)).count();
                    found.insert((*name).to_owned(), hits as f64 / of_it.len() as f64);
                }
            }
            found
        };
        let domains = by(model.plan.domains.iter().map(String::as_str).collect(), &test.domains);
        let mut tasks = by(model.plan.tasks.iter().map(|task| task.name).collect(), &test.tasks);
        let accuracy = all.iter().filter(|n| right(n)).count() as f64 / test.len() as f64;
        if model.plan.aim == Aim::Contrast {
            let back = contrast::found(&logits, &test.labels) as f64 / classes as f64;
            tasks = contrast::WAYS.map(str::to_owned).into_iter().zip([accuracy, back]).collect();
        }
        Ok(Evaluated { step: self.done, epoch, accuracy, loss: loss / test.len() as f64, domains, tasks, ..Evaluated::default() })
    }
}

/// Pooled features of all samples, `[samples, width]`, plain.
fn features(model: &Model, samples: &Samples) -> Result<Tensor<2>> {
    let all: Vec<usize> = (0..samples.len()).collect();
    let none = Bag::default();
    let rows = model.on_each(samples, &all, |part| Ok(model.pooled(&none, part.input.on(&model.device)?, None)))?;
    Ok(Tensor::cat(rows, 0))
}
