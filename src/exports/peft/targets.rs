//! Which modules a PEFT configuration means, by PEFT's own rules, and the shortest list that means given sites and no others.
//! Called by `read` and `write`.

use std::collections::BTreeSet;

use fancy_regex::Regex;
use serde_json::Value as Json;

use crate::backbones::names;
use crate::plan::anatomy::{Anatomy, Role, Site};

/// The shortest `target_modules` that mean these sites and no others, in both dialects.
pub fn shortest(anatomy: &Anatomy, sites: &[&Site]) -> Vec<String> {
    let mut entries: Vec<String> = Vec::new();
    for dialect in anatomy.dialects {
        let all: BTreeSet<String> = anatomy.sites.iter().filter_map(|s| dialect.module_of(anatomy, s)).collect();
        for place in kinds_of_place(anatomy) {
            let of = |site: &&Site| (site.role, names::second(site), site.block.is_some()) == place;
            let chosen: Vec<_> = sites.iter().copied().filter(|s| of(s)).collect();
            let modules: Vec<_> = chosen.iter().filter_map(|s| dialect.module_of(anatomy, s)).collect();
            let short = match place {
                (_, _, false) => None,
                (role, which, true) => dialect.short(role, which),
            };
            // What is short in an encoder may mean another layer in a decoder.
            let meant = |short: &&str| all.iter().filter(|module| is_end(short, module)).collect::<BTreeSet<_>>();
            match short.filter(|short| !chosen.is_empty() && meant(short) == modules.iter().collect()) {
                Some(short) => entries.push(short.to_owned()),
                None => entries.extend(modules),
            }
        }
    }
    let mut once = Vec::new();
    entries.into_iter().for_each(|entry| {
        if !once.contains(&entry) {
            once.push(entry)
        }
    });
    once
}

/// Role, which of two of it, and whether within a block: what one entry can mean.
fn kinds_of_place(anatomy: &Anatomy) -> Vec<(Role, usize, bool)> {
    let mut all: Vec<_> = anatomy.sites.iter().map(|s| (s.role, names::second(s), s.block.is_some())).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// A whole configuration, asked about modules.
pub struct Config(pub Json);

impl Config {
    /// Whether PEFT would put the adapter on this module.
    ///
    /// # Errors
    /// In words, when the configuration is none that can be followed here.
    pub fn names(&self, module: &str) -> Result<bool, String> {
        let config = &self.0;
        if self.means("exclude_modules", module)? {
            return Ok(false);
        }
        let Some(entries) = config["target_modules"].as_array() else {
            return match config["target_modules"].as_str() {
                Some("all-linear") => Ok(true),
                Some(_) => self.means("target_modules", module),
                None => Err("target_modules must be a list of names or an expression".to_owned()),
            };
        };
        if entries.iter().any(|entry| entry == module) {
            return Ok(true);
        }
        if !self.means("target_modules", module)? {
            return Ok(false);
        }
        let layers: Vec<i64> = match &config["layers_to_transform"] {
            Json::Array(list) => list.iter().filter_map(Json::as_i64).collect(),
            one => one.as_i64().into_iter().collect(),
        };
        if layers.is_empty() {
            return Ok(true);
        }
        let patterns = match &config["layers_pattern"] {
            Json::String(one) => vec![one.clone()],
            list => words(list).unwrap_or_default(),
        };
        Ok(layer(module, &patterns).is_some_and(|n| layers.contains(&n)))
    }

    /// Whether the list or expression `field` means this module.
    ///
    /// # Errors
    /// As `names`.
    pub fn means(&self, field: &str, module: &str) -> Result<bool, String> {
        match &self.0[field] {
            Json::String(text) => is_whole(text, module).map_err(|words| format!("{field}: {words}")),
            list => Ok(words(list).unwrap_or_default().iter().any(|entry| is_end(entry, module))),
        }
    }

    /// What `pattern` says of this module, otherwise `field`. Its keys are expressions that match from a dot on.
    ///
    /// # Errors
    /// As `names`.
    pub fn by_module(&self, field: &str, pattern: &str, module: &str) -> Result<Json, String> {
        for (key, value) in self.0[pattern].as_object().into_iter().flatten() {
            if is_whole(&format!(r"(.*\.)?({key})"), module).map_err(|words| format!("{pattern}: {words}"))? {
                return Ok(value.clone());
            }
        }
        Ok(self.0[field].clone())
    }

    pub fn flag(&self, name: &str) -> bool {
        self.0[name].as_bool().unwrap_or(false)
    }

    /// A whole number, or PEFT's default.
    pub fn whole(&self, name: &str, default: i64) -> i64 {
        self.0[name].as_i64().unwrap_or(default)
    }
}

/// Whether an expression of Python's matches a whole name.
fn is_whole(expression: &str, name: &str) -> Result<bool, String> {
    let fault = |fault: fancy_regex::Error| format!("`{expression}` is no expression that can be followed here ({fault})");
    Regex::new(&format!(r"\A(?:{expression})\z")).map_err(fault)?.is_match(name).map_err(fault)
}

/// The names in a list.
pub fn words(value: &Json) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|v| v.as_str().map(str::to_owned)).collect()
}

/// The module is called so, or its name ends so from a dot on.
pub fn is_end(entry: &str, module: &str) -> bool {
    module == entry || module.strip_suffix(entry).is_some_and(|rest| rest.ends_with('.'))
}

/// The number of the layer that a module is in: the first number behind one of `patterns`, or behind any word that is not the
/// first of the name.
fn layer(module: &str, patterns: &[String]) -> Option<i64> {
    let pieces: Vec<&str> = module.split('.').collect();
    let last = pieces.len().checked_sub(1)?;
    (0..last).find_map(|at| {
        let number = pieces[at].parse().ok()?;
        let before = pieces[..at].join(".");
        let fits = if patterns.is_empty() { at >= 2 } else { patterns.iter().any(|p| is_end(p, &before)) };
        fits.then_some(number)
    })
}
