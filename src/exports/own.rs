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

/// Writes the trained parameters of `model` and its session.
pub fn write(session: &Session, model: &Model, folder: &Path) -> Result<()> {
    let notes = BTreeMap::from([("format".to_owned(), "petl-adapter 1".to_owned())]);
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
    tensors::read(&folder.join("adapter.safetensors"), "Train it again, or choose another run")
}

/// Rebuilds the model from `folder`.
pub fn read(session: &Session, folder: &Path, device: &Device) -> Result<Model> {
    let mut model = Model::make(session, device)?;
    let fault = || format!("{} does not fit its session", folder.join("adapter.safetensors").display());
    model.bag.load(&values(folder)?, device).with_context(fault)?;
    Ok(model)
}
