//! GGUF files as llama.cpp writes them: sizes and tokenizer in the header, tensors in blocks of 32 numbers behind it (the format's own
//! description, ggml/docs/gguf.md, version 3). Mapped, not read. Called by `gguf_llama` and `words`; knows no network.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use burn::tensor::{Device, Tensor, TensorData};
use half::{bf16, f16};
use memmap2::Mmap;
use serde_json::{Value as Json, json};

use super::names::Named;
use super::rotary::DIVISORS;
use super::stored::Stored;
use super::tensors;
use crate::engine::frozen::{Lies, Weights};
use crate::engine::kernels::packed::{BLOCK, Packed};
use crate::plan::anatomy::Anatomy;

const MAGIC: &[u8; 4] = b"GGUF";
/// Where the tensors begin, unless the file says otherwise.
const ALIGNMENT: u64 = 32;

/// A file, what its header says, and where its tensors lie.
#[derive(Debug)]
pub struct Gguf {
    pub path: PathBuf,
    map: Mmap,
    pub notes: BTreeMap<String, Value>,
    pub tensors: BTreeMap<String, Place>,
}

/// A value of the header.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Whole(i64),
    Real(f64),
    Flag(bool),
    Text(String),
    /// So many values of one kind from this byte on. A vocabulary is long, and who opens a network seldom reads it.
    List {
        kind: u64,
        count: u64,
        from: usize,
    },
}

/// Where a tensor lies, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// As ours: the last runs fastest.
    pub shape: Vec<usize>,
    pub kind: Kind,
    from: usize,
    length: usize,
}

/// How numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    F32,
    F16,
    Bf16,
    /// Four bits a number and one scale a block.
    Q4_0,
    /// Four bits a number, a scale and a shift a block.
    Q4_1,
    /// Eight bits a number and one scale a block.
    Q8_0,
}

impl Kind {
    fn of(number: u32) -> Option<Kind> {
        Some(match number {
            0 => Kind::F32,
            1 => Kind::F16,
            2 => Kind::Q4_0,
            3 => Kind::Q4_1,
            8 => Kind::Q8_0,
            30 => Kind::Bf16,
            _ => return None,
        })
    }

    /// Of a number, scales left out.
    fn bits(self) -> usize {
        match self {
            Kind::Q4_0 | Kind::Q4_1 => 4,
            Kind::Q8_0 => 8,
            Kind::F16 | Kind::Bf16 => 16,
            Kind::F32 => 32,
        }
    }

    /// Numbers in a block, and bytes.
    fn block(self) -> (usize, usize) {
        match self {
            Kind::F32 => (1, 4),
            Kind::F16 | Kind::Bf16 => (1, 2),
            Kind::Q4_0 => (BLOCK, 18),
            Kind::Q4_1 => (BLOCK, 20),
            Kind::Q8_0 => (BLOCK, 34),
        }
    }
}

impl Gguf {
    /// Reads the header.
    ///
    /// # Errors
    /// When it is no whole GGUF file of version 2 or 3, or holds a tensor in a form that is not known here.
    pub fn open(path: &Path) -> Result<Gguf> {
        let map = tensors::mapped(path)?;
        let shown = path.display().to_string();
        let (notes, tensors) = header(&map).with_context(|| format!("{shown} is no whole GGUF file that can be read here"))?;
        Ok(Gguf { path: path.to_owned(), map, notes, tensors })
    }

    /// A whole number above zero of the header.
    pub fn whole(&self, name: &str) -> Result<usize, String> {
        match self.notes.get(name) {
            Some(Value::Whole(n)) if (1..1 << 24).contains(n) => Ok(*n as usize),
            other => Err(format!("{}: `{name}` is {other:?}, but must be a whole number above 0", self.path.display())),
        }
    }

