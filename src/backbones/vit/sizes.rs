//! The sizes of a vision transformer, read from the `config.json` of a folder; timm's from the shapes of its tensors. Called when a
//! folder is opened, on every edit: no tensor's values are read.

use super::{B_16, Kind, Vit};
use crate::backbones::bend::Bend;
use crate::backbones::folder::Folder;
use crate::plan::anatomy::Pixels;

impl Vit {
    /// What the configuration of a folder says.
    ///
    /// # Errors
    /// In words, when a size is missing or a part is none that this file knows.
    pub fn of(folder: &Folder) -> Result<Vit, String> {
        let noted = folder.beside("preprocessor_config.json");
        let vit = match folder.kind() {
            "vit" | "deit" => {
                folder.word("hidden_act", "gelu", &["gelu"])?;
                let kind = if folder.kind() == "vit" { Kind::Vit } else { Kind::Deit };
                let vit = Vit {
                    kind,
                    image: folder.whole_or("image_size", Some(224))?,
                    patch: folder.whole_or("patch_size", Some(16))?,
                    width: folder.whole_or("hidden_size", Some(768))?,
                    blocks: folder.whole_or("num_hidden_layers", Some(12))?,
                    heads: folder.whole_or("num_attention_heads", Some(12))?,
                    hidden: folder.whole_or("intermediate_size", Some(3072))?,
                    epsilon: folder.real_or("layer_norm_eps", 1e-12)?,
                    qkv_bias: folder.flag_or("qkv_bias", true)?,
                    ..B_16
                };
                // DeiT's configuration does not say whether it has the second token; its tensors do.
                let has = |name: &str| folder.tensors().is_ok_and(|t| t.names().any(|n| n.ends_with(name)));
                Vit { distilled: kind == Kind::Deit && has("distillation_token"), ..vit }
            }
            "dinov2" => {
                folder.word("hidden_act", "gelu", &["gelu"])?;
                let width = folder.whole_or("hidden_size", Some(768))?;
                let wide = width * folder.whole_or("mlp_ratio", Some(4))?;
                let gated = folder.flag_or("use_swiglu_ffn", false)?;
                Vit {
                    kind: Kind::Dinov2,
                    image: folder.whole_or("image_size", Some(224))?,
                    patch: folder.whole_or("patch_size", Some(14))?,
                    width,
                    blocks: folder.whole_or("num_hidden_layers", Some(12))?,
                    heads: folder.whole_or("num_attention_heads", Some(12))?,
                    hidden: if gated { (wide * 2 / 3).div_ceil(8) * 8 } else { wide },
                    epsilon: folder.real_or("layer_norm_eps", 1e-6)?,
                    qkv_bias: folder.flag_or("qkv_bias", true)?,
                    layer_scale: true,
                    swiglu: gated,
                    ..B_16
                }
            }
            "clip" | "clip_vision_model" => {
                // A file of both towers has a part for each.
                let part = Folder { config: folder.config["vision_config"].clone(), ..folder.clone() };
                let folder = if part.config.is_object() { &part } else { folder };
                let act = folder.word("hidden_act", "quick_gelu", &["quick_gelu", "gelu"])?;
                Vit {
                    kind: Kind::Clip,
                    image: folder.whole_or("image_size", Some(224))?,
                    patch: folder.whole_or("patch_size", Some(32))?,
                    width: folder.whole_or("hidden_size", Some(768))?,
                    blocks: folder.whole_or("num_hidden_layers", Some(12))?,
                    heads: folder.whole_or("num_attention_heads", Some(12))?,
                    hidden: folder.whole_or("intermediate_size", Some(3072))?,
                    epsilon: folder.real_or("layer_norm_eps", 1e-5)?,
                    patch_bias: false,
                    embed_norm: true,
                    bend: if act == "gelu" { Bend::Gelu } else { Bend::QuickGelu },
                    ..B_16
                }
            }
            "npz" => Vit::of_google(folder)?,
            _ if folder.is_timm() => Vit::of_timm(folder)?,
            kind => {
                return Err(format!("`{kind}` is no vision transformer; choose a folder of vit, deit, dinov2, clip or timm's"));
            }
        };
        if vit.blocks == 0 || vit.image < vit.patch || vit.image / vit.patch > 256 {
            return Err(format!(
                "{}: {} blocks, {} pixels in patches of {}: no network of these sizes can be opened",
                folder.path.display(),
                vit.blocks,
                vit.image,
                vit.patch
            ));
        }
        if !vit.width.is_multiple_of(vit.heads) || !vit.image.is_multiple_of(vit.patch) {
            return Err(format!(
                "{}: {} channels for {} heads, {} pixels for patches of {}: neither may leave a remainder",
                folder.path.display(),
                vit.width,
                vit.heads,
                vit.image,
                vit.patch
            ));
        }
        let noted = Pixels::of(if vit.kind == Kind::Timm { Some(&folder.config["pretrained_cfg"]) } else { noted.as_ref() });
        let usual = match vit.kind {
            Kind::Vit | Kind::Timm | Kind::Google => Pixels::HALVES,
            Kind::Deit | Kind::Dinov2 => Pixels::IMAGENET,
            Kind::Clip => Pixels::CLIP,
        };
        Ok(Vit { pixels: noted.unwrap_or(usual), ..vit })
    }

