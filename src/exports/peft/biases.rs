//! Biases that are trained beside LoRA: BitFit on the same stack here, `bias` (those of its own layers, or all) and `lora_bias` (one of the
//! change's own) with PEFT. Called by `read` and `write`; knows no files.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use burn::tensor::TensorData;
use serde_json::Value as Json;

use super::layers::{self, Layer};
use super::targets::Config;
use super::{PREFIX, kinds};
use crate::engine::bag;
use crate::exports::tensors::{self, Named};
use crate::methods::bitfit;
use crate::plan::anatomy::{Anatomy, Site};
use crate::plan::{Member, Plan};
use crate::session::settings::Settings;
use crate::session::{Place, Placed};

const NAME: &str = "bitfit";
/// What PEFT calls a layer's own bias where LoRA stands at the layer, where nothing does, and the bias of the change.
const WITHIN: &str = "base_layer.bias";
const PLAIN: &str = "bias";
const OF_CHANGE: &str = "lora_B.bias";

/// The biases of a stack with LoRA in it; none of another stack, where they are a method of its own.
pub fn among(plan: &Plan) -> Vec<&Member> {
    let is_lora = |m: &Member| kinds::KINDS.iter().any(|kind| kind.method == m.card.name && kind.peft_type == "LORA");
    let beside = plan.members.iter().any(is_lora);
    plan.members.iter().filter(|m| beside && m.card.name == NAME).collect()
}

/// Whether a bias can be trained here.
fn has_one(site: &Site) -> bool {
    site.part(PLAIN).is_some() && bitfit::CARD.roles.contains(&site.role)
}

/// PEFT's word for the biases that the stack trains beside LoRA at `standing`.
///
/// # Errors
/// In words, when they are neither those of LoRA's layers nor all.
pub fn word(plan: &Plan, standing: &[layers::Standing]) -> Result<&'static str, String> {
    let mut trained = BTreeSet::new();
    for placement in among(plan).iter().flat_map(|m| &m.placements) {
        if !trained.insert(placement.site.as_str()) {
            return Err(format!("the bias of `{}` is trained twice, but a PEFT folder holds one", placement.site));
        }
    }
    let own: BTreeSet<_> = standing.iter().flat_map(|s| &s.layer.sites).filter(|s| has_one(s)).map(|s| s.path.as_str()).collect();
    let all: BTreeSet<_> = plan.anatomy.sites.iter().filter(|s| has_one(s)).map(|s| s.path.as_str()).collect();
    match () {
        () if trained.is_empty() => Ok("none"),
        () if trained == own => Ok("lora_only"),
        () if trained == all => Ok("all"),
        () => {
            let some =
                |of: &BTreeSet<&str>, without: &BTreeSet<&str>| of.difference(without).next().map(|path| format!("`{path}`"));
            let (surplus, lacks) = (some(&trained, &own), some(&own, &trained).or_else(|| some(&all, &trained)));
            let surplus = surplus.map(|path| format!(", and {path} is none of LoRA's")).unwrap_or_default();
            Err(format!(
                "beside LoRA a PEFT folder holds the biases of LoRA's own layers or all of the network: {} is not trained{surplus}. Place {} at just LoRA's sites, or at all",
                lacks.unwrap_or_default(),
                bitfit::CARD.title
            ))
        }
    }
}

/// The trained biases under PEFT's keys.
pub fn parts(plan: &Plan, standing: &[layers::Standing], values: &Named) -> Result<Named> {
    let members = among(plan);
    let mut out = Named::new();
    for Layer { modules, sites } in layers::all(&plan.anatomy) {
        let of = |site: &&Site| members.iter().find(|m| m.stands_anywhere(&site.path)).map(|m| (m.index, site.path.clone()));
        let keys: Vec<_> = sites.iter().filter_map(of).map(|(index, path)| bag::key(index, NAME, &path, PLAIN)).collect();
        if keys.is_empty() {
            continue;
        }
        let mut all = Vec::new();
        for key in keys {
            let data = values.get(&key).with_context(|| format!("the run's adapter lacks `{key}`"))?;
            all.extend(tensors::values(&key, data)?);
        }
        let within = standing.iter().any(|s| s.layer.modules == modules);
        let rest = if within { WITHIN } else { PLAIN };
        let count = all.len();
        let data = TensorData::new(all, [count]);
        out.extend(modules.into_iter().map(|module| (format!("{PREFIX}{module}.{rest}"), data.clone())));
    }
    Ok(out)
}

/// The biases of a folder that is being read, by site.
#[derive(Default)]
pub struct Biases<'a> {
    trained: BTreeMap<&'a str, TensorData>,
    of_change: BTreeMap<&'a str, TensorData>,
}

