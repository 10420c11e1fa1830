//! What other programs call the places of a vision transformer: module names of transformers 4 and 5, and the base model
//! written under them. Called by the exports that leave for other programs; knows no files and no adapters.

use crate::plan::anatomy::{Anatomy, Role};

/// A naming of the modules of `ViTForImageClassification`. Base models keep the old names in every version (they are
/// translated when loaded); adapters are not translated, so an adapter for both must carry both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    Transformers4,
    Transformers5,
}

pub const DIALECTS: [Dialect; 2] = [Dialect::Transformers4, Dialect::Transformers5];

impl Dialect {
    /// The list of blocks: what stands before the block's number.
    fn blocks(self) -> &'static str {
        match self {
            Dialect::Transformers4 => "vit.encoder.layer.",
            Dialect::Transformers5 => "vit.layers.",
        }
    }

    /// The module of a role, below its block.
    pub fn below_block(self, role: Role) -> Option<&'static str> {
        Some(match (self, role) {
            (Dialect::Transformers4, Role::Q) => "attention.attention.query",
            (Dialect::Transformers4, Role::K) => "attention.attention.key",
            (Dialect::Transformers4, Role::V) => "attention.attention.value",
            (Dialect::Transformers4, Role::O) => "attention.output.dense",
            (Dialect::Transformers4, Role::Up) => "intermediate.dense",
            (Dialect::Transformers4, Role::Down) => "output.dense",
            (Dialect::Transformers5, Role::Q) => "attention.q_proj",
            (Dialect::Transformers5, Role::K) => "attention.k_proj",
            (Dialect::Transformers5, Role::V) => "attention.v_proj",
            (Dialect::Transformers5, Role::O) => "attention.o_proj",
            (Dialect::Transformers5, Role::Up) => "mlp.fc1",
            (Dialect::Transformers5, Role::Down) => "mlp.fc2",
            _ => return None,
        })
    }

    /// The whole name of a linear layer.
    pub fn module(self, block: usize, role: Role) -> Option<String> {
        Some(format!("{}{block}.{}", self.blocks(), self.below_block(role)?))
    }

    /// The shortest entry of `target_modules` that means this role in every block and nothing else. None where there is
    /// none: `output.dense` would also mean `attention.output.dense`.
    pub fn short(self, role: Role) -> Option<&'static str> {
        match (self, role) {
            (Dialect::Transformers4, Role::Down) => None,
            (_, Role::Q | Role::K | Role::V) | (Dialect::Transformers5, Role::O) => self.below_block(role)?.rsplit('.').next(),
            _ => self.below_block(role),
        }
    }

    /// The site of this anatomy that a module's whole name means.
    pub fn site(self, anatomy: &Anatomy, module: &str) -> Option<String> {
        let (block, below) = module.strip_prefix(self.blocks())?.split_once('.')?;
        let block: usize = block.parse().ok()?;
        let of_name = |s: &&crate::plan::anatomy::Site| s.block == Some(block) && self.below_block(s.role) == Some(below);
        anatomy.sites.iter().find(of_name).map(|s| s.path.clone())
    }
}

/// How one of our matrices is stored under another program's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// `[out, in]`: ours, `[in, out]`, turned over.
    Turned,
    /// `[d]`: our single row.
    Vector,
    /// `[1, positions, d]`, in our order.
    Positions,
    /// `[d, 3, patch, patch]`: turned over, then cut into channels, rows and columns.
    Patches,
}

/// The base model's tensors by the names in its file: (their name, our full name, how stored). Fails in words where this
/// anatomy is no such transformer.
pub fn base(anatomy: &Anatomy) -> Result<Vec<(String, String, Stored)>, String> {
    let mut names = vec![
        ("vit.embeddings.cls_token".to_owned(), "embed.cls".to_owned(), Stored::Positions),
        ("vit.embeddings.position_embeddings".to_owned(), "embed.pos".to_owned(), Stored::Positions),
        ("vit.embeddings.patch_embeddings.projection.weight".to_owned(), "embed.weight".to_owned(), Stored::Patches),
        ("vit.embeddings.patch_embeddings.projection.bias".to_owned(), "embed.bias".to_owned(), Stored::Vector),
        ("vit.layernorm.weight".to_owned(), "norm.weight".to_owned(), Stored::Vector),
        ("vit.layernorm.bias".to_owned(), "norm.bias".to_owned(), Stored::Vector),
    ];
    for site in anatomy.sites.iter().filter(|s| !s.parts.is_empty()) {
        let Some(block) = site.block else { continue };
        let module = match (site.role, site.place) {
            (Role::Norm, "norm 1") => format!("vit.encoder.layer.{block}.layernorm_before"),
            (Role::Norm, "norm 2") => format!("vit.encoder.layer.{block}.layernorm_after"),
            (role, _) => match Dialect::Transformers4.module(block, role) {
                Some(name) => name,
                None => return Err(format!("`{}` has no place in transformers' vision transformer", site.path)),
            },
        };
        let weight = if site.role == Role::Norm { Stored::Vector } else { Stored::Turned };
        names.push((format!("{module}.weight"), format!("{}.weight", site.path), weight));
        names.push((format!("{module}.bias"), format!("{}.bias", site.path), Stored::Vector));
    }
    let named: usize = anatomy.sites.iter().map(|s| s.parts.len()).sum();
    let known = |full: &String| anatomy.sites.iter().any(|s| s.parts.iter().any(|p| format!("{}.{}", s.path, p.name) == *full));
    match names.len() == named && names.iter().all(|(_, ours, _)| known(ours)) {
        true => Ok(names),
        false => Err("this backbone is not built as transformers' vision transformer is".to_owned()),
    }
}
