//! The way in: a folder that PEFT or AdapterHub wrote, put on a model folder, becomes a run of its own. Called by the command line.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use burn::tensor::{Device, TensorData};
use serde_json::Value as Json;

use super::head::Head;
use super::tensors::Named;
use super::{Adapter, adapterhub, own, peft, staged};
use crate::backbones;
use crate::backbones::folder::Folder;
use crate::backbones::tensors::Tensors;
use crate::datasets::unknown;
use crate::engine::model::Model;
use crate::engine::{Event, Finished, Started};
use crate::methods;
use crate::plan::anatomy::{Anatomy, Entry};
use crate::session::settings::{Field, Kind};
use crate::session::{Choice, Placed, Recipe, Session, VERSION, Value, file};
use crate::tasks::{classify, contrast};

/// What an import made.
pub struct Imported {
    /// What it was, in words.
    pub what: String,
    pub stack: String,
    pub classes: Vec<String>,
    pub trainable: usize,
}

/// Makes the run `into` of the adapter in `folder`, on the model in `backbone`.
///
/// # Errors
/// In words, when a folder is none that is known here, and when adapter and model do not fit.
pub fn import(folder: &Path, backbone: &Path, into: &Path) -> Result<Imported> {
    let mut choice = backbones::of_folder(backbone).map_err(|e| anyhow!(e))?;
    backbones::settle(&mut choice);
    let mut anatomy = backbones::open(&choice).map_err(|e| anyhow!(e))?.network.anatomy();
    let pool = adapterhub::is_one(folder).then(|| adapterhub::pool(folder)).flatten();
    let of_pool = pool.and_then(|pool| reading(&choice, pool)).transpose();
    let its_head = || format!("the head in {} reads the {}", folder.display(), pool.unwrap_or_default());
    if let Some((other, read)) = of_pool.with_context(its_head)? {
        (choice, anatomy) = (other, read);
    } else if Head::of(&anatomy).is_err()
        && let Some(Ok((other, read))) = reading(&choice, FIRST)
        && Head::of(&read).is_ok()
    {
        // A RoBERTa's folder may hold a pooler, which its classifier does not read.
        (choice, anatomy) = (other, read);
    }
    let (Adapter { methods, mut params, classes, activation, over }, what) = adapter(folder, &anatomy)?;
    make_room(&mut choice, &anatomy, &methods);
    let config = Folder::open(&backbone.display().to_string()).map_err(|e| anyhow!(e))?.config;
    // Without a classifier a network of two towers has captions to match.
    let matches = !anatomy.towers.is_empty() && !params.contains_key("head/weight");
    if !matches && !params.contains_key("head/weight") {
        let own = head(backbone, &anatomy).with_context(|| {
            format!("{} holds no classifier of its own, so that of {} would be taken", folder.display(), backbone.display())
        })?;
        params = own.into_iter().chain(params).collect(); // of its bias the folder may hold its own
    }
    let count = params.get("head/weight").and_then(|weight| weight.shape().last().copied()).unwrap_or(0);
    let classes = classes.filter(|names| names.len() == count).unwrap_or_else(|| labels(&config, count));
    let name = folder.file_name().map_or_else(|| "adapter".to_owned(), |name| name.to_string_lossy().into_owned());
    let mut task = Choice::named(if matches { contrast::CARD.name } else { classify::CARD.name });
    if params.contains_key("head/dense")
        && let Some(activation) = activation.or_else(|| Head::of(&anatomy).ok()?.activation())
    {
        task.settings.set("head", Value::Text(classify::MLP.to_owned()));
        task.settings.set("activation", Value::Text(activation.word().to_owned()));
    }
    let session = Session {
        petl: VERSION,
        title: format!("{name}, imported"),
        seed: 0,
        device: "auto".to_owned(),
        backbone: choice,
        data: unknown::choice(&classes),
        task,
        recipe: Recipe::default(),
        methods,
    };
    let mut model = Model::make(&session, &Device::flex())?;
    let params = super::added(params, &over, &model.weights)?;
    model
        .bag
        .load(&params, &model.device)
        .with_context(|| format!("{} does not fit {}", folder.display(), backbone.display()))?;
    staged(into, |stage| {
        own::write(&session, &model, stage)?;
        file::save(&session, &stage.join("session.petl.toml"))?;
        let imported = Some(format!("{what}, from {}", folder.display()));
        let finished = Finished { run: name.clone(), imported, ..Finished::default() };
        let summary = serde_json::to_vec_pretty(&finished).context("cannot write the summary as JSON")?;
        file::write_whole(&stage.join("summary.json"), &summary)?;
        // As of any run, so that the board has it.
        let started = Started {
            run: name.clone(),
            title: session.title.clone(),
            stack: model.plan.words(),
            trainable: model.plan.trainable(),
            head: model.plan.head_count(),
            ..Started::default()
        };
        let mut log = Vec::new();
        for event in [Event::Started(started), Event::Finished(finished)] {
            serde_json::to_writer(&mut log, &event).context("cannot write the run's log as JSON")?;
            log.push(b'\n');
        }
        file::write_whole(&stage.join("events.jsonl"), &log)?;
        own::read(&own::session(stage)?, stage, &model.device)?; // it opens again
        Ok((0.0, 0))
    })?;
    Ok(Imported { what, stack: model.plan.words(), classes, trainable: model.plan.trainable() })
}

