//! A folder as PEFT writes it, for stacks of LoRA alone or of IA3 alone: `adapter_config.json` and `adapter_model.safetensors`,
//! with the module names of transformers 4 and 5 side by side, and the base model in `base/`. Called through the catalogue.
//! Reads such folders too, also PEFT's own; must not know how a run is stored.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use serde_json::{Value as Json, json};

use super::Card;
use super::tensors::{self, Named};
use super::transformers;
use crate::backbones;
use crate::engine::bag;
use crate::engine::model::Model;
use crate::methods::lora;
use crate::plan::anatomy::{Anatomy, Role, Site};
use crate::plan::{Member, Plan};
use crate::session::settings::{Settings, Value};
use crate::session::{Place, Placed, Session};

pub const CARD: Card = Card {
    name: "peft",
    title: "PEFT folder",
    help: "adapter_config.json and adapter_model.safetensors for Hugging Face PEFT (transformers 4 and 5), with the base model beside them. LoRA alone or IA3 alone.",
    fits,
    write,
    read,
    tolerance: 1e-5,
};

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";
const PREFIX: &str = "base_model.model.";
/// Where the base model stands in the folder.
const BASE: &str = "base";
/// How a session and PEFT each call rsLoRA's scale.
const RSLORA: &str = "alpha / sqrt r";

fn fits(plan: &Plan) -> Result<(), String> {
    const INSTEAD: &str = "Export it as `petl`, which holds every stack";
    transformers::names(&plan.anatomy).map_err(|words| format!("{words}. {INSTEAD}"))?;
    let [first, ..] = plan.members.as_slice() else {
        return Err(
            "a linear probe has no adapter for a PEFT folder. Export it as `merged` or `transformers`, which hold the head"
                .to_owned(),
        );
    };
    for member in &plan.members {
        let title = member.card.title;
        if !matches!(member.card.name, "lora" | "ia3") {
            let other = if plan.members.iter().all(|m| m.stays_beside().is_none()) { " or `merged`" } else { "" };
            return Err(format!("a PEFT folder from here holds LoRA or IA3, not {title}. {INSTEAD}{other}"));
        }
        if let Some(why) = member.stays_beside() {
            return Err(format!(
                "{title} {why}, for which a PEFT folder has no place. {INSTEAD}, or train it without that setting"
            ));
        }
        if member.card.name != first.card.name {
            return Err(format!(
                "one PEFT folder holds one kind of method, not {} and {title} together. {INSTEAD}, or `merged`",
                first.card.title
            ));
        }
    }
    let mut taken = BTreeSet::new();
    for site in plan.members.iter().flat_map(|m| &m.sites) {
        if !taken.insert(site) {
            return Err(format!(
                "two methods stand at `{site}`, but a PEFT folder holds one for each layer. {INSTEAD}, or `merged`"
            ));
        }
    }
    Ok(())
}

/// The folder of the base model, where the user has one already: it is named, not copied.
fn own_base(session: &Session) -> Option<&str> {
    match session.backbone.settings.0.get(backbones::FOLDER)? {
        Value::Text(path) => Some(path),
        _ => None,
    }
}

/// Every placement with its site, in the order of the network.
fn placed(plan: &Plan) -> Vec<(&Member, &Site)> {
    let mut all = Vec::new();
    for site in &plan.anatomy.sites {
        all.extend(plan.members.iter().filter(|m| m.sites.contains(&site.path)).map(|m| (m, site)));
    }
    all
}

/// The shortest `target_modules` that mean these sites and no others, in both dialects.
fn targets(anatomy: &Anatomy, sites: &[&Site]) -> Vec<String> {
    let mut entries = Vec::new();
    for dialect in anatomy.dialects {
        for role in Role::ALL {
            let chosen: Vec<_> = sites.iter().filter(|s| s.role == role).collect();
            let everywhere = chosen.len() == anatomy.sites.iter().filter(|s| s.role == role).count();
            match dialect.short(role) {
                Some(short) if everywhere && !chosen.is_empty() => entries.push(short.to_owned()),
                _ => entries.extend(chosen.iter().filter_map(|s| dialect.module(s.block?, role))),
            }
        }
    }
    entries
}

/// A whole number where it is one, as PEFT writes its strengths.
fn number(value: f64) -> Json {
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}

/// The rank that PEFT needs. It adds to the original weight, where PiSSA takes its start A0 B0 from it first: as in PEFT's own
/// conversion of PiSSA, the difference leaves as one change of twice the rank, A `[A A0]` and B `[B; -B0]`.
fn rank(member: &Member) -> usize {
    member.settings.whole("rank") * if lora::is_pissa(&member.settings) { 2 } else { 1 }
}

