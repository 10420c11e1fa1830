//! `petl predict`, `petl export` and `petl compose`: what trained runs give. Called by the command line; files of tensors are checked here
//! before anything runs. Must not know any method or format by name.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use burn::tensor::{Tensor, TensorData};
use safetensors::SafeTensors;
use serde_json::json;

use super::{Answer, Fault, asked, out, run_folder};
use crate::backbones::weights;
use crate::engine::batch::Rows;
use crate::engine::model::host;
use crate::exports;
use crate::operations::compose::{Composition, Part};
use crate::plan::Plan;

/// Pictures that go through the network at once.
const AT_ONCE: usize = 100;
const INPUT: &str = "pixel_values";

/// Writes the run's logits for the pixels in `inputs` to `out`.
pub fn predict(run: &str, inputs: &Path, to: &Path, task: Option<&str>) -> Answer {
    let folder = run_folder(run)?;
    let same = |a: &Path, b: &Path| a.canonicalize().is_ok_and(|a| b.canonicalize().is_ok_and(|b| a == b));
    if same(inputs, to) {
        return Err(Fault::Request(anyhow!("--out would write over the inputs, {}. Choose another file", inputs.display())));
    }
    let (_, model) = exports::load_run(&folder)?;
    let task = asked(task_of(&model.plan, task))?;
    let side = model.plan.anatomy.side();
    let (pixels, batch) = asked(pixels(inputs, side))?;
    let bag = model.bag.frozen();
    let mut logits = Vec::new();
    for some in pixels.chunks(AT_ONCE * 3 * side * side) {
        let shape = [some.len() / (3 * side * side), 3, side, side];
        let tensor = Tensor::<4>::from_data(TensorData::new(some.to_vec(), shape), &model.device);
        let tasks = task.map_or(vec![], |task| vec![task; shape[0]]);
        logits.extend(host(model.logits_of(Rows { samples: &[], tasks: &tasks }, &bag, tensor, None))?);
    }
    let classes = model.plan.classes.len();
    let tensors = BTreeMap::from([("logits".to_owned(), TensorData::new(logits, [batch, classes]))]);
    let names = serde_json::to_string(&model.plan.classes).context("cannot write the class names as JSON")?;
    weights::write(to, &tensors, false, BTreeMap::from([("classes".to_owned(), names), ("format".to_owned(), "pt".to_owned())]))?;
    out::say(&format!("Wrote logits [{batch}, {classes}] to {}", to.display()))
}

/// The number of the task that is called `name`; none where it makes no difference.
fn task_of(plan: &Plan, name: Option<&str>) -> Result<Option<u16>> {
    let known = plan.tasks.iter().map(|task| task.name).collect::<Vec<_>>().join(", ");
    match (name, plan.tells_tasks_apart()) {
        (None, Some(member)) => bail!(
            "{} has something of its own for each task of this run ({known}), so it must be known which the pictures belong to. Name it with --task",
            member.card.title
        ),
        (None, None) => Ok(None),
        (Some(name), _) => match plan.tasks.iter().position(|task| task.name == name) {
            Some(task) => Ok(Some(u16::try_from(task)?)),
            None => bail!("this run has no task `{name}`; one of: {known}"),
        },
    }
}

/// The checked pixels of an input file, and how many pictures they are.
fn pixels(path: &Path, side: usize) -> Result<(Vec<f32>, usize)> {
    let place = path.display();
    let bytes = std::fs::read(path).with_context(|| format!("cannot read the inputs {place}. Check the path"))?;
    let file = SafeTensors::deserialize(&bytes)
        .with_context(|| format!("{place} is not a whole safetensors file ({} bytes). Write it again", bytes.len()))?;
    let Ok(view) = file.tensor(INPUT) else {
        let found = file.names().into_iter().map(str::to_owned).collect::<Vec<_>>().join(", ");
        bail!(
            "{place} has no tensor `{INPUT}`; it holds {}. Name it so, with shape [batch, 3, {side}, {side}]",
            if found.is_empty() { "none" } else { &found }
        );
    };
    let shape = view.shape();
    if shape.len() != 4 || shape[1..] != [3, side, side] || shape[0] == 0 {
        bail!("`{INPUT}` in {place} has shape {shape:?}; this run takes [batch, 3, {side}, {side}], channels first");
    }
    let values = weights::floats(&view).with_context(|| format!("`{INPUT}` in {place}"))?;
    if let Some(at) = values.iter().position(|v| !v.is_finite()) {
        bail!("`{INPUT}` in {place} holds {} in picture {}. Mend the file", values[at], at / (3 * side * side));
    }
    let (low, high) = values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), v| (low.min(*v), high.max(*v)));
    if low < -1.01 || high > 1.01 {
        out::note(&format!(
            "petl: note: pixels go from {low:.2} to {high:.2}; the backbone expects byte / 127.5 - 1, from -1 to 1"
        ));
    }
    Ok((values, shape[0]))
}

