//! The only code that changes a session. Each edit gives a new session or says why not; the workbench keeps the old one for
//! undo. Plain data.

use super::command::Edit;
use super::place::blocks_words;
use super::settings::{Field, Kind, Settings, Value};
use super::{Choice, Place, Placed, Session, recipe};
use crate::methods::{self, Card};
use crate::plan::anatomy::{Anatomy, Role};
use crate::{backbones, datasets, tasks};

/// `session` after `edit`; `anatomy` is that of its backbone.
pub fn apply(session: &Session, anatomy: &Anatomy, edit: &Edit) -> Result<Session, String> {
    let mut next = session.clone();
    match edit {
        Edit::Title(title) => next.title.clone_from(title),
        Edit::Seed(seed) => {
            // TOML's whole numbers end there: a larger seed could not be saved.
            let most = i64::MAX as u64;
            next.seed = if *seed <= most { *seed } else { return Err(format!("a seed goes from 0 to {most}")) };
        }
        Edit::Device(device) => next.device.clone_from(device),
        Edit::Backbone(name) => {
            backbones::find(name).ok_or_else(|| format!("unknown backbone `{name}`"))?;
            next.backbone = Choice::named(name);
        }
        Edit::ModelFolder(path) => next.backbone = backbones::of_folder(path)?,
        Edit::Data(name) => {
            datasets::find(name).ok_or_else(|| format!("unknown data set `{name}`"))?;
            next.data = Choice::named(name);
        }
        Edit::Task(name) => {
            tasks::find(name).ok_or_else(|| format!("unknown task `{name}`"))?;
            next.task = Choice::named(name);
        }
        Edit::Set { path, value } => set(&mut next, path, Some(value))?,
        Edit::Reset { path } => set(&mut next, path, None)?,
        Edit::ResetAll { index } => {
            in_stack(&next, *index)?;
            next.methods[*index].settings = Settings::default();
        }
        Edit::Add { method, sites } => {
            let card = card(method)?;
            let place = match sites {
                Some(sites) => condensed(sites, anatomy),
                None => Place::roles(card.default_roles),
            };
            next.methods.push(placed(card, place, Settings::default()));
        }
        Edit::AddVariant { method, variant } => {
            let card = card(method)?;
            let variant = card.variants.get(*variant).ok_or_else(|| format!("{} has no such variant", card.title))?;
            let mut settings = Settings::default();
            for (name, text) in variant.settings {
                let field = card
                    .fields
                    .iter()
                    .find(|f| f.name == *name)
                    .ok_or_else(|| format!("{} has no setting `{name}`", card.title))?;
                settings.set(name, read(field.kind, text)?);
            }
            next.methods.push(placed(card, Place::roles(variant.roles), settings));
        }
        Edit::Paint { index, sites } => repaint(&mut next, anatomy, *index, |cells| cells.extend(sites.iter().cloned()))?,
        Edit::Erase { index, sites } => repaint(&mut next, anatomy, *index, |cells| cells.retain(|c| !sites.contains(c)))?,
        Edit::EraseAll { sites } => {
            let stands = |placed: &Placed| {
                let found = card(&placed.name).and_then(|card| placed.place.resolve(anatomy, card.roles));
                found.is_ok_and(|found| found.iter().any(|site| sites.contains(&site.path)))
            };
            // The last first, so that a removal moves no index that is still needed.
            for index in (0..next.methods.len()).rev().filter(|n| stands(&session.methods[*n])) {
                repaint(&mut next, anatomy, index, |cells| cells.retain(|c| !sites.contains(c)))?;
                if next.methods[index].place == condensed(&[], anatomy) {
                    next.methods.remove(index);
                }
            }
        }
        Edit::Remove { index } => {
            in_stack(&next, *index)?;
            next.methods.remove(*index);
        }
        Edit::Move { index, later } => {
            in_stack(&next, *index)?;
            let other = if *later { index + 1 } else { index.wrapping_sub(1) };
            if other < next.methods.len() {
                next.methods.swap(*index, other);
            }
        }
        Edit::Factor { index, factor } => {
            in_stack(&next, *index)?;
            next.methods[*index].learning_rate_factor = *factor;
        }
        Edit::DefaultPlace { index } => {
            in_stack(&next, *index)?;
            let card = card(&next.methods[*index].name)?;
            next.methods[*index].place = Place::roles(card.default_roles);
        }
        Edit::Replace(session) => next = (**session).clone(),
    }
    Ok(next)
}

fn card(name: &str) -> Result<&'static Card, String> {
    methods::find(name).ok_or_else(|| format!("unknown method `{name}`"))
}

