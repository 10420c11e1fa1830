//! The data set that nobody knows: what an adapter of another program was trained on. Its session has the names of the classes, so
//! that it predicts and leaves again; there are no samples. Not offered in lists; `exports::import` writes it.

use anyhow::{Result, bail};

use super::{Card, Described, Holds, Loaded, Task, Wanted};
use crate::session::Choice;
use crate::session::settings::{Field, Settings, Value};

pub const CARD: Card = Card {
    name: "unknown",
    title: "Unknown",
    help: "What an imported adapter was trained on is not known; only the names of its classes are.",
    source: "Not known",
    licence: "Not known",
    fields: &[Field::text("classes", "[]", "The names of the classes in label order, as a JSON list.")],
    describe,
    load,
};

/// The choice with these classes.
pub fn choice(classes: &[String]) -> Choice {
    let mut choice = Choice::named(CARD.name);
    choice.settings.set("classes", Value::Text(serde_json::json!(classes).to_string()));
    choice
}

fn describe(set: &Settings) -> Result<Described, String> {
    let classes: Vec<String> = serde_json::from_str(set.text("classes"))
        .map_err(|fault| format!("`classes` is no JSON list of names ({fault}). Import the adapter again"))?;
    let tasks = vec![Task { name: "classes", first: 0, classes: classes.len() }];
    Ok(Described { classes, domains: vec!["unknown".to_owned()], tasks, holds: Holds::Unknown, quality: None })
}

fn load(_: &Settings, _seed: u64, _: &Wanted) -> Result<Loaded> {
    bail!(
        "the adapter was imported, and its data set is unknown: there is nothing to train or test on. Choose a data set with the same classes"
    )
}
