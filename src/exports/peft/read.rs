//! A PEFT folder as the stack that it means, by PEFT's own rules: a module counts when `target_modules` names it. What PEFT would
//! pass over without a word is an error here. Called by the folder's reader and the import.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use burn::tensor::TensorData;

use super::biases::{self, Beside, Biases};
use super::kinds::{COMMON, Found, KINDS, Kind};
use super::targets::{self, Config};
use super::{CONFIG, PREFIX, TENSORS, TOP, layers, prefixes, prompts};
use crate::engine::bag;
use crate::exports::Adapter;
use crate::exports::head::Head;
use crate::exports::tensors::{self, Named};
use crate::methods::{self, Scope, lora};
use crate::plan::anatomy::{Anatomy, Classifier, Site};
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
    let (mut shared, mut head, mut biases) = (Found::new(), Named::new(), Biases::default());
    let bias = biases::said(&config).map_err(|words| anyhow!("{}: {words}", at()))?;
    let of_head = anatomy.classifier.modules();
    for (key, data) in &read {
        let fault = || format!("`{key}` in {}", file.display());
        if let Some(part) = kind.shared.iter().find(|p| key.strip_prefix(TOP) == Some(p.theirs)) {
            shared.insert(part.ours, part.how.ours(key, data).with_context(fault)?);
            continue;
        }
        let bare = key.strip_prefix(PREFIX).with_context(|| format!("{} does not begin with {PREFIX}", fault()))?;
        if of_head.iter().any(|module| bare.strip_prefix(module).is_some_and(|rest| rest.starts_with('.'))) {
            if bias == "all" && bare.contains(".original_module.") {
                continue; // the base model's own, in whose place stands the trained one
            }
            let name = if bias == "all" { bare.replacen(".modules_to_save", "", 1) } else { bare.to_owned() };
            if head.insert(name, data.clone()).is_some_and(|before| before.as_bytes() != data.as_bytes()) {
                bail!("{} differs from the same part of the classifier under its other name", fault());
            }
            continue;
        }
        let (module, rest, sites) =
            split(bare, &modules).with_context(|| format!("{} names no layer of this backbone", fault()))?;
        let wrong = |words| anyhow!("{}: {words}", at());
        let named = config.names(module).map_err(wrong)?;
        if kind.peft_type == "LORA" && biases.take(&config, [key, rest], named, sites, data).with_context(at)? {
            continue;
        }
        let site = sites[0];
        let settings = (kind.settings)(&config, module, site).map_err(wrong)?;
        if let Some((_, words)) = settings.faults(card.fields).first() {
            bail!("{} is not what {} says: `{module}`: {words}", file.display(), at());
        }
        let part = (kind.parts)(&settings.filled(card.fields), site).into_iter().find(|part| part.theirs == rest);
        let part = part.with_context(|| format!("{} is no part of {}", fault(), card.title))?;
        if !named {
            bail!("{}: target_modules does not name it, so PEFT would leave it out", fault());
        }
        if !card.roles.contains(&site.role) {
            let roles: Vec<_> = card.roles.iter().map(|role| role.word()).collect();
            bail!("{}: {} cannot stand at `{}` here, only at {}", fault(), card.title, site.path, roles.join(", "));
        }
        let data = match layers::kernel(anatomy, site) {
            Some(kernel) => layers::as_matrix(&kernel, part.theirs, key, data).with_context(at)?,
            None => data.clone(),
        };
        for (site, data) in sites.iter().zip(layers::cut(key, &part, sites, &data).with_context(at)?) {
            let mine = part.how.ours(key, &data).with_context(fault)?;
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
    }
    for (module, site) in modules.iter().flat_map(|(module, sites)| sites.iter().map(move |site| (module, site))) {
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
    let mut lora = BTreeMap::new(); // LoRA's sites with their scale
    if kind.peft_type == "LORA" {
        lora.extend(rules.iter().map(|(path, (set, _))| (*path, lora::scale(&set.filled(lora::CARD.fields)))));
    }
    let mut over = BTreeMap::new();
    if let Some(beside) = biases.finish(&config, anatomy, &lora, methods.len()).with_context(|| file.display().to_string())? {
        let Beside { placed, params: more, over: added } = beside;
        methods.push(placed);
        params.extend(more);
        over = added;
    }
    if let (Classifier::Linear { layer, bias: true }, 1, "all") = (anatomy.classifier, head.len(), bias)
        && let Some(data) = head.remove(&format!("{layer}.bias"))
    {
        // Without `modules_to_save` it is the bias alone that was trained of the base model's classifier.
        let count = data.shape().num_elements();
        params.insert("head/bias".to_owned(), tensors::shaped("head/bias", &data, &[1, count])?);
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
    Ok(Adapter { methods, params, over, ..Adapter::default() })
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
    let bias = biases::said(config)?;
    if bias != "none" && kind.peft_type != "LORA" {
        return Err(format!("bias is {bias}: trained biases are read beside LoRA and DoRA, not beside {said}"));
    }
    if config.flag("lora_bias") && config.flag("use_dora") {
        return Err("lora_bias and use_dora are both set, which PEFT itself does not open".to_owned());
    }
    tensors::known_only(&config.0, |name| COMMON.contains(&name) || kind.known.contains(&name))?;
    Ok(kind)
}

/// Every module of a network by its names: both dialects, with and without what stands before them. Where several sites are one module
/// there, all of them.
fn modules(anatomy: &Anatomy) -> BTreeMap<String, Vec<&Site>> {
    let [old, new] = anatomy.dialects.map(|dialect| *dialect);
    let mut all: BTreeMap<String, Vec<&Site>> = BTreeMap::new();
    for naming in [old, new, old.bare(), new.bare()] {
        for site in &anatomy.sites {
            let Some(module) = naming.module_of(anatomy, site) else { continue };
            let sites = all.entry(module).or_default();
            if !sites.iter().any(|known| known.path == site.path) {
                sites.push(site);
            }
        }
    }
    all
}

/// A key as the longest name of a module that it begins with, the rest, and its sites.
type Split<'k, 'm, 'a> = (&'k str, &'k str, &'m [&'a Site]);

fn split<'k, 'm, 'a>(key: &'k str, modules: &'m BTreeMap<String, Vec<&'a Site>>) -> Option<Split<'k, 'm, 'a>> {
    key.rmatch_indices('.').find_map(|(at, _)| Some((&key[..at], &key[at + 1..], modules.get(&key[..at])?.as_slice())))
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
