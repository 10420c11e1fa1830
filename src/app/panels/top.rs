//! The top bar: menus, the session's name, training buttons, the device.
//! Called by `panels::show`.
//! Must not change anything but the view: it pushes commands.

use eframe::egui::{self, Align, Align2, Button, Frame, Layout, RichText, TextEdit, Ui, UiBuilder, vec2};

use crate::app::dialogs::Ask;
use crate::app::form::item;
use crate::app::kept::Look;
use crate::app::keys::{save, save_as};
use crate::app::theme::{self, Theme};
use crate::app::view::View;
use crate::app::words;
use crate::board::Status;
use crate::session::command::{Command, Edit};
use crate::session::presets;
use crate::workbench::Workbench;

pub fn show(ui: &mut Ui, workbench: &Workbench, view: &mut View, asked: &mut Vec<Command>) {
    let theme = Theme::of(ui);
    let bar = ui.max_rect();
    let menus = ui.scope_builder(UiBuilder::new().max_rect(bar).layout(Layout::left_to_right(Align::Center)), |ui| {
        ui.label(RichText::new("petl").font(theme::semibold(theme::HEAD)));
        ui.add_space(6.0);
        egui::MenuBar::new().ui(ui, |ui| menus(ui, workbench, view, asked)).inner
    });
    let menus = menus.inner;
    let right = ui.scope_builder(UiBuilder::new().max_rect(bar).layout(Layout::right_to_left(Align::Center)), |ui| {
        if bar.width() > 900.0 {
            ui.label(RichText::new(words::cut(&device(workbench), 30)).font(theme::regular(theme::SMALL)).color(theme.weak))
                .on_hover_text("The device that the next run trains on. Choose it at the left, under Device.");
        }
        ui.add_space(4.0);
        buttons(ui, workbench, view, asked);
        ui.min_rect().left()
    });
    // The title stands in the middle of what is left between menus and buttons, if there is room.
    let middle = egui::Rect::from_min_max(egui::pos2(menus + 12.0, bar.top()), egui::pos2(right.inner - 12.0, bar.bottom()));
    if middle.width() > 120.0 {
        let centred = UiBuilder::new().max_rect(middle).layout(Layout::top_down(Align::Center));
        ui.scope_builder(centred, |ui| title(ui, workbench, asked));
    }
}

fn title(ui: &mut Ui, workbench: &Workbench, asked: &mut Vec<Command>) {
    let theme = Theme::of(ui);
    let (space, small) = (ui.available_width(), theme::regular(theme::SMALL));
    ui.spacing_mut().item_spacing.y = 0.0;
    ui.add_space(2.0);
    let mut title = workbench.session.title.clone();
    let edit =
        TextEdit::singleline(&mut title).font(theme::medium(theme::BODY)).frame(Frame::NONE).desired_width(space.min(420.0));
    let edit = edit.align(Align2::CENTER_CENTER).margin(vec2(4.0, 1.0));
    if ui.add(edit).on_hover_text("Title of the session. Click to rename.").accessible_name("Session title").changed() {
        asked.push(Command::Edit(Edit::Title(title)));
    }
    let file = match &workbench.path {
        Some(path) => path.display().to_string(),
        None => "no file yet".to_owned(),
    };
    let state = if workbench.dirty { "edited" } else { "saved" };
    let longest = ((space / 6.2) as usize).max(16);
    let shown = words::cut_front(&file, longest.saturating_sub(9).max(8));
    let line = if workbench.dirty || workbench.path.is_some() { format!("{shown} · {state}") } else { shown };
    let color = if workbench.dirty { theme.warn } else { theme.weak };
    ui.label(RichText::new(line).font(small).color(color)).on_hover_text(file);
}

/// Words for the device that the next run gets.
fn device(workbench: &Workbench) -> String {
    let id = &workbench.session.device;
    let named = |id: &str| workbench.devices.iter().find(|d| d.id == id || d.name == id);
    if id == "auto" {
        let chosen = workbench.devices.iter().find(|d| !d.software && d.id != "cpu").or_else(|| named("cpu"));
        return chosen.map_or_else(|| "auto".to_owned(), |d| d.name.clone());
    }
    named(id).map_or_else(|| id.clone(), |d| d.name.clone())
}

/// Why a run cannot be started now.
fn why_not_train(workbench: &Workbench) -> Option<String> {
    if workbench.board.live().is_some() {
        return Some("A run is training. Stop it first, or wait.".into());
    }
    workbench.plan.blocked().map(|problem| problem.words.clone())
}

