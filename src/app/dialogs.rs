//! File dialogs: each is shown by a thread of its own, which hands the chosen path back, so that the window never waits.
//! Called by the top bar and the table of runs; `poll` is called once a frame.
//! Must not touch files itself: it only turns a path into a command.

use std::path::PathBuf;

use crossbeam_channel::{Receiver, bounded};
use eframe::egui;

use crate::session::command::Command;

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
}

impl Ask {
    fn show(&self) -> Option<PathBuf> {
        let dialog = rfd::FileDialog::new();
        match self {
            Ask::Open => dialog.set_title("Open a session").add_filter("petl session", &["toml"]).pick_file(),
            Ask::SaveAs { name } => {
                dialog.set_title("Save the session").add_filter("petl session", &["toml"]).set_file_name(name).save_file()
            }
            Ask::Export { run, kind } => {
                dialog.set_title("Export into a new folder").set_file_name(format!("{run}-{kind}")).save_file()
            }
            Ask::Figure { kind } => dialog
                .set_title("Save the figure")
                .add_filter("SVG, with PNG and CSV beside it", &["svg"])
                .set_file_name(format!("{kind}.svg"))
                .save_file(),
        }
    }

    fn command(self, path: PathBuf) -> Command {
        match self {
            Ask::Open => Command::Open(path),
            Ask::SaveAs { .. } => Command::SaveAs(with_ending(path)),
            Ask::Export { run, kind } => Command::Export { run, kind, folder: path },
            Ask::Figure { kind } => Command::Figure { kind, path },
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

/// At most one dialog at a time.
#[derive(Default)]
pub struct Dialogs {
    waiting: Option<Receiver<Option<Command>>>,
}

impl Dialogs {
    pub fn is_open(&self) -> bool {
        self.waiting.is_some()
    }

    /// Shows a dialog, unless one is open.
    pub fn ask(&mut self, ctx: &egui::Context, ask: Ask) {
        if self.is_open() {
            return;
        }
        let (sender, receiver) = bounded(1);
        let ctx = ctx.clone();
        let thread = std::thread::Builder::new().name("petl-dialog".into()).spawn(move || {
            let _ = sender.send(ask.show().map(|path| ask.command(path)));
            ctx.request_repaint();
        });
        if thread.is_ok() {
            self.waiting = Some(receiver);
        }
    }

    /// The command of an answered dialog; `Some(None)` when it was closed without a choice.
    pub fn poll(&mut self) -> Option<Option<Command>> {
        let answer = match self.waiting.as_ref()?.try_recv() {
            Ok(answer) => answer,
            Err(crossbeam_channel::TryRecvError::Empty) => return None,
            Err(crossbeam_channel::TryRecvError::Disconnected) => None,
        };
        self.waiting = None;
        Some(answer)
    }
}
