//! The tensors of a model folder: safetensors, what `torch.save` wrote (no code in it is run), NumPy's archives; whole, or in parts with an
//! index. A tensor's bytes come into memory when it is taken, one at a time. Called by the families; knows none of them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use burn::tensor::{Device, Tensor, TensorData};
use half::{bf16, f16};
use memmap2::Mmap;
use npyz::npz::NpzArchive;
use pytorch_reader::PytorchReader;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value as Json;

use super::names::Named;
use super::weights::{floats, some};
use crate::engine::bag::Weights;
use crate::plan::anatomy::Anatomy;

/// Files that hold a whole model, and those that say in which parts it is, the first that is there.
const WHOLE: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];
const INDEX: [&str; 2] = ["model.safetensors.index.json", "pytorch_model.bin.index.json"];
/// What single files of other names end in.
const ENDS: [&str; 5] = ["safetensors", "bin", "pth", "pt", "npz"];

/// Open files, and where each tensor stands.
pub struct Tensors {
    files: Vec<(PathBuf, Source)>,
    /// By name: which file, and the shape.
    place: BTreeMap<String, (usize, Vec<usize>)>,
}

/// A file as its kind is read.
enum Source {
    Safe(Mmap),
    Torch(PytorchReader),
    /// An archive is read through one handle.
    Numpy(Box<RefCell<NpzArchive<BufReader<File>>>>),
}

impl Source {
    /// Opens a file by its name's end.
    fn open(path: &Path) -> Result<Source> {
        let shown = path.display();
        match path.extension().and_then(|end| end.to_str()).unwrap_or_default() {
            "bin" | "pth" | "pt" => {
                let plain = PytorchReader::new(path).map_err(|fault| anyhow!("{shown} is no checkpoint of PyTorch that can be read ({fault}). Fetch it again, or save it as safetensors"))?;
                // Training programs put the weights under a name of their own.
                let nested = ["model", "state_dict"]
                    .iter()
                    .find(|key| plain.keys().iter().all(|name| name.starts_with(&format!("{key}."))));
                match nested.filter(|_| !plain.is_empty()) {
                    Some(key) => {
                        let inner = PytorchReader::with_top_level_key(path, key).map_err(|fault| anyhow!("{shown}: {fault}"))?;
                        Ok(Source::Torch(inner))
                    }
                    None => Ok(Source::Torch(plain)),
                }
            }
            "npz" => {
                let file = File::open(path).with_context(|| format!("cannot read {shown}"))?;
                let archive = NpzArchive::new(BufReader::new(file))
                    .with_context(|| format!("{shown} is no whole archive of NumPy. Fetch it again"))?;
                Ok(Source::Numpy(Box::new(RefCell::new(archive))))
            }
            _ => {
                let map = mapped(path)?;
                SafeTensors::deserialize(&map).with_context(|| {
                    format!("{shown} is not a whole safetensors file ({} bytes). Fetch or export it again", map.len())
                })?;
                Ok(Source::Safe(map))
            }
        }
    }

    fn shapes(&self) -> Result<Vec<(String, Vec<usize>)>> {
        Ok(match self {
            Source::Safe(map) => {
                let file = SafeTensors::deserialize(map)?;
                file.tensors().into_iter().map(|(name, view)| (name, view.shape().to_vec())).collect()
            }
            Source::Torch(reader) => {
                reader.tensors().iter().map(|(name, tensor)| (name.clone(), tensor.shape().to_vec())).collect()
            }
            Source::Numpy(archive) => {
                let names: Vec<String> = archive.borrow().array_names().map(str::to_owned).collect();
                let shape = |name: String| {
                    let mut archive = archive.borrow_mut();
                    let array = archive.by_name(&name)?.with_context(|| format!("there is no `{name}`"))?;
                    Ok((name, array.shape().iter().map(|n| *n as usize).collect()))
                };
                names.into_iter().map(shape).collect::<Result<_>>()?
            }
        })
    }

    fn floats(&self, name: &str) -> Result<Vec<f32>> {
        match self {
            Source::Safe(map) => floats(&SafeTensors::deserialize(map)?.tensor(name)?),
            Source::Torch(reader) => {
                use pytorch_reader::DType;
                let tensor = reader.get(name).with_context(|| format!("there is no tensor `{name}`"))?;
                let bytes = tensor.read()?;
                Ok(match tensor.dtype() {
                    DType::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
                    DType::F16 => bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
                    DType::BF16 => bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
                    other => bail!("is stored as {other:?}; f32, f16 and bf16 can be read. Convert the file to one of these"),
                })
            }
            Source::Numpy(archive) => {
                let mut archive = archive.borrow_mut();
                let array = archive.by_name(name)?.with_context(|| format!("there is no array `{name}`"))?;
                if array.order() != npyz::Order::C {
                    bail!("is stored column by column. Save it with numpy.ascontiguousarray");
                }
                match array.try_data::<f32>() {
                    Ok(values) => Ok(values.collect::<std::io::Result<_>>()?),
                    Err(array) => bail!("is stored as {}; float32 can be read", array.dtype().descr()),
                }
            }
        }
    }
}

