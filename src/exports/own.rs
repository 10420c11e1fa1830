//! Our own adapter folder: `adapter.safetensors` (every trainable matrix, head included) and `adapter.toml` (the whole session:
//! everything needed to rebuild it). Any stack fits. A run's folder is such a folder too.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use burn::tensor::Device;

use super::{Card, tensors};
use crate::backbones::weights;
use crate::engine::model::Model;
use crate::session::{Session, file};

pub const CARD: Card = Card {
    name: "petl",
    title: "petl adapter folder",
    help: "adapter.safetensors and adapter.toml: any stack, head included, and the session that rebuilds it.",
    fits: |_| Ok(()),
    write,
    // From the folder alone, so that the written session is checked too.
    read: |_, folder, device| read(&session(folder)?, folder, device),
    tolerance: 0.0, // bit for bit
};

const REMEDY: &str = "Train it again, or choose another run";
/// Under this name the file notes on which frozen weights the adapter was trained.
const BACKBONE: &str = "backbone_sha256";

/// Writes the trained parameters of `model` and its session.
pub fn write(session: &Session, model: &Model, folder: &Path) -> Result<()> {
    let notes = BTreeMap::from([
        ("format".to_owned(), "petl-adapter 1".to_owned()),
        (BACKBONE.to_owned(), weights::fingerprint(&model.weights)?),
    ]);
    weights::write(&folder.join("adapter.safetensors"), &model.bag.data(), false, notes)?;
    file::save(session, &folder.join("adapter.toml"))
}

/// The session of the adapter in `folder`.
pub fn session(folder: &Path) -> Result<Session> {
    let path = folder.join("adapter.toml");
    if !path.exists() {
        bail!(
            "{} holds no adapter.toml: this run has not been finished or kept. Train it again, or choose another run",
            folder.display()
        );
    }
    file::open(&path)
}

/// The trained matrices in `folder`, under the bag's keys.
pub fn values(folder: &Path) -> Result<tensors::Named> {
    tensors::read(&folder.join("adapter.safetensors"), REMEDY)
}

/// Rebuilds the model from `folder`, on the very weights on which the adapter was trained.
pub fn read(session: &Session, folder: &Path, device: &Device) -> Result<Model> {
    let mut model = Model::make(session, device)?;
    let place = folder.join("adapter.safetensors");
    let trained_on = tensors::notes(&place, REMEDY)?.remove(BACKBONE);
    match trained_on {
        None => bail!("{} does not say on which weights it was trained. {REMEDY}", place.display()),
        Some(then) if then != weights::fingerprint(&model.weights)? => bail!(
            "{} was trained on other weights than `{}` (weights: {}) has now. Put the file back that it was trained on, or train it again",
            place.display(),
            session.backbone.name,
            session.backbone.settings.0.get("weights").map_or("pretrained".to_owned(), ToString::to_string)
        ),
        Some(_) => {}
    }
    let fault = || format!("{} does not fit its session", place.display());
    model.bag.load(&values(folder)?, device).with_context(fault)?;
    Ok(model)
}
