//! Calibration: what methods ask for before they start (`Method::measures`), measured on training samples of the session. The
//! frozen backbone is measured alone; other methods of the stack have no part in it. Called by the run before it trains, never
//! when an adapter is loaded: its file holds the constants that came of it.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use anyhow::{Context, Result, bail};
use burn::tensor::{Device, Tensor, TensorData, activation};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::ahead::ahead;
use super::bag::{self, Bag, Measured};
use super::batch::Rows;
use super::measure::Memory;
use super::model::{Model, host};
use super::run::Trainer;
use super::tuner::Tuner;
use super::{batch, random, shards};
use crate::datasets::{Loaded, Samples};
use crate::methods::{Measure, full};
use crate::plan::{Member, Plan};
use crate::session::{Place, Placed, Session};

/// Training samples on which norms and gradients are measured.
pub const SAMPLES: usize = 64;
const AT_ONCE: usize = 32;
/// Temperature of the contrastive loss, as in GPS' released code.
const TAU: f64 = 0.07;

/// Gets words of progress before every batch, and answers whether to go on.
pub type Tell<'a> = &'a dyn Fn(String) -> Result<ControlFlow<()>>;

/// What was measured at one member's sites; none when told to stop.
type Found = Option<BTreeMap<String, Vec<f32>>>;

/// Whether some method of the stack asks for a measurement.
pub fn wanted(plan: &Plan) -> bool {
    plan.members.iter().any(|m| m.card.method.measures(&m.settings).is_some())
}

/// Measures all that the stack of `model` asks for; none when told to stop.
///
/// # Errors
/// When full fine-tuning fails, or when a value cannot be measured on these samples.
pub fn measure(session: &Session, model: &Model, data: &Loaded, memory: &Memory, tell: Tell) -> Result<Option<Measured>> {
    let mut all = Measured::new();
    for member in &model.plan.members {
        let found = match member.card.method.measures(&member.settings) {
            None => continue,
            Some(Measure::OutputNorms) => norms(session, model, member, &data.train, tell)?,
            Some(Measure::Gradients) => gradients(session, model, member, &data.train, tell)?,
            Some(Measure::Changes { steps }) => changes(session, model, member, data, steps, memory, tell)?,
        };
        let Some(found) = found else { return Ok(None) };
        all.extend(found.into_iter().map(|(site, values)| ((member.index, site), values)));
    }
    Ok(Some(all))
}

/// Up to `SAMPLES` training samples in the order of the seed, two of each class in turn, so that every batch holds pairs.
fn pick(labels: &[u32], seed: u64) -> Vec<usize> {
    let mut rng = ChaCha8Rng::seed_from_u64(random::stream(seed, "calibrate"));
    let mut classes: Vec<(u32, Vec<usize>)> = Vec::new();
    for n in random::shuffled(&mut rng, labels.len()) {
        match classes.iter_mut().find(|(label, _)| *label == labels[n]) {
            Some((_, of_it)) => of_it.push(n),
            None => classes.push((labels[n], vec![n])),
        }
    }
    let rounds = classes.iter().map(|(_, of_it)| of_it.len().div_ceil(2)).max().unwrap_or(0);
    let pairs = (0..rounds).flat_map(|round| classes.iter().flat_map(move |(_, of_it)| of_it.chunks(2).nth(round)));
    pairs.flatten().copied().take(SAMPLES).collect()
}

/// The backbone of `model` with the sites `trained` under full fine-tuning, and nothing else on the stack.
fn alone(session: &Session, model: &Model, trained: &[String], learning_rate_factor: f64) -> Result<Model> {
    let place = Place { sites: trained.to_vec(), ..Place::roles(&[]) };
    let name = full::CARD.name.to_owned();
    let full = Placed { name, place, settings: Default::default(), learning_rate_factor, resolved: vec![] };
    let methods = if trained.is_empty() { vec![] } else { vec![full] };
    let session = Session { methods, ..session.clone() };
    let classes = model.plan.head.last().map_or(0, |last| last.cols);
    let mut problems = Vec::new();
    let plan = Plan::on(&session, model.plan.anatomy.clone(), classes, &mut problems);
    if let Some(problem) = problems.first() {
        bail!("what the stack asks for cannot be measured: {}", problem.words);
    }
    let bag = Bag::make(&plan, &model.weights, session.seed, &model.device)?;
    Ok(Model {
        plan,
        backbone: model.backbone.clone(),
        weights: model.weights.clone(),
        bag,
        device: model.device.clone(),
        names: model.names.clone(),
    })
}

