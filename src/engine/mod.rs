//! The engine: a worker thread that trains, evaluates and exports; orders go in and events come out over two bounded
//! channels. Called by the workbench; knows no window.

pub mod ahead;
pub mod bag;
pub mod batch;
pub mod calibrate;
pub mod claim;
mod clock;
pub mod devices;
pub mod frozen;
pub mod kernels;
pub mod measure;
pub mod model;
pub mod optimise;
pub mod quality;
pub mod random;
pub mod run;
pub mod shards;
pub mod tuner;
mod watch;
mod worker;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use serde::{Deserialize, Serialize};

use crate::session::Session;

/// To the worker.
#[derive(Clone, Debug)]
pub enum Order {
    /// Trains `session` and keeps everything in `folder`.
    Train {
        run: String,
        session: Box<Session>,
        folder: PathBuf,
    },
    Pause,
    Continue,
    Stop,
    Export {
        run: String,
        folder: PathBuf,
        kind: String,
        into: PathBuf,
    },
    ListDevices,
    Quit,
}

/// From the worker. One JSON object a line in a run's `events.jsonl` and on the command line's output.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    Started(Started),
    /// Before the first step: a method wants something measured.
    Preparing {
        run: String,
        words: String,
    },
    Step(Step),
    Evaluated(Evaluated),
    Paused {
        run: String,
    },
    Continued {
        run: String,
    },
    Saved {
        run: String,
        path: PathBuf,
    },
    Finished(Finished),
    Failed {
        run: String,
        words: String,
    },
    Exported {
        run: String,
        path: PathBuf,
        kind: String,
        difference: f64,
        samples: usize,
    },
    Devices {
        names: Vec<Device>,
        /// What is wrong with the graphics driver.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fault: Option<String>,
    },
}

/// A device that training can run on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// What a session writes: `cpu`, `gpu 0`.
    pub id: String,
    /// What the driver calls it.
    pub name: String,
    /// Drawn by software: works, but is never chosen by itself.
    pub software: bool,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Started {
    pub run: String,
    pub title: String,
    pub stack: String,
    pub device: String,
    pub steps: usize,
    pub trainable: usize,
    pub head: usize,
    /// Predicted bytes: all, and what is saved for the backward pass.
    pub predicted_bytes: usize,
    pub predicted_activations: usize,
    /// What the data set's loader has to say: what it left out, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Step {
    pub run: String,
    /// Steps done, from 1.
    pub step: usize,
    pub epoch: usize,
    pub loss: f64,
    /// Of the last batches, on the training set.
    pub accuracy: f64,
    pub learning_rate: f64,
    /// Global, before clipping.
    pub gradient_norm: f64,
    /// By placement (`0.lora/blocks.3.attn.q`, `0.vera/all` for what its places share, `head`), before clipping.
    pub gradients: BTreeMap<String, f64>,
    /// Milliseconds a step and samples a second, over the steps since the last report.
    pub step_ms: f64,
    pub samples_per_second: f64,
    /// How much of `step_ms` the step waited for its samples.
    #[serde(default)]
    pub wait_ms: f64,
    /// Bytes the run holds beyond what the program held before it.
    pub bytes: usize,
    /// The most that a training step held so far; evaluations are not in it.
    pub peak_bytes: usize,
    /// Measured bytes that the forward pass over one batch saves for the backward pass.
    pub activation_bytes: usize,
    /// Steps and evaluations to come.
    pub seconds_left: f64,
}

