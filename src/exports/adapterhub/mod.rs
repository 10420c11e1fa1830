//! A folder as AdapterHub's package `adapters` writes it: bottlenecks after or beside a branch, LoRA or prefixes, in the names of transformers 4,
//! with the classifier and the base model beside them. The package reads a bottleneck's input before or behind the residual sum, as
//! `original_ln_before` says; `forms` tells which of our places that is. Called through the catalogue; must not know how a run is stored.

mod heads;
mod meant;
mod prefixes;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use burn::tensor::{Device, TensorData};
use serde_json::{Value as Json, json};

use super::head::Head;
use super::peft::kinds::{How, Part};
use super::tensors::{self, Named};
use super::{Adapter, Card, peft, transformers};
use crate::engine::bag;
use crate::engine::model::Model;
use crate::methods::{bottleneck, lora, pissa, prefix};
use crate::plan::anatomy::{Anatomy, Role, Site};
use crate::plan::{Member, Plan};
use crate::session::settings::Settings;
use crate::session::{Place, Placed, Session};
pub use heads::pool;
use meant::{bottleneck_meant, lora_meant};

pub const CARD: Card = Card {
    name: "adapterhub",
    title: "AdapterHub folder",
    help: "adapter_config.json, adapter.safetensors and the head for AdapterHub's package adapters (load_adapter with use_safetensors). Bottleneck adapters alone, LoRA alone or prefixes alone, on ViT and BERT.",
    fits: |plan| Layout::of(plan).map(|_| ()).map_err(|words| format!("{words}. Export it as `petl`, which holds every stack")),
    write,
    read,
    tolerance: 1e-5,
};

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter.safetensors";
const HEAD_CONFIG: &str = "head_config.json";
const HEAD: &str = "model_head.safetensors";
/// What the package calls them where it was not asked for safetensors. They are read without running what stands in them.
const TORCH: &str = "pytorch_adapter.bin";
const TORCH_HEAD: &str = "pytorch_model_head.bin";
/// What the adapter is called in a folder from here.
const NAME: &str = "petl";
const VERSION: &str = "adapters.1.3.0";

/// One way in which a bottleneck of theirs reads and joins, and the places that are the same here.
struct Form {
    attention: Option<Role>,
    mlp: Role,
    form: &'static str,
    original_ln_before: bool,
    is_parallel: bool,
}

/// ViT norms what enters a branch: the package has no norm to apply there, but still adds the residual first, where
/// `original_ln_before` says so. Its parallel adapter reads the stream before the norm.
const VIT: &[Form] = &[
    Form { attention: Some(Role::Attn), mlp: Role::Mlp, form: "sequential", original_ln_before: false, is_parallel: false },
    Form { attention: Some(Role::Mid), mlp: Role::Block, form: "sequential", original_ln_before: true, is_parallel: false },
    Form { attention: None, mlp: Role::Mlp, form: bottleneck::STREAM, original_ln_before: false, is_parallel: true },
];

/// BERT norms the sum behind a branch; with `original_ln_before` the package goes through that norm twice.
const BERT: &[Form] = &[
    Form { attention: Some(Role::Attn), mlp: Role::Mlp, form: "sequential", original_ln_before: false, is_parallel: false },
    Form { attention: Some(Role::Attn), mlp: Role::Mlp, form: bottleneck::NORMED, original_ln_before: true, is_parallel: false },
    Form { attention: Some(Role::Attn), mlp: Role::Mlp, form: "parallel", original_ln_before: false, is_parallel: true },
];

/// The forms on a network, and where its bottlenecks of attention and MLP stand below a block.
fn forms(anatomy: &Anatomy) -> Result<(&'static [Form], [&'static str; 2]), String> {
    match anatomy.dialects[0].prefix {
        "vit." => Ok((VIT, ["attention_adapters.adapters", "output.output_adapters.adapters"])),
        "bert." => Ok((BERT, ["attention.output.adapters", "output.adapters"])),
        other => Err(format!(
            "an AdapterHub folder from here holds adapters on ViT and BERT, not on `{}`",
            other.trim_end_matches('.')
        )),
    }
}

