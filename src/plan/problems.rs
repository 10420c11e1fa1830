//! What is wrong with a session before it trains: data, shown next to a remedy button and printed by the command line.

use crate::datasets::{Described, Holds};
use crate::methods::{self, Card, Family, Init, Measure, ParamSpec};
use crate::session::command::Edit;
use crate::session::settings::{Field, Settings, Value};
use crate::session::{Session, recipe};
use crate::tasks::{Aim, classify, contrast};
use crate::{backbones, datasets, tasks};

use super::anatomy::{Anatomy, Classifier, Door, Entry};
use super::{Member, Plan};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// It predicts and exports, but cannot train.
    Untrainable,
    /// Training is refused until it is mended.
    Blocks,
}

/// What mends a problem: an edit of the session, with words for its button.
#[derive(Clone, Debug, PartialEq)]
pub enum Remedy {
    /// Put method `index` back at its card's own roles.
    DefaultPlace {
        index: usize,
    },
    /// Take method `index` off the stack.
    Remove {
        index: usize,
    },
    /// Give back the default of a setting: path as in `methods.0.settings.rank`.
    Reset {
        path: String,
    },
    /// Give back the defaults of all settings of method `index`.
    ResetAll {
        index: usize,
    },
    /// Let method `index` learn at the recipe's own rate.
    ResetFactor {
        index: usize,
    },
    /// A word for a setting.
    Set {
        path: String,
        word: &'static str,
    },
    /// Texts of at most so many tokens.
    Shorten {
        length: usize,
    },
    /// Another entry of a catalogue, where the one that is named does not exist.
    Backbone {
        name: &'static str,
    },
    Data {
        name: &'static str,
    },
    Task {
        name: &'static str,
    },
}

impl Remedy {
    pub fn label(&self) -> String {
        match self {
            Remedy::DefaultPlace { .. } => "Place it where its paper does".into(),
            Remedy::Remove { .. } => "Remove it".into(),
            Remedy::Reset { .. } | Remedy::ResetFactor { .. } => "Use the default".into(),
            Remedy::ResetAll { .. } => "Use the default settings".into(),
            Remedy::Set { word, .. } => format!("Use {word}"),
            Remedy::Shorten { length } => format!("Set the length to {length}"),
            Remedy::Backbone { name } | Remedy::Data { name } | Remedy::Task { name } => format!("Use {name}"),
        }
    }

    /// The edit that it stands for.
    pub fn edit(&self) -> Edit {
        match self.clone() {
            Remedy::DefaultPlace { index } => Edit::DefaultPlace { index },
            Remedy::Remove { index } => Edit::Remove { index },
            Remedy::Reset { path } => Edit::Reset { path },
            Remedy::ResetAll { index } => Edit::ResetAll { index },
            Remedy::Set { path, word } => Edit::Set { path, value: Value::Text(word.to_owned()) },
            Remedy::Shorten { length } => {
                let value = Value::Whole(i64::try_from(length).unwrap_or(i64::MAX));
                Edit::Set { path: "backbone.settings.length".to_owned(), value }
            }
            Remedy::ResetFactor { index } => Edit::Factor { index, factor: 1.0 },
            Remedy::Backbone { name } => Edit::Backbone(name.to_owned()),
            Remedy::Data { name } => Edit::Data(name.to_owned()),
            Remedy::Task { name } => Edit::Task(name.to_owned()),
        }
    }
}

/// What is always there.
const EMBEDDED_BACKBONE: Remedy = Remedy::Backbone { name: backbones::vit::TINY_32.name };
const EMBEDDED_DATA: Remedy = Remedy::Data { name: datasets::digits::CARD.name };
const CLASSIFY: Remedy = Remedy::Task { name: classify::CARD.name };

#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    pub severity: Severity,
    /// Path in the session: `methods[0].place`, `recipe.batch_size`.
    pub place: String,
    pub words: String,
    pub remedy: Option<Remedy>,
}

impl Problem {
    pub fn blocks(place: impl Into<String>, words: impl Into<String>) -> Problem {
        Problem { severity: Severity::Blocks, place: place.into(), words: words.into(), remedy: None }
    }

    pub fn note(place: impl Into<String>, words: impl Into<String>) -> Problem {
        Problem { severity: Severity::Note, place: place.into(), words: words.into(), remedy: None }
    }

    pub fn remedy(mut self, remedy: Remedy) -> Problem {
        self.remedy = Some(remedy);
        self
    }
}