/// What `finish` made of them.
pub struct Beside {
    pub placed: Placed,
    pub params: Named,
    /// Those of `params` that are added to a frozen part of the network, which a folder does not know: key and part.
    pub over: BTreeMap<String, String>,
}

impl<'a> Biases<'a> {
    /// Takes the tensor `rest` of `module` where it is a bias. `stands` says whether LoRA does at this module.
    ///
    /// # Errors
    /// In words, when the configuration does not name it, or it is none of this network's.
    pub fn take(
        &mut self,
        config: &Config,
        [key, rest]: [&str; 2],
        stands: bool,
        sites: &[&'a Site],
        data: &TensorData,
    ) -> Result<bool> {
        let bias = said(config).map_err(anyhow::Error::msg)?;
        let is_named = match rest {
            WITHIN => stands && bias != "none",
            PLAIN => !stands && bias == "all",
            OF_CHANGE => stands && config.flag("lora_bias"),
            _ => return Ok(false),
        };
        if !is_named {
            bail!(
                "`{key}`: bias ({bias}) and lora_bias ({}) do not name it, so it is not known who trained it",
                config.flag("lora_bias")
            );
        }
        let into = if rest == OF_CHANGE { &mut self.of_change } else { &mut self.trained };
        for (site, data) in sites.iter().zip(layers::by_outputs(key, sites, data)?) {
            if !has_one(site) {
                bail!("`{key}`: `{}` has no bias in this network that could hold it", site.path);
            }
            let row = tensors::shaped(key, &data, &[1, site.d_out])?;
            if let Some(before) = into.insert(&site.path, row.clone())
                && before.as_bytes() != row.as_bytes()
            {
                bail!("`{key}` differs from the same layer under its other name");
            }
        }
        Ok(true)
    }

    /// All of them as BitFit in place `index` of the stack; none where the folder has none. `lora` are LoRA's sites with their scale.
    ///
    /// # Errors
    /// When one is missing that the configuration names.
    pub fn finish(self, config: &Config, anatomy: &Anatomy, lora: &BTreeMap<&str, f64>, index: usize) -> Result<Option<Beside>> {
        let bias = said(config).map_err(anyhow::Error::msg)?;
        for site in anatomy.sites.iter().filter(|site| has_one(site)) {
            let is_lora = lora.contains_key(site.path.as_str());
            let wanted = bias == "all" || (bias == "lora_only" && is_lora);
            let of_change = config.flag("lora_bias") && is_lora;
            if (wanted && !self.trained.contains_key(&*site.path)) || (of_change && !self.of_change.contains_key(&*site.path)) {
                bail!("bias is {bias:?} and lora_bias {}, but there is no bias for `{}`", config.flag("lora_bias"), site.path);
            }
        }
        let (mut params, mut over, mut paths) = (Named::new(), BTreeMap::new(), Vec::new());
        for site in &anatomy.sites {
            let (path, scale) = (site.path.as_str(), lora.get(site.path.as_str()).copied().unwrap_or(0.0));
            let (trained, of_change) = (self.trained.get(path), self.of_change.get(path));
            if trained.is_none() && of_change.is_none() {
                continue;
            }
            let key = bag::key(index, NAME, path, PLAIN);
            let mut sum = vec![0.0f64; site.d_out];
            for (data, factor) in [(trained, 1.0), (of_change, scale)] {
                let values = data.map(|data| tensors::values(&key, data)).transpose()?.unwrap_or_default();
                sum.iter_mut().zip(values).for_each(|(sum, v)| *sum += f64::from(v) * factor);
            }
            if trained.is_none() {
                over.insert(key.clone(), format!("{path}.{PLAIN}"));
            }
            params.insert(key, TensorData::new(sum.into_iter().map(|v| v as f32).collect::<Vec<_>>(), [1, site.d_out]));
            paths.push(path);
        }
        let settings = Settings::default();
        let placed = || Placed {
            name: NAME.to_owned(),
            place: Place::sites(&paths),
            settings,
            learning_rate_factor: 1.0,
            resolved: vec![],
        };
        Ok((!paths.is_empty()).then(|| Beside { placed: placed(), params, over }))
    }
}

/// What a configuration says of biases.
///
/// # Errors
/// In words, when it is none of PEFT's three.
pub fn said(config: &Config) -> Result<&str, String> {
    match &config.0["bias"] {
        Json::Null => Ok("none"),
        Json::String(word) if ["none", "lora_only", "all"].contains(&word.as_str()) => Ok(word),
        other => Err(format!("bias is {other}; none, lora_only and all are known")),
    }
}
