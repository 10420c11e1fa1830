//! What other programs call the places of a network: module names of transformers 4 and 5 and of timm, and how each stores a
//! matrix. Read when a folder is opened and when an export leaves; knows no files and no adapters.

pub use super::dialects::*;
use super::stored::Stored;
use crate::plan::anatomy::{Anatomy, Role, Site};

/// One program's names for one kind of network. Base models keep the names of transformers 4 in every version (they
/// are translated when loaded); adapters are not translated, so an adapter for both must carry both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Naming {
    pub program: &'static str,
    /// What stands before every name, where the file holds the network with a head.
    pub prefix: &'static str,
    /// What stands before a block's number.
    pub blocks: &'static str,
    /// Names below a block.
    pub below: &'static [(Role, &'static str)],
    /// The two norms and the two LayerScales below a block.
    pub norms: [&'static str; 2],
    pub scales: [&'static str; 2],
    /// q, k and v are thirds of one matrix, `q`.
    pub fused: bool,
    /// Names of Flax: `/` where others have `.`, a weight is a `kernel` or a norm's `scale`, and heads have a dimension of their own.
    pub flax: bool,
    /// Linear layers are stored `[in, out]`, as GPT-2's are, and not turned over.
    pub unturned: bool,
    /// In a network of stages: what stands between the numbers of stage and block, and the norm and the layer that merge a stage's
    /// positions, below its number.
    pub staged: [&'static str; 3],
    /// Of a network with an encoder and a decoder, whose blocks count from 0 again: the names of the decoder's blocks, and of its attention
    /// to the encoder.
    pub decoder: Option<[&'static Naming; 2]>,
    /// The names within each tower of a network of two, whose blocks count from 0.
    pub towers: Option<[&'static Naming; 2]>,
    /// Ours outside the blocks, theirs, and how stored. The first is always there.
    pub outside: &'static [(&'static str, &'static str, Stored)],
}

impl Naming {
    /// The same without what stands before every name: how the file names a network without a head.
    pub fn bare(&self) -> Naming {
        Naming { prefix: "", ..*self }
    }

    /// A tensor that every file in these names has.
    pub fn mark(&self) -> String {
        format!("{}{}", self.prefix, self.outside.first().map_or("", |(_, theirs, _)| theirs))
    }

    /// The module of a role, below its block.
    pub fn below_block(&self, role: Role) -> Option<&'static str> {
        self.below.iter().find(|(of, _)| *of == role).map(|(_, name)| *name)
    }

    /// The whole name of a linear layer.
    pub fn module(&self, block: usize, role: Role) -> Option<String> {
        Some(format!("{}{}{block}.{}", self.prefix, self.blocks, self.below_block(role)?))
    }

    /// The module of a site that has weights: a linear layer, a norm, the patches' convolution.
    pub fn module_of(&self, anatomy: &Anatomy, site: &Site) -> Option<String> {
        let (theirs, _) = self.tensor(anatomy, site, "weight")?;
        Some(format!("{}{}", self.prefix, theirs.strip_suffix(".weight")?))
    }

    /// The shortest end of a module's name below its block that no other module of a block ends with: as an entry of
    /// `target_modules` it means this module in every block and nothing else. None where there is none: BERT's `output.dense` also
    /// ends `attention.output.dense`.
    pub fn shortest(&self, below: &'static str) -> Option<&'static str> {
        let is_end = |end: &str, name: &str| name == end || name.strip_suffix(end).is_some_and(|rest| rest.ends_with('.'));
        let others = || self.below.iter().map(|(_, name)| *name).chain(self.norms).filter(|name| *name != below);
        let starts = below.rmatch_indices('.').map(|(at, _)| &below[at + 1..]).chain([below]);
        starts.into_iter().find(|end| !others().any(|name| is_end(end, name)))
    }

    /// The same of the modules at which sites of this role stand; `which` of the two, where it is a norm.
    pub fn short(&self, role: Role, which: usize) -> Option<&'static str> {
        self.shortest(if role == Role::Norm { self.norms[which] } else { self.below_block(role)? })
    }

    /// The site of this anatomy that a module's whole name means.
    pub fn site(&self, anatomy: &Anatomy, module: &str) -> Option<String> {
        let (block, below) = module.strip_prefix(self.prefix)?.strip_prefix(self.blocks)?.split_once('.')?;
        let block: usize = block.parse().ok()?;
        let of_name = |s: &&Site| s.block == Some(block) && self.below_block(s.role) == Some(below);
        anatomy.sites.iter().find(of_name).map(|s| s.path.clone())
    }

    /// Every tensor of a network of this anatomy under its name here. Fails in words where it has no place here.
    pub fn tensors(&self, anatomy: &Anatomy) -> Result<Vec<Named>, String> {
        let mut all = Vec::new();
        for site in &anatomy.sites {
            for part in &site.parts {
                let ours = format!("{}.{}", site.path, part.name);
                let fault = || format!("`{ours}` has no place in a network as {} builds it", self.program);
                let (theirs, stored) = self.tensor(anatomy, site, part.name).ok_or_else(fault)?;
                all.push(Named { theirs: format!("{}{theirs}", self.prefix), ours, stored });
            }
        }
        Ok(all)
    }

    fn tensor(&self, anatomy: &Anatomy, site: &Site, part: &str) -> Option<(String, Stored)> {
        let second = second(site);
        if let Some(towers) = self.towers {
            let ours = format!("{}.{part}", site.path);
            return match self.outside.iter().find(|(known, ..)| *known == ours) {
                Some((_, theirs, stored)) => Some(((*theirs).to_owned(), *stored)),
                None => {
                    let (n, tower) = anatomy.towers.iter().enumerate().find(|(_, tower)| tower.site(&site.path).is_some())?;
                    let naming = towers.get(n)?;
                    let (theirs, stored) = naming.tensor(tower, &tower.counted_anew(site), part)?;
                    Some((format!("{}{theirs}", naming.prefix), stored))
                }
            };
        }
        if let (Some([all, crossing]), Some(block), Some(first)) = (self.decoder, site.block, anatomy.decoder())
            && block >= first
        {
            let counted_anew = Site { block: Some(block - first), ..site.clone() };
            return if site.crosses() { crossing } else { all }.tensor(anatomy, &counted_anew, part);
        }
        let Some(block) = site.block else {
            let ours = format!("{}.{part}", site.path);
            let known = self.outside.iter().find(|(known, ..)| *known == ours);
            return known.map(|(_, theirs, stored)| ((*theirs).to_owned(), *stored)).or_else(|| self.merging(site, part));
        };
        let block = match site.stage {
            Some((stage, within)) => format!("{stage}{}{within}", self.staged[0]),
            None => block.to_string(),
        };
        let below = match site.role {
            Role::Norm => format!("{}.{part}", self.norms[second]),
            Role::Scale => self.scales[second].to_owned(),
            Role::Distance => self.below_block(site.role)?.to_owned(),
            role => format!("{}.{part}", self.below_block(role)?),
        };
        if self.flax {
            let part = match (part, site.role) {
                ("weight", Role::Norm) => "scale",
                ("weight", _) => "kernel",
                (part, _) => part,
            };
            let module = below.rsplit_once('.').map_or(below.as_str(), |(module, _)| module);
            return Some((format!("{}{block}/{module}/{part}", self.blocks), Stored::Flat));
        }
        let third = [Role::Q, Role::K, Role::V].iter().position(|role| *role == site.role).filter(|_| self.fused);
        let stored = match (part, third) {
            ("weight", Some(n)) if self.unturned => Stored::ThirdOfRow(n),
            (_, Some(n)) => Stored::Third(n),
            _ if site.role == Role::Distance => Stored::Table,
            ("weight", None) if self.unturned && !matches!(site.role, Role::Norm | Role::Scale) => Stored::Table,
            ("weight", None) if !matches!(site.role, Role::Norm | Role::Scale) => Stored::Turned,
            _ => Stored::Vector,
        };
        (!below.is_empty()).then(|| (format!("{}{block}.{below}", self.blocks), stored))
    }

    /// What stands between two stages is called after the first of them.
    fn merging(&self, site: &Site, part: &str) -> Option<(String, Stored)> {
        let before = site.stage?.0.checked_sub(1)?;
        let [_, norm, layer] = self.staged;
        let (module, stored) = match site.role {
            Role::Merge => (layer, Stored::Turned),
            Role::Norm => (norm, Stored::Vector),
            _ => return None,
        };
        (!module.is_empty()).then(|| (format!("{}{before}.{module}.{part}", self.blocks), stored))
    }
}

/// 0 for the first norm or scale of a block, 1 for the second.
pub fn second(site: &Site) -> usize {
    usize::from(site.path.ends_with('2')) // norm2, scale2
}

/// A tensor of ours under another program's name.
#[derive(Clone, Debug)]
pub struct Named {
    pub theirs: String,
    /// `blocks.0.attn.q.weight`.
    pub ours: String,
    pub stored: Stored,
}
