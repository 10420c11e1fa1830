//! "Against the selected run": the exact paired test of every finished run with the selected one, on the same test items. The
//! items' labels are read by a thread of their own. Called by the table of runs; held by the view.
//! Must not judge by itself: the statistics and their words are in `crate::compare`.

use std::collections::BTreeMap;

use crossbeam_channel::{Receiver, bounded};
use eframe::egui;

use crate::board::{Board, Run};
use crate::compare::{self, Items};

#[derive(Default)]
pub struct Against {
    /// By data set, settings and seed; none where they could not be read.
    read: BTreeMap<String, Option<Items>>,
    reading: Option<(String, Receiver<Option<Items>>)>,
    /// What the words below are about: the selected run, and how many runs have finished and are read.
    about: (Option<String>, usize, usize),
    words: BTreeMap<String, String>,
}

impl Against {
    /// What the table says of `run`.
    pub fn words(&self, run: &Run) -> &str {
        self.words.get(&run.id).map_or("", String::as_str)
    }

    /// Once a frame; does nothing while nothing changed.
    pub fn follow(&mut self, ctx: &egui::Context, board: &Board, selected: Option<&str>) {
        if let Some((key, receiver)) = &self.reading {
            match receiver.try_recv() {
                Ok(items) => self.read.insert(key.clone(), items),
                Err(crossbeam_channel::TryRecvError::Empty) => return,
                Err(crossbeam_channel::TryRecvError::Disconnected) => self.read.insert(key.clone(), None),
            };
            self.reading = None;
        }
        let finished: Vec<&Run> = board.runs.iter().filter(|run| run.accuracy().is_some() && run.finished.is_some()).collect();
        if finished.len() > 1
            && let Some(run) = finished.iter().rev().find(|run| key(run).is_some_and(|key| !self.read.contains_key(&key)))
        {
            self.start(ctx, run);
        }
        let about = (selected.map(str::to_owned), finished.len(), self.read.len());
        if about != self.about {
            self.judge(&finished, selected);
            self.about = about;
        }
    }

    fn start(&mut self, ctx: &egui::Context, run: &Run) {
        let (Some(key), Some(session)) = (key(run), run.session.clone()) else { return };
        let (sender, receiver) = bounded(1);
        let ctx = ctx.clone();
        let thread = std::thread::Builder::new().name("petl-items".into()).spawn(move || {
            let _ = sender.send(Items::of(&session).ok());
            ctx.request_repaint();
        });
        match thread {
            Ok(_) => self.reading = Some((key, receiver)),
            Err(_) => {
                self.read.insert(key, None);
            }
        }
    }

    fn judge(&mut self, finished: &[&Run], selected: Option<&str>) {
        self.words.clear();
        let Some(first) = finished.iter().find(|run| Some(run.id.as_str()) == selected) else { return };
        let items = |run: &Run| self.read.get(&key(run)?)?.as_ref();
        let predictions = |run: &Run| run.finished.as_ref().map(|f| f.predictions.clone()).unwrap_or_default();
        let Some(own) = items(first) else { return };
        let firsts = predictions(first);
        let mut tests = Vec::new();
        let mut words = BTreeMap::new();
        for run in finished.iter().filter(|run| run.id != first.id) {
            match items(run).filter(|theirs| theirs.are_those_of(own)) {
                None => words.insert(run.id.clone(), "other test items".to_owned()),
                Some(_) => match compare::paired(&own.labels, &firsts, &predictions(run)) {
                    None => None,
                    Some(test) => {
                        tests.push((run.id.clone(), test));
                        None
                    }
                },
            };
        }
        let corrected = compare::holm(&tests.iter().map(|(_, test)| test.p).collect::<Vec<_>>());
        for ((id, test), p) in tests.into_iter().zip(corrected) {
            words.insert(id, compare::words(test.difference, p));
        }
        words.insert(first.id.clone(), "selected".to_owned());
        self.words = words;
    }
}

fn key(run: &Run) -> Option<String> {
    let session = run.session.as_ref()?;
    serde_json::to_string(&(&session.data, session.seed)).ok()
}
