//! The top bar: menus, the session's name, training buttons, the device.
//! Called by `panels::show`.
//! Must not change anything but the view: it pushes commands.

use eframe::egui::{self, Align, Align2, Button, Frame, Layout, RichText, TextEdit, Ui, UiBuilder, vec2};

use crate::app::dialogs::Ask;
use crate::app::form::item;
use crate::app::theme::{self, Theme};
use crate::app::view::View;
use crate::app::{save, save_as, words};
use crate::board::Status;
use crate::session::command::{Command, Edit};
use crate::session::presets;
use crate::workbench::Workbench;

pub fn show(ui: &mut Ui, workbench: &Workbench, view: &mut View, asked: &mut Vec<Command>) {
    let theme = Theme::of(ui);
    let bar = ui.max_rect();
    ui.scope_builder(UiBuilder::new().max_rect(bar).layout(Layout::left_to_right(Align::Center)), |ui| {
        ui.label(RichText::new("petl").font(theme::semibold(theme::HEAD)));
        ui.add_space(6.0);
        egui::MenuBar::new().ui(ui, |ui| menus(ui, workbench, view, asked));
    });
    let right = ui.scope_builder(UiBuilder::new().max_rect(bar).layout(Layout::right_to_left(Align::Center)), |ui| {
        ui.label(RichText::new(words::cut(&device(workbench), 30)).font(theme::regular(theme::SMALL)).color(theme.weak))
            .on_hover_text("The device that the next run trains on. Choose it at the left, under Device.");
        ui.add_space(4.0);
        buttons(ui, workbench, asked);
        ui.min_rect().left()
    });
    // The title stands in the middle of what is left between menus and buttons.
    let middle =
        egui::Rect::from_min_max(egui::pos2(bar.left() + 250.0, bar.top()), egui::pos2(right.inner - 12.0, bar.bottom()));
    ui.scope_builder(UiBuilder::new().max_rect(middle).layout(Layout::top_down(Align::Center)), |ui| title(ui, workbench, asked));
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
    let shown = if file.chars().count() + 9 > longest {
        let skip = file.chars().count() + 10 - longest;
        format!("…{}", file.chars().skip(skip).collect::<String>())
    } else {
        file.clone()
    };
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

fn buttons(ui: &mut Ui, workbench: &Workbench, asked: &mut Vec<Command>) {
    let theme = Theme::of(ui);
    let live = workbench.board.live();
    let paused = live.is_some_and(|run| run.status == Status::Paused);
    let nothing = "No run is training.";
    let mut one = |ui: &mut Ui, button: Button, command: Command, why_not: Option<&str>| {
        let help = format!("{} {}", command.help(), command.shortcut().unwrap_or_default());
        let answer = ui.add_enabled(why_not.is_none(), button.min_size(vec2(64.0, 26.0)));
        if answer.on_hover_text(help).on_disabled_hover_text(why_not.unwrap_or_default()).clicked() {
            asked.push(command);
        }
    };
    let idle = live.is_none().then_some(nothing);
    one(ui, Button::new("Stop and keep"), Command::StopAndKeep, idle);
    let (label, command) = if paused { ("Continue", Command::Continue) } else { ("Pause", Command::Pause) };
    one(ui, Button::new(label), command, idle);
    let why_not = why_not_train(workbench);
    let words = RichText::new("Train").font(theme::semibold(theme::BODY));
    let train = match why_not {
        None => Button::new(words.color(theme.on_accent)).fill(theme.accent),
        Some(_) => Button::new(words),
    };
    one(ui, train, Command::Train, why_not.as_deref());
}

fn menus(ui: &mut Ui, workbench: &Workbench, view: &mut View, asked: &mut Vec<Command>) {
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
    ui.menu_button("View", |ui| {
        let dark = ui.visuals().dark_mode;
        for (label, theme, on) in [("Dark", egui::Theme::Dark, dark), ("Light", egui::Theme::Light, !dark)] {
            if ui.radio(on, label).clicked() {
                ui.ctx().set_theme(theme);
                ui.close();
            }
        }
        ui.separator();
        ui.checkbox(&mut view.heat, "Shade cells by gradient norm");
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
        view.dialogs.ask(&ctx, Ask::Open);
    }
    ui.menu_button("Open preset", |ui| {
        for preset in presets::PRESETS {
            item(ui, preset.name, Command::OpenPreset(preset.name.to_owned()), None, asked);
        }
    });
    ui.separator();
    let label = if workbench.path.is_some() { "Save" } else { "Save..." };
    if line(ui, label, "Ctrl+S", free) {
        save(&ctx, workbench, view, asked);
    }
    if line(ui, "Save as...", "Ctrl+Shift+S", free) {
        save_as(&ctx, workbench, view);
    }
    ui.separator();
    if line(ui, "Quit", "", true) {
        ctx.send_viewport_cmd(egui::ViewportCommand::Close);
    }
}
