//! The plan: what a session implies - placements, parameter shapes, exact counts, memory, problems. Pure functions, run on
//! every edit, without weights. Called by the workbench, the command line and the engine; knows no tensors and no window.

pub mod anatomy;
pub mod cost;
pub mod problems;
mod role;

use std::collections::{BTreeMap, BTreeSet};

use crate::backbones;
use crate::datasets::quality::Scores;
use crate::datasets::{self, Described, Holds, Task};
use crate::engine::bag;
use crate::methods::{self, ParamSpec, Placement, Scope};
use crate::session::settings::Settings;
use crate::session::{Recipe, Session};
use crate::tasks::{self, Aim};
use anatomy::{Anatomy, Door, Entry, Site};
pub use cost::{Bytes, Cost};
pub use problems::{Problem, Remedy, Severity};

/// One method of the stack, resolved.
pub struct Member {
    /// Position in the session's stack.
    pub index: usize,
    pub card: &'static methods::Card,
    /// Every field of the card, written out.
    pub settings: Settings,
    /// The sites the pattern stands for.
    pub sites: Vec<String>,
    pub placements: Vec<Placement>,
    pub learning_rate_factor: f64,
}

impl Member {
    pub fn count(&self) -> usize {
        self.placements.iter().map(Placement::count).sum()
    }

    pub fn stands(&self, site: &str, door: Door) -> bool {
        self.placements.iter().any(|p| p.door == door && p.site == site)
    }

    pub fn stands_anywhere(&self, site: &str) -> bool {
        self.placements.iter().any(|p| p.site == site)
    }

    /// Why it stays beside the weights, to be read behind its title; none where it folds into them.
    pub fn stays_beside(&self) -> Option<&'static str> {
        match self.card.folds {
            true => self.card.method.stays_beside(&self.settings),
            false => Some("is not a change of weights"),
        }
    }

    /// Takes off again at this site what it put there or before.
    pub fn tidies(&self, site: &str) -> bool {
        self.placements.iter().any(|p| p.tidies && p.site == site)
    }
}

/// What a session implies.
pub struct Plan {
    pub anatomy: Anatomy,
    /// The session's backbone cannot be opened; the anatomy is that of another one.
    pub lost: bool,
    pub members: Vec<Member>,
    pub head: Vec<ParamSpec>,
    /// What the task makes of the features.
    pub aim: Aim,
    /// Class names, in label order.
    pub classes: Vec<String>,
    /// Names of the domains that a sample may come from.
    pub domains: Vec<String>,
    /// The data set's tasks; empty where there is no such data set.
    pub tasks: Vec<Task>,
    pub holds: Holds,
    /// What quality scores the data gives its samples; none where it gives none.
    pub quality: Option<Scores>,
    pub problems: Vec<Problem>,
    pub cost: Cost,
}

impl Plan {
    /// Plans `session`. Never fails: what is wrong stands in `problems`.
    pub fn of(session: &Session) -> Plan {
        match backbones::open(&session.backbone) {
            Ok(opened) => Plan::of_anatomy(session, opened.network.anatomy()),
            Err(words) => {
                // Another network is drawn while the problem says what is wrong; what stands on the lost one is no fault of its own,
                // and what data fit it nobody knows.
                let mut plan = Plan::of_anatomy(session, backbones::vit::TINY.declare());
                plan.lost = true;
                plan.problems.retain(|problem| !problem.place.starts_with("methods") && problem.place != "data");
                if !plan.problems.iter().any(|problem| problem.place.starts_with("backbone")) {
                    plan.problems.insert(0, problems::of_backbone(words));
                }
                plan
            }
        }
    }

    /// The whole plan, problems included, as if the session's backbone had this anatomy.
    pub fn of_anatomy(session: &Session, anatomy: Anatomy) -> Plan {
        let mut problems = problems::of_session(session);
        let described = datasets::describe(&session.data);
        problems.extend(problems::of_data(session, &described, &anatomy));
        let Described { classes, domains, tasks, holds, quality } = described.unwrap_or_default();
        let mut plan = Plan::with(session, anatomy, classes.len(), tasks, &mut problems);
        (plan.classes, plan.domains, plan.holds, plan.quality) = (classes, domains, holds, quality);
        problems::of_task(session, &plan, &mut problems);
        problems::of_stack(session, &plan, &mut problems);
        plan.problems = problems;
        plan
    }