fn names<T>(catalog: &[&T], name: impl Fn(&T) -> &'static str) -> String {
    catalog.iter().map(|card| name(card)).collect::<Vec<_>>().join(", ")
}

fn faults(place: &str, path: &str, settings: &Settings, fields: &[Field], problems: &mut Vec<Problem>) {
    for (name, words) in settings.faults(fields) {
        let remedy = Remedy::Reset { path: format!("{path}.settings.{name}") };
        problems.push(Problem::blocks(format!("{place}.settings.{name}"), words).remedy(remedy));
    }
}

/// Unknown names, settings out of range, impossible recipes.
pub fn of_session(session: &Session) -> Vec<Problem> {
    let mut problems = Vec::new();
    match backbones::find(&session.backbone.name) {
        Some(card) => faults("backbone", "backbone", &session.backbone.settings, card.fields, &mut problems),
        None => problems.push(
            Problem::blocks(
                "backbone.name",
                format!("unknown backbone `{}`; one of: {}", session.backbone.name, names(backbones::CATALOG, |c| c.name)),
            )
            .remedy(Remedy::Backbone { name: backbones::CATALOG[0].name }),
        ),
    }
    match datasets::find(&session.data.name) {
        Some(card) => faults("data", "data", &session.data.settings, card.fields, &mut problems),
        None => problems.push(
            Problem::blocks(
                "data.name",
                format!("unknown data set `{}`; one of: {}", session.data.name, names(datasets::CATALOG, |c| c.name)),
            )
            .remedy(Remedy::Data { name: datasets::CATALOG[0].name }),
        ),
    }
    match tasks::find(&session.task.name) {
        Some(card) => faults("task", "task", &session.task.settings, card.fields, &mut problems),
        None => problems.push(
            Problem::blocks(
                "task.name",
                format!("unknown task `{}`; one of: {}", session.task.name, names(tasks::CATALOG, |c| c.name)),
            )
            .remedy(Remedy::Task { name: tasks::CATALOG[0].name }),
        ),
    }
    for (index, placed) in session.methods.iter().enumerate() {
        match methods::find(&placed.name) {
            Some(card) => {
                faults(&format!("methods[{index}]"), &format!("methods.{index}"), &placed.settings, card.fields, &mut problems);
            }
            None => problems.push(
                Problem::blocks(
                    format!("methods[{index}].name"),
                    format!("unknown method `{}`; one of: {}", placed.name, names(methods::CATALOG, |c| c.name)),
                )
                .remedy(Remedy::Remove { index }),
            ),
        }
        let factor = placed.learning_rate_factor;
        if !(0.0..=1e4).contains(&factor) {
            let words = format!("is {factor}; it goes from 0 to 10000");
            let problem = Problem::blocks(format!("methods[{index}].learning_rate_factor"), words);
            problems.push(problem.remedy(Remedy::ResetFactor { index }));
        }
    }
    of_recipe(session, &mut problems);
    problems
}

/// A backbone that cannot be opened.
pub fn of_backbone(words: String) -> Problem {
    Problem::blocks("backbone.settings", words).remedy(EMBEDDED_BACKBONE)
}

/// A data set that is not there, not for this backbone, or not known. Wrong settings have their own problems.
pub fn of_data(session: &Session, described: &Result<Described, String>, anatomy: &Anatomy) -> Option<Problem> {
    let aim = Aim::of(&session.task);
    let card = datasets::find(&session.data.name).filter(|card| session.data.settings.faults(card.fields).is_empty())?;
    let holds = match described {
        Ok(described) => described.holds,
        Err(words) => return Some(Problem::blocks("data.settings", words).remedy(EMBEDDED_DATA)),
    };
    let data = card.title;
    let backbone = backbones::find(&session.backbone.name).map_or("the backbone", |card| card.title);
    // What is there, and which backbone takes it.
    let (has, other) = match holds {
        Holds::Images => ("images", "choose a backbone that sees"),
        Holds::Texts => ("texts", "open the folder of a text encoder"),
        Holds::Sounds => ("sounds", "open the folder of a network that hears"),
        Holds::Captions => ("images with captions", "open the folder of a network of two towers (CLIP)"),
        Holds::Unknown => {
            let words = "the adapter was imported, and what it was trained on is not known: it predicts and exports, but there is nothing to train or test on. Another data set trains a new adapter";
            let severity = Severity::Untrainable;
            return Some(Problem { severity, ..Problem::blocks("data", words) }.remedy(EMBEDDED_DATA));
        }
    };
    let (takes, wants) = match anatomy.entry {
        Entry::Image { .. } if aim == Aim::Contrast => ("matches", "images with captions"),
        Entry::Image { .. } => ("sees", "images"),
        Entry::Text { .. } => ("reads", "texts"),
        Entry::Sound { .. } => ("hears", "sounds"),
    };
    if has == wants {
        return None;
    }
    let words = format!("{data} holds {has}, but {backbone} {takes} {wants}. Choose a data set of {wants}, or {other}");
    let problem = Problem::blocks("data", words);
    Some(match (wants, has) {
        _ if aim == Aim::Contrast => problem.remedy(CLASSIFY),
        (_, "images with captions") if !anatomy.towers.is_empty() => problem.remedy(Remedy::Task { name: contrast::CARD.name }),
        ("images", _) => problem.remedy(EMBEDDED_DATA),
        (_, "images") => problem.remedy(EMBEDDED_BACKBONE),
        _ => problem, // neither is in the program
    })
}

