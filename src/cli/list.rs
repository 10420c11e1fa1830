//! `petl list KIND [NAME]`: every catalogue, in the words of its cards. Called by the command line; must not know any entry by name.

use std::collections::BTreeMap;

use clap::ValueEnum;
use serde_json::{Value as Json, json};

use super::{Answer, Fault, out};
use crate::engine::devices;
use crate::session::settings::{self, Field};
use crate::session::{file, presets};
use crate::{backbones, datasets, exports, methods, operations, tasks};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    Backbones,
    Datasets,
    Tasks,
    Methods,
    Exports,
    Operations,
    Presets,
    Devices,
}

/// Prints one catalogue, or the entry `name` of it.
pub fn list(kind: Kind, name: Option<&str>, json: bool) -> Answer {
    let mut entries = entries(kind);
    let called = |entry: &Json| entry["name"].as_str().or(entry["id"].as_str()).unwrap_or_default().to_owned();
    if let Some(name) = name {
        let all = entries.iter().map(&called).collect::<Vec<_>>().join(", ");
        entries.retain(|entry| called(entry) == name);
        if entries.is_empty() {
            return Err(Fault::Request(anyhow::anyhow!("there is no `{name}` in this list; it has {all}")));
        }
    }
    if json {
        return out::json(&entries);
    }
    for entry in &entries {
        let words = |key: &str| entry[key].as_str().unwrap_or_default();
        out::say(&format!("{:<16} {}", called(entry), words("title")))?;
        for key in ["help", "formula", "count"] {
            say(key, words(key))?;
        }
        for published in entry["published"].as_array().into_iter().flatten() {
            let count = out::count(published["trainable"].as_u64().unwrap_or_default() as usize);
            say("published", &format!("{count} ({})", published["what"].as_str().unwrap_or_default()))?;
        }
        if let Some(quality) = entry.get("quality").filter(|_| !entry["classes"].is_null()) {
            say("quality score", quality.as_str().unwrap_or("none"))?;
        }
        for line in words("drawing").lines() {
            say("drawing", line)?;
        }
        say("learning rate", &entry["learning_rate"].as_f64().map_or_else(String::new, |rate| format!("{rate:e} (AdamW)")))?;
        for key in ["caution", "released", "paper", "source", "licence", "stack"] {
            say(key, words(key))?;
        }
        for field in entry["settings"].as_array().into_iter().flatten() {
            let text = |key: &str| field[key].as_str().unwrap_or_default();
            let default = plain(&field["default"]);
            say("setting", &format!("{} = {default}  ({})  {}", text("name"), range(field), text("help")))?;
        }
    }
    Ok(())
}

/// One line below an entry's name; nothing where the card says nothing.
fn say(key: &str, words: &str) -> Answer {
    let before = match key {
        "help" | "drawing" | "setting" | "formula" => String::new(),
        "count" => "parameters: ".to_owned(),
        "published" => "for ViT-B/16: ".to_owned(),
        "released" => "the paper's code: ".to_owned(),
        key => format!("{key}: "),
    };
    if words.is_empty() { Ok(()) } else { out::say(&format!("{:19}{before}{words}", "")) }
}