/// Mean over the classes of the L2 norm of every channel that leaves a site. Class by class, as SCT has it, so that no class
/// speaks louder than the others.
fn norms(session: &Session, model: &Model, member: &Member, train: &Samples, tell: Tell) -> Result<Found> {
    let model = alone(session, model, &[], 1.0)?;
    let picked = pick(&train.labels, session.seed);
    let mut squares: BTreeMap<(String, u32), Vec<f64>> = BTreeMap::new();
    for (n, some) in picked.chunks(AT_ONCE).enumerate() {
        let words = format!("measuring channels for {}: {} of {} samples", member.card.title, n * AT_ONCE, picked.len());
        if tell(words)?.is_break() {
            return Ok(None);
        }
        let (input, _) = batch::tensors(&model.plan.anatomy.entry, train, some, None, &model.device)?;
        let nothing = Bag::default();
        let rows = Rows { samples: some, tasks: &train.tasks_of(some), quality: &train.quality_of(some) };
        let mut tuner = Tuner::new(&model.plan, &model.weights, &nothing, None).on(rows);
        tuner.watched = member.sites.iter().map(|site| (site.clone(), None)).collect();
        tuner.look(&input);
        let seen = tuner.seen(); // [batch, positions]
        model.backbone.forward(&mut tuner, input);
        for (site, y) in std::mem::take(&mut tuner.watched) {
            let y = y.with_context(|| format!("the forward pass does not come by `{site}`"))?; // [batch, positions, channels]
            let [_, positions, channels] = y.dims();
            let y = match &seen {
                Some(seen) => y * seen.clone().unsqueeze_dim::<3>(2),
                None => y,
            };
            let class_token = positions > 1 && model.plan.anatomy.stages.is_empty();
            let patches = if class_token { y.narrow(1, 1, positions - 1) } else { y };
            let energy = host(patches.square().sum_dim(1))?; // [batch, 1, channels]
            for (sample, row) in some.iter().zip(energy.chunks(channels)) {
                let sum = squares.entry((site.clone(), train.labels[*sample])).or_insert_with(|| vec![0.0; channels]);
                sum.iter_mut().zip(row).for_each(|(sum, v)| *sum += f64::from(*v));
            }
        }
    }
    let mut found: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    let classes = squares.keys().map(|(_, label)| *label).collect::<std::collections::BTreeSet<_>>().len() as f64;
    for ((site, _), of_class) in squares {
        let mean = found.entry(site).or_insert_with(|| vec![0.0; of_class.len()]);
        mean.iter_mut().zip(of_class).for_each(|(mean, v)| *mean += (v.sqrt() / classes) as f32);
    }
    Ok(Some(found))
}

/// Size of the mean gradient of each site's weight. The loss is the supervised contrastive one on the class token, as GPS has
/// it: a head that starts at random would steer the choice by its noise.
fn gradients(session: &Session, model: &Model, member: &Member, train: &Samples, tell: Tell) -> Result<Found> {
    let model = alone(session, model, &member.sites, 1.0)?;
    let picked = pick(&train.labels, session.seed);
    let mut sums: BTreeMap<String, Tensor<2>> = BTreeMap::new();
    let batches = picked.len().div_ceil(AT_ONCE);
    for (n, some) in picked.chunks(AT_ONCE).enumerate() {
        let words = format!("measuring gradients for {}: {} of {} samples", member.card.title, n * AT_ONCE, picked.len());
        if tell(words)?.is_break() {
            return Ok(None);
        }
        let labels: Vec<u32> = some.iter().map(|n| train.labels[*n]).collect();
        let (pixels, _) = batch::tensors(&model.plan.anatomy.entry, train, some, None, &model.device)?;
        let rows = Rows { samples: some, tasks: &train.tasks_of(some), quality: &train.quality_of(some) };
        let features = model.pooled_of(rows, &model.bag, pixels, None); // [batch, width]
        let Some(loss) = contrast(features, &labels, &model.device) else { continue };
        for (key, gradient) in model.bag.gradients(loss.backward()) {
            let sum = match sums.remove(&key) {
                Some(sum) => sum + gradient,
                None => gradient,
            };
            sums.insert(key, sum);
        }
    }
    if sums.is_empty() {
        bail!("{}: no two of {} training samples share a class. Give it more training samples", member.card.title, picked.len());
    }
    let mut found = BTreeMap::new();
    for site in &member.sites {
        let key = bag::key(0, full::CARD.name, site, "weight");
        if let Some(sum) = sums.remove(&key) {
            found.insert(site.clone(), host(sum.abs() / batches as f64)?);
        }
    }
    Ok(Some(found))
}

