//! The left panel, from top to bottom: backbone, data, device, methods, task, recipe.
//! Called by `panels::show`.
//! Must not change the session: it pushes edits.

use eframe::egui::{self, Frame, Margin, ScrollArea, Ui};

use super::{backbone, palette};
use crate::app::form::{field, fields, head, row, whole};
use crate::app::view::View;
use crate::session::Optimizer;
use crate::session::command::{Command, Edit};
use crate::session::recipe::{FIELDS, values};
use crate::tasks;
use crate::workbench::Workbench;

pub fn show(ui: &mut Ui, workbench: &Workbench, view: &mut View, asked: &mut Vec<Command>) {
    ScrollArea::vertical().auto_shrink(false).show(ui, |ui| {
        Frame::new().inner_margin(Margin { left: 12, right: 12, top: 0, bottom: 12 }).show(ui, |ui| {
            ui.spacing_mut().item_spacing.y = 4.0;
            backbone::backbone(ui, workbench, view, asked);
            backbone::data(ui, workbench, view, asked);
            device(ui, workbench, asked);
            palette::show(ui, workbench, view, asked);
            task(ui, workbench, asked);
            recipe(ui, workbench, asked);
        });
    });
}

fn device(ui: &mut Ui, workbench: &Workbench, asked: &mut Vec<Command>) {
    head(ui, "Device");
    let now = &workbench.session.device;
    let name = |id: &str| workbench.devices.iter().find(|d| d.id == id).map_or_else(|| id.to_owned(), |d| d.name.clone());
    let shown = if now == "auto" { "Automatic".to_owned() } else { name(now) };
    let mut chosen = now.clone();
    egui::ComboBox::from_id_salt("device")
        .width(ui.available_width())
        .truncate()
        .selected_text(shown)
        .show_ui(ui, |ui| {
            ui.selectable_value(&mut chosen, "auto".to_owned(), "Automatic")
                .on_hover_text("The first real GPU, or else the CPU.");
            for device in &workbench.devices {
                let note = if device.software { " (software)" } else { "" };
                ui.selectable_value(&mut chosen, device.id.clone(), format!("{}: {}{note}", device.id, device.name));
            }
        })
        .response
        .accessible_name("Device");
    if chosen != *now {
        asked.push(Command::Edit(Edit::Device(chosen)));
    }
}

/// What the features are for; a choice only where the backbone leaves one.
fn task(ui: &mut Ui, workbench: &Workbench, asked: &mut Vec<Command>) {
    let session = &workbench.session;
    let now = tasks::find(&session.task.name);
    head(ui, "Task");
    let only = workbench.plan.anatomy.towers.is_empty() && now.is_some_and(|card| card.name == tasks::CATALOG[0].name);
    if !only {
        let mut chosen = session.task.name.clone();
        egui::ComboBox::from_id_salt("task")
            .width(ui.available_width())
            .truncate()
            .selected_text(now.map_or(session.task.name.as_str(), |card| card.title))
            .show_ui(ui, |ui| {
                for card in tasks::CATALOG {
                    ui.selectable_value(&mut chosen, card.name.to_owned(), card.title).on_hover_text(card.help);
                }
            })
            .response
            .accessible_name("Task");
        if chosen != session.task.name {
            asked.push(Command::Edit(Edit::Task(chosen)));
        }
    }
    if let Some(card) = now {
        // What only one kind of head has is shown with it.
        let own = tasks::classify::fields_of(&workbench.plan.aim);
        let shown: Vec<_> = card.fields.iter().copied().filter(|f| f.name == "head" || own.contains(&f.name)).collect();
        ui.push_id("task", |ui| fields(ui, &shown, &session.task.settings, "task.settings", asked));
    }
}

fn recipe(ui: &mut Ui, workbench: &Workbench, asked: &mut Vec<Command>) {
    let session = &workbench.session;
    let now = values(&session.recipe);
    head(ui, "Recipe");
    for each in FIELDS {
        let of_sgd = each.name == "momentum";
        let of_images = ["flip", "crop"].contains(&each.name);
        if (of_sgd && session.recipe.optimizer != Optimizer::Sgd) || (of_images && workbench.plan.anatomy.side() == 0) {
            continue;
        }
        // As the session has it, out of range or not: looking at it must not change it.
        let value = now.0.get(each.name).cloned().unwrap_or_else(|| each.default());
        if let Some(value) = field(ui, each, &value) {
            asked.push(Command::Edit(Edit::Set { path: format!("recipe.{}", each.name), value }));
        }
    }
    let help = "Of parameters, shuffling and dropout: the same seed gives the same run.";
    row(ui, "Seed", help, |ui| {
        let mut seed = i64::try_from(session.seed).unwrap_or(i64::MAX);
        if whole(ui, "Seed", help, &mut seed, 0, i64::MAX) {
            asked.push(Command::Edit(Edit::Seed(seed.unsigned_abs())));
        }
    });
}
