//! Commands: every request to change or do something, as data with a label, a help text and a shortcut. The window, the
//! command line and the tests send the same values to `Workbench::carry_out`.

use std::path::PathBuf;

use super::Session;
use super::settings::Value;

/// One request.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// A change of the session; undoable.
    Edit(Edit),
    Undo,
    Redo,
    /// Replaces the session by a preset's.
    OpenPreset(String),
    Open(PathBuf),
    Save,
    SaveAs(PathBuf),
    /// Answers to the question after a crash.
    RestoreAutosave,
    DiscardAutosave,
    Train,
    Pause,
    Continue,
    /// Stops between two steps and keeps the adapter as it is.
    StopAndKeep,
    /// Brings back the session of a past run, as an edit that can be undone.
    RestoreRun(String),
    /// Shows or hides a run's curves.
    ToggleRun(String),
    DeleteRun(String),
    Export {
        run: String,
        kind: String,
        folder: PathBuf,
    },
    /// Draws the shown runs' figure: curves, comparison or Pareto; SVG, PNG and CSV side by side.
    Figure {
        kind: String,
        path: PathBuf,
    },
    /// Asks the hub what a repository (`owner/name`) holds at a branch, tag or commit.
    HubAsk {
        repository: String,
        revision: String,
    },
    /// Fetches what was asked about, and opens it.
    HubFetch,
    HubCancel,
    DismissNotice,
}

/// One change of the session.
#[derive(Clone, Debug, PartialEq)]
pub enum Edit {
    Title(String),
    Seed(u64),
    Device(String),
    Backbone(String),
    /// The backbone whose weights and configuration stand in this folder.
    ModelFolder(PathBuf),
    Data(String),
    Task(String),
    /// Value at a path as in `backbone.settings.weights`, `methods.0.settings.rank` or `recipe.epochs`.
    Set {
        path: String,
        value: Value,
    },
    /// Back to the default.
    Reset {
        path: String,
    },
    /// Every setting of method `index` back to its default.
    ResetAll {
        index: usize,
    },
    /// A new method on the stack at its default place, or at explicit sites.
    Add {
        method: String,
        sites: Option<Vec<String>>,
    },
    /// A new method with a variant's settings and place.
    AddVariant {
        method: String,
        variant: usize,
    },
    /// More cells for method `index`.
    Paint {
        index: usize,
        sites: Vec<String>,
    },
    /// Fewer cells.
    Erase {
        index: usize,
        sites: Vec<String>,
    },
    /// Takes every method off these cells; one that stands nowhere then leaves the stack.
    EraseAll {
        sites: Vec<String>,
    },
    Remove {
        index: usize,
    },
    /// One step earlier or later in the stack.
    Move {
        index: usize,
        later: bool,
    },
    Factor {
        index: usize,
        factor: f64,
    },
    DefaultPlace {
        index: usize,
    },
    /// The whole session at once (a restored run, a pasted file).
    Replace(Box<Session>),
}

impl Command {
    /// Words for menus, the palette and undo.
    pub fn label(&self) -> String {
        match self {
            Command::Edit(edit) => edit.label(),
            Command::Undo => "Undo".into(),
            Command::Redo => "Redo".into(),
            Command::OpenPreset(name) => format!("Open preset {name}"),
            Command::Open(_) => "Open".into(),
            Command::Save => "Save".into(),
            Command::SaveAs(_) => "Save as".into(),
            Command::RestoreAutosave => "Restore".into(),
            Command::DiscardAutosave => "Discard".into(),
            Command::Train => "Train".into(),
            Command::Pause => "Pause".into(),
            Command::Continue => "Continue".into(),
            Command::StopAndKeep => "Stop and keep".into(),
            Command::RestoreRun(_) => "Restore session".into(),
            Command::ToggleRun(_) => "Show or hide run".into(),
            Command::DeleteRun(_) => "Delete run".into(),
            Command::Export { .. } => "Export".into(),
            Command::Figure { .. } => "Save figure".into(),
            Command::HubAsk { .. } => "Ask the hub".into(),
            Command::HubFetch => "Fetch from the hub".into(),
            Command::HubCancel => "Cancel".into(),
            Command::DismissNotice => "Dismiss".into(),
        }
    }

