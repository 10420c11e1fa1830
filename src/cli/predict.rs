//! `petl predict`: what a run, or a bare model folder, makes of tensors in a file. Called by the command line; the file is checked here
//! before anything runs. Must not know any method or format by name.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use burn::tensor::{Device, Tensor, TensorData};

use super::{Answer, Fault, asked, out, run_folder};
use crate::backbones::folder::Folder;
use crate::backbones::tensors::Tensors;
use crate::backbones::{self, Input, Text, weights};
use crate::engine::bag::Bag;
use crate::engine::batch::Rows;
use crate::engine::model::{Model, host};
use crate::exports;
use crate::plan::anatomy::{Anatomy, Entry, Front, Pixels};
use crate::plan::{Plan, cost};
use crate::session::settings::Value;
use crate::session::{Choice, Session, file, presets};
use crate::tasks::Aim;

/// Samples that go through the network at once, at most.
const AT_ONCE: usize = 100;
const PIXELS: &str = "pixel_values";
const TOKENS: &str = "input_ids";
const MASK: &str = "attention_mask";
const KINDS: &str = "token_type_ids";
/// Spectrograms `[batch, bins, frames]`, as Whisper's front end in transformers calls them; and `[batch, frames, bins]`, as AST's.
const SOUND: &str = "input_features";
const TURNED: &str = "input_values";
const QUALITY: &str = "quality";

/// Writes the logits of the run `what` for `inputs` to `to`; the features, where it is a model's folder.
pub fn predict(what: &str, inputs: &Path, to: &Path, task: Option<&str>) -> Answer {
    let same = |a: &Path, b: &Path| a.canonicalize().is_ok_and(|a| b.canonicalize().is_ok_and(|b| a == b));
    let over = || Fault::Request(anyhow!("--out would write over the inputs, {}. Choose another file", inputs.display()));
    let folder = Path::new(what);
    let is_run = folder.join("adapter.toml").exists() || folder.join("events.jsonl").exists();
    if !is_run && Folder::is_at(folder) {
        if same(inputs, to) {
            return Err(over());
        }
        return features(folder, inputs, to, task);
    }
    let folder = run_folder(what)?;
    if same(inputs, to) {
        return Err(over());
    }
    let (_, model) = exports::load_run(&folder)?;
    let task = asked(task_of(&model.plan, task))?;
    if model.plan.aim == Aim::Contrast {
        return likeness(&model, inputs, to);
    }
    let given = asked(Given::read(inputs, &model.plan, &model.plan.anatomy))?;
    given.say_what_is_read(&model.plan);
    let bag = model.bag.frozen();
    let mut logits = Vec::new();
    for (input, of) in given.parts(&model.device) {
        let tasks = task.map_or(vec![], |task| vec![task; of.len()]);
        let quality = given.quality.as_ref().map_or(&[][..], |scores| &scores[of]);
        logits.extend(host(model.logits_of(Rows { samples: &[], tasks: &tasks, quality }, &bag, input, None))?);
    }
    let (batch, classes) = (given.batch, model.plan.classes.len());
    let names = serde_json::to_string(&model.plan.classes).context("cannot write the class names as JSON")?;
    write(to, "logits", TensorData::new(logits, [batch, classes]), [("classes".to_owned(), names)].into())?;
    out::say(&format!("Wrote logits [{batch}, {classes}] to {}", to.display()))
}

/// Writes how like every image of `inputs` is to every text of it.
fn likeness(model: &Model, inputs: &Path, to: &Path) -> Answer {
    let bag = model.bag.frozen();
    let mut embedded = Vec::new();
    for tower in &model.plan.anatomy.towers {
        let given = asked(Given::read(inputs, &model.plan, tower))?;
        let parts = given.parts(&model.device).map(|(input, _)| model.pooled(&bag, input, None));
        embedded.push(Tensor::cat(parts.collect(), 0)); // [images or texts, width]
    }
    let [images, texts] = <[Tensor<2>; 2]>::try_from(embedded).map_err(|_| anyhow!("this network has not two towers"))?;
    let logits = model.judged(&bag, Some(&texts), images);
    let shape = logits.dims();
    write(to, "logits", TensorData::new(host(logits)?, shape), BTreeMap::new())?;
    out::say(&format!("Wrote logits {shape:?}, every image with every text, to {}", to.display()))
}

