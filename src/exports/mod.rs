//! Exports: what leaves. To add one: a new file here with a `CARD`, then two plain lines below (`mod` and `CATALOG`). An export
//! is called done only after the written files were read back and gave the same logits. Called by the worker and the
//! command line.

pub mod adapterhub;
pub mod head;
pub mod import;
pub mod merged;
pub mod own;
pub mod peft;
pub mod prefixes;
pub mod tensors;
pub mod transformers;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use burn::tensor::{Device, TensorData};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::datasets::{Samples, Spectrogram, Task, Tokens};
use crate::engine::Finished;
use crate::engine::bag::Weights;
use crate::engine::model::{self, Model};
use crate::plan::Plan;
use crate::plan::anatomy::Entry;
use crate::session::{Placed, Session};
use crate::tasks::classify::{self, Activation, Rivals};

pub const CATALOG: &[&Card] = &[&own::CARD, &peft::CARD, &adapterhub::CARD, &merged::CARD, &transformers::CARD];

pub fn find(name: &str) -> Option<&'static Card> {
    CATALOG.iter().copied().find(|card| card.name == name)
}

/// Samples on which a written export is compared with the model in memory; fewer where the test set has no more.
pub const SAMPLES: usize = 64;

/// What the catalogue says of an export.
pub struct Card {
    pub name: &'static str,
    pub title: &'static str,
    pub help: &'static str,
    /// Whether this stack can leave in this form; otherwise why not, and which form can.
    pub fits: fn(&Plan) -> Result<(), String>,
    /// Writes into a fresh folder.
    pub write: fn(&Session, &Model, &Path) -> Result<()>,
    /// Rebuilds a model from the written folder alone (and the backbone), to be compared.
    pub read: fn(&Session, &Path, &Device) -> Result<Model>,
    /// Largest difference of logits that still counts as the same, as a part of the largest logit (of 1 where all are smaller).
    pub tolerance: f64,
}

/// An adapter read from another program's folder.
#[derive(Debug, Default)]
pub struct Adapter {
    /// The stack that it means.
    pub methods: Vec<Placed>,
    /// Its matrices under the bag's keys; the head among them, where the folder holds one.
    pub params: tensors::Named,
    /// Names of the classes, where the folder says them.
    pub classes: Option<Vec<String>>,
    /// What stands between the two layers of an MLP as head, where the folder says it; otherwise it is what transformers has there.
    pub activation: Option<Activation>,
    /// Those of `params` that are added to a frozen part of the network, which a folder does not know: key and part.
    pub over: BTreeMap<String, String>,
}

/// `params` with what is added to a frozen part as the sum, once the weights are known.
///
/// # Errors
/// When there is no such part.
pub fn added(mut params: tensors::Named, over: &BTreeMap<String, String>, weights: &Weights) -> Result<tensors::Named> {
    for (key, part) in over {
        let frozen = weights.matrix(part).with_context(|| format!("the network has no `{part}`"))?;
        let more = params.get(key).with_context(|| format!("the adapter lacks `{key}`"))?;
        let sum = model::host(frozen)?.into_iter().zip(tensors::values(key, more)?).map(|(a, b)| a + b).collect::<Vec<f32>>();
        let shape = more.shape().clone();
        params.insert(key.clone(), TensorData::new(sum, shape));
    }
    Ok(params)
}

/// A finished and verified export.
#[derive(Clone, Debug)]
pub struct Done {
    pub path: PathBuf,
    pub difference: f64,
    pub samples: usize,
}

/// A run's session and model with its trained adapter, on the CPU.
///
/// # Errors
/// When the run's folder holds no adapter, or one that does not fit its session.
pub fn load_run(folder: &Path) -> Result<(Session, Model)> {
    let session = own::session(folder)?;
    let model = own::read(&session, folder, &Device::flex())?;
    Ok((session, model))
}

