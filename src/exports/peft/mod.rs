//! A folder as PEFT writes it: `adapter_config.json` and `adapter_model.safetensors`, with the module names of transformers 4 and 5
//! side by side, and the base model in `base/`. `kinds` says what it can hold, `write` and `read` go there and back, `targets`
//! says which layers are meant. Called through the catalogue; must not know how a run is stored.

mod biases;
mod how;
pub mod kinds;
mod layers;
mod prefixes;
mod prompts;
mod read;
mod targets;
mod write;

use std::path::Path;

use anyhow::{Context, Result};
use burn::tensor::Device;
use serde_json::json;

use super::Card;
use super::tensors;
use super::transformers;
use crate::backbones;
use crate::engine::model::Model;
use crate::plan::Plan;
use crate::plan::anatomy::Anatomy;
use crate::session::Session;
use crate::session::settings::Value;

pub use read::{adapter, is_one, words};
pub use write::{config, parts};

pub const CARD: Card = Card {
    name: "peft",
    title: "PEFT folder",
    help: "adapter_config.json and adapter_model.safetensors for Hugging Face PEFT (transformers 4 and 5), with the base model beside them where you have no folder of it. LoRA, DoRA, IA3, norms, VeRA, LoHa, LoKr, OFT, BOFT or AdaLoRA, one of them in a folder, beside LoRA and DoRA also the biases of their layers or all; on texts also prefixes (BERT, RoBERTa, Llama, GPT-2) and prompts (Llama).",
    fits: write::fits,
    write,
    read,
    tolerance: 1e-5,
};

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";
/// Before what all layers share, and before a module's name.
const TOP: &str = "base_model.";
const PREFIX: &str = "base_model.model.";
/// Where the base model stands in the folder.
pub const BASE: &str = "base";

/// The folder of the base model, where the user has one already: it is named, not copied. Not where the adapter was trained on other
/// positions than stand there.
pub fn own_base<'a>(session: &'a Session, anatomy: &Anatomy) -> Option<&'a str> {
    match session.backbone.settings.0.get(backbones::FOLDER)? {
        Value::Text(path) if !anatomy.stretched => Some(path),
        _ => None,
    }
}

/// Whether the base model can be named or written.
pub fn has_base(anatomy: &Anatomy) -> Result<(), String> {
    match anatomy.stretched && !anatomy.has_classifier && anatomy.towers.is_empty() {
        true => Err("the adapter was trained on stretched positions, and this backbone is not written from here. Train it at the folder's own side".to_owned()),
        false => Ok(()),
    }
}

fn write(session: &Session, model: &Model, folder: &Path) -> Result<()> {
    let (plan, values) = (&model.plan, model.bag.data());
    let (parts, mut config) = match (prompts::among(plan), super::prefixes::among(plan)) {
        (Some(member), _) => (prompts::parts(plan, member, &values)?, prompts::config(plan, member)),
        (_, Some(member)) => (prefixes::parts(plan, member, &values)?, prefixes::config(plan, member)?),
        (None, None) => (parts(plan, &values)?, config(plan)),
    };
    tensors::write(&folder.join(TENSORS), &parts)?;
    config["base_model_name_or_path"] = json!(own_base(session, &model.plan.anatomy).unwrap_or(BASE));
    tensors::write_json(&folder.join(CONFIG), &config)?;
    write_base(session, model, folder)
}

/// Puts the base model beside an adapter, where the user has no folder of it.
pub fn write_base(session: &Session, model: &Model, folder: &Path) -> Result<()> {
    if own_base(session, &model.plan.anatomy).is_none() {
        let frozen = model.weights.data();
        transformers::write_base(model, &frozen, None, &folder.join(BASE))?;
    }
    Ok(())
}

/// The network of `session` with the stack of `adapter`, on the base model beside it where there is one.
pub fn rebuilt(session: &Session, adapter: super::Adapter, folder: &Path, device: &Device) -> Result<Model> {
    let mut session = session.clone();
    session.methods = adapter.methods;
    let mut model = Model::make(&session, device)?;
    let over = adapter.over;
    if own_base(&session, &model.plan.anatomy).is_none() {
        transformers::check(&model, &folder.join(BASE))?;
        model.weights = transformers::read_base(&folder.join(BASE), &model.plan.anatomy, device)?.0;
    }
    let params = super::added(adapter.params, &over, &model.weights)?;
    model.bag.load(&params, device).with_context(|| format!("{} does not fit this backbone", folder.display()))?;
    Ok(model)
}

fn read(session: &Session, folder: &Path, device: &Device) -> Result<Model> {
    let model = rebuilt(session, adapter(folder, &Plan::of(session).anatomy)?, folder, device)?;
    let place = folder.join(CONFIG);
    let wanted = [
        ("/base_model_name_or_path", json!(own_base(session, &model.plan.anatomy).unwrap_or(BASE))),
        ("/inference_mode", json!(true)),
    ];
    tensors::agree(&place, &tensors::read_json(&place)?, &wanted)?;
    Ok(model)
}