const FIRST: &str = "first token";

/// The same network with a head that reads this; none where it has no such choice.
fn reading(choice: &Choice, pool: &str) -> Option<Result<(Choice, Anatomy)>> {
    let takes = |field: &&Field| field.name == "pool" && matches!(field.kind, Kind::Choice(words) if words.contains(&pool));
    backbones::find(&choice.name)?.fields.iter().find(takes)?;
    let mut choice = choice.clone();
    choice.settings.set("pool", Value::Text(pool.to_owned()));
    let opened = backbones::open(&choice).map_err(|e| anyhow!(e));
    Some(opened.map(|opened| (choice, opened.network.anatomy())))
}

/// Makes texts as short as the adapter leaves positions for.
fn make_room(choice: &mut Choice, anatomy: &Anatomy, stack: &[Placed]) {
    let Some(reading) = anatomy.reading() else { return };
    let Entry::Text { longest, .. } = reading.entry else { return };
    let cards = stack.iter().filter_map(|placed| Some((methods::find(&placed.name)?, placed)));
    let taken: usize = cards.map(|(card, placed)| card.method.positions_taken(&placed.settings.filled(card.fields))).sum();
    let most = longest.saturating_sub(taken);
    if taken > 0 && most < reading.tokens {
        choice.settings.set("length", Value::Whole(most as i64));
    }
}

/// The adapter in a folder of either kind, and what it is in words.
fn adapter(folder: &Path, anatomy: &Anatomy) -> Result<(Adapter, String)> {
    match () {
        () if peft::is_one(folder) => Ok((peft::adapter(folder, anatomy)?, peft::words(folder))),
        () if adapterhub::is_one(folder) => Ok((adapterhub::adapter(folder, anatomy)?, adapterhub::words(folder))),
        () if folder.join("adapter.toml").is_file() => {
            bail!("{} is a folder of this program already: `petl predict` and `petl export` take it as it is", folder.display())
        }
        () => bail!(
            "{} is no adapter's folder: adapter_config.json with `peft_type` (PEFT) or with `config` and `version` (AdapterHub) is missing",
            folder.display()
        ),
    }
}

/// The base model's own classifier.
fn head(backbone: &Path, anatomy: &Anatomy) -> Result<Named> {
    let head = Head::of(anatomy).map_err(|e| anyhow!(e))?;
    let file = Tensors::open(backbone)?;
    let of = |name: &str| file.floats(name).map(|(values, shape)| TensorData::new(values, shape));
    head.ours(of, anatomy.width)
}

/// The base model's names of `count` classes, or as transformers calls classes without names.
fn labels(config: &Json, count: usize) -> Vec<String> {
    let all = (0..count).map(|n| Some(config["id2label"][n.to_string()].as_str()?.to_owned())).collect::<Option<Vec<_>>>();
    let known = config["id2label"].as_object().map_or(0, serde_json::Map::len);
    all.filter(|_| known == count).unwrap_or_else(|| (0..count).map(|n| format!("LABEL_{n}")).collect())
}
