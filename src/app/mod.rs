//! The window. Panels draw from `&Workbench` and push commands; `App` carries them out after drawing.
//! Called by the program without arguments, and by `tests/window.rs`.
//! Must not know tensors, weights or the worker's channels: all of it goes through the workbench.

mod curves;
mod dialogs;
mod form;
mod items;
mod kept;
mod keys;
mod panels;
mod samples;
mod theme;
mod view;
mod words;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use eframe::egui;

use crate::session::Session;
use crate::session::command::Command;
use crate::workbench::Workbench;
use dialogs::Answer;
pub use dialogs::Ask;
use kept::Kept;
use view::{Closing, View};

/// Runs whose curves are on the plots when the window opens; older ones are a click away.
const SHOWN: usize = 4;

pub struct App {
    workbench: Workbench,
    view: View,
}

/// Opens the window on `session`, with runs kept under `home`, and returns when it is closed.
///
/// # Errors
/// When the system gives no window or the worker thread cannot be started.
pub fn run(session: Session, home: PathBuf) -> Result<()> {
    run_with(session, None, home)
}

/// As `run`, with a session that lives in the file `path`.
///
/// # Errors
/// As `run`.
pub fn run_with(session: Session, path: Option<PathBuf>, home: PathBuf) -> Result<()> {
    let kept = Kept::read(&home);
    let options = eframe::NativeOptions {
        viewport: egui::ViewportBuilder::default()
            .with_title("petl")
            .with_app_id("petl")
            .with_inner_size(kept.size)
            .with_min_inner_size([760.0, 560.0]),
        renderer: eframe::Renderer::Wgpu,
        ..Default::default()
    };
    let create: eframe::AppCreator = Box::new(move |cc| {
        let ctx = cc.egui_ctx.clone();
        let workbench = Workbench::with_file(session, path, home, Box::new(move || ctx.request_repaint()))?;
        Ok(Box::new(App::new(&cc.egui_ctx, workbench)))
    });
    eframe::run_native("petl", options, create)
        .map_err(|error| anyhow!("{error}"))
        .context("cannot open the window. Is there a display and a graphics driver? The command line works without: petl --help")
}

impl App {
    /// The window's contents around a workbench.
    pub fn new(ctx: &egui::Context, mut workbench: Workbench) -> App {
        theme::install(ctx);
        let old: Vec<String> = workbench.board.shown().map(|run| run.id.clone()).collect();
        for id in old.into_iter().rev().skip(SHOWN) {
            workbench.carry_out(Command::ToggleRun(id));
        }
        workbench.list_devices();
        let view = View::new(&workbench);
        ctx.set_theme(view.kept.theme.preference());
        ctx.set_zoom_factor(view.kept.zoom);
        App { view, workbench }
    }

    pub fn workbench(&self) -> &Workbench {
        &self.workbench
    }

    /// Answers file dialogs instead of the desktop, for tests.
    pub fn answer_dialogs(&mut self, answer: impl Fn(&Ask) -> Option<PathBuf> + Send + Sync + 'static) {
        self.view.dialogs.answerer = Some(Arc::new(answer));
    }

    /// Does what a panel, a shortcut or a dialog asked.
    pub fn carry_out(&mut self, command: Command) {
        let export = match &command {
            Command::Export { run, kind, .. } => Some((run.clone(), kind.clone())),
            _ => None,
        };
        let (stops, quiet) = (command == Command::StopAndKeep, command == Command::DismissNotice);
        let before = self.workbench.notice.take();
        self.workbench.carry_out(command);
        let failed = self.workbench.notice.as_ref().is_some_and(|notice| notice.is_error);
        if self.workbench.notice.is_none() && export.is_none() && !quiet {
            self.workbench.notice = before;
        }
        if !failed {
            self.view.exporting = export.or(self.view.exporting.take());
            self.view.stopping |= stops;
        }
        self.view.follow(&self.workbench);
    }

    /// Takes in what the worker reported.
    fn poll(&mut self, ctx: &egui::Context) {
        let before = self.workbench.notice.clone();
        if !self.workbench.poll() {
            return;
        }
        ctx.request_repaint(); // there may be more than one poll takes in
        let ended = |words: &str| words.starts_with("Exported");
        if let Some(notice) = self.workbench.notice.as_ref().filter(|notice| Some(*notice) != before.as_ref())
            && (notice.is_error || ended(&notice.words))
        {
            self.view.exporting = None;
        }
        self.view.follow(&self.workbench);
    }