/// Writes a bare network's normed features.
fn features(folder: &Path, inputs: &Path, to: &Path, task: Option<&str>) -> Answer {
    if task.is_some() {
        return Err(Fault::Request(anyhow!("{} is a model without a head; --task has no meaning for it", folder.display())));
    }
    let choice = asked(sized(folder, inputs))?;
    let opened = asked(backbones::open(&choice).map_err(|e| anyhow!(e)))?;
    let session = Session { methods: vec![], backbone: choice, ..file::find(presets::PRESETS[0].name)? };
    let plan = Plan::on(&session, opened.network.anatomy(), 0, &mut vec![]);
    // Of a network of two towers the one that the inputs are for.
    let has = |name: &str| Tensors::open(inputs).is_ok_and(|file| file.has(name));
    let of_text = plan.anatomy.towers.get(1).filter(|_| has(TOKENS) && !has(PIXELS));
    let given = asked(Given::read(inputs, &plan, of_text.unwrap_or(&plan.anatomy)))?;
    let device = Device::flex();
    let weights = (opened.weights)(session.seed, &device)?;
    let model = Model { plan, backbone: opened.network, weights, bag: Bag::default(), device, names: None };
    given.say_what_is_read(&model.plan);
    let (mut all, mut shape) = (Vec::new(), [0; 3]);
    for (input, _) in given.parts(&model.device) {
        let features = model.features(&model.bag, input, None); // [batch, positions, width]
        shape = features.dims();
        all.extend(host(features)?);
    }
    shape[0] = given.batch;
    write(to, "last_hidden_state", TensorData::new(all, shape), BTreeMap::new())?;
    out::say(&format!("Wrote last_hidden_state {shape:?} to {}", to.display()))
}

/// The model in a folder, for pictures of the side or sounds of the length that the inputs have, where it can take them.
fn sized(folder: &Path, inputs: &Path) -> Result<Choice> {
    let own = backbones::of_folder(folder).map_err(|e| anyhow!(e))?;
    let card = backbones::find(&own.name).context("the backbone's card")?;
    let file = Tensors::open(inputs).ok();
    let shape = |name: &str| file.as_ref().and_then(|file| file.shape(name)).unwrap_or_default();
    let seconds = |frames: usize| Value::Real((frames * Front::HOP) as f64 / Front::RATE as f64);
    let (name, value) = match (shape(PIXELS).as_slice(), shape(SOUND).as_slice(), shape(TURNED).as_slice()) {
        ([_, _, height, width], ..) if height == width => ("side", Value::Whole(*height as i64)),
        (_, [_, _, frames], _) | (_, [], [_, frames, _]) => ("seconds", seconds(*frames)),
        _ => return Ok(own),
    };
    if !card.fields.iter().any(|field| field.name == name) {
        return Ok(own);
    }
    let mut choice = own.clone();
    choice.settings.set(name, value);
    // Where it cannot take them, what it does take is then asked for, in words.
    Ok(if backbones::open(&choice).is_ok() { choice } else { own })
}

fn write(to: &Path, name: &str, data: TensorData, mut notes: BTreeMap<String, String>) -> Result<()> {
    notes.insert("format".to_owned(), "pt".to_owned());
    weights::write(to, &BTreeMap::from([(name.to_owned(), data)]), false, notes)
}

/// The number of the task that is called `name`; none where it makes no difference.
fn task_of(plan: &Plan, name: Option<&str>) -> Result<Option<u16>> {
    let known = plan.tasks.iter().map(|task| task.name).collect::<Vec<_>>().join(", ");
    match (name, plan.tells_tasks_apart()) {
        (None, Some(member)) => bail!(
            "{} has something of its own for each task of this run ({known}), so it must be known which the pictures belong to. Name it with --task",
            member.card.title
        ),
        (None, None) => Ok(None),
        (Some(name), _) => match plan.tasks.iter().position(|task| task.name == name) {
            Some(task) => Ok(Some(u16::try_from(task)?)),
            None => bail!("this run has no task `{name}`; one of: {known}"),
        },
    }
}

/// The checked inputs of a file.
struct Given {
    batch: usize,
    values: Values,
    /// How many go through the network at once.
    at_once: usize,
    /// The score of every picture, where the file has them.
    quality: Option<Vec<f32>>,
}