    /// Google's archives have no configuration; all sizes stand in the shapes.
    fn of_google(folder: &Folder) -> Result<Vit, String> {
        let tensors = folder.tensors().map_err(|fault| format!("{fault:#}"))?;
        let sizes = |name: &str, rank: usize| {
            let shape = tensors.shape(name).ok_or_else(|| format!("{} lacks `{name}`", folder.path.display()))?;
            match shape.len() == rank && !shape.contains(&0) {
                true => Ok(shape),
                false => Err(format!("`{name}` in {} has a shape that no vision transformer has", folder.path.display())),
            }
        };
        let patch = sizes("embedding/kernel", 4)?; // [patch, patch, 3, width]
        let query = sizes("Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel", 3)?; // [width, heads, depth]
        let positions = sizes("Transformer/posembed_input/pos_embedding", 3)?[1];
        let there = |n: &usize| tensors.has(&format!("Transformer/encoderblock_{n}/LayerNorm_0/scale"));
        Ok(Vit {
            kind: Kind::Google,
            image: (positions - 1).isqrt() * patch[0],
            patch: patch[0],
            width: patch[3],
            blocks: (0..).take_while(there).count(),
            heads: query[1],
            hidden: sizes("Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel", 2)?[1],
            ..B_16
        })
    }

    /// timm's configuration names an architecture; its sizes stand in the shapes.
    fn of_timm(folder: &Folder) -> Result<Vit, String> {
        let tensors = folder.tensors().map_err(|fault| format!("{fault:#}"))?;
        let shape = |name: &str| tensors.shape(name).ok_or_else(|| format!("{} lacks `{name}`", folder.path.display()));
        let fault = |name: &str| format!("`{name}` in {} has a shape that no vision transformer has", folder.path.display());
        let at = |name: &str, rank: usize, n: usize| {
            let shape = shape(name)?;
            if shape.len() == rank && !shape.contains(&0) { Ok(shape[n]) } else { Err(fault(name)) }
        };
        let (width, patch) = (at("patch_embed.proj.weight", 4, 0)?, at("patch_embed.proj.weight", 4, 3)?);
        let (up, down) = (at("blocks.0.mlp.fc1.weight", 2, 0)?, at("blocks.0.mlp.fc2.weight", 2, 1)?);
        let distilled = tensors.has("dist_token");
        let positions = at("pos_embed", 3, 1)?.checked_sub(1 + usize::from(distilled)).ok_or_else(|| fault("pos_embed"))?;
        let grid = positions.isqrt();
        // timm builds heads of 64 channels, but for its widest networks, which have 16.
        let heads = match width {
            1280 | 1408 | 1664 => 16,
            _ if width.is_multiple_of(64) => width / 64,
            _ => folder.whole("num_heads")?,
        };
        Ok(Vit {
            kind: Kind::Timm,
            image: grid * patch,
            patch,
            width,
            blocks: (0..).take_while(|n| tensors.has(&format!("blocks.{n}.norm1.weight"))).count(),
            heads: folder.whole_or("num_heads", Some(heads))?,
            hidden: down,
            epsilon: 1e-6,
            qkv_bias: tensors.has("blocks.0.attn.qkv.bias"),
            distilled,
            layer_scale: tensors.has("blocks.0.ls1.gamma"),
            swiglu: up == 2 * down,
            ..B_16
        })
    }
}
