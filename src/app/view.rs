//! The view: what the window remembers that is no part of the session - selection, brush, open questions, cached curves.
//! Held by `App`, handed to every panel.
//! Must not change a session or a run: panels ask for that with commands.

use std::collections::BTreeMap;

use eframe::egui::Pos2;

use super::curves::Curves;
use super::dialogs::{Ask, Dialogs};
use super::items::Against;
use super::kept::Kept;
use super::samples::Thumbnails;
use crate::board::Run;
use crate::methods::{self, Card};
use crate::session::Session;
use crate::session::command::Command;
use crate::workbench::Workbench;

/// A palette card on its way to the drawing.
#[derive(Clone, Copy, Debug)]
pub struct Dragged(pub &'static str);

/// What a click or a drag on the drawing does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Brush {
    /// Adds cells to the selected method.
    #[default]
    Selected,
    /// The next cells begin a new method of this name.
    New(&'static str),
    Eraser,
}

/// A rectangle being painted: row and column where it began, and whether it erases.
#[derive(Clone, Copy, Debug)]
pub struct Sweep {
    pub from: (usize, usize),
    pub erases: bool,
}

/// Cells for which the person is asked which method shall stand there.
#[derive(Clone, Debug)]
pub struct Pick {
    pub sites: Vec<String>,
    /// "q, block 3".
    pub words: String,
    pub at: Pos2,
}

/// The list that was clicked last; the Delete key is about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum List {
    #[default]
    Stack,
    Runs,
}

/// How far closing the window has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Closing {
    #[default]
    No,
    /// "Save before closing?" is on screen.
    Asked,
    /// Close as soon as the save that was asked for is done.
    WhenSaved,
    /// Close as soon as the worker has kept the run or written the export.
    WhenIdle,
    /// The next close request is obeyed.
    Now,
}

#[derive(Default)]
pub struct View {
    pub brush: Brush,
    /// Index of the selected method in the stack.
    pub selected: Option<usize>,
    /// What was selected in this frame. It takes effect after all panels are drawn: what is typed into a form belongs to the method
    /// that it was drawn for.
    next: Option<usize>,
    /// Path of the cell that was clicked last; its block is the opened one.
    pub cell: Option<String>,
    /// Path of the cell under the pointer, for the Delete key.
    pub hovered: Option<String>,
    pub sweep: Option<Sweep>,
    pub pick: Option<Pick>,
    /// Where the card in hand would fall, in words, for the label at the pointer.
    pub landing: Option<String>,
    /// A remark on the last action, and when it was made.
    pub said: Option<(String, f64)>,
    /// The run whose row is selected.
    pub run: Option<String>,
    pub list: List,
    /// The run that the person was asked about before it is deleted.
    pub ask_delete: Option<String>,
    /// What waits for an answer about unsaved edits: it would replace the session.
    pub ask_open: Option<Command>,
    /// Carry `ask_open` out as soon as the save is done.
    pub open_when_saved: bool,
    pub closing: Closing,
    /// The run and kind of an export that the worker has not answered yet.
    pub exporting: Option<(String, String)>,
    /// Stop was asked for, and the worker has not answered yet.
    pub stopping: bool,
    /// A dialog to show after this frame's edits are in.
    pub wanted: Option<Ask>,
    /// What is typed into the bar that fetches from the hub, while it is open.
    pub hub: Option<super::panels::hub::Typed>,
    /// Typed into the palette's search box.
    pub search: String,
    /// The search box shall have the keyboard in the next frame.
    pub find: bool,
    pub kept: Kept,
    /// Of the window, in the last frame.
    pub width: f32,
    /// The left and the right side closed by themselves, for want of room.
    pub folded: [bool; 2],
    pub curves: Curves,
    pub against: Against,
    pub thumbnails: Thumbnails,
    pub dialogs: Dialogs,
    /// Among the shown runs of one family: which colour and dash each has.
    slots: BTreeMap<String, usize>,
    known_runs: Vec<String>,
    /// The stack of the last frame, to select what is new.
    known: Stack,
}

/// Names and places of a stack.
type Stack = Vec<(String, crate::session::Place)>;

fn stack(session: &Session) -> Stack {
    session.methods.iter().map(|m| (m.name.clone(), m.place.clone())).collect()
}

impl View {
    pub fn new(workbench: &Workbench) -> View {
        let mut view = View { kept: Kept::read(workbench.home()), ..View::default() };
        view.known_runs = workbench.board.runs.iter().map(|r| r.id.clone()).collect();
        view.known = stack(&workbench.session);
        view.selected = (!view.known.is_empty()).then_some(0);
        view.run = workbench.board.runs.last().map(|r| r.id.clone());
        view.assign(workbench);
        view
    }