/// `adapter_config.json` of a stack that `fits`. Few keys: readers before 2024 refuse those that they do not know.
pub fn config(plan: &Plan) -> Json {
    let placed = placed(plan);
    let sites: Vec<&Site> = placed.iter().map(|(_, site)| *site).collect();
    let mut config = BTreeMap::from([
        ("base_model_name_or_path", json!(BASE)),
        ("inference_mode", json!(true)),
        ("modules_to_save", json!(["classifier"])),
        ("target_modules", json!(targets(&plan.anatomy, &sites))),
    ]);
    if plan.members.iter().all(|m| m.card.name == "ia3") {
        let down: Vec<_> = sites.iter().copied().filter(|s| s.role == Role::Down).collect();
        config.insert("peft_type", json!("IA3"));
        config.insert("feedforward_modules", json!(targets(&plan.anatomy, &down)));
        return json!(config);
    }
    let rslora = plan.members.iter().all(|m| m.settings.text("scaling") == RSLORA);
    let strength = |m: &Member| {
        let (r, wide) = (m.settings.whole("rank") as f64, rank(m));
        let wider = wide as f64 / r;
        // Where both scales occur, each strength is written as the one that α / r needs for the same scale.
        let alpha = if rslora { m.settings.real("alpha") * wider.sqrt() } else { lora::scale(&m.settings) * r * wider };
        (wide, alpha)
    };
    let (r, alpha) = plan.members.first().map(strength).unwrap_or_default();
    let (mut ranks, mut alphas) = (BTreeMap::new(), BTreeMap::new());
    for (member, site) in &placed {
        let (own_r, own_alpha) = strength(member);
        for module in plan.anatomy.dialects.iter().filter_map(|d| d.module(site.block?, site.role)) {
            if own_r != r {
                ranks.insert(module.clone(), json!(own_r));
            }
            if own_alpha != alpha {
                alphas.insert(module, number(own_alpha));
            }
        }
    }
    config.extend([
        ("peft_type", json!("LORA")),
        ("bias", json!("none")),
        ("r", json!(r)),
        ("lora_alpha", number(alpha)),
        ("lora_dropout", json!(plan.members.first().map_or(0.0, |m| m.settings.real("dropout")))),
        ("use_rslora", json!(rslora)),
    ]);
    if !ranks.is_empty() {
        config.insert("rank_pattern", json!(ranks));
    }
    if !alphas.is_empty() {
        config.insert("alpha_pattern", json!(alphas));
    }
    json!(config)
}

/// The tensors of `adapter_model.safetensors`, from the bag's values.
pub fn parts(plan: &Plan, bag: &Named) -> Result<Named> {
    let mut out = Named::new();
    let of = |key: String| bag.get(&key).with_context(|| format!("the run's adapter lacks `{key}`")).map(|data| (key, data));
    for (member, site) in placed(plan) {
        let param = |name| of(bag::key(member.index, member.card.name, &site.path, name));
        for module in plan.anatomy.dialects.iter().filter_map(|d| d.module(site.block?, site.role)) {
            if member.card.name == "lora" {
                let ((a_key, a), (b_key, b)) = (param("A")?, param("B")?);
                let (mut a, mut b) = (tensors::turned(&a_key, a)?, b.clone()); // [r, in], [r, out]
                if lora::is_pissa(&member.settings) {
                    a = tensors::stacked(&a_key, &a, &tensors::turned(&a_key, param("A0")?.1)?, 1.0)?; // [2 r, in]
                    b = tensors::stacked(&b_key, &b, param("B0")?.1, -1.0)?; // [2 r, out]
                }
                out.insert(format!("{PREFIX}{module}.lora_A.weight"), a);
                out.insert(format!("{PREFIX}{module}.lora_B.weight"), tensors::turned(&b_key, &b)?); // [out, r]
            } else {
                let (key, data) = param("l")?;
                let n = data.shape().num_elements();
                // Scales of inputs lie, scales of outputs stand.
                let shape = if site.role == Role::Down { [1, n] } else { [n, 1] };
                out.insert(format!("{PREFIX}{module}.ia3_l"), tensors::shaped(&key, data, &shape)?);
            }
        }
    }
    let (key, weight) = of("head/weight".to_owned())?;
    out.insert(format!("{PREFIX}classifier.weight"), tensors::turned(&key, weight)?); // [classes, width]
    let (key, bias) = of("head/bias".to_owned())?;
    out.insert(format!("{PREFIX}classifier.bias"), tensors::shaped(&key, bias, &[bias.shape().num_elements()])?);
    Ok(out)
}

