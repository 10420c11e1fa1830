//! The view: what the window remembers that is no part of the session - selection, brush, theme, open questions.
//! Held by `App`, handed to every panel.
//! Must not change a session or a run: panels ask for that with commands.

use std::collections::BTreeSet;

use super::dialogs::Dialogs;
use super::samples::Thumbnails;
use crate::methods::{self, Card};
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

#[derive(Default)]
pub struct View {
    pub brush: Brush,
    /// Index of the selected method in the stack.
    pub selected: Option<usize>,
    /// Path of the cell under the pointer, for the Delete key.
    pub hovered: Option<String>,
    pub sweep: Option<Sweep>,
    /// The run whose row is selected.
    pub run: Option<String>,
    /// Shade the cells by gradient norm.
    pub heat: bool,
    /// The run that the person was asked about before it is deleted.
    pub ask_delete: Option<String>,
    /// "Save before closing?" is on screen.
    pub ask_close: bool,
    /// The person has answered: the next close request is obeyed.
    pub closing: bool,
    /// Close as soon as the save that was asked for is done.
    pub close_when_saved: bool,
    pub thumbnails: Thumbnails,
    pub dialogs: Dialogs,
    /// Runs and methods that were there in the last frame, to select what is new.
    known_runs: BTreeSet<String>,
    known_methods: usize,
}

impl View {
    pub fn new(workbench: &Workbench) -> View {
        let mut view = View { heat: true, ..View::default() };
        view.known_runs = workbench.board.runs.iter().map(|r| r.id.clone()).collect();
        view.known_methods = workbench.session.methods.len();
        view.selected = (view.known_methods > 0).then_some(0);
        view.run = workbench.board.runs.last().map(|r| r.id.clone());
        view
    }

    /// After commands: selects what is new, drops what is gone.
    pub fn follow(&mut self, workbench: &Workbench) {
        let count = workbench.session.methods.len();
        if count > self.known_methods {
            self.selected = Some(count - 1);
            self.brush = Brush::Selected;
        } else if self.selected.is_some_and(|n| n >= count) {
            self.selected = count.checked_sub(1);
        }
        self.known_methods = count;
        let runs = &workbench.board.runs;
        if let Some(new) = runs.iter().rev().find(|r| !self.known_runs.contains(&r.id)) {
            self.run = Some(new.id.clone());
        } else if self.run.as_ref().is_some_and(|id| workbench.board.run(id).is_none()) {
            self.run = runs.last().map(|r| r.id.clone());
        }
        if self.known_runs.len() != runs.len() || runs.iter().any(|r| !self.known_runs.contains(&r.id)) {
            self.known_runs = runs.iter().map(|r| r.id.clone()).collect();
        }
        if self.ask_delete.as_ref().is_some_and(|id| workbench.board.run(id).is_none()) {
            self.ask_delete = None;
        }
    }

    /// The method that painting would place, if any.
    pub fn card(&self, workbench: &Workbench) -> Option<&'static Card> {
        match self.brush {
            Brush::New(name) => methods::find(name),
            Brush::Selected => workbench.session.methods.get(self.selected?).and_then(|placed| methods::find(&placed.name)),
            Brush::Eraser => None,
        }
    }
}
