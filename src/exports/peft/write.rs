//! A stack as PEFT's configuration and tensors. Called by the folder's writer; knows no files.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, anyhow};
use burn::tensor::TensorData;
use serde_json::{Value as Json, json};

use super::kinds::{KINDS, Kind, RSLORA};
use super::{BASE, PREFIX, TOP, prefixes, prompts, targets};
use crate::engine::bag;
use crate::exports::head::{self, Head};
use crate::exports::tensors::{self, Named};
use crate::exports::transformers;
use crate::methods::{boft, ia3, pissa};
use crate::plan::anatomy::Site;
use crate::plan::{Member, Plan};

/// Whether a PEFT folder holds this stack; otherwise why not, and which form does.
pub fn fits(plan: &Plan) -> Result<(), String> {
    const INSTEAD: &str = "Export it as `petl`, which holds every stack";
    transformers::names(&plan.anatomy).map_err(|words| format!("{words}. {INSTEAD}"))?;
    super::has_base(&plan.anatomy).map_err(|words| format!("{words}. {INSTEAD}"))?;
    head::is_linear(plan).map_err(|words| format!("{words}. {INSTEAD}"))?;
    let [first, ..] = plan.members.as_slice() else {
        return Err(
            "a linear probe has no adapter for a PEFT folder. Export it as `merged` or `transformers`, which hold the head"
                .to_owned(),
        );
    };
    if let Some(member) = prompts::among(plan) {
        return prompts::fits(plan, member).map_err(|words| format!("{words}. {INSTEAD}"));
    }
    if let Some(member) = crate::exports::prefixes::among(plan) {
        return prefixes::fits(plan, member).map_err(|words| format!("{words}. {INSTEAD}"));
    }
    if plan.anatomy.dialects[0].unturned {
        return Err(format!("GPT-2 has q, k and v in one layer, for which a folder is not written from here. {INSTEAD}"));
    }
    let folds = plan.members.iter().all(|m| m.stays_beside().is_none());
    let or_merged = if folds { " or `merged`" } else { "" };
    for member in &plan.members {
        let title = member.card.title;
        if kind_of(member).is_none() {
            let held: Vec<_> = KINDS.iter().filter_map(|k| Some(crate::methods::find(k.method)?.title)).collect();
            return Err(format!("PEFT has no {title}; a PEFT folder holds {}. {INSTEAD}{or_merged}", held.join(", ")));
        }
        if let Some(why) = member.stays_beside() {
            return Err(format!(
                "{title} {why}, for which a PEFT folder has no place. {INSTEAD}, or train it without that setting"
            ));
        }
        if member.card.name != first.card.name {
            return Err(format!(
                "one PEFT folder holds one kind of method, not {} and {title} together. {INSTEAD}{or_merged}",
                first.card.title
            ));
        }
    }
    let mut taken = BTreeSet::new();
    for path in plan.members.iter().flat_map(|m| &m.sites) {
        if !taken.insert(path) {
            return Err(format!(
                "two methods stand at `{path}`, but a PEFT folder holds one for each layer. {INSTEAD}{or_merged}"
            ));
        }
        let site = plan.anatomy.site(path);
        if !site.is_some_and(|s| plan.anatomy.dialects.iter().all(|d| d.module_of(&plan.anatomy, s).is_some())) {
            return Err(format!("transformers has no module for `{path}`. {INSTEAD}{or_merged}"));
        }
    }
    if let Some(member) = plan.members.iter().find(|m| m.card.name == boft::CARD.name && m.settings.whole("factors") > 1) {
        return Err(format!(
            "PEFT opens {} with more than one factor only where its CUDA extension is built. {INSTEAD}{or_merged}, or train it with one factor",
            member.card.title
        ));
    }
    uniform(plan).map_err(|words| format!("{words}. {INSTEAD}{or_merged}"))?;
    let head = Head::of(&plan.anatomy).and_then(|head| head.holds(plan.classes.len()));
    head.map(|_| ()).map_err(|words| format!("{words}. {INSTEAD}{or_merged}"))
}

fn kind_of(member: &Member) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.method == member.card.name)
}

/// Every member of the stack has rsLoRA's scale.
fn rslora(plan: &Plan) -> bool {
    plan.members.iter().all(|m| m.settings.text("scaling") == RSLORA)
}

/// What a folder says once must be the same for all members: all but rank and strength, where PEFT has patterns for these.
fn uniform(plan: &Plan) -> Result<(), String> {
    let [first, rest @ ..] = plan.members.as_slice() else { return Ok(()) };
    let Some(kind) = kind_of(first) else { return Ok(()) };
    let title = first.card.title;
    if !kind.shared.is_empty() && !rest.is_empty() {
        return Err(format!("{title} stands in the stack {} times, but its folder has one shared pair", plan.members.len()));
    }
    let varies = kind.by_module.unwrap_or_default();
    let of = |member: &Member| (kind.fields)(&member.settings, rslora(plan));
    for member in rest {
        let differs = of(first).into_iter().zip(of(member)).find(|(a, b)| a != b && !varies.contains(&a.0));
        if let Some(((name, a), (_, b))) = differs {
            return Err(format!(
                "{title} stands in the stack with `{name}` {a} and {b}, but a PEFT folder has one for all layers"
            ));
        }
    }
    Ok(())
}

