//! A PEFT folder as the stack that it means, by PEFT's own rules: a module counts when `target_modules` names it. What PEFT would
//! pass over without a word is an error here. Called by the folder's reader and the import.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use burn::tensor::TensorData;
use serde_json::Value as Json;

use super::kinds::{COMMON, Found, KINDS, Kind};
use super::targets::{self, Config};
use super::{CONFIG, PREFIX, TENSORS, TOP};
use super::{prefixes, prompts};
use crate::engine::bag;
use crate::exports::Adapter;
use crate::exports::head::Head;
use crate::exports::tensors::{self, Named};
use crate::methods::{self, Scope};
use crate::plan::anatomy::{Anatomy, Site};
use crate::session::settings::Settings;
use crate::session::{Place, Placed};

/// Reads the folder for a network with this anatomy. Where it holds no head, `params` holds none.
///
/// # Errors
/// Naming file and tensor, when it is no whole PEFT folder of a kind that is known here, or is for another network.
pub fn adapter(folder: &Path, anatomy: &Anatomy) -> Result<Adapter> {
    let place = folder.join(CONFIG);
    let config = Config(tensors::read_json(&place)?);
    if config.0["peft_type"] == prompts::TYPE {
        return prompts::adapter(folder, &config.0, anatomy).with_context(|| place.display().to_string());
    }
    if config.0["peft_type"] == prefixes::TYPE {
        return prefixes::adapter(folder, &config.0, anatomy).with_context(|| place.display().to_string());
    }
    let at = || place.display().to_string();
    let kind = kind(&config).map_err(|words| anyhow!("{}: {words}", at()))?;
    let file = folder.join(TENSORS);
    if !file.exists() && folder.join("adapter_model.bin").exists() {
        bail!(
            "{} holds adapter_model.bin. Save it once more with safetensors (PEFT's default), which holds no code",
            folder.display()
        );
    }
    let read = tensors::read(&file, "Export or fetch the folder again")?;
    let card = methods::find(kind.method).with_context(|| format!("there is no method `{}`", kind.method))?;
    let modules = modules(anatomy);

    let mut found: BTreeMap<&str, Found> = BTreeMap::new(); // by site, by our name
    let mut rules: BTreeMap<&str, (Settings, String)> = BTreeMap::new();
    let (mut shared, mut head) = (Found::new(), Named::new());
    let of_head = anatomy.classifier.modules();
    for (key, data) in &read {
        let fault = || format!("`{key}` in {}", file.display());
        if let Some(part) = kind.shared.iter().find(|p| key.strip_prefix(TOP) == Some(p.theirs)) {
            shared.insert(part.ours, part.how.ours(key, data).with_context(fault)?);
            continue;
        }
        let bare = key.strip_prefix(PREFIX).with_context(|| format!("{} does not begin with {PREFIX}", fault()))?;
        if of_head.iter().any(|module| bare.strip_prefix(module).is_some_and(|rest| rest.starts_with('.'))) {
            head.insert(bare.to_owned(), data.clone());
            continue;
        }
        let (module, rest, site) =
            split(bare, &modules).with_context(|| format!("{} names no layer of this backbone", fault()))?;
        let wrong = |words| anyhow!("{}: {words}", at());
        let settings = (kind.settings)(&config, module, site).map_err(wrong)?;
        if let Some((_, words)) = settings.faults(card.fields).first() {
            bail!("{} is not what {} says: `{module}`: {words}", file.display(), at());
        }
        let part = (kind.parts)(&settings.filled(card.fields), site).into_iter().find(|part| part.theirs == rest);
        let part = part.with_context(|| format!("{} is no part of {}", fault(), card.title))?;
        if !config.names(module).map_err(wrong)? {
            bail!("{}: target_modules does not name it, so PEFT would leave it out", fault());
        }
        if !card.roles.contains(&site.role) {
            let roles: Vec<_> = card.roles.iter().map(|role| role.word()).collect();
            bail!("{}: {} cannot stand at `{}` here, only at {}", fault(), card.title, site.path, roles.join(", "));
        }
        let mine = part.how.ours(key, data).with_context(fault)?;
        let (known, _) = rules.entry(&site.path).or_insert_with(|| (settings.clone(), module.to_owned()));
        if *known != settings {
            bail!("{}: its rank or strength differs between its two names", fault());
        }
        if let Some(before) = found.entry(&site.path).or_default().insert(part.ours, mine.clone())
            && before.as_bytes() != mine.as_bytes()
        {
            bail!("{} differs from the same layer under its other name", fault());
        }
    }
    for (module, site) in &modules {
        let all = config.0["target_modules"] == "all-linear";
        let stands = card.roles.contains(&site.role) && !(all && site.block.is_none());
        let names = stands && config.names(module).map_err(|words| anyhow!("{}: {words}", at()))?;
        if names && !found.contains_key(site.path.as_str()) {
            bail!("{} names `{module}`, but {} holds nothing for it", place.display(), file.display());
        }
    }
    if found.is_empty() {
        bail!("{} holds no tensor of {}", file.display(), card.title);
    }

    let mut methods: Vec<Placed> = Vec::new();
    let mut params = Named::new();
    for site in &anatomy.sites {
        let Some(mut mine) = found.remove(site.path.as_str()) else { continue };
        let (settings, module) = &rules[site.path.as_str()];
        (kind.complete)(&config, module, site, &mut mine).map_err(|words| anyhow!("{}: {words}", file.display()))?;
        whole(kind, anatomy, site, settings, module, &mine)
            .with_context(|| format!("{} is not what {} says", file.display(), at()))?;
        let index = methods.iter().position(|known| known.settings == *settings).unwrap_or_else(|| {
            let place = Place::sites(&[]);
            let settings = settings.clone();
            methods.push(Placed { name: kind.method.to_owned(), place, settings, learning_rate_factor: 1.0, resolved: vec![] });
            methods.len() - 1
        });
        methods[index].place.sites.push(site.path.clone());
        params.extend(mine.into_iter().map(|(ours, data)| (bag::key(index, kind.method, &site.path, ours), data)));
    }
    for part in kind.shared {
        let data = shared.remove(part.ours);
        let data = data.with_context(|| format!("{} holds no `{TOP}{}`, which all layers share", file.display(), part.theirs))?;
        params.insert(bag::key(0, kind.method, bag::ALL, part.ours), data);
    }
    if !head.is_empty() {
        let classifies = matches!(config.0["task_type"].as_str(), Some("SEQ_CLS" | "TOKEN_CLS"));
        for module in of_head {
            if !classifies && !config.means("modules_to_save", module).map_err(|e| anyhow!(e))? {
                bail!("{}: modules_to_save does not name the {module}, so PEFT would leave the trained one out", place.display());
            }
        }
        let own = Head::of(anatomy).map_err(|e| anyhow!(e))?.among(&head, anatomy.width);
        params.extend(own.with_context(|| format!("the classifier in {}", file.display()))?);
    }
    Ok(Adapter { methods, params, classes: None })
}