const LORA_ROLES: [(Role, &str); 5] =
    [(Role::Q, "q"), (Role::K, "k"), (Role::V, "v"), (Role::Up, "intermediate_lora"), (Role::Down, "output_lora")];
const BENDS: [(&str, &str); 5] =
    [("relu", "relu"), ("gelu", "gelu"), ("silu", "silu"), ("silu", "swish"), ("identity", "linear")];

/// The tensors of one place.
fn parts(method: &str, set: &Settings) -> Vec<Part> {
    let part = |ours, theirs, how| Part { ours, theirs, how };
    let mut all = match method {
        "lora" => vec![part("A", "lora_A", How::Turned), part("B", "lora_B", How::Turned)],
        _ => vec![
            part("down", "adapter_down.0.weight", How::Turned),
            part("down_bias", "adapter_down.0.bias", How::Vector),
            part("up", "adapter_up.weight", How::Turned),
            part("up_bias", "adapter_up.bias", How::Vector),
        ],
    };
    if set.flag("learn_scale") {
        all.push(part("s", "scaling", How::Vector));
    }
    if set.flag("gate") {
        all.extend([part("gate", "gate.weight", How::Turned), part("gate_bias", "gate.bias", How::Vector)]);
    }
    all
}

/// What stands before `.<name>.` in the keys of one place.
fn stem(anatomy: &Anatomy, method: &str, site: &Site) -> Option<String> {
    let naming = anatomy.dialects[0];
    if method == "lora" {
        return Some(format!("{}.loras", naming.module_of(anatomy, site)?));
    }
    let (_, [attention, mlp]) = forms(anatomy).ok()?;
    let below = if matches!(site.role, Role::Attn | Role::Mid) { attention } else { mlp };
    Some(format!("{}{}{}.{below}", naming.prefix, naming.blocks, site.block?))
}

/// A stack as the package's `config`.
struct Layout<'a> {
    places: Vec<(&'a Member, &'a Site)>,
    config: Json,
}

