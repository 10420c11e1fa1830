//! Layers of other programs that are no linear layer of ours: convolutions, whose matrices have a kernel's shape, and GPT-2's `c_attn`, which
//! is q, k and v in one. Called by `read`, `write` and `biases`; knows no files.

use anyhow::{Result, bail};
use burn::tensor::TensorData;

use super::kinds::{How, Kind, Part};
use crate::backbones::stored::Stored;
use crate::exports::tensors;
use crate::plan::Member;
use crate::plan::anatomy::{Anatomy, Entry, Site};

/// A layer there.
pub struct Layer<'a> {
    /// Its name in each dialect.
    pub modules: Vec<String>,
    /// What it is here, in the order in which its outputs lie.
    pub sites: Vec<&'a Site>,
}

/// Every layer that both dialects have a name for, in the order of the network.
pub fn all(anatomy: &Anatomy) -> Vec<Layer<'_>> {
    let mut layers: Vec<Layer> = Vec::new();
    for site in &anatomy.sites {
        let names: Option<Vec<String>> = anatomy.dialects.iter().map(|d| d.module_of(anatomy, site)).collect();
        let Some(modules) = names else { continue };
        match layers.last_mut().filter(|layer| layer.modules == modules) {
            Some(layer) => layer.sites.push(site),
            None => layers.push(Layer { modules, sites: vec![site] }),
        }
    }
    layers
}

/// Channels and extents of the kernel, where this site is a convolution there: `[3, 16, 16]`.
pub fn kernel(anatomy: &Anatomy, site: &Site) -> Option<Vec<usize>> {
    if site.block.is_some() {
        return None;
    }
    let ours = format!("{}.weight", site.path);
    let named = anatomy.dialects[0].tensors(anatomy).ok()?.into_iter().find(|named| named.ours == ours)?;
    match named.stored {
        Stored::Patches => {
            let channels = if matches!(anatomy.entry, Entry::Image { .. }) { 3 } else { 1 };
            let patch = (site.d_in / channels).isqrt();
            Some(vec![channels, patch, patch])
        }
        Stored::Taps => Some(vec![site.d_in / 3, 3]),
        _ => None,
    }
}

/// Whether the other program moves this convolution through its input, so that it asks the layer for its stride.
pub fn is_asked_for_its_stride(anatomy: &Anatomy, site: &Site) -> bool {
    kernel(anatomy, site).is_some_and(|kernel| kernel.len() == 2)
}

/// DoRA's lengths of a layer's outputs.
const LENGTHS: &str = "lora_magnitude_vector";

/// A tensor of LoRA's on a convolution in PEFT's shape: A `[r, in]` as a kernel, B `[out, r]` as a kernel of one place, DoRA's lengths `[out]`
/// as those of one row.
pub fn as_kernel(kernel: &[usize], theirs: &str, data: &TensorData) -> Result<TensorData> {
    let places = vec![1; kernel.len() - 1];
    let shape = match (theirs, data.shape().as_slice()) {
        (LENGTHS, &[outputs]) => [vec![1, outputs], places].concat(),
        ("lora_A.weight", &[rows, _]) => [vec![rows], kernel.to_vec()].concat(),
        (_, &[rows, cols]) => [vec![rows, cols], places].concat(),
        _ => bail!("`{theirs}` is no matrix"),
    };
    tensors::shaped(theirs, data, &shape)
}

/// The same back.
///
/// # Errors
/// When it has not the shape that PEFT gives it on this convolution.
pub fn as_matrix(kernel: &[usize], theirs: &str, key: &str, data: &TensorData) -> Result<TensorData> {
    let shape = data.shape().as_slice();
    let fits = match theirs {
        "lora_A.weight" => shape.len() == kernel.len() + 1 && shape[1..] == *kernel,
        "lora_B.weight" => shape.len() == kernel.len() + 1 && shape[2..].iter().all(|n| *n == 1),
        LENGTHS => shape.len() == kernel.len() + 1 && data.shape().num_elements() == shape[1],
        _ => return Ok(data.clone()),
    };
    if !fits {
        bail!(
            "`{key}` has shape {shape:?}, but LoRA on a convolution of {kernel:?} has [r, channels, kernel] and [outputs, r, 1], DoRA beside it [1, outputs, 1]"
        );
    }
    match theirs {
        "lora_A.weight" => tensors::shaped(key, data, &[shape[0], kernel.iter().product()]),
        LENGTHS => tensors::shaped(key, data, &[shape[1]]),
        _ => tensors::shaped(key, data, &shape[..2]),
    }
}

/// What a tensor of a layer in which several sites lie is to each of them.
enum Manner {
    /// It reads the input, which is the same for all: going out, one under the other.
    Shared,
    /// Outputs by what is read: going out, blocks along the diagonal.
    Blocks,
    /// A number an output; this one where nothing stands.
    Outputs(Option<f32>),
}

