//! A whole model as the Python library transformers loads it (`ViTForImageClassification`): the stack folded into the
//! weights, head included. Called through the catalogue; `peft` writes the frozen base model through it too.
//! Must not know how a run is stored.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use burn::tensor::{Device, Tensor};
use serde_json::json;

use super::Card;
use super::merged;
use super::names::{self, Stored};
use super::tensors::{self, Named};
use crate::backbones::vit::{self, Vit};
use crate::engine::bag::Weights;
use crate::engine::model::Model;
use crate::plan::Plan;
use crate::plan::anatomy::Anatomy;
use crate::session::Session;

pub const CARD: Card = Card {
    name: "transformers",
    title: "transformers model folder",
    help: "config.json and model.safetensors for Hugging Face transformers (ViTForImageClassification), the method folded into the weights. Where every method folds.",
    fits: |plan| {
        names::base(&plan.anatomy).map_err(|words| format!("{words}. Export it as `merged`"))?;
        merged::fits(plan)
    },
    write: |session, model, folder| write_base(session, &model.plan, &merged::folded(model)?, Some(&model.bag.data()), folder),
    read,
    tolerance: 1e-4,
};

/// The sizes of the session's backbone, which its anatomy does not hold in full.
fn sizes(session: &Session) -> Result<&'static Vit> {
    match session.backbone.name.as_str() {
        name if name == vit::TINY_32.name => Ok(&vit::TINY),
        name => bail!("`{name}` is not built as transformers' vision transformer is. Export it as `petl` or `merged`"),
    }
}

/// Writes `frozen` (our names) as a transformers folder; with the head of `bag`, or without one.
pub fn write_base(session: &Session, plan: &Plan, frozen: &Named, bag: Option<&Named>, folder: &Path) -> Result<()> {
    let vit = sizes(session)?;
    let mut out = Named::new();
    for (theirs, ours, stored) in names::base(&plan.anatomy).map_err(|e| anyhow!(e))? {
        let data = frozen.get(&ours).with_context(|| format!("the backbone lacks `{ours}`"))?;
        let &[rows, cols] = data.shape().as_slice() else { bail!("`{ours}` is no matrix") };
        let data = match stored {
            Stored::Turned => tensors::turned(&ours, data)?,
            Stored::Vector => tensors::shaped(&ours, data, &[cols])?,
            Stored::Positions => tensors::shaped(&ours, data, &[1, rows, cols])?,
            Stored::Patches => tensors::shaped(&ours, &tensors::turned(&ours, data)?, &[cols, 3, vit.patch, vit.patch])?,
        };
        out.insert(theirs, data);
    }
    if let Some(bag) = bag {
        let of = |key: &str| bag.get(key).with_context(|| format!("the run's adapter lacks `{key}`"));
        out.insert("classifier.weight".to_owned(), tensors::turned("head/weight", of("head/weight")?)?);
        out.insert("classifier.bias".to_owned(), tensors::shaped("head/bias", of("head/bias")?, &[plan.classes.len()])?);
    }
    tensors::write(&folder.join("model.safetensors"), &out)?;
    let by_number: serde_json::Map<_, _> =
        plan.classes.iter().enumerate().map(|(n, name)| (n.to_string(), json!(name))).collect();
    let by_name: serde_json::Map<_, _> =
        plan.classes.iter().enumerate().map(|(n, name)| ((*name).to_owned(), json!(n))).collect();
    let config = json!({
        "architectures": ["ViTForImageClassification"],
        "attention_probs_dropout_prob": 0.0,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "hidden_size": vit.width,
        "id2label": by_number,
        "image_size": vit.image,
        "intermediate_size": vit.hidden,
        "label2id": by_name,
        "layer_norm_eps": vit.epsilon,
        "model_type": "vit",
        "num_attention_heads": vit.heads,
        "num_channels": 3,
        "num_hidden_layers": vit.blocks,
        "patch_size": vit.patch,
        "qkv_bias": true,
    });
    tensors::write_json(&folder.join("config.json"), &config)?;
    // (byte / 255 - 0.5) / 0.5 is our byte / 127.5 - 1.
    let pixels = json!({
        "do_normalize": true,
        "do_rescale": true,
        "do_resize": true,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "ViTImageProcessor",
        "image_std": [0.5, 0.5, 0.5],
        "rescale_factor": 1.0 / 255.0,
        "size": { "height": vit.image, "width": vit.image },
    });
    tensors::write_json(&folder.join("preprocessor_config.json"), &pixels)
}

