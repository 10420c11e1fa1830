//! A model folder as the usual libraries write it: `config.json`, and beside it the tensors in safetensors, whole or in parts
//! with an index. Files are mapped, not read: a tensor's bytes come into memory when it is taken, one at a time. Called by the
//! families; knows none of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use burn::tensor::{Device, Tensor, TensorData};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value as Json;

use super::names::{Named, Stored};
use super::weights::{floats, some};
use crate::engine::bag::Weights;
use crate::plan::anatomy::Anatomy;

const CONFIG: &str = "config.json";
const WHOLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// A folder and what its `config.json` says.
#[derive(Clone, Debug)]
pub struct Folder {
    pub path: PathBuf,
    pub config: Json,
}

impl Folder {
    /// Reads `config.json`; no tensor is touched.
    ///
    /// # Errors
    /// In words, when there is no such folder or no configuration in it.
    pub fn open(path: &str) -> Result<Folder, String> {
        if path.is_empty() {
            return Err("no model folder is chosen. Open the folder that holds config.json and model.safetensors".to_owned());
        }
        let path = PathBuf::from(path);
        let place = path.join(CONFIG);
        let text = std::fs::read_to_string(&place).map_err(|fault| {
            format!("cannot read {} ({fault}). Choose the folder that holds config.json and model.safetensors", place.display())
        })?;
        let config = serde_json::from_str(&text)
            .map_err(|fault| format!("{} is no JSON ({fault}). Fetch the folder again", place.display()))?;
        Ok(Folder { path, config })
    }

    /// `model_type` of the configuration, or timm's `architecture`.
    pub fn kind(&self) -> &str {
        self.config["model_type"].as_str().or(self.config["architecture"].as_str()).unwrap_or_default()
    }

    /// timm's configurations have no `model_type`.
    pub fn is_timm(&self) -> bool {
        self.config["model_type"].is_null()
            && self.config["architecture"].as_str().is_some_and(|a| a.contains("vit") || a.contains("deit"))
    }

    /// A whole number above zero.
    pub fn whole(&self, name: &str) -> Result<usize, String> {
        self.whole_or(name, None)
    }

    /// The same, with a default where the configuration leaves it out.
    pub fn whole_or(&self, name: &str, default: Option<usize>) -> Result<usize, String> {
        // No network has more of anything; what lies beyond would not fit any memory.
        let most = match name {
            "num_hidden_layers" | "n_layers" | "num_attention_heads" | "n_heads" => 1 << 10,
            "vocab_size" => 1 << 22,
            _ => 1 << 17,
        };
        let fault =
            || format!("{}: `{name}` is {}, but must be a whole number from 1 to {most}", self.place(), self.config[name]);
        match (&self.config[name], default) {
            (Json::Null, Some(default)) => Ok(default),
            (value, _) => value.as_u64().filter(|n| (1..=most).contains(n)).map(|n| n as usize).ok_or_else(fault),
        }
    }

    pub fn real_or(&self, name: &str, default: f64) -> Result<f64, String> {
        match &self.config[name] {
            Json::Null => Ok(default),
            value => value.as_f64().ok_or_else(|| format!("{}: `{name}` is {value}, but must be a number", self.place())),
        }
    }

    pub fn flag_or(&self, name: &str, default: bool) -> Result<bool, String> {
        match &self.config[name] {
            Json::Null => Ok(default),
            value => value.as_bool().ok_or_else(|| format!("{}: `{name}` is {value}, but must be true or false", self.place())),
        }
    }

    /// A word that must be one of `known`.
    pub fn word(&self, name: &str, default: &str, known: &[&str]) -> Result<String, String> {
        let word = self.config[name].as_str().unwrap_or(default);
        match known.contains(&word) {
            true => Ok(word.to_owned()),
            false => Err(format!("{}: `{name}` is `{word}`; this program knows {}", self.place(), known.join(", "))),
        }
    }

    /// Another JSON file of the folder, where there is one.
    pub fn beside(&self, name: &str) -> Option<Json> {
        serde_json::from_str(&std::fs::read_to_string(self.path.join(name)).ok()?).ok()
    }

    /// What `preprocessor_config.json` says of sounds; nothing where there is none.
    ///
    /// # Errors
    /// In words, when the network hears another rate than 16 kHz, which is the only one that sounds are brought to.
    pub fn ear(&self) -> Result<Json, String> {
        let noted = self.beside("preprocessor_config.json").unwrap_or_default();
        match noted["sampling_rate"].as_f64().unwrap_or(16_000.0) {
            16_000.0 => Ok(noted),
            rate => Err(format!(
                "{}: `sampling_rate` is {rate}; this program knows networks that hear 16000 numbers a second",
                self.path.join("preprocessor_config.json").display()
            )),
        }
    }

    fn place(&self) -> String {
        self.path.join(CONFIG).display().to_string()
    }

    /// Its tensors.
    ///
    /// # Errors
    /// When no file is there, or one is no whole safetensors file.
    pub fn tensors(&self) -> Result<Tensors> {
        Tensors::open(&self.path)
    }
}