fn write(session: &Session, model: &Model, folder: &Path) -> Result<()> {
    tensors::write(&folder.join(TENSORS), &parts(&model.plan, &model.bag.data())?)?;
    let mut config = config(&model.plan);
    config["base_model_name_or_path"] = json!(own_base(session).unwrap_or(BASE));
    tensors::write_json(&folder.join(CONFIG), &config)?;
    if own_base(session).is_none() {
        let frozen = model.weights.iter().map(|(name, w)| (name.clone(), w.to_data())).collect();
        transformers::write_base(model, &frozen, None, &folder.join(BASE))?;
    }
    Ok(())
}

/// An adapter read from a PEFT folder: the stack that it means, and its matrices under the bag's keys, head included.
#[derive(Debug)]
pub struct Adapter {
    pub methods: Vec<Placed>,
    pub params: Named,
}

/// Reads a PEFT folder of LoRA or IA3 for a vision transformer with this anatomy, by PEFT's own rules: a module counts when
/// `target_modules` names it. What PEFT would pass over without a word is an error here.
pub fn adapter(folder: &Path, anatomy: &Anatomy) -> Result<Adapter> {
    let place = folder.join(CONFIG);
    let config = tensors::read_json(&place)?;
    let file = folder.join(TENSORS);
    let read = tensors::read(&file, "Export or fetch the folder again")?;
    let kind = config["peft_type"].as_str().unwrap_or_default();
    if !matches!(kind, "LORA" | "IA3") {
        bail!("{} says peft_type `{kind}`; LORA and IA3 can be read", place.display());
    }
    for name in ["use_dora", "use_qalora", "lora_bias", "fan_in_fan_out"] {
        if config[name].as_bool() == Some(true) {
            bail!("{} sets `{name}`, which is not known here", place.display());
        }
    }
    // Such a start changes the base model's own weights, which the folder does not hold. Converted ones say `true`.
    let start = config["init_lora_weights"].as_str().unwrap_or_default();
    if ["pissa", "olora", "corda", "loftq"].iter().any(|name| start.starts_with(name)) {
        bail!(
            "{} sets init_lora_weights to `{start}`, which changes the base model; convert it to plain LoRA first",
            place.display()
        );
    }
    let entries = list(&config["target_modules"])
        .with_context(|| format!("{}: target_modules must be a list of names", place.display()))?;
    let inputs = list(&config["feedforward_modules"]).unwrap_or_default();
    let saved = list(&config["modules_to_save"]).unwrap_or_default();
    if read.keys().any(|key| key.contains(".classifier.")) && !names_it(&saved, "classifier") {
        bail!("{}: modules_to_save does not name the classifier, so PEFT would leave the trained one out", place.display());
    }

    let mut found: BTreeMap<String, BTreeMap<&str, burn::tensor::TensorData>> = BTreeMap::new(); // by site, by our name
    let mut rules: BTreeMap<String, Rule> = BTreeMap::new();
    let mut params = Named::new();
    for (key, data) in &read {
        let fault = || format!("`{key}` in {}", file.display());
        let bare = key.strip_prefix(PREFIX).with_context(|| format!("{} does not begin with {PREFIX}", fault()))?;
        match bare {
            "classifier.weight" => {
                params.insert("head/weight".to_owned(), tensors::turned(key, data).with_context(fault)?);
                continue;
            }
            "classifier.bias" => {
                let n = data.shape().num_elements();
                params.insert("head/bias".to_owned(), tensors::shaped(key, data, &[1, n])?);
                continue;
            }
            _ => {}
        }
        let part = [(".lora_A.weight", "A"), (".lora_B.weight", "B"), (".ia3_l", "l")]
            .into_iter()
            .find_map(|(end, ours)| Some((bare.strip_suffix(end)?, ours)));
        let (module, ours) = part.with_context(|| format!("{} is no part of LoRA or IA3", fault()))?;
        let site = (anatomy.dialects.iter())
            .find_map(|d| d.site(anatomy, module))
            .with_context(|| format!("{} names no layer of this backbone", fault()))?;
        if !names_it(&entries, module) {
            bail!("{}: target_modules does not name it, so PEFT would leave it out", fault());
        }
        let input = anatomy.site(&site).is_some_and(|s| s.role == Role::Down);
        let mine = match ours {
            "l" if names_it(&inputs, module) != input => {
                bail!("{} scales the other side of the layer than IA3 does here", fault())
            }
            "l" => tensors::shaped(key, data, &[1, data.shape().num_elements()])?,
            _ => tensors::turned(key, data).with_context(fault)?,
        };
        let rule = Rule::of(&config, kind, module);
        if rules.insert(site.clone(), rule).is_some_and(|before| before != rule) {
            bail!("{}: its rank or strength differs between its two names", fault());
        }
        if let Some(before) = found.entry(site).or_default().insert(ours, mine.clone())
            && before.as_bytes() != mine.as_bytes()
        {
            bail!("{} differs from the same layer under its other name", fault());
        }
    }
    for site in &anatomy.sites {
        let named =
            anatomy.dialects.iter().filter_map(|d| d.module(site.block?, site.role)).any(|module| names_it(&entries, &module));
        if named && !found.contains_key(&site.path) {
            bail!("{} names `{}`, but {} holds nothing for it", place.display(), site.path, file.display());
        }
    }
    let mut methods: Vec<(Rule, Placed)> = Vec::new();
    for site in anatomy.sites.iter().filter(|s| found.contains_key(&s.path)) {
        let rule = rules[&site.path];
        let index = match methods.iter().position(|(known, _)| *known == rule) {
            Some(index) => index,
            None => {
                methods.push((rule, rule.placed(kind)));
                methods.len() - 1
            }
        };
        methods[index].1.place.sites.push(site.path.clone());
        let name = methods[index].1.name.clone();
        for (ours, data) in &found[&site.path] {
            params.insert(bag::key(index, &name, &site.path, ours), data.clone());
        }
    }
    Ok(Adapter { methods: methods.into_iter().map(|(_, placed)| placed).collect(), params })
}

