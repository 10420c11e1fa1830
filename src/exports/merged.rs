//! Merged weights: every method of the stack folded into the backbone's own matrices, where all of them fold. Of a backbone from a folder they
//! leave as that folder has them, under its names and with its configuration, so that it opens wherever the folder did; otherwise under ours, as
//! `backbone.settings.weights` of another session. Called through the catalogue; must not know other programs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use burn::tensor::{Device, TensorData};
use serde_json::json;

use super::tensors::{self, Named};
use super::{Card, transformers};
use crate::backbones::names::{self, Naming};
use crate::backbones::stored::Stored;
use crate::backbones::tensors::Tensors;
use crate::backbones::{self, weights};
use crate::engine::model::Model;
use crate::engine::tuner::Tuner;
use crate::plan::Plan;
use crate::plan::anatomy::{Anatomy, Door, Entry, Site};
use crate::session::{Session, Value};
use crate::tasks::Aim;

pub const CARD: Card = Card {
    name: "merged",
    title: "Merged weights",
    help: "model.safetensors with the method folded in, under the names in which the backbone came, and head.safetensors: no extra work at inference. Where every method folds.",
    fits,
    write,
    read,
    tolerance: 1e-4,
};

/// What we note: in the folder's own way beside its configuration, which is another program's.
const CONFIG: &str = "config.json";
const NOTES: &str = "petl.json";
const FORMAT: &str = "petl-merged 1";
const MODEL: &str = "model.safetensors";
const HEAD: &str = "head.safetensors";

/// Whether every method of the stack can be folded.
pub fn fits(plan: &Plan) -> Result<(), String> {
    const INSTEAD: &str = "Export the stack as `petl`, which holds every stack";
    if let Some((card, why)) = plan.members.iter().find_map(|member| Some((member.card, member.stays_beside()?))) {
        let otherwise = if card.folds { ", or train it without that setting" } else { "" };
        return Err(format!("{} {why}, so it cannot be folded into them. {INSTEAD}{otherwise}", card.title));
    }
    for member in plan.members.iter().filter(|member| member.card.method.shifts()) {
        let reads = |site: &Site| plan.anatomy.read_by(site).is_some_and(|whole| member.stands(&whole.path, Door::Before));
        let lacks = |site: &&Site| !site.parts.is_empty() && site.part("bias").is_none();
        let shifted = |site: &&Site| member.stands_anywhere(&site.path) || reads(site);
        if let Some(site) = plan.anatomy.sites.iter().filter(lacks).find(shifted) {
            return Err(format!(
                "{} adds something whatever enters, and `{}` has no bias to hold it. {INSTEAD}",
                member.card.title, site.path
            ));
        }
    }
    Ok(())
}

/// The backbone's matrices by our names with the stack folded in, in host memory.
pub fn folded(model: &Model) -> Result<Named> {
    let bag = model.bag.frozen();
    let tuner = Tuner::new(&model.plan, &model.weights, &bag, None);
    let mut out = Named::new();
    for site in &model.plan.anatomy.sites {
        for part in &site.parts {
            out.insert(format!("{}.{}", site.path, part.name), tuner.folded(site, part.name).into_data());
        }
    }
    Ok(out)
}

fn write(session: &Session, model: &Model, folder: &Path) -> Result<()> {
    write_folder(session, &model.plan, &folded(model)?, &model.bag.data(), &model.plan.words(), folder)
}

/// Writes the matrices `frozen` and the head of `bag` as such a folder; `words` say what was folded.
pub fn write_folder(session: &Session, plan: &Plan, frozen: &Named, bag: &Named, words: &str, folder: &Path) -> Result<()> {
    let notes = |format: &str| BTreeMap::from([("format".to_owned(), format.to_owned())]);
    let origin = origin(session, &plan.anatomy);
    let place = folder.join(if origin.is_some() { NOTES } else { CONFIG });
    match origin {
        Some(origin) => origin.write(frozen, &plan.anatomy, folder)?,
        None => weights::write(&folder.join(MODEL), frozen, false, notes("petl-backbone 1"))?,
    }
    let head = bag.iter().filter_map(|(key, data)| Some((key.strip_prefix("head/")?.to_owned(), data.clone()))).collect();
    weights::write(&folder.join(HEAD), &head, false, notes("petl-head 1"))?;
    let anatomy = &plan.anatomy;
    let mut config = json!({
        "backbone": session.backbone.name,
        "blocks": anatomy.blocks,
        "classes": plan.classes,
        "data": session.data.name,
        "folded": words,
        "format": FORMAT,
        "heads": anatomy.heads,
        "hidden": anatomy.hidden,
        "layout": "every matrix is [in, out], used as x W; vectors are one row",
        "width": anatomy.width,
    });
    let head = match &plan.aim {
        Aim::Linear => None,
        Aim::Mlp(activation) => {
            let holds = |name: &str| plan.head.iter().any(|spec| spec.name == name);
            let plus = |name: &str| if holds(name) { format!(" + {name}") } else { String::new() };
            Some(format!("logits are {}(x dense{}) weight{}", activation.word(), plus("dense_bias"), plus("bias")))
        }
        Aim::Cosine(margin) => Some(format!("logits are {} times the cosine of the angle to each centre", margin.scale)),
        Aim::ZeroShot(template) => Some(format!(
            "none: logits are e^temperature times the cosine of the image's embedding with that of \"{template}\" for each class"
        )),
        Aim::Contrast => {
            Some("none: logits are e^temperature times the cosine of the image's embedding with a text's".to_owned())
        }
    };
    if let Some(words) = head {
        config["head"] = json!(words);
    }
    if let Some(Entry::Text { vocabulary, padding, .. }) = plan.anatomy.towers.get(1).map(|tower| tower.entry) {
        (config["vocabulary"], config["padding"]) = (json!(vocabulary), json!(padding));
    }
    match anatomy.entry {
        Entry::Image { side, patch, pixels } => {
            config["image"] = json!(side);
            config["patch"] = json!(patch);
            config["pixels"] = json!(format!("RGB, (byte / 255 - {:?}) / {:?}", pixels.mean, pixels.deviation));
        }
        Entry::Text { vocabulary, padding, .. } => {
            config["vocabulary"] = json!(vocabulary);
            config["padding"] = json!(padding);
        }
        Entry::Sound { bins, frames, .. } => {
            config["bins"] = json!(bins);
            config["frames"] = json!(frames);
            config["spectrogram"] = json!(anatomy.takes());
        }
    }
    tensors::write_json(&place, &config)
}