/// The kind that a configuration means.
fn kind(config: &Config) -> Result<&'static Kind, String> {
    let said = config.0["peft_type"].as_str().unwrap_or_default();
    let kind = KINDS.iter().find(|kind| kind.peft_type == said && (kind.is)(config));
    let kind = kind.ok_or_else(|| match said {
        "P_TUNING" | "MULTITASK_PROMPT_TUNING" => format!(
            "peft_type `{said}` makes its prompts by a network of its own for each task; prompts here are trained themselves (PROMPT_TUNING)"
        ),
        _ => {
            let mut known: Vec<_> = KINDS.iter().map(|kind| kind.peft_type).collect();
            known.dedup();
            format!("peft_type is `{said}`; {} can be read", known.join(", "))
        }
    })?;
    // Such a start changes the base model's own weights, which the folder does not hold. Converted ones say `true`.
    let start = config.0["init_lora_weights"].as_str().unwrap_or_default();
    if ["pissa", "olora", "corda", "loftq"].iter().any(|name| start.starts_with(name)) {
        return Err(format!("init_lora_weights is `{start}`, which changes the base model; convert it to plain LoRA first"));
    }
    if config.0["bias"].as_str().is_some_and(|bias| bias != "none") {
        return Err(format!("bias is {}: trained biases beside the adapter are not read", config.0["bias"]));
    }
    let known = |name: &str| COMMON.contains(&name) || kind.known.contains(&name) || name == "bias";
    let strange = config.0.as_object().into_iter().flatten().find(|(name, value)| !known(name) && is_set(value));
    match strange {
        Some((name, value)) => Err(format!("`{name}` is set ({value}), which is not known here")),
        None => Ok(kind),
    }
}