enum Values {
    Pixels { side: usize, values: Vec<f32> },
    Tokens { length: usize, ids: Vec<u32>, kinds: Vec<u8>, seen: Vec<bool> },
    Sounds { bins: usize, frames: usize, values: Vec<f32> },
}

impl Given {
    /// What the network, or this tower of it, takes.
    fn read(path: &Path, plan: &Plan, anatomy: &Anatomy) -> Result<Given> {
        let place = path.display();
        if !path.is_file() {
            bail!("cannot read the inputs {place}. Check the path");
        }
        let file = Tensors::open(path)?;
        let (batch, values) = match anatomy.entry {
            Entry::Image { side, pixels, .. } => {
                lacks(&file, path, PIXELS, &format!("[batch, 3, {side}, {side}]"))?;
                Given::pixels(&file, path, side, pixels)?
            }
            Entry::Text { vocabulary, longest, .. } => {
                lacks(&file, path, TOKENS, "[batch, tokens], whole numbers of 64 bits")?;
                Given::tokens(&file, path, vocabulary, plan.longest().unwrap_or(longest))?
            }
            Entry::Sound { bins, frames, .. } => {
                if !file.has(TURNED) {
                    lacks(&file, path, SOUND, &format!("[batch, {bins}, {frames}]"))?;
                }
                Given::sounds(&file, path, bins, frames)?
            }
        };
        let quality = if file.has(QUALITY) { Some(scores(&file, path, batch)?) } else { None };
        Ok(Given { batch, values, quality, at_once: cost::evaluated_at_once(anatomy).min(AT_ONCE) })
    }

    /// Notes where scores are not read, and where what was trained with scores has to do without.
    fn say_what_is_read(&self, plan: &Plan) {
        match (plan.reads_quality(), &self.quality) {
            (None, Some(_)) => out::note(&format!("petl: note: nothing here reads `{QUALITY}`")),
            (Some(member), None) if plan.quality.is_some() => out::note(&format!(
                "petl: note: {} was trained with the data's own quality scores, but the inputs have no tensor `{QUALITY}`: it takes the \
                 sharpness of each picture instead",
                member.card.title
            )),
            _ => {}
        }
    }

