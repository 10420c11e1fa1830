//! The keyboard: shortcuts that hold in the whole window, before any panel sees the keys.
//! Called by `App::ui` at the start of a frame; menus print the same keys from the commands.
//! Must not carry anything out: it pushes commands and marks the view.

use eframe::egui::{self, Key, KeyboardShortcut, Modifiers};

use super::dialogs::Ask;
use super::panels::grid;
use super::view::{List, View};
use crate::board::Status;
use crate::session::command::{Command, Edit};
use crate::workbench::Workbench;

pub fn read(ctx: &egui::Context, workbench: &Workbench, view: &mut View, asked: &mut Vec<Command>) {
    let pressed = |modifiers, key| ctx.input_mut(|i| i.consume_shortcut(&KeyboardShortcut::new(modifiers, key)));
    let shifted = Modifiers::COMMAND | Modifiers::SHIFT;
    if pressed(shifted, Key::S) {
        commit(ctx);
        save_as(workbench, view);
    }
    if pressed(Modifiers::COMMAND, Key::S) {
        commit(ctx);
        save(workbench, view, asked);
    }
    if pressed(Modifiers::COMMAND, Key::O) {
        commit(ctx);
        view.wanted = Some(Ask::Open);
    }
    if pressed(Modifiers::COMMAND, Key::F) {
        view.find = true;
        view.kept.left = true;
    }
    let training = workbench.board.live();
    if pressed(Modifiers::NONE, Key::F5) {
        commit(ctx);
        asked.push(Command::Train);
    }
    if pressed(Modifiers::NONE, Key::F6)
        && let Some(run) = training
    {
        asked.push(if run.status == Status::Paused { Command::Continue } else { Command::Pause });
    }
    if pressed(Modifiers::NONE, Key::F7) && training.is_some() {
        asked.push(Command::StopAndKeep);
    }
    if ctx.text_edit_focused() {
        return; // the rest belongs to the text that is being typed
    }
    if pressed(shifted, Key::Z) || pressed(Modifiers::COMMAND, Key::Y) {
        asked.push(Command::Redo);
    }
    if pressed(Modifiers::COMMAND, Key::Z) {
        asked.push(Command::Undo);
    }
    // Not consumed: an open menu or popup closes on the same key, and comes first.
    if ctx.input(|i| i.key_pressed(Key::Escape)) && !egui::Popup::is_any_open(ctx) {
        view.escape();
    }
    let back = ctx.os().is_mac() && pressed(Modifiers::NONE, Key::Backspace);
    if pressed(Modifiers::NONE, Key::Delete) || back {
        delete(workbench, view, asked);
    }
}

/// What is under the pointer on the drawing, else what is selected in the list that was clicked last.
fn delete(workbench: &Workbench, view: &mut View, asked: &mut Vec<Command>) {
    let covered = |site: &String| workbench.plan.members.iter().any(|m| m.sites.contains(site));
    match view.hovered.clone().filter(covered) {
        Some(site) => grid::erase(workbench, view, vec![site], asked),
        None if view.list == List::Runs => {
            let run = view.run.as_ref().and_then(|id| workbench.board.run(id));
            view.ask_delete = run.filter(|run| !run.status.is_live()).map(|run| run.id.clone());
        }
        None => asked.extend(view.selected.map(|index| Command::Edit(Edit::Remove { index }))),
    }
}

/// Takes the keyboard from a field, so that what was typed into it is in before what follows.
pub fn commit(ctx: &egui::Context) {
    ctx.memory_mut(|memory| {
        if let Some(id) = memory.focused() {
            memory.surrender_focus(id);
        }
    });
}

/// Saves to the session's file; asks for one where there is none.
pub fn save(workbench: &Workbench, view: &mut View, asked: &mut Vec<Command>) {
    match workbench.path {
        Some(_) => asked.push(Command::Save),
        None => save_as(workbench, view),
    }
}

pub fn save_as(workbench: &Workbench, view: &mut View) {
    let name = workbench.path.as_ref().and_then(|p| p.file_name()).map(|n| n.to_string_lossy().into_owned());
    let name = name.unwrap_or_else(|| format!("{}.petl.toml", slug(&workbench.session.title)));
    view.wanted = Some(Ask::SaveAs { name });
}

/// A title as a file's name: `digits-lora`.
fn slug(title: &str) -> String {
    let letters: String = title.to_lowercase().chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect();
    let words: Vec<_> = letters.split('-').filter(|word| !word.is_empty()).collect();
    let name: String = words.join("-").chars().take(60).collect();
    if name.is_empty() { "session".to_owned() } else { name }
}