/// Reads a transformers folder: the backbone under our names, and the head's matrices where it has them.
pub fn read_base(folder: &Path, anatomy: &Anatomy, device: &Device) -> Result<(Weights, Named)> {
    let path = folder.join("model.safetensors");
    let file = tensors::read(&path, "Export the folder again")?;
    let mut weights = Weights::new();
    for (theirs, ours, stored) in names::base(anatomy).map_err(|e| anyhow!(e))? {
        let data = file.get(&theirs).with_context(|| format!("{} lacks `{theirs}`", path.display()))?;
        let (site, part) = ours.rsplit_once('.').unwrap_or_default();
        let part = anatomy.site(site).and_then(|s| s.part(part)).with_context(|| format!("this backbone has no `{ours}`"))?;
        let data = match stored {
            Stored::Turned => tensors::turned(&theirs, data)?,
            Stored::Patches => tensors::turned(&theirs, &tensors::shaped(&theirs, data, &[part.cols, part.rows])?)?,
            Stored::Vector | Stored::Positions => tensors::shaped(&theirs, data, &[part.rows, part.cols])?,
        };
        if data.shape().as_slice() != [part.rows, part.cols] {
            bail!(
                "`{theirs}` in {} is {:?}, but this backbone needs {:?}",
                path.display(),
                data.shape().as_slice(),
                [part.cols, part.rows]
            );
        }
        weights.insert(ours, Tensor::from_data(data, device));
    }
    let mut head = Named::new();
    if let (Some(weight), Some(bias)) = (file.get("classifier.weight"), file.get("classifier.bias")) {
        head.insert("head/weight".to_owned(), tensors::turned("classifier.weight", weight)?);
        head.insert("head/bias".to_owned(), tensors::shaped("classifier.bias", bias, &[1, bias.shape().num_elements()])?);
    }
    Ok((weights, head))
}

/// Compares what the configuration in `folder` says with the network, its labels and its pixels: who loads the folder has
/// nothing but these files to go by, and a wrong number of heads fits every shape.
pub fn check(session: &Session, plan: &Plan, folder: &Path) -> Result<()> {
    let anatomy = &plan.anatomy;
    let place = folder.join("config.json");
    let config = tensors::read_json(&place)?;
    let sizes = [
        ("/model_type", json!("vit")),
        ("/hidden_act", json!("gelu")),
        ("/hidden_size", json!(anatomy.width)),
        ("/image_size", json!(anatomy.image)),
        ("/intermediate_size", json!(anatomy.hidden)),
        ("/layer_norm_eps", json!(sizes(session)?.epsilon)),
        ("/num_attention_heads", json!(anatomy.heads)),
        ("/num_channels", json!(3)),
        ("/num_hidden_layers", json!(anatomy.blocks)),
        ("/patch_size", json!(anatomy.patch)),
        ("/qkv_bias", json!(anatomy.cell("q", 0).is_some_and(|q| q.part("bias").is_some()))),
    ];
    tensors::agree(&place, &config, &sizes)?;
    let labels = config["id2label"].as_object().map_or(0, serde_json::Map::len);
    if labels != plan.classes.len() {
        bail!("{}: `id2label` has {labels} labels, but this network has {}", place.display(), plan.classes.len());
    }
    for (n, name) in plan.classes.iter().enumerate() {
        if config["id2label"][n.to_string()] != **name || config["label2id"][*name] != n {
            bail!("{}: `id2label` and `label2id` do not call label {n} `{name}`, as this network does", place.display());
        }
    }
    let place = folder.join("preprocessor_config.json");
    let yes = ["/do_normalize", "/do_rescale", "/do_resize"].map(|name| (name, json!(true)));
    // (byte · factor - mean) / deviation must be our byte / 127.5 - 1.
    let half = |name| [0, 1, 2].map(|channel| (format!("/{name}/{channel}"), json!(0.5)));
    let halves = [half("image_mean"), half("image_std")].concat();
    let side = ["/size/height", "/size/width"].map(|name| (name, json!(anatomy.image)));
    let mut wanted = [yes.to_vec(), side.to_vec(), vec![("/rescale_factor", json!(1.0 / 255.0))]].concat();
    wanted.extend(halves.iter().map(|(name, value)| (name.as_str(), value.clone())));
    tensors::agree(&place, &tensors::read_json(&place)?, &wanted)
}

fn read(session: &Session, folder: &Path, device: &Device) -> Result<Model> {
    let mut session = session.clone();
    session.methods.clear();
    let mut model = Model::make(&session, device)?;
    check(&session, &model.plan, folder)?;
    let (weights, head) = read_base(folder, &model.plan.anatomy, device)?;
    model.weights = weights;
    model.bag.load(&head, device).with_context(|| format!("the classifier in {}", folder.display()))?;
    Ok(model)
}