    fn sounds(file: &Tensors, path: &Path, bins: usize, frames: usize) -> Result<(usize, Values)> {
        let place = path.display();
        let (name, wanted) = if file.has(SOUND) { (SOUND, [bins, frames]) } else { (TURNED, [frames, bins]) };
        let shape = file.shape(name).unwrap_or_default();
        if shape.len() != 3 || shape[1..] != wanted || shape[0] == 0 {
            let [rows, cols] = wanted;
            bail!("`{name}` in {place} has shape {shape:?}; this network takes [batch, {rows}, {cols}]");
        }
        let (mut values, _) = file.floats(name)?;
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            bail!("`{name}` in {place} holds {} in sound {}. Mend the file", values[at], at / (bins * frames));
        }
        if name == TURNED {
            let turn = |sound: &[f32]| -> Vec<f32> {
                (0..bins).flat_map(|bin| (0..frames).map(move |frame| sound[frame * bins + bin])).collect()
            };
            values = values.chunks(bins * frames).flat_map(turn).collect();
        }
        Ok((shape[0], Values::Sounds { bins, frames, values }))
    }

    fn pixels(file: &Tensors, path: &Path, side: usize, pixels: Pixels) -> Result<(usize, Values)> {
        let place = path.display();
        let shape = file.shape(PIXELS).unwrap_or_default();
        if shape.len() != 4 || shape[1..] != [3, side, side] || shape[0] == 0 {
            bail!("`{PIXELS}` in {place} has shape {shape:?}; this run takes [batch, 3, {side}, {side}], channels first");
        }
        let (values, _) = file.floats(PIXELS)?;
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            bail!("`{PIXELS}` in {place} holds {} in picture {}. Mend the file", values[at], at / (3 * side * side));
        }
        let (low, high) = values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), v| (low.min(*v), high.max(*v)));
        if pixels == Pixels::HALVES && (low < -1.01 || high > 1.01) {
            out::note(&format!(
                "petl: note: pixels go from {low:.2} to {high:.2}; the backbone expects byte / 127.5 - 1, from -1 to 1"
            ));
        }
        Ok((shape[0], Values::Pixels { side, values }))
    }

    fn tokens(file: &Tensors, path: &Path, vocabulary: usize, longest: usize) -> Result<(usize, Values)> {
        let place = path.display();
        let (ids, shape) = file.wholes(TOKENS)?;
        let &[batch, length] = shape.as_slice() else {
            bail!("`{TOKENS}` in {place} has shape {shape:?}; it must be [batch, tokens]")
        };
        if batch == 0 || !(1..=longest).contains(&length) {
            bail!("`{TOKENS}` in {place} has shape {shape:?}; this network takes texts of 1 to {longest} tokens");
        }
        if let Some(id) = ids.iter().find(|id| !(0..vocabulary as i64).contains(id)) {
            bail!("`{TOKENS}` in {place} holds {id}; this network's tokens go from 0 to {}", vocabulary - 1);
        }
        let beside = |name: &str, otherwise: i64| -> Result<Vec<i64>> {
            if !file.has(name) {
                return Ok(vec![otherwise; ids.len()]);
            }
            let (values, own) = file.wholes(name)?;
            if own != shape || values.iter().any(|v| !matches!(v, 0 | 1)) {
                bail!("`{name}` in {place} must hold 0 and 1 in the shape of `{TOKENS}`, {shape:?}; its shape is {own:?}");
            }
            Ok(values)
        };
        let seen: Vec<bool> = beside(MASK, 1)?.into_iter().map(|v| v == 1).collect();
        if let Some(row) = seen.chunks(length).position(|row| !row.contains(&true)) {
            bail!("`{MASK}` in {place} leaves nothing of text {row}");
        }
        let kinds = beside(KINDS, 0)?.into_iter().map(|v| u8::from(v == 1)).collect();
        let ids = ids.iter().map(|id| *id as u32).collect();
        Ok((batch, Values::Tokens { length, ids, kinds, seen }))
    }

    /// What goes through the network at once, and which of the inputs it is.
    fn parts<'a>(&'a self, device: &'a Device) -> impl Iterator<Item = (Input, Range<usize>)> + 'a {
        (0..self.batch).step_by(self.at_once).map(move |from| {
            let count = self.at_once.min(self.batch - from);
            let input = match &self.values {
                Values::Pixels { side, values } => {
                    let size = 3 * side * side;
                    let some = values[from * size..(from + count) * size].to_vec();
                    Input::Pixels(Tensor::from_data(TensorData::new(some, [count, 3, *side, *side]), device))
                }
                Values::Tokens { length, ids, kinds, seen } => {
                    let of = from * length..(from + count) * length;
                    let (ids, kinds, seen) = (ids[of.clone()].to_vec(), kinds[of.clone()].to_vec(), seen[of].to_vec());
                    Input::Text(Text { length: *length, ids, kinds, seen, device: device.clone() })
                }
                Values::Sounds { bins, frames, values } => {
                    let size = bins * frames;
                    let some = values[from * size..(from + count) * size].to_vec();
                    Input::Sound(Tensor::from_data(TensorData::new(some, [count, *bins, *frames]), device))
                }
            };
            (input, from..from + count)
        })
    }
}

/// One quality score for each of `batch` pictures.
fn scores(file: &Tensors, path: &Path, batch: usize) -> Result<Vec<f32>> {
    let place = path.display();
    let (scores, shape) = file.floats(QUALITY)?;
    if shape != [batch] {
        bail!("`{QUALITY}` in {place} has shape {shape:?}; it must be [{batch}], one score for each picture");
    }
    if let Some(at) = scores.iter().position(|score| !score.is_finite()) {
        bail!("`{QUALITY}` in {place} holds {} for picture {at}. Mend the file", scores[at]);
    }
    Ok(scores)
}

/// Fails when the file has no tensor of this name.
fn lacks(file: &Tensors, path: &Path, name: &str, shape: &str) -> Result<()> {
    if file.has(name) {
        return Ok(());
    }
    let found = file.names().collect::<Vec<_>>().join(", ");
    let found = if found.is_empty() { "none" } else { &found };
    bail!("{} has no tensor `{name}`; it holds {found}. Name it so, with shape {shape}", path.display());
}
