//! Reads frozen weights: safetensors in f32, f16 or bf16, every tensor checked against the declared anatomy before one is
//! used. Called by the backbones; nothing loads half.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use burn::tensor::{Device, Tensor, TensorData};
use half::{bf16, f16};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use sha2::{Digest, Sha256};

use crate::engine::bag::Weights;
use crate::engine::model::host;
use crate::engine::random;
use crate::methods::Init;
use crate::plan::anatomy::{Anatomy, Role};

/// The weights in the file `path`.
pub fn from_file(path: &Path, anatomy: &Anatomy, device: &Device) -> Result<Weights> {
    let place = path.display().to_string();
    let bytes = std::fs::read(path).with_context(|| {
        format!("cannot read the backbone's weights from {place}. Set backbone.settings.weights to \"pretrained\" or to the path of a safetensors file")
    })?;
    from_bytes(&bytes, anatomy, &place, device)
}

/// The weights in a safetensors file's bytes; `place` names it in errors.
pub fn from_bytes(bytes: &[u8], anatomy: &Anatomy, place: &str, device: &Device) -> Result<Weights> {
    let file = SafeTensors::deserialize(bytes)
        .with_context(|| format!("{place} is not a whole safetensors file ({} bytes). Fetch or export it again", bytes.len()))?;
    let mut weights = Weights::new();
    let mut missing = Vec::new();
    for site in &anatomy.sites {
        for part in &site.parts {
            let name = format!("{}.{}", site.path, part.name);
            let Ok(view) = file.tensor(&name) else {
                missing.push(name);
                continue;
            };
            let shape = view.shape();
            let as_declared = shape == [part.rows, part.cols] || (part.rows == 1 && shape == [part.cols]);
            if !as_declared {
                bail!(
                    "`{name}` in {place} has shape {shape:?}, but this backbone needs {:?}. Is it a file of another size?",
                    [part.rows, part.cols]
                );
            }
            let values = floats(&view).with_context(|| format!("`{name}` in {place}"))?;
            weights.insert(name, Tensor::from_data(TensorData::new(values, [part.rows, part.cols]), device));
        }
    }
    if !missing.is_empty() {
        bail!(
            "{place} lacks {} tensors that this backbone needs: {}. Is it a file of another backbone?",
            missing.len(),
            some(&missing)
        );
    }
    let surplus: Vec<_> = file.names().into_iter().filter(|name| !weights.contains_key(*name)).map(str::to_owned).collect();
    if !surplus.is_empty() {
        bail!("{place} holds {} tensors that this backbone does not know: {}", surplus.len(), some(&surplus));
    }
    Ok(weights)
}

/// The first of `names`.
pub fn some(names: &[String]) -> String {
    let shown = names.iter().take(6).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > 6 { format!("{shown}, ...") } else { shown }
}

/// The values of a float tensor as f32.
pub fn floats(view: &TensorView) -> Result<Vec<f32>> {
    let bytes = view.data();
    Ok(match view.dtype() {
        Dtype::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        Dtype::F16 => bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        Dtype::BF16 => bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        other => bail!("is stored as {other:?}; f32, f16 and bf16 can be read. Convert the file to one of these"),
    })
}

/// The weights as a number: two networks with the same number hold the same values under the same names, bit for bit.
///
/// # Errors
/// When the device does not give them back.
pub fn fingerprint(weights: &Weights) -> Result<String> {
    let mut hash = Sha256::new();
    for name in weights.names() {
        let value = weights.matrix(name).with_context(|| format!("there is no `{name}`"))?;
        hash.update(format!("{name} {:?}", value.dims()));
        for value in host(value)? {
            hash.update(value.to_le_bytes());
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Random weights, as training from scratch starts (truncation left out): normal 0.02, norms at 1, biases at 0.
pub fn random(anatomy: &Anatomy, seed: u64, device: &Device) -> Weights {
    let mut weights = Weights::new();
    for site in &anatomy.sites {
        for part in &site.parts {
            let name = format!("{}.{}", site.path, part.name);
            let norm = matches!(site.role, Role::Norm | Role::Scale);
            let init = match part.name {
                "bias" => Init::Zeros,
                "weight" if norm => Init::Ones,
                "weight" => Init::Uniform((6.0 / (part.rows + part.cols) as f64).sqrt()), // Glorot and Bengio (2010)
                _ => Init::Normal(0.02),
            };
            let mut rng = ChaCha8Rng::seed_from_u64(random::stream(seed, &name));
            let values = random::values(&mut rng, init, part.count());
            weights.insert(name, Tensor::from_data(TensorData::new(values, [part.rows, part.cols]), device));
        }
    }
    weights
}

/// Writes named matrices as safetensors, f32 or f16, through a temporary file beside `path` that is renamed when whole.
pub fn write(path: &Path, tensors: &BTreeMap<String, TensorData>, as_f16: bool, notes: BTreeMap<String, String>) -> Result<()> {
    let mut raw = Vec::new();
    for (name, data) in tensors {
        let values = data.try_to_vec::<f32>().map_err(|e| anyhow::anyhow!("`{name}` is not f32: {e:?}"))?;
        let bytes: Vec<u8> = match as_f16 {
            true => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
            false => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        };
        raw.push((name.clone(), data.shape().to_vec(), bytes));
    }
    let dtype = if as_f16 { Dtype::F16 } else { Dtype::F32 };
    let mut views = Vec::new();
    for (name, shape, bytes) in &raw {
        views.push((name.as_str(), TensorView::new(dtype, shape.clone(), bytes)?));
    }
    let notes = (!notes.is_empty()).then(|| notes.into_iter().collect());
    let bytes = safetensors::serialize(views, notes)?;
    crate::session::file::write_whole(path, &bytes)
}