impl<'a> Layout<'a> {
    fn of(plan: &'a Plan) -> Result<Layout<'a>, String> {
        transformers::names(&plan.anatomy)?;
        peft::has_base(&plan.anatomy)?;
        let (forms, _) = forms(&plan.anatomy)?;
        Head::of_plan(plan)?;
        let [first, rest @ ..] = plan.members.as_slice() else { return Err("a head alone has no adapter".to_owned()) };
        let (title, set) = (first.card.title, &first.settings);
        for member in &plan.members {
            if !matches!(member.card.name, "lora" | "bottleneck" | "prefix") {
                return Err(format!(
                    "an AdapterHub folder from here holds bottleneck adapters, LoRA or prefixes, not {}",
                    member.card.title
                ));
            }
        }
        let same = |m: &Member| m.card.name == first.card.name && m.settings == *set;
        if !rest.iter().all(same) {
            return Err("one AdapterHub folder holds one method with one choice of settings".to_owned());
        }
        let mut places = Vec::new();
        for site in &plan.anatomy.sites {
            places.extend(plan.members.iter().filter(|m| m.sites.contains(&site.path)).map(|m| (m, site)));
        }
        let blocks_of = |role: Role| -> BTreeSet<usize> {
            places.iter().filter(|(_, s)| s.role == role).filter_map(|(_, s)| s.block).collect()
        };
        let roles: BTreeSet<Role> = places.iter().map(|(_, s)| s.role).collect();
        let blocks = roles.iter().next().map(|role| blocks_of(*role)).unwrap_or_default();
        if roles.iter().any(|role| blocks_of(*role) != blocks) || places.len() != roles.len() * blocks.len() {
            return Err(format!(
                "{title} stands at other places in some blocks than in others, or twice; an AdapterHub folder leaves out whole blocks only"
            ));
        }
        let leave_out: Vec<usize> = (0..plan.anatomy.blocks).filter(|n| !blocks.contains(n)).collect();
        let config = match first.card.name {
            "lora" => lora_config(set, &roles, &leave_out)?,
            "prefix" => prefixes::config(set, &roles, &leave_out)?,
            _ => bottleneck_config(set, &roles, &leave_out, forms, plan.anatomy.width)?,
        };
        Ok(Layout { places, config })
    }
}

fn lora_config(set: &Settings, roles: &BTreeSet<Role>, leave_out: &[usize]) -> Result<Json, String> {
    if pissa::is_chosen(set) {
        return Err("PiSSA's start has no place in an AdapterHub folder; a PEFT folder (`peft`) holds it".to_owned());
    }
    if let Some(role) = roles.iter().find(|role| !LORA_ROLES.iter().any(|(known, _)| known == *role)) {
        return Err(format!("the package adapters has no LoRA at `{}`; a PEFT folder (`peft`) holds it", role.word()));
    }
    let names: Vec<&str> = LORA_ROLES.iter().filter(|(role, _)| roles.contains(role)).map(|(_, name)| *name).collect();
    let attention: Vec<&&str> = names.iter().filter(|name| name.len() == 1).collect();
    let (r, scale) = (set.whole("rank"), lora::scale(set));
    Ok(json!({
        "alpha": scale * r as f64,
        "architecture": "lora",
        "attn_matrices": attention,
        "composition_mode": "add",
        "dropout": set.real("dropout"),
        "dtype": null,
        "init_weights": "lora",
        "intermediate_lora": names.contains(&"intermediate_lora"),
        "leave_out": leave_out,
        "output_lora": names.contains(&"output_lora"),
        "r": r,
        "selfattn_lora": !attention.is_empty(),
        "use_dora": false,
        "use_gating": set.flag("gate"),
        "vera_b": null,
        "vera_d": null,
    }))
}

fn bottleneck_config(
    set: &Settings,
    roles: &BTreeSet<Role>,
    leave_out: &[usize],
    forms: &[Form],
    width: usize,
) -> Result<Json, String> {
    for (name, plain) in [("share", "nothing"), ("tasks", "one for all")] {
        if set.text(name) != plain {
            return Err(format!("`{name}` is {}, for which an AdapterHub folder has no place", set.text(name)));
        }
    }
    let holds = |form: &&Form| {
        form.form == set.text("form") && roles.iter().all(|role| *role == form.mlp || form.attention == Some(*role))
    };
    let form = forms.iter().find(holds).ok_or_else(|| {
        let words = |f: &Form| {
            let roles: Vec<_> = f.attention.into_iter().chain([f.mlp]).map(Role::word).collect();
            format!("`{}` at {}", f.form, roles.join(" and "))
        };
        let known: Vec<_> = forms.iter().map(words).collect();
        let own: Vec<_> = roles.iter().map(|role| role.word()).collect();
        format!(
            "the package adapters has no bottleneck that is `{}` at {} of such a network; it has {}",
            set.text("form"),
            own.join(", "),
            known.join("; ")
        )
    })?;
    let bend = set.text("activation");
    let bend = BENDS.iter().find(|(ours, _)| *ours == bend).map_or(bend, |(_, theirs)| *theirs);
    let r = set.whole("bottleneck");
    // The package takes the whole part of width / factor.
    let factor = if width.is_multiple_of(r) { json!(width / r) } else { json!(width as f64 / (r as f64 + 0.5)) };
    let scaling = if set.flag("learn_scale") { json!("learned") } else { json!(set.real("scale")) };
    Ok(json!({
        "adapter_residual_before_ln": false,
        "cross_adapter": false,
        "dropout": set.real("dropout"),
        "init_weights": "bert",
        "inv_adapter": null,
        "inv_adapter_reduction_factor": null,
        "is_parallel": form.is_parallel,
        "leave_out": leave_out,
        "ln_after": false,
        "ln_before": false,
        "mh_adapter": form.attention.is_some_and(|role| roles.contains(&role)),
        "non_linearity": bend,
        "original_ln_after": true,
        "original_ln_before": form.original_ln_before,
        "output_adapter": roles.contains(&form.mlp),
        "phm_layer": false,
        "reduction_factor": factor,
        "residual_before_ln": true,
        "scaling": scaling,
        "use_gating": set.flag("gate"),
    }))
}

fn write(session: &Session, model: &Model, folder: &Path) -> Result<()> {
    let (plan, bag) = (&model.plan, model.bag.data());
    let layout = Layout::of(plan).map_err(|words| anyhow!(words))?;
    let mut out = Named::new();
    let by_place = match layout.config["architecture"] == prefixes::ARCHITECTURE {
        true => {
            out.extend(prefixes::parts(&plan.anatomy, &layout.places, &bag, NAME)?);
            &[]
        }
        false => layout.places.as_slice(),
    };
    for (member, site) in by_place {
        let stem = stem(&plan.anatomy, member.card.name, site).with_context(|| format!("`{}` has no name there", site.path))?;
        for part in parts(member.card.name, &member.settings) {
            let key = bag::key(member.index, member.card.name, &site.path, part.ours);
            let data = bag.get(&key).with_context(|| format!("the run's adapter lacks `{key}`"))?;
            out.insert(format!("{stem}.{NAME}.{}", part.theirs), part.how.theirs(&key, data)?);
        }
    }
    tensors::write(&folder.join(TENSORS), &out)?;
    let kind = plan.anatomy.dialects[0].prefix.trim_end_matches('.');
    let class = if kind == "vit" { "ViTForImageClassification" } else { "BertForSequenceClassification" };
    let base = json!(peft::own_base(session, &model.plan.anatomy).unwrap_or(peft::BASE));
    let mut config = json!({
        "hidden_size": plan.anatomy.width, "model_class": class, "model_name": base, "model_type": kind, "name": NAME, "version": VERSION,
    });
    let mut head = config.clone();
    config["config"] = layout.config;
    tensors::write_json(&folder.join(CONFIG), &config)?;
    let labels: BTreeMap<&str, usize> = plan.classes.iter().enumerate().map(|(n, name)| (name.as_str(), n)).collect();
    (head["config"], head["name"]) = (Json::Null, Json::Null);
    (head["label2id"], head["num_labels"]) = (json!(labels), json!(plan.classes.len()));
    tensors::write_json(&folder.join(HEAD_CONFIG), &head)?;
    tensors::write(&folder.join(HEAD), &Head::of(&plan.anatomy).map_err(|e| anyhow!(e))?.theirs(&bag)?)?;
    peft::write_base(session, model, folder)
}

fn read(session: &Session, folder: &Path, device: &Device) -> Result<Model> {
    let adapter = adapter(folder, &Plan::of(session).anatomy)?;
    let classes = adapter.classes.clone();
    let model = peft::rebuilt(session, adapter, folder, device)?;
    if classes.is_none_or(|names| names != model.plan.classes) {
        bail!("{}: `label2id` does not name the classes as this network does", folder.join(HEAD_CONFIG).display());
    }
    Ok(model)
}

/// Whether the folder's configuration is AdapterHub's.
pub fn is_one(folder: &Path) -> bool {
    let version = |config: &Json| config["version"].as_str().is_some_and(|v| v.starts_with("adapters") || v.starts_with("0."));
    tensors::read_json(&folder.join(CONFIG)).is_ok_and(|config| config["config"].is_object() && version(&config))
}

/// Reads such a folder for a network with this anatomy. Where it holds no head, `params` holds none.
///
/// # Errors
/// Naming what is set that has no place here, and every tensor that is missing, surplus or of another shape.
pub fn adapter(folder: &Path, anatomy: &Anatomy) -> Result<Adapter> {
    let place = folder.join(CONFIG);
    let config = tensors::read_json(&place)?;
    let at = |words: String| anyhow!("{}: {words}", place.display());
    if config["hidden_size"].as_u64().is_some_and(|width| width != anatomy.width as u64) {
        return Err(at(format!("hidden_size is {}, but this network has {} channels", config["hidden_size"], anatomy.width)));
    }
    let (method, settings, roles) = match config["config"]["architecture"].as_str() {
        None => bottleneck_meant(&config["config"], anatomy).map_err(at)?,
        Some("lora") => lora_meant(&config["config"]).map_err(at)?,
        Some(prefixes::ARCHITECTURE) => prefixes::meant(&config["config"]).map_err(at)?,
        Some(other) => return Err(at(format!("architecture is `{other}`; bottleneck adapters, LoRA and prefixes can be read"))),
    };
    let card = crate::methods::find(method).with_context(|| format!("there is no method `{method}`"))?;
    if let Some((_, words)) = settings.faults(card.fields).first() {
        return Err(at(words.clone()));
    }
    let file = either(folder, [TENSORS, TORCH]);
    let mut read = tensors::read_any(&file, "Export or fetch the folder again")?;
    let set = settings.filled(card.fields);
    let left_out: Vec<u64> = config["config"]["leave_out"].as_array().into_iter().flatten().filter_map(Json::as_u64).collect();
    let name = config["name"].as_str().unwrap_or(NAME);
    let mut params = Named::new();
    let stands = |s: &&Site| roles.contains(&s.role) && s.block.is_some_and(|block| !left_out.contains(&(block as u64)));
    let places: Vec<&Site> = anatomy.sites.iter().filter(stands).collect();
    let mut by_place = places.as_slice();
    if method == prefix::CARD.name {
        let taken = prefixes::taken(&mut read, &config["config"], anatomy, &places, &set, name);
        params = taken.with_context(|| file.display().to_string())?;
        by_place = &[];
    }
    for site in by_place {
        let stem = stem(anatomy, method, site).ok_or_else(|| at(format!("`{}` has no name in such a folder", site.path)))?;
        let placements = card.method.plan(anatomy, &[site], &set).map_err(at)?;
        for part in parts(method, &set) {
            let key = format!("{stem}.{name}.{}", part.theirs);
            let data = read.remove(&key).with_context(|| format!("{} holds no `{key}`", file.display()))?;
            let data = part.how.ours(&key, &data).with_context(|| format!("`{key}` in {}", file.display()))?;
            let spec = placements.iter().flat_map(|p| &p.params).find(|spec| spec.name == part.ours);
            let spec = spec.with_context(|| format!("{} has no `{}`", card.title, part.ours))?;
            if data.shape().as_slice() != [spec.rows, spec.cols] {
                let wanted = part.how.theirs("", &TensorData::new(vec![0.0f32; spec.size()], [spec.rows, spec.cols]))?;
                let own = part.how.theirs("", &data)?;
                bail!(
                    "`{key}` in {} has shape {:?}, but {} makes it {:?}",
                    file.display(),
                    own.shape().as_slice(),
                    place.display(),
                    wanted.shape().as_slice()
                );
            }
            params.insert(bag::key(0, method, &site.path, part.ours), data);
        }
    }
    if let Some(key) = read.keys().next() {
        bail!("{} holds `{key}`, for which {} names no place", file.display(), place.display());
    }
    let heads::Head { params: head, classes, activation } = heads::read(folder, anatomy)?;
    params.extend(head);
    let place = Place::sites(&places.iter().map(|site| site.path.as_str()).collect::<Vec<_>>());
    let methods = vec![Placed { name: method.to_owned(), place, settings, learning_rate_factor: 1.0, resolved: vec![] }];
    Ok(Adapter { methods, params, classes, activation, over: BTreeMap::new() })
}

/// The first of two files of a folder that is there; the first of all where none is.
fn either(folder: &Path, names: [&str; 2]) -> PathBuf {
    let [first, second] = names.map(|name| folder.join(name));
    if !first.exists() && second.exists() { second } else { first }
}

type Meant = (&'static str, Settings, Vec<Role>);

/// What the folder holds, for the description of an import.
pub fn words(folder: &Path) -> String {
    let config = tensors::read_json(&folder.join(CONFIG)).unwrap_or_default();
    format!("AdapterHub {}", config["config"]["architecture"].as_str().unwrap_or("bottleneck"))
}
