//! The left panel, from top to bottom: methods, backbone, data, recipe, device.
//! Called by `panels::show`.
//! Must not change the session: it pushes edits.

use eframe::egui::{self, DragValue, Frame, Margin, ScrollArea, Ui, vec2};

use super::{backbone, palette};
use crate::app::form::{self, head, real, row};
use crate::app::view::View;
use crate::session::command::{Command, Edit};
use crate::session::{Optimizer, Recipe, Schedule};
use crate::workbench::Workbench;

pub fn show(ui: &mut Ui, workbench: &Workbench, view: &mut View, asked: &mut Vec<Command>) {
    ScrollArea::vertical().auto_shrink(false).show(ui, |ui| {
        Frame::new().inner_margin(Margin { left: 12, right: 12, top: 0, bottom: 12 }).show(ui, |ui| {
            ui.spacing_mut().item_spacing.y = 4.0;
            backbone::backbone(ui, workbench, asked);
            backbone::data(ui, workbench, view, asked);
            palette::show(ui, workbench, view, asked);
            recipe(ui, workbench, asked);
            device(ui, workbench, asked);
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
    head(ui, "Recipe");
    let mut r = workbench.session.recipe.clone();
    choice(
        ui,
        "Optimiser",
        "AdamW adapts the step of every parameter; SGD takes the gradient as it is.",
        &mut r.optimizer,
        &[(Optimizer::AdamW, "AdamW"), (Optimizer::Sgd, "SGD")],
    );
    number(ui, "Learning rate", "Length of a step, at its highest.", &mut r.learning_rate, 1e-7, 10.0);
    choice(
        ui,
        "Schedule",
        "Cosine lets the learning rate fall to 0 at the end.",
        &mut r.schedule,
        &[(Schedule::Cosine, "Cosine"), (Schedule::Constant, "Constant")],
    );
    number(ui, "Warm-up", "Part of all steps in which the learning rate rises from 0.", &mut r.warm_up, 0.0, 1.0);
    number(
        ui,
        "Weight decay",
        "Pulls trained weights towards 0; biases, norms and scales are left out.",
        &mut r.weight_decay,
        0.0,
        10.0,
    );
    if r.optimizer == Optimizer::Sgd {
        number(ui, "Momentum", "Part of the last step that SGD takes again.", &mut r.momentum, 0.0, 0.999);
    }
    number(ui, "Label smoothing", "Part of the target that is spread over all classes.", &mut r.label_smoothing, 0.0, 0.9);
    number(ui, "Clip norm", "Largest global gradient norm; 0 switches clipping off.", &mut r.clip_norm, 0.0, 1e6);
    whole(ui, "Batch size", "Samples in one step.", &mut r.batch_size, 1, 4096);
    whole(ui, "Epochs", "Passes over the training set.", &mut r.epochs, 1, 10_000);
    row(ui, "Mirror", "Mirror images left to right, half of the time. Not for digits or letters.", |ui| {
        ui.checkbox(&mut r.flip, "").accessible_name("Mirror");
    });
    whole(ui, "Shift", "Shift images by up to this many pixels.", &mut r.crop, 0, 8);
    whole(
        ui,
        "Report every",
        "Read the loss back every this many steps; rarer is faster on a GPU.",
        &mut r.report_every,
        1,
        1000,
    );
    if r != workbench.session.recipe {
        asked.push(Command::Edit(Edit::Recipe(Box::<Recipe>::new(r))));
    }
    row(ui, "Seed", "Of parameters, shuffling and dropout: the same seed gives the same run.", |ui| {
        let mut seed = workbench.session.seed;
        let drag = DragValue::new(&mut seed).speed(0.1).update_while_editing(false);
        if ui.add_sized(vec2(form::WIDGET, 22.0), drag).accessible_name("Seed").changed() {
            asked.push(Command::Edit(Edit::Seed(seed)));
        }
    });
}

fn number(ui: &mut Ui, name: &str, help: &str, v: &mut f64, min: f64, max: f64) {
    row(ui, name, help, |ui| real(ui, name, help, v, min, max));
}

fn whole(ui: &mut Ui, name: &str, help: &str, v: &mut usize, min: usize, max: usize) {
    row(ui, name, help, |ui| {
        let drag = DragValue::new(v).range(min..=max).speed(0.2).update_while_editing(false);
        ui.add_sized(vec2(form::WIDGET, 22.0), drag).on_hover_text(help).accessible_name(name);
    });
}

fn choice<T: Copy + PartialEq>(ui: &mut Ui, name: &str, help: &str, chosen: &mut T, all: &[(T, &str)]) {
    row(ui, name, help, |ui| {
        let shown = all.iter().find(|(value, _)| value == chosen).map_or("", |(_, words)| words);
        egui::ComboBox::from_id_salt(name)
            .width(form::WIDGET)
            .selected_text(shown)
            .show_ui(ui, |ui| {
                for (value, words) in all {
                    ui.selectable_value(chosen, *value, *words);
                }
            })
            .response
            .on_hover_text(help)
            .accessible_name(name);
    });
}
