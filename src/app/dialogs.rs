//! File dialogs: each is shown by a thread of its own, which hands the chosen path back, so that the window never waits.
//! Where the desktop has no dialog to show, a bar asks for the path instead. Tests put answers of their own in.
//! Must not touch files itself: it only turns a path into a command.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use eframe::egui;

use crate::backbones::FOLDER;
use crate::session::Value;
use crate::session::command::{Command, Edit};

/// What the person is asked for.
#[derive(Clone, Debug)]
pub enum Ask {
    Open,
    SaveAs {
        name: String,
    },
    /// A folder that will be made for the export.
    Export {
        run: String,
        kind: String,
    },
    Figure {
        kind: String,
    },
    /// A safetensors file with the backbone's tensors.
    Weights,
    /// A folder with a pretrained network.
    Model,
    /// The file or folder that a setting of the data set names.
    Data {
        field: &'static str,
    },
}

impl Ask {
    pub fn title(&self) -> &'static str {
        match self {
            Ask::Open => "Open a session",
            Ask::SaveAs { .. } => "Save the session",
            Ask::Export { .. } => "Export into a new folder",
            Ask::Figure { .. } => "Save the figure",
            Ask::Weights => "Weights of the backbone",
            Ask::Model => "Open a model folder",
            Ask::Data { .. } => "The data set's files",
        }
    }

    /// The name that a new file or folder would have.
    fn name(&self) -> String {
        match self {
            Ask::SaveAs { name } => name.clone(),
            Ask::Export { run, kind } => format!("{run}-{kind}"),
            Ask::Figure { kind } => format!("{kind}.svg"),
            Ask::Open | Ask::Weights | Ask::Model | Ask::Data { .. } => String::new(),
        }
    }

    fn show(&self, dialog: rfd::FileDialog) -> Option<PathBuf> {
        let dialog = dialog.set_title(self.title());
        match self {
            Ask::Open => dialog.add_filter("petl session", &["toml"]).pick_file(),
            Ask::Weights => dialog.add_filter("Safetensors", &["safetensors"]).pick_file(),
            Ask::Model => dialog.pick_folder(),
            Ask::Data { field } if *field == FOLDER => dialog.pick_folder(),
            Ask::Data { .. } => dialog.add_filter("Tables", &["csv", "tsv", "jsonl", "parquet"]).pick_file(),
            Ask::SaveAs { .. } => dialog.add_filter("petl session", &["toml"]).set_file_name(self.name()).save_file(),
            Ask::Export { .. } => dialog.set_file_name(self.name()).save_file(),
            Ask::Figure { .. } => {
                dialog.add_filter("SVG, with PNG and CSV beside it", &["svg"]).set_file_name(self.name()).save_file()
            }
        }
    }

    fn command(self, path: PathBuf) -> Command {
        match self {
            Ask::Open => Command::Open(path),
            Ask::SaveAs { .. } => Command::SaveAs(with_ending(path)),
            Ask::Export { run, kind } => Command::Export { run, kind, folder: path },
            Ask::Figure { kind } => Command::Figure { kind, path },
            Ask::Model => Command::Edit(Edit::ModelFolder(path)),
            Ask::Weights => Command::Edit(Edit::Set {
                path: "backbone.settings.weights".into(),
                value: Value::Text(path.display().to_string()),
            }),
            Ask::Data { field } => Command::Edit(Edit::Set {
                path: format!("data.settings.{field}"),
                value: Value::Text(path.display().to_string()),
            }),
        }
    }
}

/// A session's file ends in `.petl.toml`, whatever was typed.
fn with_ending(path: PathBuf) -> PathBuf {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    if name.ends_with(".toml") {
        return path;
    }
    path.with_file_name(format!("{name}.petl.toml"))
}

/// How a dialog ended.
pub enum Answer {
    Chosen(Command),
    /// Closed without a choice.
    Cancelled,
}

/// What stands in for the desktop's dialogs.
pub type Answerer = Arc<dyn Fn(&Ask) -> Option<PathBuf> + Send + Sync>;

/// Nobody closes a dialog that fast: there was none.
const TOO_FAST: Duration = Duration::from_millis(250);

/// At most one dialog at a time.
#[derive(Default)]
pub struct Dialogs {
    asked: Option<(Ask, Instant)>,
    waiting: Option<Receiver<Option<PathBuf>>>,
    /// The bar that asks for a path: what for, and what is typed.
    pub typed: Option<(Ask, String)>,
    pub answerer: Option<Answerer>,
}

impl Dialogs {
    pub fn is_open(&self) -> bool {
        self.waiting.is_some() || self.typed.is_some()
    }

    /// Shows a dialog above the window, unless one is open. True when it did.
    pub fn ask(&mut self, ctx: &egui::Context, frame: &eframe::Frame, ask: Ask) -> bool {
        if self.is_open() {
            return false;
        }
        let (sender, receiver) = bounded(1);
        let ctx = ctx.clone();
        let dialog = self.answerer.is_none().then(|| rfd::FileDialog::new().set_parent(frame));
        let (answerer, shown) = (self.answerer.clone(), ask.clone());
        let thread = std::thread::Builder::new().name("petl-dialog".into()).spawn(move || {
            let path = match (answerer, dialog) {
                (Some(answerer), _) => answerer(&shown),
                (None, Some(dialog)) => shown.show(dialog),
                (None, None) => None,
            };
            let _ = sender.send(path);
            ctx.request_repaint();
        });
        if thread.is_ok() {
            self.waiting = Some(receiver);
            self.asked = Some((ask, Instant::now()));
        }
        thread.is_ok()
    }

    /// The answer of a dialog that was closed since the last call.
    pub fn poll(&mut self) -> Option<Answer> {
        let path = match self.waiting.as_ref()?.try_recv() {
            Ok(path) => path,
            Err(crossbeam_channel::TryRecvError::Empty) => return None,
            Err(crossbeam_channel::TryRecvError::Disconnected) => None, // its thread died: as if there were no dialog
        };
        self.waiting = None;
        let (ask, since) = self.asked.take()?;
        match path {
            Some(path) => Some(Answer::Chosen(ask.command(path))),
            None if self.answerer.is_none() && since.elapsed() < TOO_FAST => {
                let folder = std::env::current_dir().unwrap_or_default();
                self.typed = Some((ask.clone(), folder.join(ask.name()).display().to_string()));
                None
            }
            None => Some(Answer::Cancelled),
        }
    }

    /// The bar was answered: with what is typed, or with nothing.
    pub fn answer_typed(&mut self, take: bool) -> Option<Answer> {
        let (ask, path) = self.typed.take()?;
        if !take || path.trim().is_empty() {
            return Some(Answer::Cancelled);
        }
        Some(Answer::Chosen(ask.command(PathBuf::from(path.trim()))))
    }
}
