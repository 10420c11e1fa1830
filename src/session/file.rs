//! Session files: `*.petl.toml`, read with errors that name the line, written whole or not at all; overrides as
//! `path=value`. Called by the workbench and the command line.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;
use toml::de::{DeTable, DeValue};

use super::settings::{Field, Kind, Value};
use super::{Session, VERSION, presets};
use crate::plan::Plan;
use crate::{backbones, datasets, methods, tasks};

/// Reads a session file.
pub fn open(path: &Path) -> Result<Session> {
    let text = std::fs::read_to_string(path).with_context(|| {
        format!("cannot read the session {}. Check the path, or name a preset ({})", path.display(), presets::names())
    })?;
    parse(&text, &path.display().to_string())
}

/// The session that `what` names: a preset, or a file.
pub fn find(what: &str) -> Result<Session> {
    match presets::find(what) {
        Some(preset) => parse(preset.text, &format!("preset {what}")),
        None => open(Path::new(what)),
    }
}

/// Reads a session from text; `place` names it in errors. Refused is only what a `Session` cannot hold: whatever can be saved
/// can be opened again. A wrong name or setting is a problem of the plan, which keeps it from training until it is mended.
pub fn parse(text: &str, place: &str) -> Result<Session> {
    // The version first: a newer file may hold anything.
    let version = toml::from_str::<toml::Table>(text)
        .map_err(|e| fault(text, place, e.span().map(|s| s.start), e.message()))?
        .get("petl")
        .and_then(toml::Value::as_integer);
    match version {
        None => bail!("{place}: has no `petl = {VERSION}` line. Is it a petl session?"),
        Some(v) if v > i64::from(VERSION) => {
            let line = line_of(text, "petl").unwrap_or(1);
            bail!("{place}, line {line}: written by a newer program (format {v}; this one reads {VERSION}). Install a newer petl")
        }
        Some(v) if v < 1 => bail!("{place}, line {}: format {v} never was", line_of(text, "petl").unwrap_or(1)),
        Some(_) => {}
    }
    toml::from_str(text).map_err(|e| fault(text, place, e.span().map(|s| s.start), e.message()))
}

fn fault(text: &str, place: &str, offset: Option<usize>, words: &str) -> anyhow::Error {
    let line = offset.map_or(String::new(), |at| {
        let n = number(text, at);
        let written = text.lines().nth(n - 1).unwrap_or_default().trim();
        format!(", line {n}, `{written}`")
    });
    anyhow!("{place}{line}: {words}")
}

fn number(text: &str, offset: usize) -> usize {
    text[..offset.min(text.len())].matches('\n').count() + 1
}

/// Line of the value at `path` (`methods[0].settings.rank`), or of the nearest thing above it that is written.
pub fn line_of(text: &str, path: &str) -> Option<usize> {
    let root = DeTable::parse(text).ok()?;
    let mut table = root.get_ref();
    let mut offset = None;
    for piece in path.split('.') {
        let (name, index) = match piece.split_once('[') {
            Some((name, rest)) => (name, rest.trim_end_matches(']').parse::<usize>().ok()),
            None => (piece, None),
        };
        let Some((key, value)) = table.iter().find(|(key, _)| key.get_ref().as_ref() == name) else { break };
        offset = Some(key.span().start);
        let value = match (index, value.get_ref()) {
            (Some(n), DeValue::Array(items)) => items.get(n)?,
            _ => value,
        };
        match value.get_ref() {
            DeValue::Table(inner) => {
                if index.is_some() {
                    offset = Some(value.span().start);
                }
                table = inner;
            }
            _ => break,
        }
    }
    offset.map(|at| number(text, at))
}

/// The session as text, with what each pattern resolved to.
pub fn text(session: &Session) -> Result<String> {
    let mut session = session.clone();
    let plan = Plan::of(&session);
    for (index, placed) in session.methods.iter_mut().enumerate() {
        // On a network that cannot be opened nothing resolves: what was known stays.
        let member = plan.members.iter().find(|m| m.index == index);
        if !plan.lost {
            placed.resolved = member.map(|m| m.sites.clone()).unwrap_or_default();
        }
    }
    toml::to_string_pretty(&session).context("cannot write the session as TOML")
}

