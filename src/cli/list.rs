//! `petl list KIND`: every catalogue, in the words of its cards. Called by the command line; must not know any entry by name.

use clap::ValueEnum;
use serde_json::{Value as Json, json};

use super::{Answer, out};
use crate::engine::devices;
use crate::session::settings::{self, Field};
use crate::session::{file, presets};
use crate::{backbones, datasets, exports, methods, tasks};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    Backbones,
    Datasets,
    Tasks,
    Methods,
    Exports,
    Presets,
    Devices,
}

/// Prints one catalogue.
pub fn list(kind: Kind, json: bool) -> Answer {
    let entries = entries(kind);
    if json {
        return out::json(&entries);
    }
    for entry in &entries {
        let words = |key: &str| entry[key].as_str().unwrap_or_default();
        let name = if words("name").is_empty() { words("id") } else { words("name") };
        out::say(&format!("{name:<16} {}", words("title")))?;
        for key in ["help", "count", "caution", "paper", "source", "licence", "stack"] {
            if !words(key).is_empty() {
                out::say(&format!("{:16}   {}{}", "", prefix(key), words(key)))?;
            }
        }
        for field in entry["settings"].as_array().map_or(&[][..], Vec::as_slice) {
            let text = |key: &str| field[key].as_str().unwrap_or_default();
            out::say(&format!(
                "{:16}   {} = {}  ({})  {}",
                "",
                text("name"),
                plain(&field["default"]),
                range(field),
                text("help")
            ))?;
        }
    }
    Ok(())
}

fn prefix(key: &str) -> String {
    match key {
        "help" => String::new(),
        "count" => "parameters: ".to_owned(),
        key => format!("{key}: "),
    }
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
                let anatomy = c.backbone.anatomy(&settings::Settings::default().filled(c.fields)).ok();
                json!({
                    "name": c.name, "title": c.title, "help": c.help, "source": c.source, "licence": c.licence,
                    "parameters": anatomy.as_ref().map(|a| a.count()), "blocks": anatomy.as_ref().map(|a| a.blocks),
                    "width": anatomy.as_ref().map(|a| a.width), "image": anatomy.as_ref().map(|a| a.image),
                    "sites": anatomy.map(|a| a.sites.into_iter().map(|s| s.path).collect::<Vec<_>>()),
                    "settings": fields(c.fields),
                })
            })
            .collect(),
        Kind::Datasets => (datasets::CATALOG.iter())
            .map(|c| {
                json!({
                    "name": c.name, "title": c.title, "help": c.help, "source": c.source, "licence": c.licence,
                    "classes": c.classes, "domains": c.domains, "settings": fields(c.fields),
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
                    let settings: serde_json::Map<_, _> = v.settings.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect();
                    json!({ "title": v.title, "help": v.help, "roles": roles(v.roles), "settings": settings })
                };
                json!({
                    "name": c.name, "title": c.title, "help": c.help, "formula": c.formula, "count": c.count,
                    "paper": format!("{} ({})", c.paper, c.year), "year": c.year, "caution": c.caution, "licence": c.licence,
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
            let (devices, fault) = devices::ask();
            if let Some(words) = fault {
                out::complain(&words);
            }
            devices.iter().map(|d| json!({ "id": d.id, "title": d.name, "software": d.software })).collect()
        }
    }
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