    pub fn help(&self) -> &'static str {
        match self {
            Command::Edit(_) => "Changes the session; undo brings it back.",
            Command::Undo => "Takes back the last change of the session.",
            Command::Redo => "Makes the change again that undo took back.",
            Command::OpenPreset(_) => "Replaces the session by a ready one.",
            Command::Open(_) => "Opens a session file.",
            Command::Save | Command::SaveAs(_) => "Writes the session to its file, whole or not at all.",
            Command::RestoreAutosave => "Brings back the edits that were not saved when the program ended.",
            Command::DiscardAutosave => "Forgets them.",
            Command::Train => "Starts training on the worker thread.",
            Command::Pause => "Waits between two steps and holds everything in memory.",
            Command::Continue => "Goes on at the step where it paused.",
            Command::StopAndKeep => "Ends the run after this step; the adapter as it is now is kept and can be exported.",
            Command::RestoreRun(_) => "Brings back the session that this run was started with.",
            Command::ToggleRun(_) => "Overlays this run's curves on the plots.",
            Command::DeleteRun(_) => "Removes the run's folder from the disk.",
            Command::Export { .. } => "Writes the adapter, reads it back and compares logits on 64 samples.",
            Command::Figure { .. } => "Draws the shown runs as SVG and PNG, with the numbers as CSV.",
            Command::HubAsk { .. } => "Asks for its files, size and licence; fetches nothing yet.",
            Command::HubFetch => "Fetches these files into a folder of their own, compares their hashes, and opens it.",
            Command::HubCancel => "Ends it; nothing stays half fetched.",
            Command::DismissNotice => "Closes the message.",
        }
    }

    /// Shortcut, as shown in menus.
    pub fn shortcut(&self) -> Option<&'static str> {
        match self {
            Command::Undo => Some("Ctrl+Z"),
            Command::Redo => Some("Ctrl+Shift+Z"),
            Command::Open(_) => Some("Ctrl+O"),
            Command::Save => Some("Ctrl+S"),
            Command::SaveAs(_) => Some("Ctrl+Shift+S"),
            Command::Train => Some("F5"),
            Command::Pause | Command::Continue => Some("F6"),
            Command::StopAndKeep => Some("F7"),
            _ => None,
        }
    }
}

impl Edit {
    pub fn label(&self) -> String {
        match self {
            Edit::Title(_) => "Rename".into(),
            Edit::Seed(_) => "Change seed".into(),
            Edit::Device(_) => "Change device".into(),
            Edit::Backbone(_) => "Change backbone".into(),
            Edit::ModelFolder(_) => "Open model folder".into(),
            Edit::Data(_) => "Change data set".into(),
            Edit::Task(_) => "Change task".into(),
            Edit::Set { path, .. } => format!("Set {}", last_name(path)),
            Edit::Reset { path } => format!("Reset {}", last_name(path)),
            Edit::ResetAll { .. } => "Default settings".into(),
            Edit::Add { method, .. } | Edit::AddVariant { method, .. } => format!("Place {method}"),
            Edit::Paint { .. } => "Paint cells".into(),
            Edit::Erase { .. } | Edit::EraseAll { .. } => "Erase cells".into(),
            Edit::Remove { .. } => "Remove method".into(),
            Edit::Move { .. } => "Reorder stack".into(),
            Edit::Factor { .. } => "Change learning-rate factor".into(),
            Edit::DefaultPlace { .. } => "Place by the paper".into(),
            Edit::Replace(_) => "Replace session".into(),
        }
    }

    /// Edits of the same gesture that follow each other are one step of undo.
    pub fn gesture(&self) -> Option<String> {
        match self {
            Edit::Title(_) => Some("title".into()),
            Edit::Seed(_) => Some("seed".into()),
            Edit::Set { path, .. } => Some(path.clone()),
            Edit::Factor { index, .. } => Some(format!("factor {index}")),
            _ => None,
        }
    }
}

/// `recipe.batch_size` as "batch size".
fn last_name(path: &str) -> String {
    path.rsplit('.').next().unwrap_or(path).replace('_', " ")
}