/// Mapped files and where each tensor stands.
pub struct Tensors {
    files: Vec<(PathBuf, Mmap)>,
    /// By name: which file.
    place: BTreeMap<String, usize>,
}

impl Tensors {
    /// The tensors of a folder, or of one file.
    ///
    /// # Errors
    /// As `Folder::tensors`.
    pub fn open(path: &Path) -> Result<Tensors> {
        let names = match () {
            () if path.is_file() => vec![path.to_owned()],
            () if path.join(WHOLE).is_file() => vec![path.join(WHOLE)],
            () if path.join(INDEX).is_file() => parts(path)?,
            () => bail!(
                "{} holds neither {WHOLE} nor {INDEX}. Save the model with safetensors (in Python: model.save_pretrained(folder)), or fetch these files",
                path.display()
            ),
        };
        let mut files = Vec::new();
        let mut place = BTreeMap::new();
        for name in names {
            let map = mapped(&name)?;
            let (length, shown) = (map.len(), name.display().to_string());
            let file = SafeTensors::deserialize(&map)
                .with_context(|| format!("{shown} is not a whole safetensors file ({length} bytes). Fetch or export it again"))?;
            for tensor in file.names() {
                place.insert(tensor.to_owned(), files.len());
            }
            files.push((name, map));
        }
        Ok(Tensors { files, place })
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.place.keys().map(String::as_str)
    }

    pub fn has(&self, name: &str) -> bool {
        self.place.contains_key(name)
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let (_, map) = &self.files[*self.place.get(name)?];
        Some(SafeTensors::deserialize(map).ok()?.tensor(name).ok()?.shape().to_vec())
    }

    /// The shapes of all.
    fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        let of = |(_, map): &(PathBuf, Mmap)| {
            let file = SafeTensors::deserialize(map).ok()?;
            Some(file.tensors().into_iter().map(|(name, view)| (name, view.shape().to_vec())).collect::<Vec<_>>())
        };
        self.files.iter().filter_map(of).flatten().collect()
    }

    /// The name under which the file has the tensor `name`: early checkpoints call a norm's weight gamma and its bias beta.
    fn named(&self, name: &str) -> String {
        let old = || {
            let norm = |end: &str, old: &str| Some(format!("{}LayerNorm.{old}", name.strip_suffix(&format!("LayerNorm.{end}"))?));
            norm("weight", "gamma").or_else(|| norm("bias", "beta")).filter(|old| self.has(old))
        };
        if self.has(name) { name.to_owned() } else { old().unwrap_or_else(|| name.to_owned()) }
    }

    /// A tensor as f32, with its shape.
    ///
    /// # Errors
    /// When it is not there, or is stored as no float.
    pub fn floats(&self, name: &str) -> Result<(Vec<f32>, Vec<usize>)> {
        let (path, map) = &self.files[*self.place.get(name).with_context(|| format!("there is no tensor `{name}`"))?];
        let file = SafeTensors::deserialize(map)?;
        let view = file.tensor(name)?;
        let values = floats(&view).with_context(|| format!("`{name}` in {}", path.display()))?;
        Ok((values, view.shape().to_vec()))
    }

    /// A tensor of whole numbers of 64 bits, with its shape.
    ///
    /// # Errors
    /// When it is not there, or is stored as something else.
    pub fn wholes(&self, name: &str) -> Result<(Vec<i64>, Vec<usize>)> {
        let (path, map) = &self.files[*self.place.get(name).with_context(|| format!("there is no tensor `{name}`"))?];
        let file = SafeTensors::deserialize(map)?;
        let view = file.tensor(name)?;
        if view.dtype() != Dtype::I64 {
            bail!("`{name}` in {} is stored as {:?}; whole numbers of 64 bits are needed", path.display(), view.dtype());
        }
        let values = view.data().chunks_exact(8).map(|b| i64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]));
        Ok((values.collect(), view.shape().to_vec()))
    }

    /// The weights of a network: every tensor of `named` taken and turned to our order. `may_stay` says which of the file's
    /// other tensors are no fault.
    ///
    /// # Errors
    /// Naming every tensor that is missing, surplus or of another shape; nothing loads half.
    pub fn weights(
        &self,
        named: &[Named],
        anatomy: &Anatomy,
        may_stay: &dyn Fn(&str) -> bool,
        device: &Device,
    ) -> Result<Weights> {
        let named: Vec<Named> = named.iter().map(|n| Named { theirs: self.named(&n.theirs), ..n.clone() }).collect();
        let place = self.files.first().map(|(path, _)| path.display().to_string()).unwrap_or_default();
        let shapes = self.shapes();
        let (mut missing, mut misshapen) = (Vec::new(), Vec::new());
        for name in &named {
            let part = part(anatomy, &name.ours)?;
            match shapes.get(&name.theirs) {
                None => missing.push(name.theirs.clone()),
                Some(shape) if !name.stored.fits(shape, part) => misshapen.push(format!("{} {shape:?}", name.theirs)),
                Some(_) => {}
            }
        }
        let used: BTreeSet<&str> = named.iter().map(|n| n.theirs.as_str()).collect();
        let surplus: Vec<String> = self.names().filter(|n| !used.contains(n) && !may_stay(n)).map(str::to_owned).collect();
        let mut faults = Vec::new();
        let kinds = [("lacks", &missing), ("has in another shape", &misshapen), ("holds, unknown to this network,", &surplus)];
        for (what, names) in kinds.iter().filter(|(_, names)| !names.is_empty()) {
            faults.push(format!("{what} {} of its tensors: {}", names.len(), some(names)));
        }
        if !faults.is_empty() {
            bail!("{place} does not fit its config.json: it {}. Is the folder of one model?", faults.join("; it "));
        }
        let mut weights = Weights::new();
        for name in &named {
            let (rows, cols) = part(anatomy, &name.ours)?;
            let (values, _) = self.floats(&name.theirs)?;
            let values = name.stored.ours(values, rows, cols);
            weights.insert(name.ours.clone(), Tensor::from_data(TensorData::new(values, [rows, cols]), device));
        }
        Ok(weights)
    }
}