/// Saves a session, whole or not at all.
pub fn save(session: &Session, path: &Path) -> Result<()> {
    write_whole(path, text(session)?.as_bytes())
}

/// Writes `bytes` beside `path`, then renames: a crash or a full disk leaves the old file as it was. A link stays a link, and
/// the file keeps who may read it.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let path = &behind_links(path);
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let fail =
        || format!("cannot write {}. Is there room on the disk, and may you write to {}?", path.display(), folder.display());
    std::fs::create_dir_all(folder).with_context(fail)?;
    let mut file = tempfile::Builder::new();
    #[cfg(unix)]
    file.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666)); // what the user's umask leaves of it, as for any file
    let mut file = file.tempfile_in(folder).with_context(fail)?;
    file.write_all(bytes).with_context(fail)?;
    if let Ok(old) = std::fs::metadata(path) {
        file.as_file().set_permissions(old.permissions()).with_context(fail)?;
    }
    file.as_file().sync_all().with_context(fail)?;
    file.persist(path).map_err(|e| e.error).with_context(fail)?;
    // The rename too must reach the disk; a file system that cannot sync a folder does it in its own time.
    #[cfg(unix)]
    let _ = std::fs::File::open(folder).and_then(|folder| folder.sync_all());
    Ok(())
}

/// The file that `path` leads to, also where a link's file does not exist yet.
fn behind_links(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    for _ in 0..40 {
        let Ok(to) = std::fs::read_link(&path) else { break };
        path = path.parent().map_or_else(|| to.clone(), |folder| folder.join(&to));
    }
    path
}

/// Applies `path=value` overrides, as in `recipe.epochs=3` or `methods.0.settings.rank=4`.
pub fn set(session: &Session, overrides: &[String]) -> Result<Session> {
    let mut root = toml::Value::try_from(session).context("cannot read the session as TOML")?;
    let mut refused = None;
    for entry in overrides {
        let (path, value) = entry.split_once('=').ok_or_else(|| anyhow!("--set takes path=value, not `{entry}`"))?;
        let (path, value) = (path.trim(), value.trim());
        // Numbers, booleans, quoted text and arrays as TOML reads them; anything else is text without its quotes.
        let read = toml::from_str::<toml::Table>(&format!("v = {value}")).ok().and_then(|mut table| table.remove("v"));
        let text = toml::Value::String(value.to_owned());
        let before = root.clone();
        let then = Session::deserialize(before.clone()).unwrap_or_else(|_| session.clone());
        put(&mut root, path, read.clone().unwrap_or_else(|| text.clone())).with_context(|| format!("--set {entry}"))?;
        let fault = fault_of(&root);
        // A title may be 2024, and a file's name `true`: where text belongs, it is text.
        let text_fits = takes_text(&then, path) || (fault.is_some() && !path.contains(".settings."));
        if read.is_some_and(|read| !read.is_str()) && text_fits {
            let mut as_text = before;
            put(&mut as_text, path, text)?;
            if fault_of(&as_text).is_none() {
                root = as_text;
                continue;
            }
        }
        if fault.is_none() {
            root = handed_over(&then, root)?;
        }
        refused = refused.or(fault.map(|words| format!("--set {entry}: {words}{}", too_large(value))));
    }
    match (Session::deserialize(root), refused) {
        (Ok(session), _) if session.petl != VERSION => bail!("petl = {}: this program writes format {VERSION}", session.petl),
        (Ok(session), _) => Ok(session),
        (Err(_), Some(words)) => Err(anyhow!("{words}")),
        (Err(error), None) => Err(anyhow!("--set: {}", error.message())),
    }
}