/// Whether a field says more than that there is nothing.
pub(super) fn is_set(value: &Json) -> bool {
    match value {
        Json::Null | Json::Bool(false) => false,
        Json::Array(list) => !list.is_empty(),
        Json::Object(map) => !map.is_empty(),
        Json::String(text) => !text.is_empty(),
        _ => true,
    }
}

/// Every module of a network by its names: both dialects, with and without what stands before them.
fn modules(anatomy: &Anatomy) -> BTreeMap<String, &Site> {
    let [old, new] = anatomy.dialects.map(|dialect| *dialect);
    let namings = [old, new, old.bare(), new.bare()];
    let of = |site| namings.iter().filter_map(move |naming| Some((naming.module_of(anatomy, site)?, site)));
    anatomy.sites.iter().flat_map(of).collect()
}

/// The longest name of a module that `key` begins with, the rest, and its site.
fn split<'a>(key: &'a str, modules: &BTreeMap<String, &'a Site>) -> Option<(&'a str, &'a str, &'a Site)> {
    key.rmatch_indices('.').find_map(|(at, _)| Some((&key[..at], &key[at + 1..], *modules.get(&key[..at])?)))
}

/// Compares what was found for one place with what its settings make of it.
fn whole(kind: &Kind, anatomy: &Anatomy, site: &Site, settings: &Settings, module: &str, mine: &Found) -> Result<()> {
    let card = methods::find(kind.method).with_context(|| format!("there is no method `{}`", kind.method))?;
    let set = settings.filled(card.fields);
    let parts = (kind.parts)(&set, site);
    let theirs = |ours: &str| parts.iter().find(|p| p.ours == ours).map_or_else(|| ours.to_owned(), |p| p.theirs.to_owned());
    let placements = card.method.plan(anatomy, &[site], &set).map_err(|words| anyhow!(words))?;
    let specs: Vec<_> = placements.iter().flat_map(|p| &p.params).filter(|spec| spec.scope == Scope::Site).collect();
    for spec in &specs {
        let Some(data) = mine.get(spec.name.as_str()) else { bail!("it holds no `{}` for `{module}`", theirs(&spec.name)) };
        if data.shape().as_slice() != [spec.rows, spec.cols] {
            let zeros = TensorData::new(vec![0.0f32; spec.rows * spec.cols], [spec.rows, spec.cols]);
            let how = parts.iter().find(|p| p.ours == spec.name).map(|p| p.how);
            let shape = |data: &TensorData| match how {
                Some(how) => how.theirs("", data).map(|d| d.shape().to_vec()),
                None => Ok(data.shape().to_vec()),
            };
            bail!(
                "`{}` of `{module}` has shape {:?}, but the settings there make it {:?}",
                theirs(&spec.name),
                shape(data)?,
                shape(&zeros)?
            );
        }
    }
    match mine.keys().find(|name| !specs.iter().any(|spec| spec.name == **name)) {
        Some(name) => bail!("`{}` of `{module}` is surplus with these settings", theirs(name)),
        None => Ok(()),
    }
}

/// Whether the folder's configuration is PEFT's.
pub fn is_one(folder: &Path) -> bool {
    tensors::read_json(&folder.join(CONFIG)).is_ok_and(|config| config.get("peft_type").is_some())
}

/// The names in `target_modules`, for the description of an import.
pub fn words(folder: &Path) -> String {
    let config = tensors::read_json(&folder.join(CONFIG)).unwrap_or_default();
    let targets = targets::words(&config["target_modules"]).unwrap_or_default().join(", ");
    let on = if targets.is_empty() { String::new() } else { format!(" on {targets}") };
    format!("PEFT {}{on}", config["peft_type"].as_str().unwrap_or_default())
}
