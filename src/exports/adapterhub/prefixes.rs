//! AdapterHub's prefix tuning: one row a position for all blocks that have a prefix, either flat or made by a network of two layers, which is
//! worked out when it is read. Leaves flat. Tokens stand at their own positions, as here. Called by the folder's reader and writer.

use std::collections::BTreeSet;

use anyhow::{Context, Result, anyhow, bail};
use burn::tensor::TensorData;
use serde_json::{Value as Json, json};

use super::super::peft::kinds::How;
use super::super::prefixes;
use super::super::tensors::{self, Named, known_only};
use super::Meant;
use crate::engine::bag;
use crate::methods::prefix;
use crate::plan::Member;
use crate::plan::anatomy::{Anatomy, Role, Site};
use crate::session::settings::{Settings, Value};

/// What the package calls it.
pub(super) const ARCHITECTURE: &str = "prefix_tuning";
/// A bend by its name there.
type Bend = (&'static str, fn(f64) -> f64);
/// The bends of the network that can be worked out.
const BENDS: [Bend; 5] = [
    ("tanh", f64::tanh),
    ("relu", |x| x.max(0.0)),
    ("sigmoid", |x| 1.0 / (1.0 + (-x).exp())),
    ("silu", |x| x / (1.0 + (-x).exp())),
    ("swish", |x| x / (1.0 + (-x).exp())),
];
/// Between a module's or the network's name and the adapter's.
const TUNINGS: &str = "prefix_tunings";
/// Behind the adapter's name.
const OWN: &str = "self_prefix";
const FLAT: &str = "control_trans";

/// The package's `config` of prefixes with these settings on all blocks but `leave_out`.
pub(super) fn config(set: &Settings, roles: &BTreeSet<Role>, leave_out: &[usize]) -> Result<Json, String> {
    if roles.iter().any(|role| *role != Role::Attn) {
        return Err("the package adapters has prefixes at attentions alone".to_owned());
    }
    if set.flag(prefix::COUNT_ON) {
        return Err(format!(
            "`{}` is on, but the package adapters leaves tokens at their own positions; a PEFT folder (`peft`) holds it",
            prefix::COUNT_ON
        ));
    }
    Ok(json!({
        "architecture": ARCHITECTURE,
        "bottleneck_size": 512,
        "cross_prefix": true,
        "dropout": 0.0,
        "encoder_prefix": true,
        "flat": true,
        "leave_out": leave_out,
        "non_linearity": "tanh",
        "prefix_length": set.whole("length"),
        "shared_gating": true,
        "use_gating": set.flag("gate"),
    }))
}

/// What such a `config` means here.
pub(super) fn meant(config: &Json) -> Result<Meant, String> {
    // Whether there are prefixes in an encoder and across to it makes no difference where there is neither.
    let known = [
        "architecture",
        "bottleneck_size",
        "cross_prefix",
        "dropout",
        "encoder_prefix",
        "flat",
        "init_weights_seed",
        "leave_out",
        "non_linearity",
        "prefix_length",
        "shared_gating",
        "use_gating",
    ];
    known_only(config, |name| known.contains(&name))?;
    let gate = config["use_gating"] == true;
    if gate && config["shared_gating"] == false {
        return Err("`shared_gating` is false: keys and values have one gate here".to_owned());
    }
    let mut settings = Settings::default();
    settings.set("length", Value::Whole(config["prefix_length"].as_i64().unwrap_or(30)));
    settings.set("gate", Value::Flag(gate));
    Ok((prefix::CARD.name, settings, vec![Role::Attn]))
}

/// Where the gate of an attention stands, as far as the adapter's name.
fn gates(anatomy: &Anatomy, attention: &Site) -> Option<String> {
    let q = anatomy.dialects[0].module_of(anatomy, anatomy.beside(attention, Role::Q)?)?;
    Some(format!("{}.prefix_tuning.prefix_gates", q.rsplit_once('.')?.0))
}

/// The gate's tensors at one attention: our key in the entry `index` of the stack, theirs, and how they keep it.
fn gate_parts(anatomy: &Anatomy, attention: &Site, index: usize, name: &str) -> Result<Vec<(String, String, How)>> {
    let stem = gates(anatomy, attention).with_context(|| format!("`{}` has no name there", attention.path))?;
    let [w, b] = prefix::gate_names(attention);
    let of = |ours: &str, theirs: &str, how| {
        (bag::key(index, prefix::CARD.name, bag::ALL, ours), format!("{stem}.{name}.{theirs}"), how)
    };
    Ok(vec![of(&w, "weight", How::Turned), of(&b, "bias", How::Vector)])
}

/// The tensors of a folder. The package saves the rows under the name of every block and of the whole, and reads any one of them.
pub(super) fn parts(anatomy: &Anatomy, places: &[(&Member, &Site)], values: &Named, name: &str) -> Result<Named> {
    let rows = prefixes::rows(anatomy, places, values)?; // [l, 2 · blocks · d]
    let whole = format!("{}prefix_tuning.{TUNINGS}.{name}.{OWN}.{FLAT}", anatomy.dialects[0].prefix);
    let mut all = Named::from([(whole.clone(), tensors::shaped(&whole, &rows, &[rows.shape().num_elements()])?)]);
    for (member, attention) in places.iter().filter(|(member, _)| member.settings.flag("gate")) {
        for (ours, theirs, how) in gate_parts(anatomy, attention, member.index, name)? {
            let data = values.get(&ours).with_context(|| format!("the run's adapter lacks `{ours}`"))?;
            all.insert(theirs, how.theirs(&ours, data)?);
        }
    }
    Ok(all)
}

/// Takes the prefixes of `attentions` out of what was read, as the bag's values.
///
/// # Errors
/// Naming what is missing or of another shape than `config` says, and what differs under its several names.
pub(super) fn taken(
    read: &mut Named,
    config: &Json,
    anatomy: &Anatomy,
    attentions: &[&Site],
    set: &Settings,
    name: &str,
) -> Result<Named> {
    let end = format!("{TUNINGS}.{name}.{OWN}.");
    let mut found = Named::new();
    for key in read.keys().filter(|key| key.contains(&end)).cloned().collect::<Vec<_>>() {
        let (Some(data), Some((_, part))) = (read.remove(&key), key.split_once(&end)) else { continue };
        if let Some(before) = found.insert(part.to_owned(), data.clone())
            && before.as_bytes() != data.as_bytes()
        {
            bail!("`{key}` differs from the same prefix under another of its names");
        }
    }
    let width = prefixes::width(anatomy, attentions)?;
    let mut part = |part: &str, shape: &[usize]| -> Result<Vec<f64>> {
        let data = found.remove(part).with_context(|| format!("it holds no `...{end}{part}`"))?;
        if data.shape().as_slice() != shape {
            bail!("`...{end}{part}` has shape {:?}, but the configuration makes it {shape:?}", data.shape().as_slice());
        }
        Ok(tensors::values(part, &data)?.into_iter().map(f64::from).collect())
    };
    let (l, d) = (set.whole("length"), anatomy.width);
    let rows: Vec<f64> = if config["flat"] == true {
        part(FLAT, &[l * width])?
    } else {
        let bend = config["non_linearity"].as_str().unwrap_or("tanh").to_lowercase();
        let known = BENDS.map(|(name, _)| name).join(", ");
        let (_, bend) = BENDS.iter().find(|(name, _)| *name == bend).ok_or_else(|| {
            anyhow!("`non_linearity` is {}; of what makes a prefix {known} are known here", config["non_linearity"])
        })?;
        let b = config["bottleneck_size"].as_u64().unwrap_or(512) as usize;
        let x = part("wte.weight", &[l, d])?;
        let h = dense(&x, &part(&format!("{FLAT}.0.weight"), &[b, d])?, &part(&format!("{FLAT}.0.bias"), &[b])?); // [l, b]
        let h: Vec<f64> = h.into_iter().map(bend).collect();
        dense(&h, &part(&format!("{FLAT}.2.weight"), &[width, b])?, &part(&format!("{FLAT}.2.bias"), &[width])?)
    };
    if let Some(surplus) = found.keys().next() {
        bail!("`...{end}{surplus}` is no part of a prefix with this configuration");
    }
    let rows = TensorData::new(rows.into_iter().map(|v| v as f32).collect::<Vec<f32>>(), [l, width]);
    let mut all = prefixes::apart("the prefix", &rows, anatomy, attentions)?;
    for attention in attentions.iter().filter(|_| set.flag("gate")) {
        for (ours, theirs, how) in gate_parts(anatomy, attention, 0, name)? {
            let data = read.remove(&theirs).with_context(|| format!("it holds no `{theirs}`"))?;
            all.insert(ours, how.ours(&theirs, &data).with_context(|| format!("`{theirs}`"))?);
        }
    }
    Ok(all)
}

/// `x · Wᵀ + b` for rows of x, W `[outputs, inputs]`.
fn dense(x: &[f64], w: &[f64], b: &[f64]) -> Vec<f64> {
    let inputs = w.len() / b.len().max(1);
    let of = |row: &[f64], n: usize| row.iter().zip(&w[n * inputs..]).map(|(x, w)| x * w).sum::<f64>() + b[n];
    x.chunks(inputs.max(1)).flat_map(|row| (0..b.len()).map(move |n| of(row, n)).collect::<Vec<_>>()).collect()
}