fn manner(part: &Part) -> Option<Manner> {
    match (part.theirs, part.how) {
        ("lora_A.weight" | "lora_A" | "lora_E", _) | ("ia3_l", How::Same) => Some(Manner::Shared),
        ("lora_B.weight" | "lora_B", _) => Some(Manner::Blocks),
        (LENGTHS, _) => Some(Manner::Outputs(None)),
        ("ia3_l", _) => Some(Manner::Outputs(Some(1.0))),
        _ => None,
    }
}

/// What of a tensor of PEFT's is that of each site of the layer.
///
/// # Errors
/// When it cannot be cut, or is not as long as the outputs of all together.
pub fn cut(key: &str, part: &Part, sites: &[&Site], data: &TensorData) -> Result<Vec<TensorData>> {
    match manner(part) {
        _ if sites.len() == 1 => Ok(vec![data.clone()]),
        None => bail!("`{key}` stands on a layer that is {} here, and is none that can be cut into these", words(sites)),
        Some(Manner::Shared) => Ok(vec![data.clone(); sites.len()]),
        Some(Manner::Blocks | Manner::Outputs(_)) => by_outputs(key, sites, data),
    }
}

/// Cuts rows as the outputs of a layer lie.
///
/// # Errors
/// When there are not as many as outputs.
pub fn by_outputs(key: &str, sites: &[&Site], data: &TensorData) -> Result<Vec<TensorData>> {
    let (shape, outputs) = (data.shape().to_vec(), sites.iter().map(|site| site.d_out).sum::<usize>());
    if shape.first() != Some(&outputs) {
        bail!("`{key}` has shape {shape:?}, but its layer has {outputs} outputs");
    }
    let (values, width) = (tensors::values(key, data)?, shape[1..].iter().product::<usize>());
    let mut from = 0;
    let piece = |site: &&Site| {
        let rows = values[from * width..(from + site.d_out) * width].to_vec();
        from += site.d_out;
        TensorData::new(rows, [&[site.d_out], &shape[1..]].concat())
    };
    Ok(sites.iter().map(piece).collect())
}

/// "q, k, v".
pub fn words(sites: &[&Site]) -> String {
    sites.iter().map(|site| site.place).collect::<Vec<_>>().join(", ")
}

/// What of the stack stands at one layer.
pub struct Standing<'a> {
    pub layer: Layer<'a>,
    pub placed: Vec<(&'a Member, &'a Site)>,
}

impl Standing<'_> {
    /// Rank and strength of each place by PEFT's fields, and the scale that these give.
    fn scales(&self, kind: &Kind, rslora: bool) -> Vec<(f64, f64, f64)> {
        let Some([rank, alpha]) = kind.by_module else { return vec![] };
        let of = |(member, _): &(&Member, &Site)| {
            let fields = (kind.fields)(&member.settings, rslora);
            let field = |name| fields.iter().find(|(known, _)| *known == name).and_then(|(_, v)| v.as_f64()).unwrap_or(1.0);
            let (rank, alpha) = (field(rank), field(alpha));
            (rank, alpha, alpha / if rslora { rank.sqrt() } else { rank })
        };
        self.placed.iter().map(of).collect()
    }

    /// Rank and strength of the whole: the ranks add up, and the strength gives the largest of the scales.
    pub fn rank_and_strength(&self, kind: &Kind, rslora: bool) -> Option<(usize, f64)> {
        let scales = self.scales(kind, rslora);
        let (rank, alpha, _) = scales.iter().copied().max_by(|a, b| a.2.total_cmp(&b.2))?;
        let sum: f64 = scales.iter().map(|(rank, ..)| rank).sum();
        Some((sum as usize, alpha * if rslora { (sum / rank).sqrt() } else { sum / rank }))
    }

    /// Whether PEFT's layer can hold what stands at the sites of this one.
    ///
    /// # Errors
    /// In words, when it cannot.
    pub fn fits(&self, kind: &Kind, rslora: bool) -> Result<(), String> {
        if self.layer.sites.len() == 1 {
            return Ok(());
        }
        let of = words(&self.layer.sites);
        let Some((member, site)) = self.placed.first() else { return Ok(()) };
        let title = member.card.title;
        for part in (kind.parts)(&member.settings, site) {
            match manner(&part) {
                None => return Err(format!("{of} are one layer there, which {title} would change as one")),
                Some(Manner::Shared) if part.theirs == "ia3_l" => {
                    return Err(format!("{of} are one layer there, with one input to scale for all of them"));
                }
                Some(Manner::Outputs(None)) if self.placed.len() < self.layer.sites.len() => {
                    return Err(format!("{of} are one layer there: {title} leaves from all of them or from none"));
                }
                Some(_) => {}
            }
        }
        let of_adalora = || self.placed.iter().map(|(member, _)| member.settings.whole("rank")).sum::<usize>();
        match self.rank_and_strength(kind, rslora).map_or_else(of_adalora, |(rank, _)| rank) {
            rank if rank > 512 => Err(format!("{of} are one layer there, and their ranks add up to {rank}; 512 is the most")),
            _ => Ok(()),
        }
    }

    /// The tensors of the places, each in PEFT's shape, as those of the layer.
    pub fn joined(
        &self,
        kind: &Kind,
        rslora: bool,
        each: Vec<Vec<(Part, TensorData)>>,
    ) -> Result<Vec<(&'static str, TensorData)>> {
        let plain = |parts: Vec<(Part, TensorData)>| parts.into_iter().map(|(part, data)| (part.theirs, data)).collect();
        let [first, ..] = each.as_slice() else { return Ok(vec![]) };
        if self.layer.sites.len() == 1 {
            return Ok(each.into_iter().next().map(plain).unwrap_or_default());
        }
        let scales = self.scales(kind, rslora);
        let most = scales.iter().map(|(.., scale)| *scale).fold(0.0, f64::max);
        let mut all = Vec::new();
        for (n, (part, _)) in first.iter().enumerate() {
            let mut pieces = Vec::new();
            for site in &self.layer.sites {
                let at = self.placed.iter().position(|(_, placed)| placed.path == site.path);
                let data = at.and_then(|at| Some(&each.get(at)?.get(n)?.1));
                let scale = at.and_then(|at| scales.get(at)).filter(|_| most > 0.0);
                pieces.push(Piece {
                    outputs: site.d_out,
                    values: data.map(|data| tensors::values(part.theirs, data)).transpose()?,
                    shape: data.map_or(vec![], |data| data.shape().to_vec()),
                    factor: scale.map_or(1.0, |(.., scale)| (scale / most) as f32),
                });
            }
            let data = match manner(part) {
                None => bail!("`{}` cannot be joined", part.theirs),
                Some(Manner::Shared) => rows(pieces),
                Some(Manner::Blocks) => blocks(&pieces),
                Some(Manner::Outputs(otherwise)) => outputs(pieces, otherwise.unwrap_or_default()),
            };
            all.push((part.theirs, data));
        }
        Ok(all)
    }
}

