//! PEFT's prefix tuning (Li and Liang 2021): keys and values for every attention, handed to the network as if they were of text already
//! read. So its own tokens are counted on from there, in the table of positions or in rotary ones. PEFT 0.21.2 opens it on classifiers with
//! transformers up to 5.23; in 5.24 the argument has another name. Called by `read` and `write`.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value as Json, json};

use super::prompts;
use super::{BASE, TENSORS};
use crate::exports::head::Head;
use crate::exports::tensors::{self, Named};
use crate::exports::{Adapter, prefixes};
use crate::methods::prefix;
use crate::plan::anatomy::{Anatomy, Entry, Role};
use crate::plan::{Member, Plan};
use crate::session::settings::{Settings, Value};
use crate::session::{Place, Placed};

pub const TYPE: &str = "PREFIX_TUNING";
/// Fields beside those of every kind. With `prefix_projection` PEFT saves what its network made, and opens it without that network.
const KNOWN: &[&str] = &[
    "encoder_hidden_size",
    "init_weights",
    "num_attention_heads",
    "num_layers",
    "num_transformer_submodules",
    "num_virtual_tokens",
    "prefix_projection",
    "token_dim",
];

/// Whether PEFT puts a prefix before such a network; otherwise why not.
fn takes(anatomy: &Anatomy) -> Result<(), String> {
    match anatomy.entry {
        Entry::Text { .. } if anatomy.dialects[0].prefix == "distilbert." => {
            Err("transformers' DistilBERT takes no keys and values from before, which PEFT's prefixes are".to_owned())
        }
        Entry::Text { .. } if anatomy.decoder().is_none() => Ok(()),
        Entry::Text { .. } => {
            Err("PEFT puts a prefix before the decoder's text, which the classifier of such a network makes itself".to_owned())
        }
        _ => Err("PEFT puts a prefix before texts alone".to_owned()),
    }
}

/// Whether a PEFT folder holds this stack, of which `member` is a prefix; otherwise why not.
pub fn fits(plan: &Plan, member: &Member) -> Result<(), String> {
    takes(&plan.anatomy)?;
    let counts_on = plan.anatomy.rotary || member.settings.flag(prefix::COUNT_ON);
    match () {
        () if plan.members.len() > 1 => Err("one PEFT folder holds a prefix alone, without other methods".to_owned()),
        () if member.settings.flag("gate") => Err("PEFT's prefixes have no gate".to_owned()),
        () if member.sites.len() != prefixes::attentions(&plan.anatomy).len() => {
            Err("PEFT's prefix stands at every attention".to_owned())
        }
        () if !counts_on => Err(format!(
            "PEFT counts the text's tokens on from the prefix, but `{}` is off: here they stand at their own positions",
            prefix::COUNT_ON
        )),
        () => Head::of_plan(plan).map(|_| ()),
    }
}

/// Heads and channels of the keys, in one attention.
fn heads(anatomy: &Anatomy) -> Result<[usize; 2]> {
    let first = |role| anatomy.sites.iter().find(|site| site.role == role).context("the network has no attention");
    let (q, k) = (first(Role::Q)?.d_out, first(Role::K)?.d_out);
    Ok([anatomy.heads * k / q.max(1), k])
}

/// `adapter_config.json`.
pub fn config(plan: &Plan, member: &Member) -> Result<Json> {
    let [heads, width] = heads(&plan.anatomy)?;
    Ok(json!({
        "base_model_name_or_path": BASE,
        "inference_mode": true,
        "modules_to_save": plan.anatomy.classifier.modules(),
        "num_attention_heads": heads,
        "num_layers": plan.anatomy.blocks,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": member.settings.whole("length"),
        "peft_type": TYPE,
        "prefix_projection": false,
        "task_type": "SEQ_CLS",
        "token_dim": width,
    }))
}

/// The tensors of `adapter_model.safetensors`, from the bag's values.
pub fn parts(plan: &Plan, member: &Member, bag: &Named) -> Result<Named> {
    let places: Vec<_> = prefixes::attentions(&plan.anatomy).into_iter().map(|site| (member, site)).collect();
    let rows = prefixes::rows(&plan.anatomy, &places, bag)?; // [l, 2 · blocks · d]
    prompts::beside_head(plan, rows, bag)
}

/// Reads a folder of a prefix for a network of this anatomy.
///
/// # Errors
/// Naming file and tensor, when it is no whole one, or PEFT would not open it on such a network.
pub fn adapter(folder: &Path, config: &Json, anatomy: &Anatomy) -> Result<Adapter> {
    let file = folder.join(TENSORS);
    takes(anatomy).map_err(|words| anyhow!(words))?;
    let known = |name: &str| super::kinds::COMMON.contains(&name) || KNOWN.contains(&name);
    tensors::known_only(config, known).map_err(|words| anyhow!(words))?;
    let (rows, mut params) = prompts::rows_and_head(&file, anatomy)?;
    let &[l, found] = rows.shape().as_slice() else { bail!("`{}` in {} is no matrix", prompts::PARAMETER, file.display()) };
    let ([heads, width], whole) = (heads(anatomy)?, |name: &str, own: usize| config[name].as_u64().unwrap_or(own as u64));
    for (name, own) in [
        ("num_virtual_tokens", l),
        ("num_layers", anatomy.blocks),
        ("num_attention_heads", heads),
        ("token_dim", width),
        ("num_transformer_submodules", 1),
    ] {
        if whole(name, own) != own as u64 {
            bail!("`{name}` is {}, but this network and [{l}, {found}] in {} make it {own}", config[name], file.display());
        }
    }
    let attentions = prefixes::attentions(anatomy);
    params.extend(prefixes::apart(prompts::PARAMETER, &rows, anatomy, &attentions).with_context(|| file.display().to_string())?);
    let mut settings = Settings([("length".to_owned(), Value::Whole(l as i64))].into());
    if !anatomy.rotary {
        settings.set(prefix::COUNT_ON, Value::Flag(true));
    }
    if let Some((_, words)) = settings.faults(prefix::CARD.fields).first() {
        bail!("{}: {words}", file.display());
    }
    let (name, place) = (prefix::CARD.name.to_owned(), Place::roles(&[Role::Attn]));
    Ok(Adapter {
        methods: vec![Placed { name, place, settings, learning_rate_factor: 1.0, resolved: vec![] }],
        params,
        ..Adapter::default()
    })
}
