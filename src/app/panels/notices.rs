//! Bars under the top bar: questions that wait for an answer, errors, what was done. None of them stops the work.
//! Called by `panels::show`.
//! Must not save or close by itself: it pushes commands, marks the view, or hands back what was said.

use eframe::egui::{self, Align, Color32, Frame, Key, Layout, Margin, Panel, RichText, TextEdit, Ui};

use super::Said;
use crate::app::form::button;
use crate::app::keys::save;
use crate::app::theme::{self, Theme};
use crate::app::view::{Closing, View};
use crate::app::words;
use crate::session::command::Command;
use crate::workbench::Workbench;

pub fn show(ui: &mut Ui, workbench: &Workbench, view: &mut View, asked: &mut Vec<Command>) -> Option<Said> {
    let theme = Theme::of(ui);
    let busy = workbench.board.live().is_some() || view.exporting.is_some();
    if view.closing == Closing::Asked && !workbench.dirty && !busy {
        view.closing = Closing::No; // what the question was about is over
    }
    let mut said = None;
    let closing = matches!(view.closing, Closing::Asked | Closing::WhenSaved | Closing::WhenIdle);
    bar(ui, "close", closing.then_some(theme.warn_ground), |ui| said = said.or(close(ui, workbench, view, asked)));
    if view.ask_open.is_some() && !workbench.dirty && !view.open_when_saved {
        asked.extend(view.ask_open.take()); // nothing is unsaved any more
    }
    let opening = view.ask_open.is_some();
    bar(ui, "open", opening.then_some(theme.warn_ground), |ui| open(ui, workbench, view, asked));
    let typing = view.dialogs.typed.is_some();
    bar(ui, "path", typing.then_some(theme.raised), |ui| said = said.or(path(ui, view)));
    let hub = super::hub::is_open(workbench, view);
    bar(ui, "hub", hub.then_some(theme.raised), |ui| super::hub::show(ui, workbench, view, asked));
    let left = workbench.unsaved.as_ref();
    bar(ui, "restore", left.map(|_| theme.warn_ground), |ui| {
        let title = left.map_or_else(String::new, |left| words::cut(&left.session.title, 60));
        let file = left.and_then(|left| left.path.as_ref()).map_or_else(String::new, |path| format!(" in {}", path.display()));
        line(ui, theme.text, &format!("A program ended with unsaved edits of \"{title}\"{file}. Restore them?"), 200.0);
        ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
            button(ui, "Discard", Command::DiscardAutosave, None, asked);
            button(ui, "Restore", Command::RestoreAutosave, None, asked);
        });
    });
    let notice = workbench.notice.as_ref();
    let is_error = notice.is_some_and(|notice| notice.is_error);
    let (fill, color) = if is_error { (theme.error_ground, theme.error) } else { (theme.raised, theme.text) };
    bar(ui, "notice", notice.map(|_| fill), |ui| {
        line(ui, color, notice.map_or("", |notice| &notice.words), 100.0);
        ui.with_layout(Layout::right_to_left(Align::Center), |ui| button(ui, "Dismiss", Command::DismissNotice, None, asked));
    });
    said
}

/// A bar, or none; what is drawn after it keeps its ids either way.
fn bar(ui: &mut Ui, name: &str, fill: Option<Color32>, contents: impl FnOnce(&mut Ui)) {
    let Some(fill) = fill else {
        ui.skip_ahead_auto_ids(1);
        return;
    };
    let frame = Frame::new().fill(fill).inner_margin(Margin::symmetric(12, 5));
    Panel::top(name.to_owned()).resizable(false).frame(frame).show(ui, |ui| ui.horizontal(contents));
}

/// Text that leaves `room` for the buttons.
pub fn line(ui: &mut Ui, color: Color32, words: &str, room: f32) {
    let width = (ui.available_width() - room).max(160.0);
    ui.allocate_ui_with_layout(egui::vec2(width, 22.0), Layout::top_down(Align::Min), |ui| {
        ui.add(egui::Label::new(RichText::new(words).font(theme::regular(theme::BODY)).color(color)).selectable(true).wrap());
    });
}

fn close(ui: &mut Ui, workbench: &Workbench, view: &mut View, asked: &mut Vec<Command>) -> Option<Said> {
    let theme = Theme::of(ui);
    let live = workbench.board.live();
    if view.closing == Closing::WhenIdle {
        let what = match (live, &view.exporting) {
            (Some(run), _) => format!("Stopping and keeping {} ...", words::cut(&run.id, 50)),
            (None, Some((run, _))) => format!("Exporting {} ...", words::cut(run, 50)),
            (None, None) => String::new(),
        };
        line(ui, theme.text, &format!("{what} The window closes when it is done."), 200.0);
        ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
            if ui.button("Stay open").clicked() {
                view.closing = Closing::No;
            }
        });
        return None;
    }
    let mut question = if workbench.dirty { "Save before closing?".to_owned() } else { "Close?".to_owned() };
    if live.is_some() {
        question += " The run that is training is stopped and kept.";
    }
    if view.exporting.is_some() {
        question += " The export is finished first.";
    }
    let mut said = None;
    line(ui, theme.text, &question, 330.0);
    ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
        if ui.button("Cancel").clicked() {
            view.closing = Closing::No;
        }
        if ui.button(if workbench.dirty { "Close without saving" } else { "Close" }).clicked() {
            said = Some(Said::Close);
        }
        let save_label = if workbench.path.is_some() { "Save" } else { "Save..." };
        if workbench.dirty && ui.button(save_label).clicked() {
            view.closing = Closing::WhenSaved;
            save(workbench, view, asked);
        }
    });
    said
}

/// Before a file replaces a session with unsaved edits.
fn open(ui: &mut Ui, workbench: &Workbench, view: &mut View, asked: &mut Vec<Command>) {
    let name = match &view.ask_open {
        Some(Command::Open(path)) => path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned()),
        _ => String::new(),
    };
    let title = words::cut(&workbench.session.title, 40);
    line(ui, Theme::of(ui).text, &format!("Save \"{title}\" before {} is opened?", words::cut(&name, 40)), 330.0);
    ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
        if ui.button("Cancel").clicked() {
            view.ask_open = None;
        }
        if ui.button("Open without saving").clicked() {
            asked.extend(view.ask_open.take());
        }
        if ui.button(if workbench.path.is_some() { "Save" } else { "Save..." }).clicked() {
            view.open_when_saved = true;
            save(workbench, view, asked);
        }
    });
}

/// Stands in for the desktop's file dialog.
fn path(ui: &mut Ui, view: &mut View) -> Option<Said> {
    let (ask, text) = view.dialogs.typed.as_mut()?;
    let mut said = None;
    ui.label(format!("{}. This desktop shows no file dialog; type the path:", ask.title()));
    ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
        if ui.button("Cancel").clicked() {
            said = Some(Said::Path(false));
        }
        if ui.button("OK").clicked() {
            said = Some(Said::Path(true));
        }
        let answer = ui.add(TextEdit::singleline(text).desired_width(ui.available_width() - 8.0)).accessible_name("Path");
        if ui.memory(|memory| memory.focused().is_none()) && said.is_none() && !answer.lost_focus() {
            answer.request_focus();
        }
        if answer.lost_focus() && ui.input(|i| i.key_pressed(Key::Enter)) {
            said = Some(Said::Path(true));
        }
        if answer.lost_focus() && ui.input(|i| i.key_pressed(Key::Escape)) {
            said = Some(Said::Path(false));
        }
    });
    said
}