    /// Plans the stack of `session` on any anatomy, for counts at published sizes.
    pub fn on(session: &Session, anatomy: Anatomy, classes: usize, problems: &mut Vec<Problem>) -> Plan {
        let tasks = datasets::describe(&session.data).unwrap_or_default().tasks;
        Plan::with(session, anatomy, classes, tasks, problems)
    }

    fn with(session: &Session, anatomy: Anatomy, classes: usize, tasks: Vec<Task>, problems: &mut Vec<Problem>) -> Plan {
        let mut members = Vec::new();
        for (index, placed) in session.methods.iter().enumerate() {
            let Some(card) = methods::find(&placed.name) else { continue };
            let settings = placed.settings.filled(card.fields);
            let sites = match placed.place.resolve(&anatomy, card.roles) {
                Ok(sites) => sites,
                Err(words) => {
                    problems.push(problems::of_place(index, card, &words));
                    continue;
                }
            };
            match planned(card, &anatomy, &sites, &settings) {
                Ok(mut placements) => {
                    // What a method has for each task stands there once a task, row under row.
                    for spec in placements.iter_mut().flat_map(|p| &mut p.params).filter(|spec| spec.by_task) {
                        spec.rows *= tasks.len().max(1);
                    }
                    // A method reckons with the positions of the first stage; later stages have fewer.
                    for placement in &mut placements {
                        let Some(site) = anatomy.site(&placement.site) else { continue };
                        let of = |n: usize| n * anatomy.tokens_at(site) / anatomy.tower(site).tokens.max(1);
                        (placement.macs, placement.kept) = (of(placement.macs), of(placement.kept));
                        placement.scores = of(placement.scores);
                    }
                    let sites = sites.iter().map(|s| s.path.clone()).collect();
                    let learning_rate_factor = placed.learning_rate_factor;
                    members.push(Member { index, card, settings, sites, placements, learning_rate_factor });
                }
                Err(words) => {
                    let defaults_fit = planned(card, &anatomy, &sites, &Settings::default().filled(card.fields)).is_ok();
                    problems.push(problems::of_method(index, card, &words, defaults_fit));
                }
            }
        }
        let aim = Aim::of(&session.task);
        let head = tasks::classify::head(anatomy.width, classes, !anatomy.causal, &aim);
        let texts = texts(&aim, &anatomy, &members, classes, &session.recipe);
        let cost = cost::of(&anatomy, &members, &head, &session.recipe, texts, session.device == "cpu");
        let (classes, domains, holds, problems) = (vec![], vec![], Holds::default(), vec![]);
        Plan { anatomy, lost: false, members, head, aim, classes, domains, tasks, holds, quality: None, problems, cost }
    }

    /// Trainable parameters of the stack, without the head.
    pub fn trainable(&self) -> usize {
        self.members.iter().map(Member::count).sum()
    }

    pub fn head_count(&self) -> usize {
        self.head.iter().map(ParamSpec::count).sum()
    }

    /// Every matrix of the stack and the head with its key in the bag.
    pub fn specs(&self) -> Vec<(String, ParamSpec)> {
        let mut specs = Vec::new();
        for member in &self.members {
            for placement in &member.placements {
                for spec in &placement.params {
                    specs.push((bag::key_of(member.index, member.card.name, &placement.site, spec), spec.clone()));
                }
            }
        }
        specs.extend(self.head.iter().map(|spec| (format!("head/{}", spec.name), spec.clone())));
        specs
    }

    /// The factor of the learning rate of each key.
    pub fn rates(&self) -> BTreeMap<String, f64> {
        let of = |index: &str| self.members.iter().find(|m| m.index.to_string() == index).map_or(1.0, |m| m.learning_rate_factor);
        self.specs()
            .into_iter()
            .map(|(key, spec)| (of(key.split('.').next().unwrap_or_default()) * spec.rate, key))
            .map(|(r, k)| (k, r))
            .collect()
    }

