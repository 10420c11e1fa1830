//! The bar that fetches a model folder from the hub: which repository, what it holds and under which licence, how far it is.
//! Called by `notices`.
//! Must not fetch anything by itself: it pushes commands.

use eframe::egui::{self, Align, Key, Layout, ProgressBar, TextEdit, Ui};

use super::notices::line;
use crate::app::form::button;
use crate::app::theme::Theme;
use crate::app::view::View;
use crate::downloads::State;
use crate::session::command::Command;
use crate::workbench::Workbench;

/// What is typed into the bar.
#[derive(Clone, Debug)]
pub struct Typed {
    repository: String,
    revision: String,
}

impl Default for Typed {
    fn default() -> Typed {
        Typed { repository: String::new(), revision: "main".to_owned() }
    }
}

/// The bar is there while something is asked or fetched.
pub fn is_open(workbench: &Workbench, view: &View) -> bool {
    view.hub.is_some() || workbench.download.state != State::Idle
}

pub fn show(ui: &mut Ui, workbench: &Workbench, view: &mut View, asked: &mut Vec<Command>) {
    let theme = Theme::of(ui);
    match &workbench.download.state {
        State::Idle => ask(ui, view, asked),
        State::Asking(repository) => {
            line(ui, theme.text, &format!("Asking the hub what {repository} holds ..."), 200.0);
            ui.with_layout(Layout::right_to_left(Align::Center), |ui| cancel(ui, view, asked));
        }
        State::Known(about) => {
            let licence = about.licence.as_ref().map_or("names no licence".to_owned(), |licence| format!("licence {licence}"));
            let (count, short) = (about.files.len(), about.commit.get(..12).unwrap_or(&about.commit));
            let words =
                format!("{}: {licence}, {} in {count} files, commit {short}. Fetch it?", about.repository, size(about.bytes()));
            line(ui, theme.text, &words, 240.0);
            ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
                cancel(ui, view, asked);
                button(ui, "Fetch", Command::HubFetch, None, asked);
            });
        }
        State::Fetching { about, done } => {
            let all = about.bytes().max(1);
            view.hub = None;
            ui.label(format!("Fetching {}, {} of {}", about.repository, size(*done), size(all)));
            ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
                cancel(ui, view, asked);
                ui.add(ProgressBar::new(*done as f32 / all as f32).desired_width((ui.available_width() - 8.0).max(60.0)));
            });
        }
    }
}

fn ask(ui: &mut Ui, view: &mut View, asked: &mut Vec<Command>) {
    let Some(typed) = view.hub.as_mut() else { return };
    ui.label("From the Hugging Face hub:");
    let answer = ui.add(TextEdit::singleline(&mut typed.repository).hint_text("owner/name").desired_width(300.0));
    let answer = answer.accessible_name("Repository");
    if ui.memory(|memory| memory.focused().is_none()) && !answer.lost_focus() {
        answer.request_focus();
    }
    ui.label("at");
    let revision = ui.add(TextEdit::singleline(&mut typed.revision).desired_width(90.0)).accessible_name("Revision");
    let command = Command::HubAsk { repository: typed.repository.trim().to_owned(), revision: typed.revision.trim().to_owned() };
    let enter = [&answer, &revision].iter().any(|field| field.lost_focus()) && ui.input(|i| i.key_pressed(Key::Enter));
    let ready = !typed.repository.trim().is_empty();
    ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
        let closed = ui.button("Cancel").clicked();
        let look = ui.add_enabled(ready, egui::Button::new("Look")).on_hover_text(command.help()).clicked();
        if ready && (look || enter) {
            asked.push(command);
        }
        if closed {
            view.hub = None;
        }
    });
}

fn cancel(ui: &mut Ui, view: &mut View, asked: &mut Vec<Command>) {
    if button(ui, "Cancel", Command::HubCancel, None, asked).clicked() {
        view.hub = None;
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{} kB", bytes.div_ceil(1000)),
        1_000_000..1_000_000_000 => format!("{:.0} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}
