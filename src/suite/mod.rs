//! The suite: a set of methods over a set of data sets with one recipe and several seeds, as V-PETL Bench does it. Says which runs
//! that means, which of them are done, and (`report`) what came out. Called by the command line, which trains them; knows no
//! tensors, no window and no printing.

pub mod published;
pub mod report;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::board::{Run, Status};
use crate::compare;
use crate::session::{Choice, Place, Placed, Recipe, Session, Settings, VERSION, file, presets};
use crate::{backbones, datasets, methods};

/// The empty stack, a linear probe.
pub const PROBE: &str = "probe";

/// What runs when nothing is named: the lines of the published table that the program has, in its order.
pub const METHODS: [&str; 14] = [
    "full",
    PROBE,
    "pfeiffer",
    "vpt-shallow",
    "vpt-deep",
    "bitfit",
    "lora",
    "adaptformer",
    "ssf",
    "sct",
    "fact-tk",
    "repadapter",
    "lst",
    "gps",
];

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Presets, names of the catalogue of methods, or `probe`. A preset gives its stack and nothing else.
    pub methods: Vec<String>,
    pub data: Vec<String>,
    /// Seeds 1 to this.
    pub seeds: u64,
    /// `path=value`, for every run alike.
    pub set: Vec<String>,
}

/// One run of the suite.
#[derive(Clone, Debug)]
pub struct Job {
    pub method: String,
    pub session: Session,
}

impl Job {
    /// Name of the run and its folder.
    pub fn id(&self) -> String {
        format!("{}.{}.{}", self.method, self.session.data.name, self.session.seed)
    }

    pub fn words(&self) -> String {
        format!("{} on {}, seed {}", self.method, self.session.data.name, self.session.seed)
    }
}

/// A job and what became of it.
pub struct Outcome {
    pub job: Job,
    /// Where it has ended.
    pub run: Option<Run>,
    /// Why it could not begin or did not end.
    pub fault: Option<String>,
}

/// How a job stands in the suite's folder.
pub enum Standing {
    /// Nothing there.
    Open,
    /// Begun and not ended: trained again from its start.
    Begun,
    Finished(Box<Run>),
    /// Something else stands in its folder; the words say what.
    Taken(String),
}

/// The recipe of all methods on `data`: the published one for a published task; for our own, small data sets one that suits the
/// embedded backbone.
pub fn recipe(data: &str) -> Recipe {
    published::recipe(data).unwrap_or(Recipe {
        learning_rate: 5e-3,
        weight_decay: 0.01,
        label_smoothing: 0.1,
        batch_size: 16,
        epochs: 10,
        ..Recipe::default()
    })
}

/// The stack that `name` means.
fn stack(name: &str) -> Result<Vec<Placed>> {
    if name == PROBE {
        return Ok(vec![]);
    }
    if presets::find(name).is_some() {
        return Ok(file::find(name)?.methods);
    }
    let Some(card) = methods::find(name) else {
        let known = methods::CATALOG.iter().map(|card| card.name).collect::<Vec<_>>().join(", ");
        bail!("unknown method `{name}`; `{PROBE}`, a method ({known}) or a preset ({})", presets::names());
    };
    Ok(vec![Placed {
        name: name.to_owned(),
        place: Place::roles(card.default_roles),
        settings: Settings::default(),
        learning_rate_factor: 1.0,
        resolved: vec![],
    }])
}

/// Every run that `request` means: all of the first seed, then all of the second.
///
/// # Errors
/// For an unknown or repeated name, and for a change that would make the runs differ in more than method, data and seed.
pub fn jobs(request: &Request) -> Result<Vec<Job>> {
    for (what, names) in [("method", &request.methods), ("data set", &request.data)] {
        if let Some(name) = names.iter().enumerate().find_map(|(n, name)| names[..n].contains(name).then_some(name)) {
            bail!("the {what} `{name}` is named twice");
        }
        if names.is_empty() {
            bail!("no {what} is named");
        }
    }
    for change in &request.set {
        let path = change.split('=').next().unwrap_or_default().trim();
        if ["methods", "seed", "data.name", "title", "petl"]
            .iter()
            .any(|own| path == *own || path.starts_with(&format!("{own}.")))
        {
            bail!("--set {change}: a suite sets `{path}` itself, for each run. Use --methods, --data or --seeds");
        }
    }
    let Some(backbone) = backbones::CATALOG.first() else { bail!("there is no backbone") };
    let mut jobs = Vec::new();
    let mut stacks = Vec::new();
    for method in &request.methods {
        stacks.push((method, stack(method)?));
    }
    let mut bases = Vec::new();
    for data in &request.data {
        if datasets::find(data).is_none() {
            let known = datasets::CATALOG.iter().map(|card| card.name).collect::<Vec<_>>().join(", ");
            bail!("unknown data set `{data}`; one of: {known}");
        }
        let session = Session {
            petl: VERSION,
            title: String::new(),
            seed: 0,
            device: "auto".to_owned(),
            backbone: Choice::named(backbone.name),
            data: Choice::named(data),
            task: Choice::named("classify"),
            recipe: recipe(data),
            methods: vec![], // a method that does not fit the backbone must not stop the others
        };
        bases.push(file::set(&session, &request.set).with_context(|| format!("on {data}"))?);
    }
    for seed in 1..=request.seeds {
        for base in &bases {
            for (method, stack) in &stacks {
                let title = format!("{method} on {}", base.data.name);
                let session = Session { title, seed, methods: stack.clone(), ..base.clone() };
                jobs.push(Job { method: (*method).clone(), session });
            }
        }
    }
    Ok(jobs)
}

/// Where the run of `job` stands in the suite's `folder`.
pub fn place(folder: &Path, job: &Job) -> PathBuf {
    folder.join("runs").join(job.id())
}

/// How `job` stands in the suite's `folder`.
pub fn standing(folder: &Path, job: &Job) -> Standing {
    let place = place(folder, job);
    let Ok(mut entries) = std::fs::read_dir(&place) else { return Standing::Open };
    if entries.next().is_none() {
        return Standing::Open;
    }
    let Ok(run) = Run::open(&place) else {
        return Standing::Taken(format!("{} is not a run. Move it away, or choose another folder", place.display()));
    };
    if run.status == Status::Elsewhere {
        return Standing::Taken(format!("another program is training {}. Wait until it is done", place.display()));
    }
    // A run that was cut off before it wrote its session has nothing worth keeping.
    let Some(session) = &run.session else { return Standing::Begun };
    if session.seed != job.session.seed || compare::alike(session) != compare::alike(&job.session) {
        return Standing::Taken(format!(
            "{} was trained with another recipe or stack. Ask for the same again, or choose another folder",
            place.display()
        ));
    }
    match run.status {
        Status::Finished => Standing::Finished(Box::new(run)),
        _ => Standing::Begun,
    }
}