    /// What keeps this session from training.
    pub fn blocked(&self) -> Option<&Problem> {
        self.broken().or_else(|| self.problems.iter().find(|p| p.severity == Severity::Untrainable))
    }

    /// What keeps it from anything at all.
    pub fn broken(&self) -> Option<&Problem> {
        self.problems.iter().find(|p| p.severity == Severity::Blocks)
    }

    /// Nobody knows what it was trained on: there is nothing to train on, to test on or to look at.
    pub fn has_no_samples(&self) -> bool {
        self.holds == Holds::Unknown
    }

    /// The first method that goes by the quality of each sample.
    pub fn reads_quality(&self) -> Option<&Member> {
        self.members.iter().find(|member| member.card.method.reads_quality())
    }

    /// The longest text in tokens that the network has positions for with this stack; none where no texts enter.
    pub fn longest(&self) -> Option<usize> {
        let reading = self.anatomy.reading()?;
        let Entry::Text { longest, .. } = reading.entry else { return None };
        let taken = self.members.iter().map(|m| m.card.method.positions_taken(&m.settings)).sum();
        Some(if reading.rotary { longest } else { longest.saturating_sub(taken) })
    }

    pub fn stands_at(&self, site: &str) -> bool {
        self.members.iter().any(|m| m.stands_anywhere(site))
    }

    /// The method that treats the tasks of the data set apart, where there is such a method and more than one task.
    pub fn tells_tasks_apart(&self) -> Option<&Member> {
        let apart = |m: &&Member| m.placements.iter().flat_map(|p| &p.params).any(|spec| spec.by_task);
        self.members.iter().find(|m| self.tasks.len() > 1 && apart(m))
    }

    /// How captions enter the network, where images are matched with them.
    pub fn captions(&self) -> Option<Entry> {
        self.anatomy.reading().map(|tower| tower.entry).filter(|_| self.aim == Aim::Contrast)
    }

    /// Some method reads the blocks' outputs.
    pub fn reads_out(&self) -> bool {
        self.members.iter().flat_map(|m| &m.placements).any(|p| p.door == Door::Readout)
    }

    /// The stack in a few words, as tables name it.
    pub fn words(&self) -> String {
        match self.members.as_slice() {
            [] => self.aim.alone().to_owned(),
            members => members.iter().map(|m| m.card.title).collect::<Vec<_>>().join(" + "),
        }
    }
}

/// What a method places on a network. In a network of two towers it meets each as a network of its own.
fn planned(card: &methods::Card, anatomy: &Anatomy, sites: &[&Site], set: &Settings) -> Result<Vec<Placement>, String> {
    let mut parts: Vec<(&Anatomy, Vec<&Site>)> = vec![];
    for site in sites {
        let tower = anatomy.tower(site);
        match parts.iter_mut().find(|(part, _)| std::ptr::eq(*part, tower)) {
            Some((_, sites)) => sites.push(site),
            None => parts.push((tower, vec![site])),
        }
    }
    if parts.is_empty() {
        return card.method.plan(anatomy, sites, set);
    }
    let (mut all, mut shared) = (vec![], BTreeSet::new());
    for (part, sites) in parts {
        let placed = card.method.plan(part, &sites, set)?;
        let specs = placed.iter().flat_map(|p| &p.params).filter(|spec| spec.scope == Scope::Method);
        let here: BTreeSet<String> = specs.map(|spec| spec.name.clone()).collect();
        if !shared.is_disjoint(&here) {
            return Err("its places share parameters, and none fit both towers of this network. Place it in one tower".to_owned());
        }
        shared.extend(here);
        all.extend(placed);
    }
    Ok(all)
}

/// Texts that go through the text tower in one step.
fn texts(aim: &Aim, anatomy: &Anatomy, members: &[Member], classes: usize, recipe: &Recipe) -> usize {
    let Some(tower) = anatomy.reading().filter(|_| !anatomy.towers.is_empty()) else { return 0 };
    let trains = members.iter().flat_map(|m| &m.sites).any(|site| tower.site(site).is_some());
    match aim {
        Aim::ZeroShot(_) if trains => classes,
        Aim::Contrast => recipe.batch_size,
        _ => 0, // it is not read, or once only
    }
}