    pub fn real(&self, name: &str) -> Option<f64> {
        match self.notes.get(name) {
            Some(Value::Real(v)) => Some(*v),
            Some(Value::Whole(n)) => Some(*n as f64),
            _ => None,
        }
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        match self.notes.get(name) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    pub fn flag(&self, name: &str) -> bool {
        self.notes.get(name) == Some(&Value::Flag(true))
    }

    /// The texts of a list.
    pub fn texts(&self, name: &str) -> Vec<String> {
        self.list(name).filter_map(|v| if let Value::Text(text) = v { Some(text) } else { None }).collect()
    }

    /// The whole numbers of a list.
    pub fn wholes(&self, name: &str) -> Vec<i64> {
        self.list(name).filter_map(|v| if let Value::Whole(n) = v { Some(n) } else { None }).collect()
    }

    /// The values of a list, read anew; the header was found whole when it was opened.
    fn list(&self, name: &str) -> impl Iterator<Item = Value> {
        let (kind, count, at) = match self.notes.get(name) {
            Some(Value::List { kind, count, from }) => (*kind, *count, *from),
            _ => (0, 0, 0),
        };
        let mut reader = Reader { bytes: &self.map, at };
        (0..count).map_while(move |_| reader.value(kind).ok())
    }

    /// Its sizes in the words of transformers' `config.json`.
    ///
    /// # Errors
    /// When a size is missing, or it is of a network that is not known here.
    pub fn config(&self) -> Result<Json> {
        let kind = self.text("general.architecture").unwrap_or_default();
        ensure!(
            matches!(kind, "llama" | "qwen2"),
            "{} holds a network of architecture `{kind}`; llama and qwen2 can be opened",
            self.path.display()
        );
        let whole = |name: &str| self.whole(&format!("{kind}.{name}")).map_err(|words| anyhow!(words));
        let or =
            |name: &str, other: usize| if self.notes.contains_key(&format!("{kind}.{name}")) { whole(name) } else { Ok(other) };
        let (width, heads) = (whole("embedding_length")?, whole("attention.head_count")?);
        let table = self.tensors.get("token_embd.weight").and_then(|place| place.shape.first().copied());
        let mut config = json!({
            "model_type": kind,
            "hidden_act": "silu",
            "hidden_size": width,
            "num_hidden_layers": whole("block_count")?,
            "num_attention_heads": heads,
            "num_key_value_heads": or("attention.head_count_kv", heads)?,
            "head_dim": or("attention.key_length", or("rope.dimension_count", width / heads)?)?,
            "intermediate_size": whole("feed_forward_length")?,
            "max_position_embeddings": or("context_length", 2048)?,
            "vocab_size": table.with_context(|| format!("{} has no table of tokens", self.path.display()))?,
            "rms_norm_eps": self.real(&format!("{kind}.attention.layer_norm_rms_epsilon")).unwrap_or(1e-5),
            "attention_bias": kind == "qwen2" || self.tensors.contains_key("blk.0.attn_q.bias"),
            "rope_theta": self.real(&format!("{kind}.rope.freq_base")).unwrap_or(10_000.0),
            "tie_word_embeddings": !self.tensors.contains_key("output.weight"),
        });
        match self.text(&format!("{kind}.rope.scaling.type")).unwrap_or("none") {
            "none" => {}
            "linear" => {
                let factor = self.real(&format!("{kind}.rope.scaling.factor")).unwrap_or(1.0);
                config["rope_scaling"] = json!({ "rope_type": "linear", "factor": factor });
            }
            other => bail!("{} stretches its positions by `{other}`; linear is known", self.path.display()),
        }
        // Llama 3's stretching comes as a divisor of each pair's step.
        if self.tensors.contains_key("rope_freqs.weight") {
            config["rope_scaling"] = json!({ "rope_type": DIVISORS, "divisors": self.floats("rope_freqs.weight")? });
        }
        for (ours, theirs) in [("pad_token_id", "padding"), ("eos_token_id", "eos"), ("bos_token_id", "bos")] {
            if let Some(Value::Whole(id)) = self.notes.get(&format!("tokenizer.ggml.{theirs}_token_id")) {
                config[ours] = json!(id);
            }
        }
        Ok(config)
    }

    /// Bytes that its tensors take less as they are than in f32.
    pub fn saved(&self) -> usize {
        let of = |place: &Place| match place.kind {
            Kind::F32 | Kind::F16 | Kind::Bf16 => 0,
            kind => {
                let count: usize = place.shape.iter().product();
                count * 4 - count * kind.bits() / 8 - 2 * count / BLOCK * 4
            }
        };
        self.tensors.values().map(of).sum()
    }

    /// The weights of a network: every tensor of `named` taken, those in blocks as they are. `order` says which of the file's rows
    /// stands in a row of ours, by our name.
    ///
    /// # Errors
    /// As `tensors::Tensors::weights`.
    pub fn weights(
        &self,
        named: &[Named],
        anatomy: &Anatomy,
        may_stay: &dyn Fn(&str) -> bool,
        order: &dyn Fn(&str, usize) -> usize,
        device: &Device,
    ) -> Result<Weights> {
        let shapes = self.tensors.iter().map(|(name, place)| (name.clone(), place.shape.clone())).collect();
        tensors::fit(named, anatomy, &shapes, may_stay)
            .with_context(|| format!("{} does not fit its own header", self.path.display()))?;
        let mut weights = Weights::new();
        for Named { theirs, ours, stored } in named {
            let lies = if *stored == Stored::Table { Lies::Straight } else { Lies::Turned };
            if let Some(packed) = self.packed(theirs, |row| order(ours, row), device)? {
                weights.pack(ours.clone(), packed, lies);
                continue;
            }
            let (rows, cols) = tensors::part(anatomy, ours)?;
            let values = self.floats(theirs)?;
            let long = if *stored == Stored::Turned { rows } else { 1 };
            let outputs = values.len() / long;
            let sorted = match *stored {
                Stored::Turned | Stored::Vector => {
                    (0..outputs).flat_map(|row| &values[order(ours, row) * long..][..long]).copied().collect()
                }
                _ => values,
            };
            let values = stored.ours(sorted, rows, cols);
            weights.insert(ours.clone(), Tensor::from_data(TensorData::new(values, [rows, cols]), device));
        }
        Ok(weights)
    }

    fn place(&self, name: &str) -> Result<(&Place, &[u8])> {
        let place = self.tensors.get(name).with_context(|| format!("{} has no tensor `{name}`", self.path.display()))?;
        Ok((place, &self.map[place.from..place.from + place.length]))
    }

    /// A tensor as f32, in the order of its shape.
    ///
    /// # Errors
    /// When it is not there.
    pub fn floats(&self, name: &str) -> Result<Vec<f32>> {
        let (place, bytes) = self.place(name)?;
        Ok(match place.kind {
            Kind::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            Kind::F16 => bytes.chunks_exact(2).map(half).collect(),
            Kind::Bf16 => bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            kind => {
                let mut values = Vec::with_capacity(place.shape.iter().product());
                for block in blocks(kind, bytes) {
                    values.extend(block.codes.iter().map(|code| f32::from(*code) * block.scale + block.shift));
                }
                values
            }
        })
    }

    /// A matrix `[rows, cols]` that is stored in blocks, as it is; none where it is stored whole. `order` says which of the file's
    /// rows stands in each row.
    ///
    /// # Errors
    /// When it is not there or no matrix.
    pub fn packed(&self, name: &str, order: impl Fn(usize) -> usize, device: &Device) -> Result<Option<Packed>> {
        let (place, bytes) = self.place(name)?;
        let bits = place.kind.bits();
        if bits > 8 {
            return Ok(None);
        }
        let &[rows, cols] = place.shape.as_slice() else { bail!("`{name}` in {} is no matrix", self.path.display()) };
        let count = rows * cols / BLOCK;
        let mut words = Vec::with_capacity(count * bits);
        let (mut scales, mut shifts) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let long = bytes.len() / rows;
        for row in 0..rows {
            for block in blocks(place.kind, &bytes[order(row) * long..][..long]) {
                for codes in block.codes.chunks_exact(32 / bits) {
                    words.push(codes.iter().rev().fold(0_u32, |word, code| word << bits | u32::from(*code)) as i32);
                }
                scales.push(block.scale);
                shifts.push(block.shift);
            }
        }
        Ok(Some(Packed::new(words, scales, shifts, [rows, cols], bits, device)))
    }
}

/// A block taken apart: a number is code · scale + shift, with codes from 0 on.
struct Block {
    codes: [u8; BLOCK],
    scale: f32,
    shift: f32,
}

fn half(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

fn blocks(kind: Kind, bytes: &[u8]) -> impl Iterator<Item = Block> {
    bytes.chunks_exact(kind.block().1).map(move |bytes| {
        let scale = half(bytes);
        let mut codes = [0; BLOCK];
        if kind == Kind::Q8_0 {
            // Signed in the file; from 0 on here, as the others are.
            codes.iter_mut().zip(&bytes[2..]).for_each(|(code, byte)| *code = byte.wrapping_add(128));
            return Block { codes, scale, shift: -128.0 * scale };
        }
        let (shift, packed) = match kind {
            Kind::Q4_1 => (half(&bytes[2..]), &bytes[4..]),
            _ => (-8.0 * scale, &bytes[2..]),
        };
        for (n, byte) in packed.iter().enumerate() {
            (codes[n], codes[n + BLOCK / 2]) = (byte & 15, byte >> 4);
        }
        Block { codes, scale, shift }
    })
}

/// Reads on from a place.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len());
        let end = end.with_context(|| format!("it ends at byte {}, in the middle of its header", self.bytes.len()))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn whole<const N: usize>(&mut self) -> Result<u64> {
        Ok(self.take(N)?.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte)))
    }

    fn text(&mut self) -> Result<String> {
        let length = self.whole::<8>()? as usize;
        Ok(String::from_utf8_lossy(self.take(length)?).into_owned())
    }

    fn value(&mut self, kind: u64) -> Result<Value> {
        Ok(match kind {
            0 => Value::Whole(self.whole::<1>()? as i64),
            1 => Value::Whole(i64::from(self.whole::<1>()? as i8)),
            2 => Value::Whole(self.whole::<2>()? as i64),
            3 => Value::Whole(i64::from(self.whole::<2>()? as i16)),
            4 => Value::Whole(self.whole::<4>()? as i64),
            5 => Value::Whole(i64::from(self.whole::<4>()? as i32)),
            6 => Value::Real(f64::from(f32::from_bits(self.whole::<4>()? as u32))),
            7 => Value::Flag(self.whole::<1>()? != 0),
            8 => Value::Text(self.text()?),
            9 => {
                let (kind, count) = (self.whole::<4>()?, self.whole::<8>()?);
                ensure!(kind != 9, "it holds lists of lists");
                let from = self.at;
                (0..count).try_for_each(|_| self.pass(kind))?;
                Value::List { kind, count, from }
            }
            10 | 11 => Value::Whole(self.whole::<8>()? as i64),
            12 => Value::Real(f64::from_bits(self.whole::<8>()?)),
            other => bail!("it holds a value of kind {other}, which is not known"),
        })
    }
}

