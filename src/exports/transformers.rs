//! A whole model as the Python library transformers loads it (`ViTForImageClassification`, `DeiTForImageClassification`,
//! `BertForSequenceClassification` and the like): the stack folded into the weights, head included. Called through the catalogue; `peft` writes the frozen base model through it too.
//! Must not know how a run is stored.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use burn::tensor::{Device, TensorData};
use serde_json::{Value as Json, json};

use super::Card;
use super::head::Head;
use super::merged;
use super::tensors::{self, Named};
use crate::backbones;
use crate::backbones::names;
use crate::backbones::stored::Stored;
use crate::backbones::tensors::Tensors;
use crate::engine::bag::Weights;
use crate::engine::model::Model;
use crate::plan::anatomy::{Anatomy, Entry, Front};
use crate::session::Session;
use crate::session::settings::Value;

/// Beside the weights: what is made of a sample before it enters.
const PREPROCESSOR: &str = "preprocessor_config.json";

pub const CARD: Card = Card {
    name: "transformers",
    title: "transformers model folder",
    help: "config.json and model.safetensors for Hugging Face transformers (ViT, DeiT, BERT, RoBERTa, DistilBERT, GPT-2, T5, Whisper's encoder and AST with a classifier, CLIP without one), the method folded into the weights. Where every method folds.",
    fits: |plan| {
        if plan.aim.compares_texts() {
            names(&plan.anatomy)?;
            return merged::fits(plan);
        }
        let leaves = names(&plan.anatomy).and_then(|_| Head::of_plan(plan));
        leaves.map_err(|words| format!("{words}. Export it as `merged`"))?;
        if !plan.anatomy.has_classifier {
            return Err(
                "this backbone's own classifier in transformers is not written from here. Export it as `merged`".to_owned()
            );
        }
        merged::fits(plan)
    },
    write: |session, model, folder| {
        let head = model.bag.data();
        let head = Some(&head).filter(|_| !model.plan.aim.compares_texts());
        write_base(model, &merged::folded(model)?, head, folder)?;
        tokenizer(session, folder)
    },
    read,
    tolerance: 1e-4,
};

/// Names and manner of every tensor in transformers' file of such a network.
///
/// # Errors
/// In words, where transformers builds no such network.
pub fn names(anatomy: &Anatomy) -> Result<Vec<names::Named>, String> {
    let [naming, _] = anatomy.dialects;
    match naming.program.starts_with("transformers") {
        true => naming.tensors(anatomy),
        false => Err(format!("this backbone is built as {} builds it, not as transformers does", naming.program)),
    }
}

/// Writes `frozen` (our names) as a transformers folder; with the head of `bag`, or without one.
pub fn write_base(model: &Model, frozen: &Named, bag: Option<&Named>, folder: &Path) -> Result<()> {
    let plan = &model.plan;
    let mut config = model.backbone.config().context("transformers has no such network. Export it as `petl` or `merged`")?;
    let mut out = as_theirs(&names(&plan.anatomy).map_err(|e| anyhow!(e))?, frozen, &plan.anatomy)?;
    if let Some(bag) = bag {
        out.extend(Head::of(&plan.anatomy).map_err(|e| anyhow!(e))?.theirs(bag)?);
    }
    tensors::write(&folder.join("model.safetensors"), &out)?;
    let by_number: serde_json::Map<_, _> =
        plan.classes.iter().enumerate().map(|(n, name)| (n.to_string(), json!(name))).collect();
    let by_name: serde_json::Map<_, _> = plan.classes.iter().enumerate().map(|(n, name)| (name.clone(), json!(n))).collect();
    config["id2label"] = json!(by_number);
    config["label2id"] = json!(by_name);
    tensors::write_json(&folder.join("config.json"), &config)?;
    let (side, pixels) = match plan.anatomy.entry {
        Entry::Image { side, pixels, .. } => (side, pixels),
        Entry::Text { .. } => return Ok(()),
        Entry::Sound { bins, frames, front } => {
            return tensors::write_json(&folder.join(PREPROCESSOR), &ear(bins, frames, front));
        }
    };
    let pixels = json!({
        "do_normalize": true,
        "do_rescale": true,
        "do_resize": true,
        "image_mean": pixels.mean,
        "image_processor_type": "ViTImageProcessor",
        "image_std": pixels.deviation,
        "rescale_factor": 1.0 / 255.0,
        "size": { "height": side, "width": side },
    });
    tensors::write_json(&folder.join(PREPROCESSOR), &pixels)
}

