//! The head beside an adapter of AdapterHub's: transformers' own classifier, or one that the package put on a bare model. Called by the
//! folder's reader; knows no methods.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use burn::tensor::TensorData;
use serde_json::Value as Json;

use super::{HEAD, HEAD_CONFIG, TORCH_HEAD, either};
use crate::exports::head;
use crate::exports::tensors::{self, Named};
use crate::plan::anatomy::{Anatomy, Entry, Role};
use crate::tasks::classify::Activation;

/// What a folder holds of a head; nothing, where it holds none.
#[derive(Default)]
pub struct Head {
    pub params: Named,
    pub classes: Option<Vec<String>>,
    /// What stands between its two layers, where it has two and is the package's own.
    pub activation: Option<Activation>,
}

/// The configuration of the package's own head; null where it is transformers' classifier, or there is none.
fn own(folder: &Path) -> Json {
    let place = folder.join(HEAD_CONFIG);
    tensors::read_json(&place).map_or(Json::Null, |mut config| config["config"].take())
}

/// What the head of a text encoder reads, as our setting `pool` says it, where the head is the package's own.
pub fn pool(folder: &Path) -> Option<&'static str> {
    let own = own(folder);
    (!own.is_null()).then(|| if own["use_pooler"] == true { "pooler" } else { "first token" })
}

/// Reads it for a network of this anatomy.
///
/// # Errors
/// Naming what has no place here, and every tensor that is missing, surplus or of another shape.
pub fn read(folder: &Path, anatomy: &Anatomy) -> Result<Head> {
    let (place, file) = (folder.join(HEAD_CONFIG), either(folder, [HEAD, TORCH_HEAD]));
    if !file.exists() {
        return Ok(Head::default());
    }
    let mut config = tensors::read_json(&place)?;
    let read = tensors::read_any(&file, "Export or fetch the folder again")?;
    let (described, params, activation) = match config["config"].take() {
        Json::Null => {
            let head = head::Head::of(anatomy).map_err(|e| anyhow!(e))?;
            (config, head.among(&read, anatomy.width).with_context(|| file.display().to_string())?, None)
        }
        own => {
            let activation = meant(&own, anatomy).map_err(|words| anyhow!("{}: {words}", place.display()))?;
            let stem = format!("heads.{}", config["name"].as_str().unwrap_or_default());
            let params = params(read, &stem, activation.is_some(), anatomy.width).with_context(|| file.display().to_string())?;
            (own, params, activation)
        }
    };
    let labels = described["label2id"].as_object().into_iter().flatten();
    let labels: BTreeMap<u64, String> = labels.filter_map(|(name, n)| Some((n.as_u64()?, name.clone()))).collect();
    let are_counted = labels.keys().copied().eq(0..labels.len() as u64);
    let classes = (!labels.is_empty() && are_counted).then(|| labels.into_values().collect());
    Ok(Head { params, classes, activation })
}

/// What stands between the two layers of the package's own head; none where it has one layer.
fn meant(own: &Json, anatomy: &Anatomy) -> Result<Option<Activation>, String> {
    let kind = own["head_type"].as_str().unwrap_or_default();
    if !["classification", "image_classification"].contains(&kind) {
        return Err(format!("head_type is `{kind}`; heads that classify can be read"));
    }
    if own["multilabel"] == true || own["num_labels"] == 1 {
        return Err(format!(
            "num_labels is {} and multilabel is {}; heads that choose one class can be read",
            own["num_labels"], own["multilabel"]
        ));
    }
    // On a decoder the package's reads the last token, and ours has no bias; on sounds it reads something else, too.
    if anatomy.causal || anatomy.decoder().is_some() || matches!(anatomy.entry, Entry::Sound { .. }) {
        return Err(format!("head_type is `{kind}` of the package's own, which is read on images and text encoders"));
    }
    if own["use_pooler"] == true && !anatomy.sites.iter().any(|site| site.role == Role::Pool) {
        return Err("use_pooler is true, but this network has no pooler".to_owned());
    }
    if own["bias"] == false {
        return Err("bias is false, but a head here has one".to_owned());
    }
    match own["layers"].as_u64() {
        Some(1) => Ok(None),
        Some(2) => {
            let word = own["activation_function"].as_str().unwrap_or("null");
            let known = Activation::named(word);
            known.map(Some).ok_or_else(|| format!("activation_function is `{word}`; tanh, relu and gelu can be read"))
        }
        _ => Err(format!("layers is {}; heads of one or two layers can be read", own["layers"])),
    }
}

/// The bag's values of the package's own head: dropout, a layer of the network's width and its activation, all that once more or not, and
/// the classes' layer stand there in a row and are called by their numbers.
fn params(mut read: Named, stem: &str, is_mlp: bool, width: usize) -> Result<Named> {
    let layers: &[(&str, [&str; 2])] = match is_mlp {
        true => &[("1", ["head/dense", "head/dense_bias"]), ("4", ["head/weight", "head/bias"])],
        false => &[("1", ["head/weight", "head/bias"])],
    };
    let mut all = Named::new();
    for (number, [weight, bias]) in layers {
        let [name, bias_name] = ["weight", "bias"].map(|part| format!("{stem}.{number}.{part}"));
        let mut take = |name: &str| read.remove(name).with_context(|| format!("it holds no `{name}`"));
        let (theirs, shift) = (tensors::turned(&name, &take(&name)?)?, take(&bias_name)?);
        let &[inputs, outputs] = theirs.shape().as_slice() else { bail!("`{name}` is no matrix") };
        let wanted = if *weight == "head/dense" { width } else { outputs };
        if inputs != width || outputs != wanted || shift.shape().as_slice() != [outputs] {
            bail!("`{name}` is [{outputs}, {inputs}], but the head of this network reads {width} channels");
        }
        let row: TensorData = tensors::shaped(&bias_name, &shift, &[1, outputs])?;
        all.extend([((*weight).to_owned(), theirs), ((*bias).to_owned(), row)]);
    }
    match read.keys().next() {
        Some(name) => bail!("it holds `{name}`, for which the head's configuration names no place"),
        None => Ok(all),
    }
}