impl Tensors {
    /// The tensors of a folder, or of one file.
    ///
    /// # Errors
    /// When no file is there, or one is not whole.
    pub fn open(path: &Path) -> Result<Tensors> {
        let in_folder = |names: &[&str]| names.iter().map(|name| path.join(name)).find(|file| file.is_file());
        let names = match () {
            () if path.is_file() => vec![path.to_owned()],
            () => match (in_folder(&WHOLE), in_folder(&INDEX)) {
                (Some(whole), _) => vec![whole],
                (None, Some(index)) => parts(path, &index)?,
                (None, None) => vec![only(path)?],
            },
        };
        let (mut files, mut place) = (Vec::new(), BTreeMap::new());
        for path in names {
            let source = Source::open(&path)?;
            for (name, shape) in source.shapes().with_context(|| path.display().to_string())? {
                place.insert(name, (files.len(), shape));
            }
            files.push((path, source));
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
        self.place.get(name).map(|(_, shape)| shape.clone())
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
        let (file, shape) = self.place.get(name).with_context(|| format!("there is no tensor `{name}`"))?;
        let (path, source) = &self.files[*file];
        let values = source.floats(name).with_context(|| format!("`{name}` in {}", path.display()))?;
        Ok((values, shape.clone()))
    }

    /// A tensor of whole numbers of 64 bits in safetensors, with its shape.
    ///
    /// # Errors
    /// When it is not there, or is stored as something else.
    pub fn wholes(&self, name: &str) -> Result<(Vec<i64>, Vec<usize>)> {
        let (file, shape) = self.place.get(name).with_context(|| format!("there is no tensor `{name}`"))?;
        let (path, source) = &self.files[*file];
        let Source::Safe(map) = source else { bail!("{} is no safetensors file", path.display()) };
        let file = SafeTensors::deserialize(map)?;
        let view = file.tensor(name)?;
        if view.dtype() != Dtype::I64 {
            bail!("`{name}` in {} is stored as {:?}; whole numbers of 64 bits are needed", path.display(), view.dtype());
        }
        let values = view.data().chunks_exact(8).map(|b| i64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]));
        Ok((values.collect(), shape.clone()))
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
        let shapes = self.place.iter().map(|(name, (_, shape))| (name.clone(), shape.clone())).collect();
        fit(&named, anatomy, &shapes, may_stay)
            .map_err(|fault| anyhow!("{place} does not fit its config.json: {fault}. Is the folder of one model?"))?;
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

/// Fails, naming every tensor, where a file with tensors of these shapes is not this network's.
pub(super) fn fit(
    named: &[Named],
    anatomy: &Anatomy,
    shapes: &BTreeMap<String, Vec<usize>>,
    may_stay: &dyn Fn(&str) -> bool,
) -> Result<()> {
    let (mut missing, mut misshapen) = (Vec::new(), Vec::new());
    for name in named {
        let part = part(anatomy, &name.ours)?;
        match shapes.get(&name.theirs) {
            None => missing.push(name.theirs.clone()),
            Some(shape) if !name.stored.fits(shape, part) => misshapen.push(format!("{} {shape:?}", name.theirs)),
            Some(_) => {}
        }
    }
    let used: BTreeSet<&str> = named.iter().map(|n| n.theirs.as_str()).collect();
    let surplus: Vec<String> = shapes.keys().filter(|n| !used.contains(n.as_str()) && !may_stay(n)).cloned().collect();
    let mut faults = Vec::new();
    let kinds = [("lacks", &missing), ("has in another shape", &misshapen), ("holds, unknown to this network,", &surplus)];
    for (what, names) in kinds.iter().filter(|(_, names)| !names.is_empty()) {
        faults.push(format!("{what} {} of its tensors: {}", names.len(), some(names)));
    }
    match faults.is_empty() {
        true => Ok(()),
        false => bail!("it {}", faults.join("; it ")),
    }
}

/// `[rows, cols]` of our part of this full name.
pub(super) fn part(anatomy: &Anatomy, full: &str) -> Result<(usize, usize)> {
    let (site, part) = full.rsplit_once('.').unwrap_or_default();
    let part = anatomy.site(site).and_then(|s| s.part(part)).ok_or_else(|| anyhow!("this network has no `{full}`"))?;
    Ok((part.rows, part.cols))
}

/// The one file of weights in a folder that has no usual name.
fn only(folder: &Path) -> Result<PathBuf> {
    let ends = |path: &Path| path.extension().and_then(|end| end.to_str()).is_some_and(|end| ENDS.contains(&end));
    let all = std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut all: Vec<PathBuf> =
        all.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_file() && ends(path)).collect();
    match (all.pop(), all.is_empty()) {
        (Some(file), true) => Ok(file),
        _ => bail!(
            "{} holds neither {} nor {}, nor one other file of weights alone. Save the model with safetensors (in Python: model.save_pretrained(folder)), or fetch these files",
            folder.display(),
            WHOLE[0],
            INDEX[0]
        ),
    }
}

/// The files that an index names, each once.
fn parts(folder: &Path, place: &Path) -> Result<Vec<PathBuf>> {
    let text = std::fs::read_to_string(place).with_context(|| format!("cannot read {}", place.display()))?;
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
pub(super) fn mapped(path: &Path) -> Result<Mmap> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    // SAFETY: the map is read only, and no reference outlives it; that nobody writes to the file meanwhile is the user's.
    unsafe { Mmap::map(&file) }.with_context(|| format!("cannot map {}", path.display()))
}