/// `frozen` (our names) under the names `all` and in their manner.
///
/// # Errors
/// When a matrix is missing, or stored in a manner that is only read.
pub fn as_theirs(all: &[names::Named], frozen: &Named, anatomy: &Anatomy) -> Result<Named> {
    let mut out = Named::new();
    for names::Named { theirs, ours, stored } in all.iter().cloned() {
        let data = frozen.get(&ours).with_context(|| format!("the backbone lacks `{ours}`"))?;
        let &[rows, cols] = data.shape().as_slice() else { bail!("`{ours}` is no matrix") };
        let data = match stored {
            Stored::Turned => tensors::turned(&ours, data)?,
            Stored::Vector => tensors::shaped(&ours, data, &[cols])?,
            Stored::Positions => tensors::shaped(&ours, data, &[1, rows, cols])?,
            Stored::Patches => {
                let channels = if matches!(anatomy.entry, Entry::Image { .. }) { 3 } else { 1 };
                let patch = (rows / channels).isqrt();
                tensors::shaped(&ours, &tensors::turned(&ours, data)?, &[cols, channels, patch, patch])?
            }
            Stored::Taps => tensors::shaped(&ours, &tensors::turned(&ours, data)?, &[cols, rows / 3, 3])?,
            Stored::Number => tensors::shaped(&ours, data, &[])?,
            Stored::Table => data.clone(),
            Stored::Third(_) if rows == 1 => {
                let before = out.remove(&theirs).map_or(Ok(vec![]), |before| tensors::values(&theirs, &before))?;
                let values = [before, tensors::values(&ours, data)?].concat();
                TensorData::new(values.clone(), [values.len()])
            }
            Stored::ThirdOfRow(_) => match out.remove(&theirs) {
                None => data.clone(),
                Some(before) => tensors::beside(&theirs, &before, data)?, // [in, out of q, k and v]
            },
            Stored::Third(_) => match out.remove(&theirs) {
                None => tensors::turned(&ours, data)?,
                Some(before) => tensors::stacked(&theirs, &before, &tensors::turned(&ours, data)?, 1.0)?, // [out of q, k and v, in]
            },
            Stored::PatchesLast | Stored::Flat => {
                bail!("`{theirs}` is stored as transformers stores nothing")
            }
        };
        out.insert(theirs, data);
    }
    Ok(out)
}

/// What the front ends of transformers are told.
fn ear(bins: usize, frames: usize, front: Front) -> Json {
    let mut config = match front {
        Front::Whisper => json!({
            "chunk_length": frames * Front::HOP / Front::RATE,
            "feature_extractor_type": "WhisperFeatureExtractor",
            "feature_size": bins,
            "hop_length": Front::HOP,
            "n_fft": Front::WINDOW,
        }),
        Front::Kaldi { mean, deviation } => json!({
            "do_normalize": true,
            "feature_extractor_type": "ASTFeatureExtractor",
            "feature_size": 1,
            "max_length": frames,
            "mean": mean,
            "num_mel_bins": bins,
            "std": deviation,
        }),
    };
    config["padding_value"] = json!(0.0);
    config["return_attention_mask"] = json!(false);
    config["sampling_rate"] = json!(Front::RATE);
    config
}

/// Puts the tokenizer beside a network that reads: no text can be read without it.
fn tokenizer(session: &Session, folder: &Path) -> Result<()> {
    let Some(Value::Text(from)) = session.backbone.settings.0.get(backbones::FOLDER) else { return Ok(()) };
    for name in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"] {
        let from = Path::new(from).join(name);
        if from.is_file() {
            std::fs::copy(&from, folder.join(name)).with_context(|| format!("cannot copy {}", from.display()))?;
        }
    }
    Ok(())
}

