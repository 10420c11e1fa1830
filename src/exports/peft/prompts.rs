//! PEFT's prompt tuning (Lester et al. 2021): embeddings before those of the text. Prompts here stand behind the tokens and count as if
//! before them, which is the same where positions are turned (`engine::tuner::order`) and where a token sees only what comes before it;
//! elsewhere PEFT moves every token's position. Called by `read` and `write`.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use burn::tensor::TensorData;
use serde_json::{Value as Json, json};

use super::{BASE, TENSORS, TOP};
use crate::engine::bag;
use crate::exports::Adapter;
use crate::exports::head::Head;
use crate::exports::tensors::{self, Named};
use crate::methods::prompt;
use crate::plan::anatomy::{Anatomy, Role};
use crate::plan::{Member, Plan};
use crate::session::settings::{Settings, Value};
use crate::session::{Place, Placed};

pub const TYPE: &str = "PROMPT_TUNING";
/// What PEFT calls prompts, and a prefix.
pub const PARAMETER: &str = "prompt_embeddings";

/// Of T5.
const NO_EMBEDDINGS: &str =
    "PEFT hands prompts over as embeddings, which transformers' classifier on an encoder and a decoder does not take";

/// The stack's prompts, where it holds some.
pub fn among(plan: &Plan) -> Option<&Member> {
    plan.members.iter().find(|m| m.card.name == prompt::CARD.name)
}

/// Whether a PEFT folder holds this stack, of which `member` are the prompts; otherwise why not.
pub fn fits(plan: &Plan, member: &Member) -> Result<(), String> {
    let blocks = plan.anatomy.sites.iter().filter(|s| s.role == Role::Block).count();
    match () {
        () if plan.anatomy.decoder().is_some() => Err(NO_EMBEDDINGS.to_owned()),
        () if !plan.anatomy.rotary => {
            Err("PEFT's prompts move every token's position, which these do not, in a network with a table of positions"
                .to_owned())
        }
        () if plan.members.len() > 1 => Err("one PEFT folder holds prompts alone, without other methods".to_owned()),
        () if member.settings.text("depth") != "shallow" => {
            Err("PEFT has one set of prompts before the first block, not one for each block".to_owned())
        }
        () if member.sites.len() != blocks => Err("PEFT's prompts stand before the first block and go through all".to_owned()),
        () => Head::of_plan(plan).map(|_| ()),
    }
}

/// `adapter_config.json`.
pub fn config(plan: &Plan, member: &Member) -> Json {
    json!({
        "base_model_name_or_path": BASE,
        "inference_mode": true,
        "modules_to_save": plan.anatomy.classifier.modules(),
        "num_attention_heads": plan.anatomy.heads,
        "num_layers": plan.anatomy.blocks,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": member.settings.whole("tokens"),
        "peft_type": TYPE,
        "prompt_tuning_init": "RANDOM",
        "task_type": "SEQ_CLS",
        "token_dim": plan.anatomy.width,
    })
}

/// The tensors of `adapter_model.safetensors`, from the bag's values.
pub fn parts(plan: &Plan, member: &Member, bag: &Named) -> Result<Named> {
    let site = member.placements.iter().find(|p| !p.params.is_empty()).context("the prompts stand nowhere")?;
    let key = bag::key(member.index, member.card.name, &site.site, "P");
    let prompts = bag.get(&key).with_context(|| format!("the run's adapter lacks `{key}`"))?;
    beside_head(plan, prompts.clone(), bag)
}

/// `rows` as PEFT calls them, and the head beside them.
pub fn beside_head(plan: &Plan, rows: TensorData, bag: &Named) -> Result<Named> {
    let head = Head::of(&plan.anatomy).map_err(|e| anyhow!(e))?.theirs(bag)?;
    let mut all: Named = head.into_iter().map(|(name, data)| (format!("{TOP}{name}"), data)).collect();
    all.insert(PARAMETER.to_owned(), rows);
    Ok(all)
}

/// The same out of a file: what PEFT calls prompts, and the bag's values of the head, where it is there.
pub fn rows_and_head(file: &Path, anatomy: &Anatomy) -> Result<(TensorData, Named)> {
    let mut read = tensors::read(file, "Export or fetch the folder again")?;
    let rows = read.remove(PARAMETER).with_context(|| format!("{} holds no `{PARAMETER}`", file.display()))?;
    let head: Named =
        read.into_iter().map(|(name, data)| (name.strip_prefix(TOP).map(str::to_owned).unwrap_or(name), data)).collect();
    let params = match head.is_empty() {
        true => head,
        false => {
            let own = Head::of(anatomy).map_err(|e| anyhow!(e))?;
            own.among(&head, anatomy.width).with_context(|| format!("the classifier in {}", file.display()))?
        }
    };
    Ok((rows, params))
}

/// Reads a folder of prompts for a network of this anatomy.
///
/// # Errors
/// Naming file and tensor, when it is no whole one, or the network is none on which its prompts mean the same.
pub fn adapter(folder: &Path, config: &Json, anatomy: &Anatomy) -> Result<Adapter> {
    let file = folder.join(TENSORS);
    if anatomy.decoder().is_some() {
        bail!(NO_EMBEDDINGS);
    }
    if !anatomy.rotary {
        bail!(
            "peft_type `{TYPE}` puts prompts before the text's own embeddings, so that they take its first positions and the first of them stands where the classifier reads; prompts in this network join behind the embeddings and leave every token at its place"
        );
    }
    let (prompts, mut params) = rows_and_head(&file, anatomy)?;
    let &[count, width] = prompts.shape().as_slice() else { bail!("`{PARAMETER}` in {} is no matrix", file.display()) };
    if width != anatomy.width || config["num_virtual_tokens"].as_u64().is_some_and(|n| n != count as u64) {
        bail!(
            "`{PARAMETER}` in {} is [{count}, {width}], but the network is {} wide and the configuration says {} prompts",
            file.display(),
            anatomy.width,
            config["num_virtual_tokens"]
        );
    }
    let settings = Settings([("tokens".to_owned(), Value::Whole(count as i64))].into());
    if let Some((_, words)) = settings.faults(prompt::CARD.fields).first() {
        bail!("{}: {words}", file.display());
    }
    let name = prompt::CARD.name;
    let first = anatomy.sites.iter().find(|s| s.role == Role::Block).context("the network has no block")?;
    params.insert(bag::key(0, name, &first.path, "P"), prompts);
    let place = Place::roles(&[Role::Block]);
    let placed = Placed { name: name.to_owned(), place, settings, learning_rate_factor: 1.0, resolved: vec![] };
    Ok(Adapter { methods: vec![placed], params, ..Adapter::default() })
}