/// Every placement with its site, in the order of the network.
fn placed(plan: &Plan) -> Vec<(&Member, &Site)> {
    let mut all = Vec::new();
    for site in &plan.anatomy.sites {
        all.extend(plan.members.iter().filter(|m| m.sites.contains(&site.path)).map(|m| (m, site)));
    }
    all
}

/// `adapter_config.json` of a stack that `fits`. Few keys: readers before 2024 refuse those that they do not know.
pub fn config(plan: &Plan) -> Json {
    let placed = placed(plan);
    let sites: Vec<&Site> = placed.iter().map(|(_, site)| *site).collect();
    let mut config = BTreeMap::from([
        ("base_model_name_or_path", json!(BASE)),
        ("inference_mode", json!(true)),
        ("modules_to_save", json!(plan.anatomy.classifier.modules())),
        ("target_modules", json!(targets::shortest(&plan.anatomy, &sites))),
    ]);
    let Some((first, kind)) = plan.members.first().and_then(|m| Some((m, kind_of(m)?))) else { return json!(config) };
    config.insert("peft_type", json!(kind.peft_type));
    if kind.peft_type == "IA3" {
        let input = |(member, site): &&(&Member, &Site)| ia3::scales_input(&member.settings, site);
        let inputs: Vec<_> = placed.iter().filter(input).map(|(_, site)| *site).collect();
        config.insert("feedforward_modules", json!(targets::shortest(&plan.anatomy, &inputs)));
    }
    let of = |member: &Member| BTreeMap::from_iter((kind.fields)(&member.settings, rslora(plan)));
    let all = of(first);
    for (field, pattern) in kind.by_module.into_iter().flatten().zip(["rank_pattern", "alpha_pattern"]) {
        let mut by_module = BTreeMap::new();
        for (member, site) in &placed {
            let own = of(member)[field].clone();
            for module in plan.anatomy.dialects.iter().filter_map(|d| d.module_of(&plan.anatomy, site)) {
                if own != all[field] {
                    by_module.insert(module, own.clone());
                }
            }
        }
        if !by_module.is_empty() {
            config.insert(pattern, json!(by_module));
        }
    }
    config.extend(all);
    json!(config)
}

/// The tensors of `adapter_model.safetensors`, from the bag's values.
pub fn parts(plan: &Plan, bag: &Named) -> Result<Named> {
    let mut out = Named::new();
    for (member, site) in placed(plan) {
        let kind = kind_of(member).ok_or_else(|| anyhow!("PEFT has no {}", member.card.title))?;
        let of = |site: &str, name: &str| {
            let key = bag::key(member.index, member.card.name, site, name);
            bag.get(&key).map(|data| (key, data))
        };
        let mut found: Vec<(&str, TensorData)> = Vec::new();
        for part in (kind.parts)(&member.settings, site) {
            let Some((key, data)) = of(&site.path, part.ours) else { continue };
            let start = || of(&site.path, if part.ours == "A" { "A0" } else { "B0" });
            let theirs = match pissa::is_chosen(&member.settings).then(start).flatten() {
                None => part.how.theirs(&key, data)?,
                Some((_, a0)) if part.ours == "A" => {
                    tensors::stacked(&key, &tensors::turned(&key, data)?, &tensors::turned(&key, a0)?, 1.0)? // [2 r, in]
                }
                Some((_, b0)) => tensors::turned(&key, &tensors::stacked(&key, data, b0, -1.0)?)?, // [out, 2 r]
            };
            found.push((part.theirs, theirs));
        }
        if found.is_empty() {
            return Err(anyhow!("the run's adapter holds nothing for `{}`", site.path));
        }
        for module in plan.anatomy.dialects.iter().filter_map(|d| d.module_of(&plan.anatomy, site)) {
            out.extend(found.iter().map(|(theirs, data)| (format!("{PREFIX}{module}.{theirs}"), data.clone())));
        }
        for part in kind.shared {
            let (key, data) = of(bag::ALL, part.ours).with_context(|| format!("the run's adapter lacks `{}`", part.ours))?;
            out.insert(format!("{TOP}{}", part.theirs), part.how.theirs(&key, data)?);
        }
    }
    let head = Head::of(&plan.anatomy).map_err(|e| anyhow!(e))?.theirs(bag)?;
    out.extend(head.into_iter().map(|(name, data)| (format!("{PREFIX}{name}"), data)));
    Ok(out)
}