/// Exports a run and says how far the written form is from the run.
pub fn export(run: &str, kind: &str, into: &Path, json: bool) -> Answer {
    let folder = run_folder(run)?;
    let card =
        exports::find(kind).ok_or_else(|| Fault::Request(anyhow!("unknown export `{kind}`; `petl list exports` names them")))?;
    // What can be refused without work is a bad request; what fails after that has failed.
    let session = exports::own::session(&folder)?;
    asked((card.fits)(&Plan::of(&session)).map_err(anyhow::Error::msg))?;
    fresh(into)?;
    let done = exports::export(&folder, kind, into)?;
    if json {
        return out::json(&json!({ "path": done.path, "kind": kind, "difference": done.difference, "samples": done.samples }));
    }
    out::say(&format!(
        "Exported to {} as {}; read back, largest difference of logits {:.1e} on {} samples",
        done.path.display(),
        card.title,
        done.difference,
        done.samples
    ))
}

/// Whether `into` can take what is written.
fn fresh(into: &Path) -> Answer {
    if into.is_file() {
        return Err(Fault::Request(anyhow!("{} is a file; an export takes a new or empty folder", into.display())));
    }
    if std::fs::read_dir(into).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Fault::Request(anyhow!(
            "{} is not empty. Choose a new folder, so that nothing is written over",
            into.display()
        )));
    }
    Ok(())
}

/// Adds the changes of `runs` and says what came of it.
pub fn compose(runs: &[String], into: &Path, factors: &[f64], head: Option<&str>, base: Option<&str>, json: bool) -> Answer {
    if !factors.is_empty() && factors.len() != runs.len() {
        return Err(Fault::Request(anyhow!(
            "{} factors for {} runs. Give --factor once for each run in their order, or not at all",
            factors.len(),
            runs.len()
        )));
    }
    if let Some(factor) = factors.iter().find(|factor| !factor.is_finite()) {
        return Err(Fault::Request(anyhow!("--factor takes a number, not {factor}")));
    }
    let number = |name: &str| {
        let unknown = || Fault::Request(anyhow!("`{name}` is not among the runs to be composed: {}", runs.join(", ")));
        runs.iter().position(|run| run == name).ok_or_else(unknown)
    };
    let head = head.map(number).transpose()?.unwrap_or(0);
    let base = base.map(number).transpose()?;
    let mut parts = Vec::new();
    for (n, run) in runs.iter().enumerate() {
        parts.push(Part { name: run.clone(), folder: run_folder(run)?, factor: factors.get(n).copied().unwrap_or(1.0) });
    }
    fresh(into)?;
    let composition = asked(Composition::of(&parts, head, base))?;
    let done = composition.write(into)?;
    let accuracy = composition.accuracy()?;
    let data = &composition.session.data.name;
    if json {
        let composed: Vec<_> = parts.iter().map(|part| json!({ "run": part.name, "factor": part.factor })).collect();
        return out::json(&json!({
            "path": done.path, "composed": composed, "head": runs[head], "data": data, "accuracy": accuracy,
            "difference": done.difference, "samples": done.samples,
        }));
    }
    out::say(&format!(
        "Composed {} into {}, head of {}; read back, largest difference of logits {:.1e} on {} samples",
        composition.words,
        done.path.display(),
        runs[head],
        done.difference,
        done.samples
    ))?;
    out::say(&format!("Test accuracy on {data}: {:.1} %", accuracy * 100.0))
}
