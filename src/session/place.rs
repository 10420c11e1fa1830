//! Where a method stands: a pattern of roles, blocks and explicit sites, and what it resolves to on an anatomy.
//! Called by the plan and the editor; plain data.

use serde::{Deserialize, Serialize};

use crate::plan::anatomy::{Anatomy, Role, Site};

/// A pattern over sites. `roles` and `blocks` together name a rectangle of the grid; `sites` adds single cells and
/// `except` takes cells away.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Roles, as in `["q", "v"]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<Role>,
    /// Blocks counted from 1, as in `"1-4, 6"`; `"all"` or left out means every block.
    #[serde(default = "all", skip_serializing_if = "is_all")]
    pub blocks: String,
    /// Explicit paths, as in `["blocks.0.attn.q"]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sites: Vec<String>,
    /// Paths taken out of the pattern.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
}

fn all() -> String {
    "all".to_owned()
}

fn is_all(blocks: &str) -> bool {
    blocks == "all"
}

impl Place {
    /// Every site of these roles.
    pub fn roles(roles: &[Role]) -> Place {
        Place { roles: roles.to_vec(), blocks: all(), ..Place::default() }
    }

    /// Single sites by path.
    pub fn sites(paths: &[&str]) -> Place {
        Place { blocks: all(), sites: paths.iter().map(|p| (*p).to_owned()).collect(), ..Place::default() }
    }

    /// The sites the pattern stands for, in forward order, or what is wrong with it. `allowed` are the roles at which
    /// the method can stand.
    pub fn resolve<'a>(&self, anatomy: &'a Anatomy, allowed: &[Role]) -> Result<Vec<&'a Site>, String> {
        let blocks = parse_blocks(&self.blocks, anatomy.blocks)?;
        for path in self.sites.iter().chain(&self.except) {
            let Some(site) = anatomy.site(path) else {
                return Err(format!("there is no site `{path}` in this backbone"));
            };
            if self.sites.contains(path) && !allowed.contains(&site.role) {
                return Err(format!("cannot stand at `{path}`: it takes {}", words(allowed)));
            }
        }
        if let Some(role) = self.roles.iter().find(|role| !allowed.contains(role)) {
            return Err(format!("cannot stand at `{}`: it takes {}", role.word(), words(allowed)));
        }
        let whole = self.blocks == "all";
        let found = (anatomy.sites.iter())
            .filter(|site| {
                let in_rectangle = self.roles.contains(&site.role)
                    && match site.block {
                        Some(block) => blocks[block],
                        None => whole, // the embedding, the last norm: only in "all"
                    };
                (in_rectangle || self.sites.contains(&site.path)) && !self.except.contains(&site.path)
            })
            .collect();
        Ok(found)
    }

    /// The pattern in a few words: "q, v · blocks 1-4".
    pub fn words(&self) -> String {
        let mut parts = Vec::new();
        if !self.roles.is_empty() {
            let roles: Vec<_> = self.roles.iter().map(|r| r.word()).collect();
            parts.push(roles.join(", "));
            if !is_all(&self.blocks) {
                let one = self.blocks.trim().parse::<usize>().is_ok();
                parts.push(format!("{} {}", if one { "block" } else { "blocks" }, self.blocks));
            }
        }
        match self.sites.len() {
            0 => {}
            1 => parts.push(self.sites[0].clone()),
            n => parts.push(format!("{n} single places")),
        }
        if !self.except.is_empty() {
            parts.push(format!("without {}", self.except.len()));
        }
        if parts.is_empty() { "nowhere".to_owned() } else { parts.join(" · ") }
    }
}

fn words(roles: &[Role]) -> String {
    roles.iter().map(|r| r.word()).collect::<Vec<_>>().join(", ")
}

/// `"1-4, 6"` as a mask over `count` blocks.
fn parse_blocks(text: &str, count: usize) -> Result<Vec<bool>, String> {
    let text = text.trim();
    if text == "all" {
        return Ok(vec![true; count]);
    }
    let fault = || format!("blocks `{text}`: write \"all\", or block numbers from 1 to {count} such as \"1-3, 5\"");
    let mut mask = vec![false; count];
    for piece in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (first, last) = piece.split_once('-').unwrap_or((piece, piece));
        let first: usize = first.trim().parse().map_err(|_| fault())?;
        let last: usize = last.trim().parse().map_err(|_| fault())?;
        if first == 0 || last < first || last > count {
            return Err(fault());
        }
        mask[first - 1..last].fill(true);
    }
    Ok(mask)
}

/// A mask over blocks as the shortest pattern: `"all"`, `"1-3, 5"`.
pub fn blocks_words(mask: &[bool]) -> String {
    if mask.iter().all(|b| *b) {
        return all();
    }
    let mut parts = Vec::new();
    let mut n = 0;
    while n < mask.len() {
        if mask[n] {
            let first = n + 1;
            while n + 1 < mask.len() && mask[n + 1] {
                n += 1;
            }
            let last = n + 1;
            parts.push(if first == last { first.to_string() } else { format!("{first}-{last}") });
        }
        n += 1;
    }
    parts.join(", ")
}
