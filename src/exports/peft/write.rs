//! A stack as PEFT's configuration and tensors. Called by the folder's writer; knows no files.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, anyhow};
use burn::tensor::TensorData;
use serde_json::{Value as Json, json};

use super::kinds::{self, KINDS, Kind, Part, RSLORA};
use super::layers::{self, Standing};
use super::{BASE, PREFIX, TOP, biases, prefixes, prompts, targets};
use crate::engine::bag;
use crate::exports::head::Head;
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
    let Some(first) = adapters(plan).next() else {
        return Err(
            "a head alone has no adapter for a PEFT folder. Export it as `merged` or `transformers`, which hold the head"
                .to_owned(),
        );
    };
    if let Some(member) = prompts::among(plan) {
        return prompts::fits(plan, member).map_err(|words| format!("{words}. {INSTEAD}"));
    }
    if let Some(member) = crate::exports::prefixes::among(plan) {
        return prefixes::fits(plan, member).map_err(|words| format!("{words}. {INSTEAD}"));
    }
    let folds = plan.members.iter().all(|m| m.stays_beside().is_none());
    let or_merged = if folds { " or `merged`" } else { "" };
    for member in adapters(plan) {
        let title = member.card.title;
        let Some(kind) = kind_of(member) else {
            let held: Vec<_> = KINDS.iter().filter_map(|k| Some(crate::methods::find(k.method)?.title)).collect();
            return Err(format!("PEFT has no {title}; a PEFT folder holds {}. {INSTEAD}{or_merged}", held.join(", ")));
        };
        if plan.anatomy.dialects[0].unturned && !UNTURNED.contains(&kind.peft_type) && kind.peft_type != "LN_TUNING" {
            return Err(format!("PEFT has {title} on linear layers, which those of GPT-2 are not for it. {INSTEAD}{or_merged}"));
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
    for path in adapters(plan).flat_map(|m| m.placements.iter().map(|p| &p.site).collect::<BTreeSet<_>>()) {
        if !taken.insert(path) {
            return Err(format!(
                "two methods stand at `{path}`, but a PEFT folder holds one for each layer. {INSTEAD}{or_merged}"
            ));
        }
        let site = plan.anatomy.site(path);
        if !site.is_some_and(|s| plan.anatomy.dialects.iter().all(|d| d.module_of(&plan.anatomy, s).is_some())) {
            return Err(format!("transformers has no module for `{path}`. {INSTEAD}{or_merged}"));
        }
        if site.is_some_and(|s| layers::is_asked_for_its_stride(&plan.anatomy, s)) {
            return Err(format!(
                "transformers asks the convolution at `{path}` for its stride, which PEFT's layer around it has not, so that PEFT would open the folder and not run it. {INSTEAD}{or_merged}"
            ));
        }
    }
    if let Some(member) = plan.members.iter().find(|m| m.card.name == boft::CARD.name && m.settings.whole("factors") > 1) {
        return Err(format!(
            "PEFT opens {} with more than one factor only where its CUDA extension is built. {INSTEAD}{or_merged}, or train it with one factor",
            member.card.title
        ));
    }
    let all = standing(plan);
    let of_kind = |kind| all.iter().try_for_each(|standing| standing.fits(kind, rslora(plan)));
    let suits =
        uniform(plan).and_then(|()| kind_of(first).map_or(Ok(()), of_kind)).and_then(|()| biases::word(plan, &all).map(drop));
    suits.map_err(|words| format!("{words}. {INSTEAD}{or_merged}"))?;
    if plan.aim.compares_texts() {
        return Ok(());
    }
    Head::of_plan(plan).map(|_| ()).map_err(|words| format!("{words}. {INSTEAD}{or_merged}"))
}

const ADALORA: &str = "ADALORA";
/// Types that PEFT puts on layers whose weights are not turned over, too, as GPT-2's are; they have a field for that.
const UNTURNED: [&str; 4] = ["LORA", "IA3", "VERA", ADALORA];

/// The stack without the biases that are trained beside LoRA.
fn adapters(plan: &Plan) -> impl Iterator<Item = &Member> {
    let beside = biases::among(plan);
    plan.members.iter().filter(move |m| !beside.iter().any(|bias| bias.index == m.index))
}

fn kind_of(member: &Member) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.method == member.card.name)
}

