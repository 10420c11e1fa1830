//! `petl import`, `petl export` and `petl compose`: what becomes a run, and what runs give. Called by the command line. Must not know any
//! method or format by name.

use std::path::Path;

use anyhow::anyhow;
use serde_json::json;

use super::{Answer, Fault, asked, out, run_folder};
use crate::exports;
use crate::operations::compose::{Composition, Part};
use crate::plan::Plan;

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

/// Makes a run of another program's adapter.
pub fn import(adapter: &Path, backbone: &Path, into: &Path, json: bool) -> Answer {
    fresh(into)?;
    let made = asked(exports::import::import(adapter, backbone, into))?;
    if json {
        return out::json(&json!({
            "path": into, "imported": made.what, "stack": made.stack, "classes": made.classes, "trainable": made.trainable,
        }));
    }
    let count = made.classes.len();
    out::say(&format!(
        "Imported {} as {}: {} trained parameters, {count} classes. Its data set is unknown; it predicts and exports like any run",
        made.what,
        into.display(),
        made.trainable
    ))
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
    match accuracy {
        Some(accuracy) => out::say(&format!("Test accuracy on {data}: {:.1} %", accuracy * 100.0)),
        None => out::say("Test accuracy is not known: what an imported adapter was trained on is not"),
    }
}