/// `[rows, cols]` of our part of this full name.
fn part(anatomy: &Anatomy, full: &str) -> Result<(usize, usize)> {
    let (site, part) = full.rsplit_once('.').unwrap_or_default();
    let part = anatomy.site(site).and_then(|s| s.part(part)).ok_or_else(|| anyhow!("this network has no `{full}`"))?;
    Ok((part.rows, part.cols))
}

impl Stored {
    /// Whether a tensor of this shape holds our `[rows, cols]`.
    fn fits(self, shape: &[usize], (rows, cols): (usize, usize)) -> bool {
        match self {
            Stored::Turned => shape == [cols, rows],
            Stored::Vector => rows == 1 && shape == [cols],
            Stored::Positions => shape.last() == Some(&cols) && shape.iter().product::<usize>() == rows * cols,
            Stored::Patches => shape.len() == 4 && shape[0] == cols && shape[1..].iter().product::<usize>() == rows,
            Stored::Taps => shape == [cols, rows / 3, 3],
            Stored::Third(_) if rows == 1 && shape.len() == 1 => shape == [3 * cols],
            Stored::Third(_) => shape == [3 * cols, rows],
            Stored::Table => shape == [rows, cols],
        }
    }

    /// The values in our order, `[rows, cols]`.
    fn ours(self, values: Vec<f32>, rows: usize, cols: usize) -> Vec<f32> {
        match self {
            Stored::Vector | Stored::Positions | Stored::Table => values,
            Stored::Turned | Stored::Patches | Stored::Taps => turned(&values, rows, cols),
            Stored::Third(n) if values.len() == 3 * cols => values[n * cols..(n + 1) * cols].to_vec(),
            Stored::Third(n) => turned(&values[n * rows * cols..(n + 1) * rows * cols], rows, cols),
        }
    }
}

/// `[cols, rows]` to `[rows, cols]`, in squares that stay in the cache.
fn turned(from: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    const SIDE: usize = 32;
    let mut to = vec![0.0; rows * cols];
    for c0 in (0..cols).step_by(SIDE) {
        for r0 in (0..rows).step_by(SIDE) {
            for c in c0..cols.min(c0 + SIDE) {
                for r in r0..rows.min(r0 + SIDE) {
                    to[r * cols + c] = from[c * rows + r];
                }
            }
        }
    }
    to
}

/// The files that an index names, each once.
fn parts(folder: &Path) -> Result<Vec<PathBuf>> {
    let place = folder.join(INDEX);
    let text = std::fs::read_to_string(&place).with_context(|| format!("cannot read {}", place.display()))?;
    let index: Json = serde_json::from_str(&text).with_context(|| format!("{} is no JSON", place.display()))?;
    let map = index["weight_map"].as_object().with_context(|| format!("{} has no `weight_map`", place.display()))?;
    let names: BTreeSet<&str> = map.values().filter_map(Json::as_str).collect();
    // A name with a separator would lead out of the folder.
    if let Some(name) = names.iter().find(|name| Path::new(name).components().count() != 1 || name.starts_with('.')) {
        bail!("{} names the file `{name}`, which is not in this folder", place.display());
    }
    let missing: Vec<String> = names.iter().filter(|n| !folder.join(n).is_file()).map(|n| (*n).to_owned()).collect();
    if !missing.is_empty() {
        bail!("{} names files that are not there: {}. Fetch them too", place.display(), some(&missing));
    }
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

#[expect(
    unsafe_code,
    reason = "a file that is cut while it is mapped ends the program; copying 90 MB first would cost as much memory again"
)]
fn mapped(path: &Path) -> Result<Mmap> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    // SAFETY: the map is read only, and no reference outlives it; that nobody writes to the file meanwhile is the user's.
    unsafe { Mmap::map(&file) }.with_context(|| format!("cannot map {}", path.display()))
}