/// A tensor of AdaLoRA's with zeros for the rows that a layer has fewer than `rows`, which a folder says once for all layers.
pub fn filled(theirs: &str, data: &TensorData, rows: usize) -> Result<TensorData> {
    let &[height, width] = data.shape().as_slice() else { bail!("`{theirs}` is no matrix") };
    let more = |height, width| TensorData::zeros::<f32, _>([height, width]);
    match theirs {
        "lora_B" => tensors::beside(theirs, data, &more(height, rows.saturating_sub(width))), // [out, rows]
        _ => tensors::stacked(theirs, data, &more(rows.saturating_sub(height), width), 1.0),  // [rows, in] and [rows, 1]
    }
}

/// What stands at one site of a layer, where something does, and the factor that brings its scale to that of the whole.
struct Piece {
    outputs: usize,
    values: Option<Vec<f32>>,
    shape: Vec<usize>,
    factor: f32,
}

/// One under the other, `[sum of r, in]`.
fn rows(pieces: Vec<Piece>) -> TensorData {
    let width = pieces.iter().filter_map(|piece| piece.shape.last()).max().copied().unwrap_or(1);
    let values: Vec<f32> = pieces.into_iter().filter_map(|piece| piece.values).flatten().collect();
    let rows = values.len() / width.max(1);
    TensorData::new(values, [rows, width])
}

/// Blocks along the diagonal, `[sum of outputs, sum of r]`.
fn blocks(pieces: &[Piece]) -> TensorData {
    let rank_of = |piece: &Piece| piece.shape.last().copied().unwrap_or(0);
    let rank: usize = pieces.iter().map(rank_of).sum();
    let (mut all, mut before) = (Vec::new(), 0);
    for piece in pieces {
        let r = rank_of(piece);
        match &piece.values {
            None => all.extend(vec![0.0f32; piece.outputs * rank]),
            Some(values) => {
                for row in values.chunks(r.max(1)) {
                    all.extend(vec![0.0; before]);
                    all.extend(row.iter().map(|v| v * piece.factor));
                    all.extend(vec![0.0; rank - before - r]);
                }
            }
        }
        before += r;
    }
    let outputs = all.len() / rank.max(1);
    TensorData::new(all, [outputs, rank])
}

/// A number an output, in the shape of the pieces; `otherwise` where nothing stands.
fn outputs(pieces: Vec<Piece>, otherwise: f32) -> TensorData {
    let dims = pieces.iter().map(|piece| piece.shape.len()).max().unwrap_or(1);
    let of = |piece: Piece| piece.values.unwrap_or_else(|| vec![otherwise; piece.outputs]);
    let values: Vec<f32> = pieces.into_iter().flat_map(of).collect();
    let mut shape = vec![1; dims.max(1)];
    shape[0] = values.len();
    TensorData::new(values, shape)
}