/// Rank and strength of one module.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rule {
    r: i64,
    alpha: f64,
    rslora: bool,
}

impl Rule {
    fn of(config: &Json, kind: &str, module: &str) -> Rule {
        if kind == "IA3" {
            return Rule { r: 0, alpha: 0.0, rslora: false };
        }
        // The pattern's keys match the end of a name, from a dot on.
        let pattern =
            |field: &str| config[field].as_object()?.iter().find(|(key, _)| is_end(key, module)).map(|(_, v)| v.clone());
        let r = pattern("rank_pattern").unwrap_or_else(|| config["r"].clone());
        let alpha = pattern("alpha_pattern").unwrap_or_else(|| config["lora_alpha"].clone());
        Rule {
            r: r.as_i64().unwrap_or(8),
            alpha: alpha.as_f64().unwrap_or(8.0),
            rslora: config["use_rslora"].as_bool().unwrap_or(false),
        }
    }

    fn placed(self, kind: &str) -> Placed {
        let mut settings = Settings::default();
        if kind == "LORA" {
            settings.set("rank", Value::Whole(self.r));
            settings.set("alpha", Value::Real(self.alpha));
            settings.set("scaling", Value::Text(if self.rslora { RSLORA } else { "alpha / r" }.to_owned()));
        }
        let name = if kind == "LORA" { "lora" } else { "ia3" }.to_owned();
        Placed { name, place: Place::sites(&[]), settings, learning_rate_factor: 1.0, resolved: vec![] }
    }
}

fn list(value: &Json) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|v| v.as_str().map(str::to_owned)).collect()
}

fn is_end(entry: &str, module: &str) -> bool {
    module == entry || module.strip_suffix(entry).is_some_and(|rest| rest.ends_with('.'))
}

fn names_it(entries: &[String], module: &str) -> bool {
    entries.iter().any(|entry| is_end(entry, module))
}

fn read(session: &Session, folder: &Path, device: &Device) -> Result<Model> {
    let adapter = adapter(folder, &Plan::of(session).anatomy)?;
    let mut session = session.clone();
    session.methods = adapter.methods;
    let mut model = Model::make(&session, device)?;
    let place = folder.join(CONFIG);
    tensors::agree(
        &place,
        &tensors::read_json(&place)?,
        &[("/base_model_name_or_path", json!(own_base(&session).unwrap_or(BASE))), ("/inference_mode", json!(true))],
    )?;
    if own_base(&session).is_none() {
        transformers::check(&model, &folder.join(BASE))?;
        model.weights = transformers::read_base(&folder.join(BASE), &model.plan.anatomy, device)?.0;
    }
    model
        .bag
        .load(&adapter.params, device)
        .with_context(|| format!("{} does not fit this backbone", folder.join(TENSORS).display()))?;
    Ok(model)
}
