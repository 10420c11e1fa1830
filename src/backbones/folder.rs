//! A model folder as the usual libraries write it: `config.json`, and beside it the tensors (`tensors`); or one GGUF file
//! (`gguf`). Called by the families; knows none of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use serde_json::{Value as Json, json};

use super::Card;
use super::gguf::Gguf;
use super::tensors::Tensors;

const CONFIG: &str = "config.json";
const GGUF: &str = "gguf";
/// The end of an archive of NumPy, which has no configuration: what is in it stands in its shapes.
const NUMPY: &str = "npz";

/// A folder and what its `config.json` says, or a GGUF file and what its header says.
#[derive(Clone, Debug)]
pub struct Folder {
    pub path: PathBuf,
    pub config: Json,
    /// The file, where the folder holds no configuration but one of GGUF.
    pub gguf: Option<Arc<Gguf>>,
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
        if let Some(file) = within(&path, GGUF) {
            let gguf = Gguf::open(&file).map_err(|fault| format!("{fault:#}"))?;
            let config = gguf.config().map_err(|fault| format!("{fault:#}"))?;
            return Ok(Folder { path, config, gguf: Some(Arc::new(gguf)) });
        }
        if let Some(file) = within(&path, NUMPY) {
            return Ok(Folder { path: file, config: json!({ "model_type": NUMPY }), gguf: None });
        }
        let place = path.join(CONFIG);
        let text = std::fs::read_to_string(&place).map_err(|fault| {
            format!("cannot read {} ({fault}). Choose the folder that holds config.json and model.safetensors", place.display())
        })?;
        let config = serde_json::from_str(&text)
            .map_err(|fault| format!("{} is no JSON ({fault}). Fetch the folder again", place.display()))?;
        Ok(Folder { path, config, gguf: None })
    }

    /// Whether a model stands there: a folder with a configuration, or a file that needs none.
    pub fn is_at(path: &Path) -> bool {
        path.join(CONFIG).is_file() || [GGUF, NUMPY].iter().any(|end| within(path, end).is_some())
    }

    /// `model_type` of the configuration, or timm's `architecture`.
    pub fn kind(&self) -> &str {
        self.config["model_type"].as_str().or(self.config["architecture"].as_str()).unwrap_or_default()
    }

    /// Whether this card opens it.
    ///
    /// # Errors
    /// In words, when another one does, or none.
    pub fn is_of(&self, card: &Card) -> Result<(), String> {
        match card.model_types.contains(&self.kind()) {
            true => Ok(()),
            false => Err(format!(
                "{} is a folder of `{}`; {} opens {}",
                self.path.display(),
                self.kind(),
                card.name,
                card.model_types.join(", ")
            )),
        }
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
            "num_hidden_layers"
            | "n_layers"
            | "n_layer"
            | "num_attention_heads"
            | "n_heads"
            | "n_head"
            | "num_key_value_heads"
            | "num_layers"
            | "num_decoder_layers"
            | "num_heads" => 1 << 10,
            "vocab_size" | "max_position_embeddings" | "sliding_window" => 1 << 22,
            _ => 1 << 17,
        };
        let fault =
            || format!("{}: `{name}` is {}, but must be a whole number from 1 to {most}", self.place(), self.config[name]);
        match (&self.config[name], default) {
            (Json::Null, Some(default)) => Ok(default),
            (value, _) => value.as_u64().filter(|n| (1..=most).contains(n)).map(|n| n as usize).ok_or_else(fault),
        }
    }

    /// A list of such numbers, of at least one.
    pub fn wholes_or(&self, name: &str, default: &[usize]) -> Result<Vec<usize>, String> {
        let value = &self.config[name];
        let one = |value: &Json| value.as_u64().filter(|n| (1..=1 << 10).contains(n)).map(|n| n as usize);
        let list = || -> Option<Vec<usize>> { value.as_array().filter(|list| !list.is_empty())?.iter().map(one).collect() };
        let fault = || format!("{}: `{name}` is {value}, but must be a list of whole numbers from 1 to 1024", self.place());
        if value.is_null() { Ok(default.to_vec()) } else { list().ok_or_else(fault) }
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

    /// The token that fills a batch up where nobody attends to it: `pad_token_id`, or else the one that ends a text.
    pub fn filler(&self) -> usize {
        let of = |name: &str| self.config[name].as_u64().or_else(|| self.config[name][0].as_u64());
        of("pad_token_id").or_else(|| of("eos_token_id")).unwrap_or(0) as usize
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

    /// Whether its tensors can be found: a header is read, no tensor.
    ///
    /// # Errors
    /// As `tensors`, in words.
    pub fn has_tensors(&self) -> Result<(), String> {
        match self.gguf {
            Some(_) => Ok(()), // its header said what `config` holds
            None => self.tensors().map(|_| ()).map_err(|fault| format!("{fault:#}")),
        }
    }

    /// Its tensors.
    ///
    /// # Errors
    /// When no file is there, or one is no whole safetensors file.
    pub fn tensors(&self) -> Result<Tensors> {
        Tensors::open(&self.path)
    }
}

/// The file that stands for a whole model folder: `path` itself, or the only file with this end in a folder without `config.json`.
fn within(path: &Path, end: &str) -> Option<PathBuf> {
    let is_one = |path: &Path| path.is_file() && path.extension().is_some_and(|own| own.eq_ignore_ascii_case(end));
    if path.is_file() || path.join(CONFIG).exists() {
        return is_one(path).then(|| path.to_owned());
    }
    let mut all = std::fs::read_dir(path).ok()?.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| is_one(path));
    all.next().filter(|_| all.next().is_none())
}