    /// Selects an entry of the stack.
    pub fn select(&mut self, index: usize) {
        self.next = Some(index);
        self.brush = Brush::Selected;
        self.list = List::Stack;
    }

    /// After all panels are drawn.
    pub fn settle(&mut self) {
        self.selected = self.next.take().or(self.selected);
    }

    /// After commands and events: selects what is new, drops what is gone.
    pub fn follow(&mut self, workbench: &Workbench) {
        self.follow_stack(workbench);
        let runs = &workbench.board.runs;
        if let Some(new) = runs.iter().rev().find(|r| !self.known_runs.contains(&r.id)) {
            self.run = Some(new.id.clone());
            self.list = List::Runs;
        } else if self.run.as_ref().is_some_and(|id| workbench.board.run(id).is_none()) {
            self.run = runs.last().map(|r| r.id.clone());
        }
        if self.known_runs.len() != runs.len() || runs.iter().any(|r| !self.known_runs.contains(&r.id)) {
            self.known_runs = runs.iter().map(|r| r.id.clone()).collect();
        }
        if self.ask_delete.as_ref().is_some_and(|id| workbench.board.run(id).is_none()) {
            self.ask_delete = None;
        }
        if workbench.board.live().is_none() {
            self.stopping = false;
        }
        self.assign(workbench);
    }

    fn follow_stack(&mut self, workbench: &Workbench) {
        let now = stack(&workbench.session);
        if now == self.known {
            return;
        }
        // The first entry that differs is the one that came, went, or moved.
        let differs = (0..now.len().max(self.known.len())).find(|n| now.get(*n) != self.known.get(*n)).unwrap_or(0);
        if now.len() > self.known.len() {
            self.selected = Some(differs);
            self.brush = Brush::Selected;
            self.list = List::Stack;
        } else if now.len() < self.known.len() {
            self.selected = match self.selected {
                Some(n) if n > differs => Some(n - 1),
                Some(n) if n == differs => Some(n.min(now.len().saturating_sub(1))),
                other => other,
            };
        }
        self.selected = self.selected.filter(|n| *n < now.len());
        if self.cell.as_ref().is_some_and(|path| workbench.plan.anatomy.site(path).is_none()) {
            self.cell = None;
        }
        self.known = now;
    }

    /// Gives every shown run the lowest place that is free in its family, and keeps it while the run is shown.
    fn assign(&mut self, workbench: &Workbench) {
        let shown: Vec<&Run> = workbench.board.shown().collect();
        self.slots.retain(|id, _| shown.iter().any(|run| run.id == *id));
        for run in &shown {
            if self.slots.contains_key(&run.id) {
                continue;
            }
            let own = family(run);
            let taken: Vec<usize> =
                shown.iter().filter(|r| family(r) == own).filter_map(|r| self.slots.get(&r.id).copied()).collect();
            let free = (0..).find(|n| !taken.contains(n)).unwrap_or(0);
            self.slots.insert(run.id.clone(), free);
        }
    }

    /// The run's place among the shown runs of its family.
    pub fn slot(&self, run: &Run) -> usize {
        self.slots.get(&run.id).copied().unwrap_or(0)
    }

    /// The method that painting would place, if any.
    pub fn card(&self, workbench: &Workbench) -> Option<&'static Card> {
        match self.brush {
            Brush::New(name) => methods::find(name),
            Brush::Selected => workbench.session.methods.get(self.selected?).and_then(|placed| methods::find(&placed.name)),
            Brush::Eraser => None,
        }
    }

    /// The opened block.
    pub fn block(&self, workbench: &Workbench) -> Option<usize> {
        workbench.plan.anatomy.site(self.cell.as_ref()?)?.block
    }

    /// A question about the run or the window is open, or a sweep or brush is in hand: Esc ends that first.
    pub fn escape(&mut self) {
        if self.pick.is_some() {
            self.pick = None;
        } else if self.sweep.is_some() || self.brush != Brush::Selected {
            self.sweep = None;
            self.brush = Brush::Selected;
        } else if self.closing == Closing::Asked || self.ask_open.is_some() || self.ask_delete.is_some() {
            self.closing = Closing::No;
            self.ask_open = None;
            self.ask_delete = None;
        } else {
            self.cell = None;
        }
    }
}

/// The family that gives a run its colour: that of its first method.
pub fn family(run: &Run) -> Option<methods::Family> {
    run.session.as_ref().and_then(|s| methods::find(&s.methods.first()?.name)).map(|card| card.family)
}