/// Exports the adapter of the run in `run` as `kind` into the folder `into`: written beside it, read back, compared, and
/// only then moved into place.
///
/// # Errors
/// When the stack does not fit the format, when a file cannot be written or read, or when the logits differ.
pub fn export(run: &Path, kind: &str, into: &Path) -> Result<Done> {
    let names = || CATALOG.iter().map(|c| c.name).collect::<Vec<_>>().join(", ");
    let card = find(kind).with_context(|| format!("unknown export `{kind}`; one of: {}", names()))?;
    let (session, model) = load_run(run)?;
    (card.fits)(&model.plan).map_err(anyhow::Error::msg)?;
    staged(into, |stage| {
        let reference = Reference::of(&session, &model)?;
        reference.is_what_the_run_said(run)?;
        (card.write)(&session, &model, stage)?;
        Ok((reference.verify(card, &session, &model, stage)?, reference.picked.len()))
    })
}

/// Lets `write` fill a folder beside `into` and say how far what it wrote is from what it should be, on how many samples; only
/// then moves it into place.
///
/// # Errors
/// When `into` holds something already, when a folder cannot be made or moved, and what `write` finds.
pub fn staged(into: &Path, write: impl FnOnce(&Path) -> Result<(f64, usize)>) -> Result<Done> {
    if into.exists() && std::fs::read_dir(into).is_ok_and(|mut entries| entries.next().is_some()) {
        bail!("{} is not empty. Choose a new folder, so that nothing is written over", into.display());
    }
    let above = into.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let fail = || format!("cannot write into {}. May you write there, and is there room?", above.display());
    std::fs::create_dir_all(above).with_context(fail)?;
    let mut stage = tempfile::Builder::new();
    stage.prefix(".petl-export-");
    #[cfg(unix)]
    stage.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777)); // what the user's umask leaves of it, as for any folder
    let stage = stage.tempdir_in(above).with_context(fail)?;
    let (difference, samples) = write(stage.path())?;
    if into.exists() {
        std::fs::remove_dir(into).with_context(fail)?; // empty, as checked above
    }
    std::fs::rename(stage.path(), into).with_context(fail)?;
    let _ = stage.keep(); // it has gone from where it was made
    Ok(Done { path: into.to_owned(), difference, samples })
}

/// Reads what was written into `folder` and compares it with the model in memory: the largest difference of logits, and on how
/// many samples.
///
/// # Errors
/// When a file cannot be read, or when the difference is more than the card allows.
pub fn verify(card: &Card, session: &Session, model: &Model, folder: &Path) -> Result<(f64, usize)> {
    let reference = Reference::of(session, model)?;
    Ok((reference.verify(card, session, model, folder)?, reference.picked.len()))
}

/// The samples on which models are compared, and the logits that the run's own model gives them.
struct Reference {
    test: Samples,
    picked: Vec<usize>,
    logits: Vec<f32>,
    tasks: Vec<Task>,
}

impl Reference {
    /// Spread over the whole test set, no sample twice: every domain has its part in it. Noise where the data set is unknown.
    fn of(session: &Session, model: &Model) -> Result<Reference> {
        let test = match model.plan.has_no_samples() {
            true => noise(&model.plan),
            false => model::data(session)?.test,
        };
        let count = SAMPLES.min(test.len());
        let picked: Vec<usize> = (0..count).map(|n| n * test.len() / count).collect();
        let logits = model.answers(&model.bag, &test, &picked)?;
        Ok(Reference { test, picked, logits, tasks: model.plan.tasks.clone() })
    }