/// Every member of the stack has rsLoRA's scale.
fn rslora(plan: &Plan) -> bool {
    adapters(plan).all(|m| m.settings.text("scaling") == RSLORA)
}

/// What a folder says once must be the same for all members: all but rank and strength, where PEFT has patterns for these.
fn uniform(plan: &Plan) -> Result<(), String> {
    let mut rest: Vec<&Member> = adapters(plan).collect();
    let Some(first) = (!rest.is_empty()).then(|| rest.remove(0)) else { return Ok(()) };
    let Some(kind) = kind_of(first) else { return Ok(()) };
    let title = first.card.title;
    if !kind.shared.is_empty() && !rest.is_empty() {
        return Err(format!("{title} stands in the stack {} times, but its folder has one shared pair", rest.len() + 1));
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

/// Every layer at which an adapter stands, in the order of the network.
fn standing(plan: &Plan) -> Vec<Standing<'_>> {
    let members: Vec<&Member> = adapters(plan).collect();
    let mut all = Vec::new();
    for layer in layers::all(&plan.anatomy) {
        let at =
            |site| members.iter().map(move |m| (*m, site)).filter(|(m, site): &(&Member, &Site)| m.stands_anywhere(&site.path));
        let placed: Vec<_> = layer.sites.iter().copied().flat_map(at).collect();
        if !placed.is_empty() {
            all.push(Standing { layer, placed });
        }
    }
    all
}

/// As many sites as stand in one layer there, at most.
fn fullest(standing: &[Standing]) -> usize {
    standing.iter().map(|standing| standing.placed.len()).max().unwrap_or(1)
}

/// `adapter_config.json` of a stack that `fits`. Few keys: readers before 2024 refuse those that they do not know.
pub fn config(plan: &Plan) -> Json {
    let standing = standing(plan);
    let placed: Vec<_> = standing.iter().flat_map(|s| s.placed.iter().copied()).collect();
    let sites: Vec<&Site> = placed.iter().map(|(_, site)| *site).collect();
    let mut config = BTreeMap::from([
        ("base_model_name_or_path", json!(BASE)),
        ("inference_mode", json!(true)),
        ("modules_to_save", if plan.aim.compares_texts() { Json::Null } else { json!(plan.anatomy.classifier.modules()) }),
        ("target_modules", json!(targets::shortest(&plan.anatomy, &sites))),
    ]);
    let Some((first, kind)) = adapters(plan).next().and_then(|m| Some((m, kind_of(m)?))) else { return json!(config) };
    config.insert("peft_type", json!(kind.peft_type));
    if kind.peft_type == "IA3" {
        let input = |(member, site): &&(&Member, &Site)| ia3::scales_input(&member.settings, site);
        let inputs: Vec<_> = placed.iter().filter(input).map(|(_, site)| *site).collect();
        config.insert("feedforward_modules", json!(targets::shortest(&plan.anatomy, &inputs)));
    }
    if plan.anatomy.dialects[0].unturned && UNTURNED.contains(&kind.peft_type) {
        config.insert("fan_in_fan_out", json!(true));
    }
    let rslora = rslora(plan);
    let fullest = fullest(&standing);
    let of = |standing: &Standing| {
        let mut fields = BTreeMap::from_iter((kind.fields)(&standing.placed[0].0.settings, rslora));
        if kind.peft_type == ADALORA {
            fields.extend(kinds::adalora_fields(&standing.placed[0].0.settings, fullest));
        }
        if let (Some([r, alpha]), Some((rank, strength))) = (kind.by_module, standing.rank_and_strength(kind, rslora)) {
            fields.extend([(r, json!(rank)), (alpha, kinds::number(strength))]);
        }
        fields
    };
    let has_first = |standing: &&Standing| standing.placed.iter().any(|(m, _)| m.index == first.index);
    let Some(all) = standing.iter().find(has_first).map(of) else { return json!(config) };
    for (field, pattern) in kind.by_module.into_iter().flatten().zip(["rank_pattern", "alpha_pattern"]) {
        let mut by_module = BTreeMap::new();
        for standing in &standing {
            let own = of(standing)[field].clone();
            if own != all[field] {
                by_module.extend(standing.layer.modules.iter().map(|module| (module.clone(), own.clone())));
            }
        }
        if !by_module.is_empty() {
            config.insert(pattern, json!(by_module));
        }
    }
    config.extend(all);
    if let Some(bias) = biases::word(plan, &standing).ok().filter(|_| kind.peft_type == "LORA") {
        config.insert("bias", json!(bias));
    }
    json!(config)
}

/// The tensors of `adapter_model.safetensors`, from the bag's values.
pub fn parts(plan: &Plan, bag: &Named) -> Result<Named> {
    let mut out = Named::new();
    let standing = standing(plan);
    let rows = config(plan)["init_r"].as_u64().map(|rows| rows as usize);
    for at in &standing {
        let member = at.placed[0].0;
        let kind = kind_of(member).ok_or_else(|| anyhow!("PEFT has no {}", member.card.title))?;
        let each = at.placed.iter().map(|(member, site)| of_place(kind, member, site, bag)).collect::<Result<Vec<_>>>()?;
        for (theirs, mut data) in at.joined(kind, rslora(plan), each)? {
            if let (ADALORA, Some(rows)) = (kind.peft_type, rows) {
                data = layers::filled(theirs, &data, rows)?;
            }
            if let Some(kernel) = layers::kernel(&plan.anatomy, at.layer.sites[0]) {
                data = layers::as_kernel(&kernel, theirs, &data)?;
            }
            out.extend(at.layer.modules.iter().map(|module| (format!("{PREFIX}{module}.{theirs}"), data.clone())));
        }
        for part in kind.shared {
            let key = bag::key(member.index, member.card.name, bag::ALL, part.ours);
            let data = bag.get(&key).with_context(|| format!("the run's adapter lacks `{}`", part.ours))?;
            out.insert(format!("{TOP}{}", part.theirs), part.how.theirs(&key, data)?);
        }
    }
    out.extend(biases::parts(plan, &standing, bag)?);
    if plan.aim.compares_texts() {
        return Ok(out);
    }
    let head = Head::of(&plan.anatomy).map_err(|e| anyhow!(e))?.theirs(bag)?;
    out.extend(head.into_iter().map(|(name, data)| (format!("{PREFIX}{name}"), data)));
    Ok(out)
}

/// The tensors of one place, each in PEFT's shape.
fn of_place(kind: &Kind, member: &Member, site: &Site, bag: &Named) -> Result<Vec<(Part, TensorData)>> {
    let of = |name: &str| {
        let key = bag::key(member.index, member.card.name, &site.path, name);
        bag.get(&key).map(|data| (key, data))
    };
    let mut found = Vec::new();
    for part in (kind.parts)(&member.settings, site) {
        let Some((key, data)) = of(part.ours) else { continue };
        let start = || of(if part.ours == "A" { "A0" } else { "B0" });
        let theirs = match pissa::is_chosen(&member.settings).then(start).flatten() {
            None => part.how.theirs(&key, data)?,
            Some((_, a0)) if part.ours == "A" => {
                tensors::stacked(&key, &tensors::turned(&key, data)?, &tensors::turned(&key, a0)?, 1.0)? // [2 r, in]
            }
            Some((_, b0)) => tensors::turned(&key, &tensors::stacked(&key, data, b0, -1.0)?)?, // [out, 2 r]
        };
        found.push((part, theirs));
    }
    match found.is_empty() {
        true => Err(anyhow!("the run's adapter holds nothing for `{}`", site.path)),
        false => Ok(found),
    }
}