/// The supervised contrastive loss `[1]` of `features` `[batch, width]`: Khosla et al., "Supervised Contrastive Learning" (2020),
/// equation 2, as a mean over the samples that have another one of their class; none when no sample has.
fn contrast(features: Tensor<2>, labels: &[u32], device: &Device) -> Option<Tensor<1>> {
    let n = labels.len();
    let (mut share, mut itself, mut anchors) = (vec![0.0_f32; n * n], vec![0.0_f32; n * n], 0);
    for (i, label) in labels.iter().enumerate() {
        itself[i * n + i] = -1e9; // no sample is contrasted with itself
        let others: Vec<usize> = (0..n).filter(|p| *p != i && labels[*p] == *label).collect();
        others.iter().for_each(|p| share[i * n + p] = 1.0 / others.len() as f32);
        anchors += usize::from(!others.is_empty());
    }
    let square = |values: Vec<f32>| Tensor::<2>::from_data(TensorData::new(values, [n, n]), device);
    let length = (features.clone().square().sum_dim(1) + 1e-12).sqrt(); // [batch, 1]
    let z = features / length;
    let scores = z.clone().matmul(z.transpose()) / TAU + square(itself); // [batch, batch]
    let log_p = activation::log_softmax(scores, 1);
    (anchors > 0).then(|| -(log_p * square(share)).sum() / anchors as f64)
}

/// θ1 − θ0: what `steps` steps of full fine-tuning of the member's sites, by the session's recipe, changed in all their parts.
fn changes(
    session: &Session,
    model: &Model,
    member: &Member,
    data: &Loaded,
    steps: usize,
    memory: &Memory,
    tell: Tell,
) -> Result<Found> {
    let mut model = alone(session, model, &member.sites, member.learning_rate_factor)?;
    let start = model.bag.frozen();
    let mut trainer = Trainer::new(session, &model, data)?;
    trainer.steps = steps; // the schedule runs its whole length
    let every = session.recipe.report_every.max(1);
    let batches = |epoch| batch::epoch(data.train.len(), session.recipe.batch_size, session.seed, epoch);
    let jobs = (0..).flat_map(|epoch| batches(epoch).into_iter().map(move |picked| (epoch, picked))).take(steps);
    let maker = trainer.maker(&model, shards::count(&model.device));
    let make = |(epoch, picked): (usize, Vec<usize>)| maker.parts(&data.train, &picked, epoch);
    let whole = ahead("a batch of training samples", jobs, make, |made| {
        while let Some(parts) = made.next()? {
            let reached = trainer.done - trainer.done % every;
            if tell(format!("full fine-tuning for {}: step {reached} of {steps}", member.card.title))?.is_break() {
                return Ok(false);
            }
            trainer.step(&mut model, &data.train, parts, memory)?;
        }
        Ok(true)
    })?;
    if !whole {
        return Ok(None);
    }
    let end = model.bag.frozen();
    let mut found = BTreeMap::new();
    for path in &member.sites {
        let mut values = Vec::new();
        for part in model.plan.anatomy.site(path).map_or(&[][..], |site| &site.parts) {
            let key = bag::key(0, full::CARD.name, path, part.name);
            let (Some(before), Some(after)) = (start.params.get(&key), end.params.get(&key)) else { continue };
            values.extend(host(after.clone() - before.clone())?);
        }
        found.insert(path.clone(), values);
    }
    Ok(Some(found))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::file;

    #[test]
    fn what_is_measured_alone_has_the_sessions_own_head() {
        for head in ["linear", "mlp", "cosine"] {
            let set = [format!("task.settings.head={head}"), "device=cpu".to_owned()];
            let session = file::set(&file::find("digits-lora").expect("a preset"), &set).expect("set");
            let model = Model::make(&session, &Device::flex()).expect("a model");
            let measured = alone(&session, &model, &[], 1.0).expect("a model");
            assert_eq!(measured.bag.count(), model.plan.head_count(), "{head}");
        }
    }
}