/// From right to left. While a run trains, keeping it is the main thing to do.
fn buttons(ui: &mut Ui, workbench: &Workbench, view: &View, asked: &mut Vec<Command>) {
    let theme = Theme::of(ui);
    let live = workbench.board.live();
    let paused = live.is_some_and(|run| run.status == Status::Paused);
    let nothing = "No run is training.";
    let mut one = |ui: &mut Ui,
                   words: &str,
                   command: Command,
                   why_not: Option<&str>,
                   fill: Option<egui::Color32>,
                   edge: Option<egui::Color32>| {
        let key = command.shortcut().unwrap_or_default();
        let ink = fill.map_or(theme.text, |_| theme.on_accent);
        let font = if fill.is_some() || edge.is_some() { theme::semibold(theme::BODY) } else { theme::regular(theme::BODY) };
        let (ink, faint) = if why_not.is_some() { (theme.weak, theme.weak) } else { (ink, ink.gamma_multiply(0.8)) };
        let mut job = egui::text::LayoutJob::default();
        job.append(words, 0.0, egui::TextFormat::simple(font, ink));
        job.append(key, 8.0, egui::TextFormat::simple(theme::regular(theme::SMALL), faint));
        let mut button = Button::new(job).min_size(vec2(64.0, 26.0));
        if let Some(fill) = fill.filter(|_| why_not.is_none()) {
            button = button.fill(fill);
        }
        if let Some(edge) = edge {
            button = button.stroke(egui::Stroke::new(1.5, edge));
        }
        let answer = ui.add_enabled(why_not.is_none(), button);
        let answer =
            answer.on_hover_text(command.help()).on_disabled_hover_text(why_not.unwrap_or_default()).accessible_name(words);
        if answer.clicked() {
            asked.push(command);
        }
    };
    let idle = live.is_none().then_some(nothing);
    let stopping = view.stopping.then_some("The worker ends the step it is at, tests, and keeps the adapter.");
    let words = if view.stopping { "Stopping ..." } else { "Stop and keep" };
    let main = (live.is_some() && !view.stopping).then_some(theme.focus());
    one(ui, words, Command::StopAndKeep, idle.or(stopping), None, main);
    let (label, command) = if paused { ("Continue", Command::Continue) } else { ("Pause", Command::Pause) };
    one(ui, label, command, idle.or(stopping), None, None);
    let why_not = why_not_train(workbench);
    one(ui, "Train", Command::Train, why_not.as_deref(), live.is_none().then_some(theme.accent), None);
}

/// Where they end.
fn menus(ui: &mut Ui, workbench: &Workbench, view: &mut View, asked: &mut Vec<Command>) -> f32 {
    ui.menu_button("File", |ui| file(ui, workbench, view, asked));
    ui.menu_button("Edit", |ui| {
        let (undo, redo) = workbench.history.labels();
        let line = |verb: &str, label: Option<&str>| label.map_or_else(|| verb.to_owned(), |l| format!("{verb}: {l}"));
        item(ui, &line("Undo", undo), Command::Undo, undo.is_none().then_some("Nothing to undo."), asked);
        item(ui, &line("Redo", redo), Command::Redo, redo.is_none().then_some("Nothing to redo."), asked);
    });
    ui.menu_button("Run", |ui| {
        let live = workbench.board.live();
        let idle = live.is_none().then_some("No run is training.");
        item(ui, "Train", Command::Train, why_not_train(workbench).as_deref(), asked);
        let paused = live.is_some_and(|run| run.status == Status::Paused);
        let (label, command) = if paused { ("Continue", Command::Continue) } else { ("Pause", Command::Pause) };
        item(ui, label, command, idle, asked);
        item(ui, "Stop and keep", Command::StopAndKeep, idle, asked);
    });
    let last = ui.menu_button("View", |ui| {
        for (label, look) in [("As the system", Look::System), ("Dark", Look::Dark), ("Light", Look::Light)] {
            if ui.radio(view.kept.theme == look, label).clicked() {
                view.kept.theme = look;
                ui.ctx().set_theme(look.preference());
                ui.close();
            }
        }
        ui.separator();
        ui.checkbox(&mut view.kept.heat, "Shade cells by gradient norm");
        ui.checkbox(&mut view.kept.left, "Left side");
        ui.checkbox(&mut view.kept.right, "Right side");
        ui.separator();
        let zoom = ui.ctx().zoom_factor();
        for (label, keys, factor) in
            [("Zoom in", "Ctrl++", zoom + 0.1), ("Zoom out", "Ctrl+-", zoom - 0.1), ("Normal size", "Ctrl+0", 1.0)]
        {
            if ui.add(Button::new(label).shortcut_text(keys)).clicked() {
                ui.ctx().set_zoom_factor(factor.clamp(0.6, 2.5));
                ui.close();
            }
        }
    });
    last.response.rect.right()
}

fn file(ui: &mut Ui, workbench: &Workbench, view: &mut View, asked: &mut Vec<Command>) {
    let ctx = ui.ctx().clone();
    let free = !view.dialogs.is_open();
    let line = |ui: &mut Ui, label: &str, keys: &str, enabled: bool| {
        let entry = if keys.is_empty() { Button::new(label) } else { Button::new(label).shortcut_text(keys) };
        let clicked = ui.add_enabled(enabled, entry).on_disabled_hover_text("A file dialog is open.").clicked();
        if clicked {
            ui.close();
        }
        clicked
    };
    if line(ui, "Open...", "Ctrl+O", free) {
        view.wanted = Some(Ask::Open);
    }
    ui.menu_button("Open preset", |ui| {
        for preset in presets::PRESETS {
            item(ui, preset.name, Command::OpenPreset(preset.name.to_owned()), None, asked);
        }
    });
    ui.separator();
    let label = if workbench.path.is_some() { "Save" } else { "Save..." };
    if line(ui, label, "Ctrl+S", free) {
        save(workbench, view, asked);
    }
    if line(ui, "Save as...", "Ctrl+Shift+S", free) {
        save_as(workbench, view);
    }
    ui.separator();
    if line(ui, "Quit", "", true) {
        ctx.send_viewport_cmd(egui::ViewportCommand::Close);
    }
}