/// A task that this backbone cannot have, and what it leaves unread.
pub fn of_task(session: &Session, plan: &Plan, problems: &mut Vec<Problem>) {
    let (anatomy, head) = (&plan.anatomy, "task.settings.head");
    for member in plan.members.iter().filter(|m| m.card.method.measures(&m.settings).is_some_and(Measure::looks_at_samples)) {
        if let Some(site) = member.sites.iter().find(|site| anatomy.towers.iter().skip(1).any(|tower| tower.site(site).is_some()))
        {
            let words = format!(
                "{} is measured on images before it starts, and none passes `{site}`. Place it in the image tower alone",
                member.card.title
            );
            problems.push(
                Problem::blocks(format!("methods[{}].place", member.index), words).remedy(Remedy::Remove { index: member.index }),
            );
        }
    }
    if let (Aim::Mlp(ours), Classifier::Mlp(_, theirs)) = (&plan.aim, anatomy.classifier)
        && *ours != theirs
    {
        let words = format!(
            "transformers' classifier of this network has {} between its layers, so that a head with {} leaves neither for it nor for PEFT",
            theirs.word(),
            ours.word()
        );
        let path = "task.settings.activation";
        problems.push(Problem::note(path, words).remedy(Remedy::Set { path: path.to_owned(), word: theirs.word() }));
    }
    if !plan.aim.compares_texts() {
        let unread = |member: &&Member| {
            let tower = anatomy.reading().filter(|_| !anatomy.towers.is_empty());
            tower.is_some_and(|tower| member.sites.iter().any(|site| tower.site(site).is_some()))
        };
        for member in plan.members.iter().filter(unread) {
            let words = format!(
                "{} stands in the text tower, which this head does not read: what stands there trains nothing. Choose the head `{}`, or place it in the image tower alone",
                member.card.title,
                classify::ZERO_SHOT
            );
            problems.push(Problem::note(format!("methods[{}].place", member.index), words));
        }
        return;
    }
    if anatomy.towers.is_empty() {
        let backbone = backbones::find(&session.backbone.name).map_or("the backbone", |card| card.title);
        let problem = match plan.aim {
            Aim::Contrast => Problem::blocks("task.name", format!(
                "matching captions takes a backbone that embeds images and texts, and {backbone} does not. Open a folder of CLIP, or classify"
            ))
            .remedy(CLASSIFY),
            _ => Problem::blocks(head, format!(
                "a zero-shot head compares images with texts about the classes, and {backbone} embeds no texts. Open a folder of CLIP, or choose another head"
            ))
            .remedy(Remedy::Reset { path: head.to_owned() }),
        };
        problems.push(problem);
        return;
    }
    if let Aim::ZeroShot(template) = &plan.aim
        && !template.contains(classify::NAME)
    {
        let words = format!("\"{template}\" has no {} for the name of a class: all classes would be alike", classify::NAME);
        let path = "task.settings.template";
        problems.push(Problem::blocks(path, words).remedy(Remedy::Reset { path: path.to_owned() }));
    }
    if plan.trainable() == 0 && plan.members.is_empty() {
        let words = "nothing trains: the run tests the network as it is. Place a method to train it";
        problems.push(Problem::note("methods", words));
    }
}

fn of_recipe(session: &Session, problems: &mut Vec<Problem>) {
    for (name, words) in recipe::values(&session.recipe).faults(recipe::FIELDS) {
        let remedy = Remedy::Reset { path: format!("recipe.{name}") };
        problems.push(Problem::blocks(format!("recipe.{name}"), words).remedy(remedy));
    }
}