impl Reader<'_> {
    /// Goes on behind a value.
    fn pass(&mut self, kind: u64) -> Result<()> {
        match kind {
            8 => {
                let length = self.whole::<8>()? as usize;
                self.take(length).map(|_| ())
            }
            kind => self.value(kind).map(|_| ()),
        }
    }
}

type Header = (BTreeMap<String, Value>, BTreeMap<String, Place>);

fn header(bytes: &[u8]) -> Result<Header> {
    let mut reader = Reader { bytes, at: 0 };
    ensure!(reader.take(4)? == MAGIC, "it does not begin with GGUF");
    let version = reader.whole::<4>()?;
    ensure!((2..=3).contains(&version), "it is of version {version}; 2 and 3 are known");
    let (tensors, values) = (reader.whole::<8>()?, reader.whole::<8>()?);
    let mut notes = BTreeMap::new();
    for _ in 0..values {
        let name = reader.text()?;
        let kind = reader.whole::<4>()?;
        let value = reader.value(kind).with_context(|| format!("`{name}`"))?;
        notes.insert(name, value);
    }
    let mut listed = Vec::new();
    for _ in 0..tensors {
        let name = reader.text()?;
        let rank = reader.whole::<4>()?;
        ensure!(rank <= 4, "`{name}` has {rank} dimensions");
        let mut shape = (0..rank).map(|_| Ok(reader.whole::<8>()? as usize)).collect::<Result<Vec<_>>>()?;
        shape.reverse();
        let (kind, offset) = (reader.whole::<4>()? as u32, reader.whole::<8>()?);
        listed.push((name, shape, kind, offset));
    }
    let alignment = match notes.get("general.alignment") {
        Some(Value::Whole(n)) if (1..1 << 20).contains(n) => *n as u64,
        _ => ALIGNMENT,
    };
    let start = (reader.at as u64).next_multiple_of(alignment);
    let mut places = BTreeMap::new();
    for (name, shape, number, offset) in listed {
        let kind = Kind::of(number).with_context(|| {
            format!("`{name}` is stored as ggml's type {number}; F32, F16, BF16, Q4_0, Q4_1 and Q8_0 can be read. Quantise the model to one of these (llama-quantize)")
        })?;
        let (numbers, size) = kind.block();
        let count = shape.iter().try_fold(1_usize, |n, d| n.checked_mul(*d)).filter(|n| n % numbers == 0);
        let length = count.and_then(|count| (count / numbers).checked_mul(size));
        let whole_rows = shape.last().is_some_and(|cols| cols % numbers == 0);
        let from = start.checked_add(offset).map(|from| from as usize);
        let fits = from.zip(length).and_then(|(from, length)| from.checked_add(length)).is_some_and(|end| end <= bytes.len());
        let (Some(from), Some(length), true, true) = (from, length, fits, whole_rows) else {
            bail!("`{name}` of shape {shape:?} reaches beyond the file's {} bytes. Fetch the file again", bytes.len());
        };
        places.insert(name, Place { shape, kind, from, length });
    }
    Ok((notes, places))
}