/// Reads a transformers folder: the backbone under our names, and the head's matrices where it has them.
pub fn read_base(folder: &Path, anatomy: &Anatomy, device: &Device) -> Result<(Weights, Named)> {
    let file = Tensors::open(folder)?;
    let all = names(anatomy).map_err(|e| anyhow!(e))?;
    let of_head = |name: &str| anatomy.classifier.modules().iter().any(|module| name.split('.').next() == Some(module));
    let weights = file.weights(&all, anatomy, &of_head, device)?;
    if !file.names().any(of_head) {
        return Ok((weights, Named::new()));
    }
    let of = |name: &str| file.floats(name).map(|(values, shape)| TensorData::new(values, shape));
    let head = Head::of(anatomy).map_err(|e| anyhow!(e))?.ours(of, anatomy.width)?;
    Ok((weights, head))
}

/// Compares what the configuration in `folder` says with the network, its labels and its pixels: who loads the folder has
/// nothing but these files to go by, and a wrong number of heads fits every shape.
pub fn check(model: &Model, folder: &Path) -> Result<()> {
    let plan = &model.plan;
    let place = folder.join("config.json");
    let config = tensors::read_json(&place)?;
    let wanted = model.backbone.config().context("transformers has no such network")?;
    let wanted: Vec<_> =
        wanted.as_object().into_iter().flatten().map(|(name, value)| (format!("/{name}"), value.clone())).collect();
    let sizes: Vec<_> = wanted.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    tensors::agree(&place, &config, &sizes)?;
    let labels = config["id2label"].as_object().map_or(0, serde_json::Map::len);
    if labels != plan.classes.len() {
        bail!("{}: `id2label` has {labels} labels, but this network has {}", place.display(), plan.classes.len());
    }
    for (n, name) in plan.classes.iter().enumerate() {
        if config["id2label"][n.to_string()] != *name.as_str() || config["label2id"][name.as_str()] != n {
            bail!("{}: `id2label` and `label2id` do not call label {n} `{name}`, as this network does", place.display());
        }
    }
    let place = folder.join(PREPROCESSOR);
    let (side, pixels) = match plan.anatomy.entry {
        Entry::Image { side, pixels, .. } => (side, pixels),
        Entry::Text { .. } => return Ok(()),
        Entry::Sound { bins, frames, front } => {
            let wanted = ear(bins, frames, front);
            let of = |(name, value): (&String, &Json)| (format!("/{name}"), value.clone());
            let wanted: Vec<_> = wanted.as_object().into_iter().flatten().map(of).collect();
            let wanted: Vec<_> = wanted.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
            return tensors::agree(&place, &tensors::read_json(&place)?, &wanted);
        }
    };
    let yes = ["/do_normalize", "/do_rescale", "/do_resize"].map(|name| (name, json!(true)));
    let three = |name, values: [f32; 3]| [0, 1, 2].map(|channel| (format!("/{name}/{channel}"), json!(values[channel])));
    let channels = [three("image_mean", pixels.mean), three("image_std", pixels.deviation)].concat();
    let side = ["/size/height", "/size/width"].map(|name| (name, json!(side)));
    let mut wanted = [yes.to_vec(), side.to_vec(), vec![("/rescale_factor", json!(1.0 / 255.0))]].concat();
    wanted.extend(channels.iter().map(|(name, value)| (name.as_str(), value.clone())));
    tensors::agree(&place, &tensors::read_json(&place)?, &wanted)
}

fn read(session: &Session, folder: &Path, device: &Device) -> Result<Model> {
    let mut session = session.clone();
    session.methods.clear();
    let mut model = Model::make(&session, device)?;
    check(&model, folder)?;
    let (weights, head) = read_base(folder, &model.plan.anatomy, device)?;
    model.weights = weights;
    model.bag.load(&head, device).with_context(|| format!("the classifier in {}", folder.display()))?;
    Ok(model)
}