    /// A dialog was answered. A session that would lose edits waits for a second answer.
    fn answered(&mut self, answer: Answer) {
        match answer {
            Answer::Chosen(command @ Command::Open(_)) if self.workbench.dirty => self.view.ask_open = Some(command),
            Answer::Chosen(command) => self.carry_out(command),
            Answer::Cancelled => {}
        }
    }

    /// Goes on with what waited for a save: closing the window, opening another session.
    fn after_saving(&mut self, ctx: &egui::Context) {
        let saving = self.view.dialogs.is_open() || self.view.wanted.is_some();
        let saved = !self.workbench.dirty;
        if self.view.closing == Closing::WhenSaved && (saved || !saving) {
            match saved {
                true => self.close(ctx),
                false => self.view.closing = Closing::No, // cancelled, or it failed and says so
            }
        }
        if self.view.open_when_saved && (saved || !saving) {
            self.view.open_when_saved = false;
            if saved && let Some(command) = self.view.ask_open.take() {
                self.carry_out(command);
            }
        }
    }

    /// Closes the window, as soon as the worker has kept what it is at.
    fn close(&mut self, ctx: &egui::Context) {
        let live = self.workbench.board.live().is_some();
        if live && !self.view.stopping {
            self.carry_out(Command::StopAndKeep);
        }
        if live || self.view.exporting.is_some() {
            self.view.closing = Closing::WhenIdle;
            return;
        }
        self.view.closing = Closing::Now;
        ctx.send_viewport_cmd(egui::ViewportCommand::Close);
    }

    /// Asks before unsaved edits are lost; a crash leaves them in the autosave.
    fn closing(&mut self, ctx: &egui::Context) {
        self.after_saving(ctx);
        let busy = self.workbench.board.live().is_some() || self.view.exporting.is_some();
        if self.view.closing == Closing::WhenIdle && !busy {
            self.close(ctx);
        }
        if ctx.input(|i| i.viewport().close_requested()) && self.view.closing != Closing::Now && (self.workbench.dirty || busy) {
            ctx.send_viewport_cmd(egui::ViewportCommand::CancelClose);
            if self.view.closing == Closing::No {
                self.view.closing = Closing::Asked;
            }
        }
    }

    fn keep(&mut self, ctx: &egui::Context) {
        let kept = &mut self.view.kept;
        kept.zoom = ctx.zoom_factor();
        let (size, large) = ctx.input(|i| {
            let viewport = i.viewport();
            (viewport.inner_rect.map(|r| r.size()), viewport.maximized == Some(true) || viewport.fullscreen == Some(true))
        });
        if let Some(size) = size.filter(|_| !large) {
            kept.size = [size.x * kept.zoom, size.y * kept.zoom];
        }
    }
}

impl eframe::App for App {
    fn logic(&mut self, ctx: &egui::Context, _frame: &mut eframe::Frame) {
        self.poll(ctx);
        if let Some(answer) = self.view.dialogs.poll() {
            self.answered(answer);
        }
        self.view.thumbnails.poll(ctx, &self.workbench.session, &self.workbench.plan.anatomy);
        let idle = !ctx.input(|i| i.pointer.any_down()) && !ctx.text_edit_focused();
        if idle {
            self.workbench.end_gesture();
        }
        if self.workbench.wants_polls() {
            ctx.request_repaint_after(Duration::from_millis(2500));
        }
        self.closing(ctx);
        self.keep(ctx);
    }

    fn ui(&mut self, ui: &mut egui::Ui, frame: &mut eframe::Frame) {
        let ctx = ui.ctx().clone();
        let mut asked = Vec::new();
        keys::read(&ctx, &self.workbench, &mut self.view, &mut asked);
        let said = panels::show(ui, &self.workbench, &mut self.view, &mut asked);
        self.view.settle();
        // What was just typed comes before what the same click or key asked for.
        asked.sort_by_key(|command| !matches!(command, Command::Edit(_)));
        let any = !asked.is_empty();
        for command in asked {
            self.carry_out(command);
        }
        match said {
            Some(panels::Said::Close) => self.close(&ctx),
            Some(panels::Said::Path(take)) => {
                if let Some(answer) = self.view.dialogs.answer_typed(take) {
                    self.answered(answer);
                }
            }
            None => {}
        }
        if let Some(ask) = self.view.wanted.take() {
            self.view.dialogs.ask(&ctx, frame, ask);
        }
        if any || said.is_some() {
            ctx.request_repaint();
        }
    }

    fn on_exit(&mut self) {
        self.view.kept.write(self.workbench.home());
        self.workbench.close();
    }
}
