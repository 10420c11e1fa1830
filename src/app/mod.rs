//! The window. Panels draw from `&Workbench` and push commands; `App` carries them out after drawing.
//! Called by the program without arguments, and by `tests/window.rs`.
//! Must not know tensors, weights or the worker's channels: all of it goes through the workbench.

mod dialogs;
mod form;
mod panels;
mod samples;
mod theme;
mod view;
mod words;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use eframe::egui::{self, Key, KeyboardShortcut, Modifiers};

use crate::session::Session;
use crate::session::command::{Command, Edit};
use crate::workbench::Workbench;
use dialogs::Ask;
use view::{Brush, View};

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
    let options = eframe::NativeOptions {
        viewport: egui::ViewportBuilder::default()
            .with_title("petl")
            .with_app_id("petl")
            .with_inner_size([1440.0, 900.0])
            .with_min_inner_size([1100.0, 700.0]),
        renderer: eframe::Renderer::Wgpu,
        ..Default::default()
    };
    let create: eframe::AppCreator = Box::new(move |cc| {
        let ctx = cc.egui_ctx.clone();
        let mut workbench = Workbench::new(session, home, Box::new(move || ctx.request_repaint()))?;
        workbench.path = path;
        Ok(Box::new(App::new(&cc.egui_ctx, workbench)))
    });
    eframe::run_native("petl", options, create)
        .map_err(|error| anyhow!("{error}"))
        .context("cannot open the window. Is there a display and a graphics driver? The command line works without: petl --help")
}

impl App {
    /// The window's contents around a workbench.
    pub fn new(ctx: &egui::Context, workbench: Workbench) -> App {
        theme::install(ctx);
        ctx.set_theme(egui::Theme::Dark);
        workbench.list_devices();
        App { view: View::new(&workbench), workbench }
    }

    pub fn workbench(&self) -> &Workbench {
        &self.workbench
    }

    /// Does what a panel, a shortcut or a dialog asked.
    pub fn carry_out(&mut self, command: Command) {
        self.workbench.carry_out(command);
        self.view.follow(&self.workbench);
    }

    /// Asks before unsaved edits are lost; a crash leaves them in the autosave.
    fn closing(&mut self, ctx: &egui::Context) {
        if self.view.close_when_saved && !self.workbench.dirty {
            self.view.close_when_saved = false;
            self.view.closing = true;
            ctx.send_viewport_cmd(egui::ViewportCommand::Close);
        }
        if ctx.input(|i| i.viewport().close_requested()) && !self.view.closing {
            let live = self.workbench.board.live().is_some();
            if self.workbench.dirty || live {
                ctx.send_viewport_cmd(egui::ViewportCommand::CancelClose);
                self.view.ask_close = true;
            }
        }
    }
}

impl eframe::App for App {
    fn logic(&mut self, ctx: &egui::Context, _frame: &mut eframe::Frame) {
        if self.workbench.poll() {
            self.view.follow(&self.workbench);
        }
        if let Some(Some(command)) = self.view.dialogs.poll() {
            self.carry_out(command);
        }
        self.view.thumbnails.poll(ctx, &self.workbench.session);
        let idle = !ctx.input(|i| i.pointer.any_down()) && !ctx.egui_wants_keyboard_input();
        if idle {
            self.workbench.end_gesture();
        }
        if self.workbench.dirty {
            ctx.request_repaint_after(Duration::from_millis(2500)); // for the autosave
        }
        self.closing(ctx);
    }

    fn ui(&mut self, ui: &mut egui::Ui, _frame: &mut eframe::Frame) {
        let mut asked = Vec::new();
        shortcuts(ui.ctx(), &self.workbench, &mut self.view, &mut asked);
        panels::show(ui, &self.workbench, &mut self.view, &mut asked);
        if asked.is_empty() {
            return;
        }
        for command in asked {
            self.carry_out(command);
        }
        ui.ctx().request_repaint();
    }

    fn on_exit(&mut self) {
        self.workbench.close();
    }
}

fn shortcuts(ctx: &egui::Context, workbench: &Workbench, view: &mut View, asked: &mut Vec<Command>) {
    let pressed = |modifiers, key| ctx.input_mut(|i| i.consume_shortcut(&KeyboardShortcut::new(modifiers, key)));
    let shifted = Modifiers::COMMAND | Modifiers::SHIFT;
    if pressed(shifted, Key::S) {
        save_as(ctx, workbench, view);
    }
    if pressed(Modifiers::COMMAND, Key::S) {
        save(ctx, workbench, view, asked);
    }
    if pressed(Modifiers::COMMAND, Key::O) {
        view.dialogs.ask(ctx, Ask::Open);
    }
    let training = workbench.board.live();
    if pressed(Modifiers::NONE, Key::F5) {
        asked.push(Command::Train);
    }
    if pressed(Modifiers::NONE, Key::F6)
        && let Some(run) = training
    {
        asked.push(if run.status == crate::board::Status::Paused { Command::Continue } else { Command::Pause });
    }
    if pressed(Modifiers::NONE, Key::F7) && training.is_some() {
        asked.push(Command::StopAndKeep);
    }
    if ctx.egui_wants_keyboard_input() {
        return; // the rest belongs to the text that is being typed
    }
    if pressed(shifted, Key::Z) || pressed(Modifiers::COMMAND, Key::Y) {
        asked.push(Command::Redo);
    }
    if pressed(Modifiers::COMMAND, Key::Z) {
        asked.push(Command::Undo);
    }
    if pressed(Modifiers::NONE, Key::Escape) {
        view.brush = Brush::Selected;
        view.sweep = None;
    }
    if pressed(Modifiers::NONE, Key::Delete) {
        match view.hovered.clone() {
            Some(site) => panels::grid::erase(workbench, view, vec![site], asked),
            None => asked.extend(view.selected.map(|index| Command::Edit(Edit::Remove { index }))),
        }
    }
}

/// Saves to the session's file; asks for one where there is none.
fn save(ctx: &egui::Context, workbench: &Workbench, view: &mut View, asked: &mut Vec<Command>) {
    match workbench.path {
        Some(_) => asked.push(Command::Save),
        None => save_as(ctx, workbench, view),
    }
}

fn save_as(ctx: &egui::Context, workbench: &Workbench, view: &mut View) {
    let name = workbench.path.as_ref().and_then(|p| p.file_name()).map(|n| n.to_string_lossy().into_owned());
    let name = name.unwrap_or_else(|| {
        format!("{}.petl.toml", workbench.session.title.to_lowercase().replace([' ', ',', '/'], "-").replace("--", "-"))
    });
    view.dialogs.ask(ctx, Ask::SaveAs { name });
}