fn placed(card: &Card, place: Place, settings: Settings) -> Placed {
    Placed { name: card.name.to_owned(), place, settings, learning_rate_factor: 1.0, resolved: vec![] }
}

fn in_stack(session: &Session, index: usize) -> Result<(), String> {
    match index < session.methods.len() {
        true => Ok(()),
        false => Err(format!("there is no method number {} in the stack", index + 1)),
    }
}

/// The text of a variant's setting as the value of its field.
fn read(kind: Kind, text: &str) -> Result<Value, String> {
    let fault = || format!("`{text}` is not a value of this setting");
    Ok(match kind {
        Kind::Flag(_) => Value::Flag(text.parse().map_err(|_| fault())?),
        Kind::Whole { .. } => Value::Whole(text.parse().map_err(|_| fault())?),
        Kind::Real { .. } => Value::Real(text.parse().map_err(|_| fault())?),
        Kind::Choice(_) | Kind::Text(_) => Value::Text(text.to_owned()),
    })
}

/// Writes `value` at `path`, or takes it away.
fn set(session: &mut Session, path: &str, value: Option<&Value>) -> Result<(), String> {
    let pieces: Vec<_> = path.split('.').collect();
    let settings = match pieces.as_slice() {
        ["backbone", "settings", _] => &mut session.backbone.settings,
        ["data", "settings", _] => &mut session.data.settings,
        ["task", "settings", _] => &mut session.task.settings,
        ["methods", index, "settings", _] => {
            let index = index.parse().map_err(|_| format!("`{index}` is not a number"))?;
            in_stack(session, index)?;
            &mut session.methods[index].settings
        }
        ["recipe", name] => {
            let field = recipe::FIELDS.iter().find(|field| field.name == *name);
            let value = value.cloned().or_else(|| field.map(Field::default));
            let value = value.ok_or_else(|| format!("the recipe has no setting `{name}`"))?;
            session.recipe = recipe::with(&session.recipe, name, &value)?;
            return Ok(());
        }
        _ => return Err(format!("there is no setting at `{path}`")),
    };
    let name = pieces[pieces.len() - 1];
    match value {
        Some(value) => settings.set(name, value.clone()),
        None => {
            settings.0.remove(name);
        }
    }
    Ok(())
}

/// Changes the cells of method `index` and writes them down as the shortest pattern.
fn repaint(session: &mut Session, anatomy: &Anatomy, index: usize, change: impl FnOnce(&mut Vec<String>)) -> Result<(), String> {
    in_stack(session, index)?;
    let card = card(&session.methods[index].name)?;
    let mut cells: Vec<String> = match session.methods[index].place.resolve(anatomy, card.roles) {
        Ok(sites) => sites.iter().map(|s| s.path.clone()).collect(),
        Err(_) => vec![], // a broken pattern is painted anew
    };
    change(&mut cells);
    if let Some(path) = cells.iter().find(|c| anatomy.site(c).is_none_or(|s| !card.roles.contains(&s.role))) {
        let roles: Vec<_> = card.roles.iter().map(|r| r.word()).collect();
        return Err(format!("{} cannot stand at `{path}`; it takes {}", card.title, roles.join(", ")));
    }
    session.methods[index].place = condensed(&cells, anatomy);
    Ok(())
}

/// The shortest pattern for a set of cells: roles and blocks where they form a rectangle, single sites otherwise.
pub fn condensed(cells: &[String], anatomy: &Anatomy) -> Place {
    let has = |path: &str| cells.iter().any(|c| c == path);
    let mut roles: Vec<Role> = Vec::new();
    let mut blocks = vec![false; anatomy.blocks];
    let mut outside = false;
    for site in anatomy.sites.iter().filter(|s| has(&s.path)) {
        if !roles.contains(&site.role) {
            roles.push(site.role);
        }
        match site.block {
            Some(block) => blocks[block] = true,
            None => outside = true,
        }
    }
    let whole = blocks.iter().all(|b| *b) || (outside && blocks.iter().all(|b| !*b));
    let words = if whole { "all".to_owned() } else { blocks_words(&blocks) };
    let pattern = Place { roles, blocks: words, ..Place::default() };
    let stands_for: Vec<_> = pattern.resolve(anatomy, &Role::ALL).unwrap_or_default().iter().map(|s| s.path.clone()).collect();
    let same =
        stands_for.len() == cells.iter().filter(|c| anatomy.site(c).is_some()).collect::<std::collections::BTreeSet<_>>().len();
    if same && stands_for.iter().all(|path| has(path)) && !pattern.roles.is_empty() {
        return pattern;
    }
    let in_order = anatomy.sites.iter().filter(|s| has(&s.path)).map(|s| s.path.clone()).collect();
    Place { blocks: "all".to_owned(), sites: in_order, ..Place::default() }
}
