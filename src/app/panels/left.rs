//! The left panel, from top to bottom: backbone, data, device, methods, recipe.
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
    if let Some(card) = tasks::find(&session.task.name) {
        // What only a head by angles has is shown with one.
        let linear = tasks::classify::Margin::of(&session.task.settings.filled(card.fields)).is_none();
        let shown: Vec<_> = card.fields.iter().copied().filter(|field| !linear || field.name == "head").collect();
        ui.push_id("task", |ui| fields(ui, &shown, &session.task.settings, "task.settings", asked));
    }
    let help = "Of parameters, shuffling and dropout: the same seed gives the same run.";
    row(ui, "Seed", help, |ui| {
        let mut seed = i64::try_from(session.seed).unwrap_or(i64::MAX);
        if whole(ui, "Seed", help, &mut seed, 0, i64::MAX) {
            asked.push(Command::Edit(Edit::Seed(seed.unsigned_abs())));
        }
    });
}
