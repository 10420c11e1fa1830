//! Bars under the top bar: questions that wait for an answer, errors, what was done. None of them stops the work.
//! Called by `panels::show`.
//! Must not save or close by itself: it pushes commands and marks the view.

use eframe::egui::{self, Align, Color32, Frame, Layout, Margin, Panel, RichText, Ui};

use crate::app::form::button;
use crate::app::theme::Theme;
use crate::app::view::View;
use crate::app::{save, theme};
use crate::session::command::Command;
use crate::workbench::Workbench;

pub fn show(ui: &mut Ui, workbench: &Workbench, view: &mut View, asked: &mut Vec<Command>) {
    let theme = Theme::of(ui);
    if view.ask_close {
        bar(ui, "close", theme.warn_ground, |ui| closing(ui, workbench, view, asked));
    }
    if let Some(left) = &workbench.unsaved {
        bar(ui, "restore", theme.warn_ground, |ui| {
            let file = left.path.as_ref().map_or_else(String::new, |path| format!(" in {}", path.display()));
            let question = format!("A program ended with unsaved edits of \"{}\"{file}. Restore them?", left.session.title);
            words(ui, theme.text, &question, 200.0);
            ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
                button(ui, "Discard", Command::DiscardAutosave, None, asked);
                button(ui, "Restore", Command::RestoreAutosave, None, asked);
            });
        });
    }
    if let Some(notice) = &workbench.notice {
        let (fill, color) = if notice.is_error { (theme.error_ground, theme.error) } else { (theme.raised, theme.text) };
        bar(ui, "notice", fill, |ui| {
            words(ui, color, &notice.words, 100.0);
            ui.with_layout(Layout::right_to_left(Align::Center), |ui| button(ui, "Dismiss", Command::DismissNotice, None, asked));
        });
    }
}

fn bar(ui: &mut Ui, name: &str, fill: Color32, contents: impl FnOnce(&mut Ui)) {
    let frame = Frame::new().fill(fill).inner_margin(Margin::symmetric(12, 5));
    Panel::top(name.to_owned()).resizable(false).frame(frame).show(ui, |ui| ui.horizontal(contents));
}

/// Text that leaves `room` for the buttons.
fn words(ui: &mut Ui, color: Color32, words: &str, room: f32) {
    let width = (ui.available_width() - room).max(200.0);
    ui.allocate_ui_with_layout(egui::vec2(width, 22.0), Layout::top_down(Align::Min), |ui| {
        ui.add(egui::Label::new(RichText::new(words).font(theme::regular(theme::BODY)).color(color)).selectable(true).wrap());
    });
}

fn closing(ui: &mut Ui, workbench: &Workbench, view: &mut View, asked: &mut Vec<Command>) {
    let theme = Theme::of(ui);
    let live = workbench.board.live().is_some();
    let question = match (workbench.dirty, live) {
        (true, true) => "Save before closing? The run that is training is stopped and kept.",
        (true, false) => "Save before closing?",
        (false, _) => "A run is training. Close all the same? It is stopped and kept.",
    };
    words(ui, theme.text, question, 330.0);
    ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
        if ui.button("Cancel").clicked() {
            view.ask_close = false;
            view.close_when_saved = false;
        }
        let without = if workbench.dirty { "Close without saving" } else { "Close" };
        if ui.button(without).clicked() {
            view.closing = true;
            ui.ctx().send_viewport_cmd(egui::ViewportCommand::Close);
        }
        let save_label = if workbench.path.is_some() { "Save" } else { "Save..." };
        if workbench.dirty && ui.button(save_label).clicked() {
            view.close_when_saved = true;
            save(ui.ctx(), workbench, view, asked);
        }
    });
}