/// The folder that a backbone came from, and what it calls every matrix.
struct Origin {
    folder: PathBuf,
    file: Tensors,
    names: Vec<names::Named>,
}

/// The origin of the session's backbone. None where it is no folder, where its numbers are packed or its positions stretched, and where
/// something is stored in a manner that is only read.
fn origin(session: &Session, anatomy: &Anatomy) -> Option<Origin> {
    let Value::Text(path) = session.backbone.settings.0.get(backbones::FOLDER)? else { return None };
    let folder = PathBuf::from(path);
    if anatomy.stretched || !folder.join(CONFIG).is_file() {
        return None;
    }
    let file = Tensors::open(&folder).ok()?;
    let [old, new] = anatomy.dialects;
    let is_there = |naming: &Naming| {
        let all = naming.tensors(anatomy).ok()?;
        let has = |named: &names::Named| file.has(&named.theirs) && !matches!(named.stored, Stored::Flat | Stored::PatchesLast);
        all.iter().all(has).then_some(all)
    };
    let names = [*old, *new, old.bare(), new.bare()].iter().find_map(is_there)?;
    Some(Origin { folder, file, names })
}

impl Origin {
    /// Writes its weights with `frozen` (our names) in place of its own, and all that it says of itself.
    fn write(&self, frozen: &Named, anatomy: &Anatomy, into: &Path) -> Result<()> {
        let mut all = transformers::as_theirs(&self.names, frozen, anatomy)?;
        for name in self.file.names().filter(|name| !self.names.iter().any(|named| named.theirs == **name)) {
            // What is no float counts something that the network counts anew.
            if let Ok((values, shape)) = self.file.floats(name) {
                all.insert(name.to_owned(), TensorData::new(values, shape));
            }
        }
        tensors::write(&into.join(MODEL), &all)?;
        let failed = || format!("cannot copy what {} says of itself", self.folder.display());
        for entry in std::fs::read_dir(&self.folder).with_context(failed)? {
            let from = entry.with_context(failed)?.path();
            let name = from.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let says = ["json", "txt", "model"].iter().any(|end| name.ends_with(&format!(".{end}")));
            if says && from.is_file() && !name.starts_with('.') && !name.ends_with(".index.json") {
                std::fs::copy(&from, into.join(name)).with_context(failed)?;
            }
        }
        let pooling = Path::new("1_Pooling").join(CONFIG);
        if self.folder.join(&pooling).is_file() {
            std::fs::create_dir_all(into.join("1_Pooling")).with_context(failed)?;
            std::fs::copy(self.folder.join(&pooling), into.join(&pooling)).with_context(failed)?;
        }
        Ok(())
    }
}

fn read(session: &Session, folder: &Path, device: &Device) -> Result<Model> {
    let mut session = session.clone();
    session.methods.clear();
    let has_origin = folder.join(NOTES).is_file();
    if has_origin {
        let path = folder.to_str().context("the folder's name is not in Unicode")?;
        session.backbone.settings.set(backbones::FOLDER, Value::Text(path.to_owned()));
    }
    let mut model = Model::make(&session, device)?;
    if !has_origin {
        model.weights = weights::from_file(&folder.join(MODEL), &model.plan.anatomy, device)?;
    }
    // Who rebuilds the network from these files has nothing but the configuration to go by.
    let (place, anatomy) = (folder.join(if has_origin { NOTES } else { CONFIG }), &model.plan.anatomy);
    let wanted = [
        ("/format", json!(FORMAT)),
        ("/backbone", json!(session.backbone.name)),
        ("/blocks", json!(anatomy.blocks)),
        ("/classes", json!(model.plan.classes)),
        ("/heads", json!(anatomy.heads)),
        ("/hidden", json!(anatomy.hidden)),
        ("/width", json!(anatomy.width)),
    ];
    tensors::agree(&place, &tensors::read_json(&place)?, &wanted)?;
    let head = tensors::read(&folder.join(HEAD), "Export the folder again")?;
    let head = head.into_iter().map(|(name, data)| (format!("head/{name}"), data)).collect();
    model.bag.load(&head, device).with_context(|| format!("{} does not fit this backbone", folder.join(HEAD).display()))?;
    Ok(model)
}