fn plain(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn range(field: &Json) -> String {
    match (&field["min"], &field["choices"]) {
        (Json::Null, Json::Array(words)) => words.iter().map(plain).collect::<Vec<_>>().join(" | "),
        (Json::Null, _) => plain(&field["type"]),
        (min, _) => format!("{min} to {}", field["max"]),
    }
}

fn entries(kind: Kind) -> Vec<Json> {
    match kind {
        Kind::Backbones => (backbones::CATALOG.iter())
            .map(|c| {
                let anatomy = (c.open)(&settings::Settings::default().filled(c.fields)).ok().map(|opened| opened.network.anatomy());
                json!({
                    "name": c.name, "title": c.title, "help": c.help, "source": c.source, "licence": c.licence,
                    "parameters": anatomy.as_ref().map(|a| a.count()), "blocks": anatomy.as_ref().map(|a| a.blocks),
                    "width": anatomy.as_ref().map(|a| a.width), "image": anatomy.as_ref().map(|a| a.side()),
                    "sites": anatomy.map(|a| a.sites.into_iter().map(|s| s.path).collect::<Vec<_>>()),
                    "settings": fields(c.fields),
                })
            })
            .collect(),
        Kind::Datasets => (datasets::CATALOG.iter())
            .map(|c| {
                // What a person's own files hold is known when they are chosen.
                let known = (c.describe)(&settings::Settings::default().filled(c.fields)).ok();
                json!({
                    "name": c.name, "title": c.title, "help": c.help, "source": c.source, "licence": c.licence,
                    "classes": known.as_ref().map(|d| &d.classes), "domains": known.as_ref().map(|d| &d.domains),
                    "quality": known.as_ref().and_then(|d| d.quality).map(|scores| scores.to_string()),
                    "tasks": known.as_ref().map(|d| d.tasks.iter().map(|t| t.name).collect::<Vec<_>>()),
                    "settings": fields(c.fields),
                })
            })
            .collect(),
        Kind::Tasks => tasks::CATALOG
            .iter()
            .map(|c| json!({ "name": c.name, "title": c.title, "help": c.help, "settings": fields(c.fields) }))
            .collect(),
        Kind::Methods => (methods::CATALOG.iter())
            .map(|c| {
                let roles = |roles: &[crate::plan::anatomy::Role]| roles.iter().map(|r| r.word()).collect::<Vec<_>>();
                let variant = |v: &methods::Variant| {
                    json!({ "title": v.title, "help": v.help, "roles": roles(v.roles), "settings": map(v.settings) })
                };
                let published = |p: &methods::Published| {
                    json!({ "what": p.what, "roles": roles(p.roles), "settings": map(p.settings), "trainable": p.trainable })
                };
                json!({
                    "name": c.name, "title": c.title, "help": c.help, "formula": c.formula, "count": c.count,
                    "paper": format!("{} ({})", c.paper, c.year), "year": c.year, "caution": c.caution, "licence": c.licence,
                    "drawing": c.drawing, "learning_rate": c.learning_rate, "released": c.released,
                    "published": c.published.iter().map(published).collect::<Vec<_>>(),
                    "roles": roles(c.roles), "default_roles": roles(c.default_roles), "folds": c.folds,
                    "identity_at_start": c.identity_at_start, "settings": fields(c.fields),
                    "variants": c.variants.iter().map(variant).collect::<Vec<_>>(),
                })
            })
            .collect(),
        Kind::Exports => exports::CATALOG
            .iter()
            .map(|c| json!({ "name": c.name, "title": c.title, "help": c.help, "tolerance": c.tolerance }))
            .collect(),
        Kind::Operations => operations::CATALOG
            .iter()
            .map(|c| {
                json!({
                    "name": c.name, "title": c.title, "help": c.help, "formula": c.formula, "caution": c.caution,
                    "paper": format!("{} ({})", c.paper, c.year),
                })
            })
            .collect(),
        Kind::Presets => (presets::PRESETS.iter())
            .map(|p| match file::find(p.name) {
                Ok(session) => {
                    let plan = crate::plan::Plan::of(&session);
                    json!({
                        "name": p.name, "title": session.title, "backbone": session.backbone.name, "data": session.data.name,
                        "stack": plan.words(), "trainable": plan.trainable(), "head": plan.head_count(),
                    })
                }
                Err(error) => json!({ "name": p.name, "title": "", "fault": format!("{error:#}") }),
            })
            .collect(),
        Kind::Devices => {
            let (found, fault) = devices::look();
            if let Some(words) = fault {
                out::note(&format!("petl: note: {words}"));
            }
            found.iter().map(|d| json!({ "id": d.id, "title": d.name, "software": d.software })).collect()
        }
    }
}

/// `name = value` pairs as one object.
fn map(settings: &'static [(&'static str, &'static str)]) -> BTreeMap<&'static str, &'static str> {
    settings.iter().copied().collect()
}

fn fields(fields: &[Field]) -> Vec<Json> {
    let one = |field: &Field| {
        let mut entry = json!({ "name": field.name, "help": field.help, "default": field.default() });
        let more = match field.kind {
            settings::Kind::Flag(_) => json!({ "type": "true or false" }),
            settings::Kind::Whole { min, max, .. } => json!({ "type": "whole number", "min": min, "max": max }),
            settings::Kind::Real { min, max, .. } => json!({ "type": "number", "min": min, "max": max }),
            settings::Kind::Choice(words) => json!({ "type": "choice", "choices": words }),
            settings::Kind::Text(_) => json!({ "type": "text" }),
        };
        if let (Json::Object(entry), Json::Object(more)) = (&mut entry, more) {
            entry.extend(more);
        }
        entry
    };
    fields.iter().map(one).collect()
}