impl Step {
    /// Gradient norms by site, whatever stands there taken together; what belongs to no single site is left out.
    pub fn gradients_by_site(&self) -> BTreeMap<String, f64> {
        let mut sites: BTreeMap<String, f64> = BTreeMap::new();
        for (placement, norm) in &self.gradients {
            let site = placement.split_once('/').map_or(placement.as_str(), |(_, site)| site);
            if site != "head" && site != bag::ALL {
                let sum = sites.entry(site.to_owned()).or_default();
                *sum = sum.hypot(*norm);
            }
        }
        sites
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Evaluated {
    pub run: String,
    pub step: usize,
    pub epoch: usize,
    pub accuracy: f64,
    pub loss: f64,
    /// Accuracy by domain, where the data set has several.
    pub domains: BTreeMap<String, f64>,
    /// Accuracy by task, where the data set has several.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tasks: BTreeMap<String, f64>,
    /// The most that an evaluation held so far.
    #[serde(default)]
    pub peak_bytes: usize,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Finished {
    pub run: String,
    /// Ended by Stop, before its last step.
    pub stopped: bool,
    pub steps: usize,
    pub accuracy: f64,
    pub loss: f64,
    pub domains: BTreeMap<String, f64>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tasks: BTreeMap<String, f64>,
    /// Evaluations included, pauses not.
    pub seconds: f64,
    /// Over all steps, evaluations left out.
    pub step_ms: f64,
    pub samples_per_second: f64,
    /// How much of `step_ms` the steps waited for their samples.
    #[serde(default)]
    pub wait_ms: f64,
    /// The most that a training step held.
    pub peak_bytes: usize,
    /// The most that an evaluation held: its batches are larger than a training step's.
    #[serde(default)]
    pub evaluation_peak_bytes: usize,
    pub activation_bytes: usize,
    /// Predicted label of every test sample, for comparisons sample by sample.
    #[serde(default)]
    pub predictions: Vec<u32>,
    /// It was not trained here: what it was imported from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imported: Option<String>,
}

impl Event {
    /// The run it belongs to.
    pub fn run(&self) -> Option<&str> {
        match self {
            Event::Started(Started { run, .. })
            | Event::Step(Step { run, .. })
            | Event::Evaluated(Evaluated { run, .. })
            | Event::Finished(Finished { run, .. })
            | Event::Preparing { run, .. }
            | Event::Paused { run }
            | Event::Continued { run }
            | Event::Saved { run, .. }
            | Event::Failed { run, .. }
            | Event::Exported { run, .. } => Some(run),
            Event::Devices { .. } => None,
        }
    }
}

/// The words of a panic.
fn cause(panic: &(dyn std::any::Any + Send)) -> String {
    (panic.downcast_ref::<String>().cloned())
        .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
        .unwrap_or_else(|| "no words were given".to_owned())
}

/// Wakes whoever waits for events: the window asks for a repaint.
pub type Wake = Box<dyn Fn() + Send + Sync>;

/// The handle to the worker.
pub struct Engine {
    orders: Sender<Order>,
    events: Receiver<Event>,
    /// The handle is going: no further order is begun, however many wait.
    closing: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    /// Starts the worker thread.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(wake: Wake) -> anyhow::Result<Engine> {
        let (orders, inbox) = bounded(64);
        let (outbox, events) = bounded(1024);
        let closing = Arc::new(AtomicBool::new(false));
        let seen = closing.clone();
        let work = move || worker::work(&inbox, &outbox, &wake, &seen);
        let thread = std::thread::Builder::new().name("petl-worker".into()).spawn(work)?;
        Ok(Engine { orders, events, closing, thread: Some(thread) })
    }

    /// Sends an order without waiting. False when 64 orders wait already or the worker has gone.
    pub fn send(&self, order: Order) -> bool {
        self.orders.try_send(order).is_ok()
    }

    /// The next event, without waiting.
    pub fn poll(&self) -> Option<Event> {
        self.events.try_recv().ok()
    }

    /// The next event, waiting for it; none when the worker has gone. For the command line.
    pub fn wait(&self) -> Option<Event> {
        self.events.recv().ok()
    }

    /// The next event, waiting at most this long for it: `Ok(None)` when none came.
    ///
    /// # Errors
    /// When the worker has gone.
    pub fn wait_for(&self, longest: Duration) -> anyhow::Result<Option<Event>> {
        match self.events.recv_timeout(longest) {
            Ok(event) => Ok(Some(event)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => anyhow::bail!("the worker ended without a word"),
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.closing.store(true, Relaxed);
        let Some(thread) = self.thread.take() else { return };
        let mut told = false;
        while !thread.is_finished() {
            // Again until there is room for it: 64 orders may wait before it.
            told = told || self.orders.try_send(Order::Quit).is_ok();
            // Drain, so that a worker that waits for room in the outbox can see the order.
            let _ = self.events.recv_timeout(Duration::from_millis(20));
        }
        let _ = thread.join();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::file;

    #[test]
    fn the_handle_goes_although_orders_wait_that_nobody_will_begin() {
        let folder = tempfile::tempdir().unwrap();
        let set = ["device=cpu", "recipe.epochs=10000", "data.settings.train=40", "data.settings.test=10"].map(str::to_owned);
        let session = file::set(&file::find("digits-lora").unwrap(), &set).unwrap();
        let train = |n: usize| Order::Train {
            run: n.to_string(),
            session: Box::new(session.clone()),
            folder: folder.path().join(n.to_string()),
        };
        let engine = Engine::start(Box::new(|| ())).unwrap();
        assert!(engine.send(train(0)));
        while !matches!(engine.wait(), Some(Event::Started(_))) {}
        let waiting = (1..).take_while(|n| engine.send(train(*n))).count();
        assert!(waiting >= 64);
        let (gone, wait) = bounded(1);
        let drop_it = move || {
            drop(engine);
            let _ = gone.send(());
        };
        std::thread::Builder::new().name("drop".into()).spawn(drop_it).unwrap();
        assert!(wait.recv_timeout(Duration::from_secs(60)).is_ok(), "the worker still trains");
        assert!(!folder.path().join("1").exists(), "an order that waited was begun");
    }

    #[test]
    fn gradients_of_one_site_are_taken_together() {
        let of = |entries: &[(&str, f64)]| entries.iter().map(|(key, norm)| ((*key).to_owned(), *norm)).collect();
        let gradients =
            of(&[("0.lora/blocks.0.attn.q", 3.0), ("1.ia3/blocks.0.attn.q", 4.0), ("2.vera/all", 9.0), ("head", 9.0)]);
        let step = Step { gradients, ..Step::default() };
        assert_eq!(step.gradients_by_site(), of(&[("blocks.0.attn.q", 5.0)]));
    }
}