/// When a backbone, data set or task gives way to another, settings of the old that the new does not take go with it.
fn handed_over(then: &Session, root: toml::Value) -> Result<toml::Value> {
    let mut now = Session::deserialize(root.clone())?;
    let backbone = |name: &str| backbones::find(name).map(|card| card.fields);
    let data = |name: &str| datasets::find(name).map(|card| card.fields);
    let task = |name: &str| tasks::find(name).map(|card| card.fields);
    let mut changed = false;
    for (old, new, fields) in [
        (&then.backbone, &mut now.backbone, &backbone as &dyn Fn(&str) -> Option<&'static [Field]>),
        (&then.data, &mut now.data, &data),
        (&then.task, &mut now.task, &task),
    ] {
        if let (true, Some(olds), Some(news)) = (old.name != new.name, fields(&old.name), fields(&new.name)) {
            let knows = |fields: &[Field], name: &str| fields.iter().any(|field| field.name == name);
            let takes = |name: &str, value: &Value| news.iter().any(|field| field.name == name && field.accept(value).is_ok());
            new.settings.0.retain(|name, value| takes(name, value) || !knows(olds, name));
            changed = true;
        }
    }
    if changed { toml::Value::try_from(&now).context("cannot read the session as TOML") } else { Ok(root) }
}

fn fault_of(root: &toml::Value) -> Option<String> {
    Session::deserialize(root.clone()).err().map(|error| error.message().to_owned())
}

/// TOML's whole numbers end there, and so do a session's: a larger seed could not be saved.
fn too_large(value: &str) -> &'static str {
    let number = value.parse::<f64>().is_ok() && value.parse::<i64>().is_err() && !value.contains(['.', 'e', 'E', 'n']);
    if number { ". Whole numbers go up to 9223372036854775807" } else { "" }
}

/// The catalogue's field at `path` (`backbone.settings.weights`) holds text.
fn takes_text(session: &Session, path: &str) -> bool {
    let pieces: Vec<_> = path.split('.').collect();
    let (fields, name) = match pieces.as_slice() {
        ["backbone", "settings", name] => (backbones::find(&session.backbone.name).map(|c| c.fields), name),
        ["data", "settings", name] => (datasets::find(&session.data.name).map(|c| c.fields), name),
        ["task", "settings", name] => (tasks::find(&session.task.name).map(|c| c.fields), name),
        ["methods", index, "settings", name] => {
            let placed = index.parse::<usize>().ok().and_then(|n| session.methods.get(n));
            (placed.and_then(|placed| methods::find(&placed.name)).map(|c| c.fields), name)
        }
        _ => return false,
    };
    let field = fields.unwrap_or_default().iter().find(|f| f.name == *name);
    field.is_some_and(|f| matches!(f.kind, Kind::Text(_) | Kind::Choice(_)))
}

fn put(root: &mut toml::Value, path: &str, value: toml::Value) -> Result<()> {
    let mut here = root;
    let pieces: Vec<_> = path.split('.').collect();
    let (last, above) = pieces.split_last().ok_or_else(|| anyhow!("the path is empty"))?;
    for piece in above {
        here = match here {
            toml::Value::Array(items) => {
                let count = items.len();
                let n: usize =
                    piece.parse().map_err(|_| anyhow!("`{piece}` should be a number from 0 to {}", count.saturating_sub(1)))?;
                items.get_mut(n).ok_or_else(|| anyhow!("there is no number {n}; there are {count}"))?
            }
            toml::Value::Table(table) => table.entry(*piece).or_insert_with(|| toml::Value::Table(toml::Table::new())),
            _ => bail!("`{piece}` leads into a plain value"),
        };
    }
    match here {
        toml::Value::Table(table) => {
            table.insert((*last).to_owned(), value);
            Ok(())
        }
        toml::Value::Array(items) => match last.parse::<usize>().ok().and_then(|n| items.get_mut(n)) {
            Some(slot) => {
                *slot = value;
                Ok(())
            }
            None => bail!("there is no number `{last}`"),
        },
        _ => bail!("`{last}` leads into a plain value"),
    }
}