    /// What of `logits` `[picked, classes]` decides about each sample.
    fn rivals<'a>(&self, logits: &'a [f32]) -> Vec<Rivals<'a>> {
        classify::rivals(logits, &self.tasks, &self.test.tasks_of(&self.picked))
    }

    /// The largest logit, 1 at least: rounding grows with it.
    fn scale(&self) -> f64 {
        self.rivals(&self.logits).iter().flat_map(|r| r.logits).fold(1.0, |most, v| f64::from(v.abs()).max(most))
    }

    fn verify(&self, card: &Card, session: &Session, model: &Model, folder: &Path) -> Result<f64> {
        let back = (card.read)(session, folder, &model.device)
            .with_context(|| format!("the written {} cannot be read back; nothing was exported", card.title))?;
        let logits = back.answers(&back.bag, &self.test, &self.picked)?;
        if logits.len() != self.logits.len() {
            bail!("the export gives {} logits where the run gives {}", logits.len(), self.logits.len());
        }
        let (ours, theirs) = (self.rivals(&self.logits), self.rivals(&logits));
        let pairs = ours.iter().flat_map(|r| r.logits).zip(theirs.iter().flat_map(|r| r.logits));
        let apart = pairs.map(|(a, b)| f64::from((a - b).abs()));
        let difference = apart.fold(0.0, |most: f64, d| if d.is_nan() { f64::NAN } else { d.max(most) });
        let allowed = card.tolerance * self.scale();
        if difference.is_nan() || difference > allowed {
            bail!(
                "the written {} was read back and gave other logits (largest difference {difference:.2e} on {} samples, allowed {allowed:.0e}); nothing was exported",
                card.title,
                self.picked.len()
            );
        }
        Ok(difference)
    }

    /// The labels must be those that the run itself predicted at its end. A near tie may fall the other way on another device.
    fn is_what_the_run_said(&self, run: &Path) -> Result<()> {
        let path = run.join("summary.json");
        let Ok(text) = std::fs::read_to_string(&path) else { return Ok(()) }; // an exported folder has none
        let summary = serde_json::from_str::<Finished>(&text)
            .with_context(|| format!("{} is no run's summary. Train it again, or choose another run", path.display()))?;
        if summary.imported.is_some() {
            return Ok(()); // it was never tested
        }
        let said = summary.predictions;
        let scale = self.scale();
        let differs = |(n, row): &(&usize, Rivals)| match said.get(**n).and_then(|label| row.logit(*label)) {
            Some(then) => row.logit(row.label()).is_none_or(|now| f64::from(now - then) > 1e-3 * scale),
            None => true,
        };
        let wrong = self.picked.iter().zip(self.rivals(&self.logits)).filter(differs).count();
        if wrong > 0 || said.len() != self.test.len() {
            bail!(
                "{} gives other labels than its own {} says, on {wrong} of {} samples: its adapter, its session or the data set has changed since it was trained. Nothing was exported; train it again",
                run.display(),
                path.display(),
                self.picked.len()
            );
        }
        Ok(())
    }
}

/// As many samples as are compared, of nothing: bytes, tokens and sounds drawn at random, the same every time.
fn noise(plan: &Plan) -> Samples {
    let anatomy = &plan.anatomy;
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let count = SAMPLES;
    let mut samples = Samples { labels: vec![0; count], domains: vec![0; count], tasks: vec![0; count], ..Samples::default() };
    match anatomy.entry {
        Entry::Image { side, .. } => {
            samples.side = side;
            samples.pixels = (0..count * side * side * 3).map(|_| rng.random()).collect();
        }
        Entry::Text { .. } => {}
        Entry::Sound { bins, frames, .. } => {
            let mut sound = |_| (0..bins * frames).map(|_| rng.random_range(-1.0..1.0)).collect();
            samples.spectrograms = (0..count).map(|n| Spectrogram { bins, values: sound(n), rest: 0.0 }).collect();
        }
    }
    if plan.captions().is_some() {
        samples.labels = (0..count as u32).collect(); // each image has a caption of its own
    }
    if let Some((reading, Entry::Text { vocabulary, padding, .. })) = anatomy.reading().map(|part| (part, part.entry)) {
        let mut token = || (0..4).map(|_| rng.random_range(0..vocabulary.max(2) as u32)).find(|t| *t != padding).unwrap_or(0);
        let length = |n: usize| 1 + n % reading.tokens.min(24);
        let text = |n| (0..length(n)).map(|_| token()).collect::<Vec<u32>>();
        let texts: Vec<_> = (0..count).map(text).collect();
        samples.tokens = texts.into_iter().map(|ids| Tokens { kinds: vec![0; ids.len()], ids }).collect();
    }
    samples
}