/// A pattern that does not resolve on this backbone.
pub fn of_place(index: usize, card: &Card, words: &str) -> Problem {
    Problem::blocks(format!("methods[{index}].place"), format!("{}: {words}", card.title)).remedy(Remedy::DefaultPlace { index })
}

/// A method that cannot stand there with its settings. Its defaults are offered only where they fit.
pub fn of_method(index: usize, card: &Card, words: &str, defaults_fit: bool) -> Problem {
    let remedy = if defaults_fit { Remedy::ResetAll { index } } else { Remedy::Remove { index } };
    Problem::blocks(format!("methods[{index}].settings"), format!("{}: {words}", card.title)).remedy(remedy)
}

/// Placements that match nothing, methods in each other's way.
pub fn of_stack(session: &Session, plan: &Plan, problems: &mut Vec<Problem>) {
    for member in &plan.members {
        let place = format!("methods[{}].place", member.index);
        if member.sites.is_empty() || member.count() == 0 {
            let pattern = session.methods[member.index].place.words();
            problems.push(
                Problem::blocks(
                    place,
                    format!(
                        "{}: the pattern \"{pattern}\" matches no site with anything to train. Paint it onto the drawing",
                        member.card.title
                    ),
                )
                .remedy(Remedy::DefaultPlace { index: member.index }),
            );
        }
    }
    for member in plan.members.iter().filter(|m| m.card.method.reads_quality()) {
        let source = match plan.quality {
            Some(scores) => format!("the quality score that the data gives each sample, {scores}"),
            None => "the sharpness of each image, 0 to 1, since the data gives no quality score".to_owned(),
        };
        problems.push(Problem::note(format!("methods[{}]", member.index), format!("{} goes by {source}", member.card.title)));
    }
    let last = plan.members.iter().rfind(|m| m.card.method.positions_taken(&m.settings) > 0);
    let tokens = plan.anatomy.reading().map_or(0, |reading| reading.tokens);
    if let (Some(last), Some(most)) = (last, plan.longest().filter(|most| *most < tokens)) {
        let words = format!(
            "{}: only texts of up to {most} tokens fit behind it into the network's table of positions, not of {}. Set the backbone's `length` to {most} or less",
            last.card.title, tokens
        );
        let problem = Problem::blocks(format!("methods[{}].settings", last.index), words);
        problems.push(problem.remedy(match most {
            0..=1 => Remedy::ResetAll { index: last.index },
            length => Remedy::Shorten { length },
        }));
    }
    let side = plan.members.iter().position(|m| m.card.family == Family::Side);
    if let Some(side) = side {
        for member in plan.members.iter().filter(|m| m.card.family != Family::Side) {
            problems.push(Problem::note(
                format!("methods[{}]", member.index),
                format!(
                    "{} changes the trunk that {} reads: gradients then pass through the backbone and the side network's memory gain is lost",
                    member.card.title, plan.members[side].card.title
                ),
            ));
        }
    }
    // A method that trains a part in the frozen one's place undoes what an earlier one made of it.
    for (n, later) in plan.members.iter().enumerate() {
        for earlier in &plan.members[..n] {
            let Some((site, part)) = later.sites.iter().find_map(|site| Some((site, undone(earlier, later, site)?))) else {
                continue;
            };
            let (first, second) = (earlier.card.title, later.card.title);
            problems.push(
                Problem::blocks(
                    format!("methods[{}].place", later.index),
                    format!(
                        "{second} trains `{site}.{part}` in the frozen one's place: what {first} changes there would have no effect. Take one of them away, or put {second} first where {first} only adds"
                    ),
                )
                .remedy(Remedy::Remove { index: later.index }),
            );
        }
    }
}

/// The part of `site` at which `later` leaves nothing of what `earlier` did.
fn undone(earlier: &Member, later: &Member, site: &str) -> Option<&'static str> {
    let replaces = |member: &Member| -> Vec<&'static str> {
        let here = member.placements.iter().filter(|p| p.site == site && p.door == Door::Weight);
        let part = |spec: &ParamSpec| if let Init::Frozen(part) = spec.init { Some(part) } else { None };
        here.flat_map(|p| &p.params).filter_map(part).collect()
    };
    let before = replaces(earlier);
    let adds = earlier.stands(site, Door::Weight) && before.is_empty(); // to which parts, only the method knows
    replaces(later).into_iter().find(|part| adds || before.contains(part))
}
