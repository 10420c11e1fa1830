//! Small matrix work on host memory for the exports: turning over, reading and writing files of named tensors.
//! Called by the exports; knows no names of other programs.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use burn::tensor::TensorData;
use safetensors::SafeTensors;
use serde_json::Value as Json;

use crate::backbones::tensors::Tensors;
use crate::backbones::weights;

/// Named tensors in host memory, in the order in which they are written.
pub type Named = BTreeMap<String, TensorData>;

/// The values as f32.
pub fn values(name: &str, data: &TensorData) -> Result<Vec<f32>> {
    data.try_to_vec::<f32>().map_err(|e| anyhow!("`{name}` is not f32: {e:?}"))
}

/// `[rows, cols]` to `[cols, rows]`.
pub fn turned(name: &str, data: &TensorData) -> Result<TensorData> {
    let &[rows, cols] = data.shape().as_slice() else {
        bail!("`{name}` has shape {:?}; a matrix is needed", data.shape().as_slice())
    };
    let from = values(name, data)?;
    let mut to = Vec::with_capacity(from.len());
    for col in 0..cols {
        to.extend((0..rows).map(|row| from[row * cols + col]));
    }
    Ok(TensorData::new(to, [cols, rows]))
}

/// The rows of `top` and below them those of `bottom` times `factor`.
pub fn stacked(name: &str, top: &TensorData, bottom: &TensorData, factor: f32) -> Result<TensorData> {
    let (&[rows, cols], &[more, as_wide]) = (top.shape().as_slice(), bottom.shape().as_slice()) else {
        bail!("`{name}` is no matrix")
    };
    if cols != as_wide {
        bail!("`{name}` has {cols} columns above and {as_wide} below");
    }
    let below = values(name, bottom)?;
    let both = values(name, top)?.into_iter().chain(below.into_iter().map(|v| v * factor)).collect();
    Ok(TensorData::new::<f32, _>(both, [rows + more, cols]))
}

/// The columns of `left` and beside them those of `right`.
pub fn beside(name: &str, left: &TensorData, right: &TensorData) -> Result<TensorData> {
    turned(name, &stacked(name, &turned(name, left)?, &turned(name, right)?, 1.0)?)
}

/// The same values in another shape.
pub fn shaped(name: &str, data: &TensorData, shape: &[usize]) -> Result<TensorData> {
    let from = values(name, data)?;
    if from.len() != shape.iter().product::<usize>() {
        bail!("`{name}` has shape {:?}, which does not give {shape:?}", data.shape().as_slice());
    }
    Ok(TensorData::new(from, shape.to_vec()))
}

/// Every tensor of a safetensors file, as f32. `remedy` ends the message when it cannot be read.
pub fn read(path: &Path, remedy: &str) -> Result<Named> {
    let place = path.display();
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {place}. {remedy}"))?;
    let file = SafeTensors::deserialize(&bytes)
        .with_context(|| format!("{place} is not a whole safetensors file ({} bytes). {remedy}", bytes.len()))?;
    let mut found = Named::new();
    for (name, view) in file.tensors() {
        let values = weights::floats(&view).with_context(|| format!("`{name}` in {place}"))?;
        found.insert(name, TensorData::new(values, view.shape().to_vec()));
    }
    Ok(found)
}

/// Every tensor of a safetensors file, or of a checkpoint of PyTorch's by its name's end.
pub fn read_any(path: &Path, remedy: &str) -> Result<Named> {
    if path.extension().is_none_or(|end| end != "bin") {
        return read(path, remedy);
    }
    let file = Tensors::open(path).context(remedy.to_owned())?;
    let of = |name: &str| file.floats(name).map(|(values, shape)| (name.to_owned(), TensorData::new(values, shape)));
    file.names().map(of).collect()
}

/// Fails in words on the first field of a configuration that says something and is none that is known.
pub fn known_only(config: &Json, known: impl Fn(&str) -> bool) -> Result<(), String> {
    let says = |value: &Json| match value {
        Json::Null | Json::Bool(false) => false,
        Json::Array(list) => !list.is_empty(),
        Json::Object(map) => !map.is_empty(),
        Json::String(text) => !text.is_empty(),
        _ => true,
    };
    match config.as_object().into_iter().flatten().find(|(name, value)| !known(name) && says(value)) {
        Some((name, value)) => Err(format!("`{name}` is set ({value}), which is not known here")),
        None => Ok(()),
    }
}

/// What the header of a safetensors file notes beside its tensors.
pub fn notes(path: &Path, remedy: &str) -> Result<BTreeMap<String, String>> {
    let place = path.display();
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {place}. {remedy}"))?;
    let (_, header) = SafeTensors::read_metadata(&bytes)
        .with_context(|| format!("{place} is not a whole safetensors file ({} bytes). {remedy}", bytes.len()))?;
    Ok(header.metadata().clone().unwrap_or_default().into_iter().collect())
}

/// Writes named tensors as PyTorch's readers expect them.
pub fn write(path: &Path, tensors: &Named) -> Result<()> {
    weights::write(path, tensors, false, BTreeMap::from([("format".to_owned(), "pt".to_owned())]))
}

/// Writes JSON with sorted keys and an indent of two.
pub fn write_json(path: &Path, value: &serde_json::Value) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).context("cannot write JSON")?;
    text.push('\n');
    crate::session::file::write_whole(path, text.as_bytes())
}

/// Reads a JSON file.
pub fn read_json(path: &Path) -> Result<serde_json::Value> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}. Is the folder whole?", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))
}

/// Fails unless the JSON read from `place` holds every one of `wanted` (pointer, value), as `/size/height`.
pub fn agree(place: &Path, found: &serde_json::Value, wanted: &[(&str, serde_json::Value)]) -> Result<()> {
    let near = |a: f64, b: f64| (a - b).abs() <= 1e-9 * b.abs();
    for (pointer, wanted) in wanted {
        let value = found.pointer(pointer).unwrap_or(&serde_json::Value::Null);
        let same = match (value.as_f64(), wanted.as_f64()) {
            (Some(value), Some(wanted)) => near(value, wanted), // 8 and 8.0 are one number to other programs
            _ => value == wanted,
        };
        if !same {
            let name = pointer.trim_start_matches('/').replace('/', ".");
            bail!("{}: `{name}` is {value}, but this network has {wanted}", place.display());
        }
    }
    Ok(())
}
