//! The right panel: what is selected, what the session costs, what is wrong and what to do, what the method and the block are.
//! Called by `panels::show`; the selected method's form is drawn by `selection`, its card by `about`, the block by `wiring`.
//! Must not compute anything: the plan holds counts, bytes and problems.

use eframe::egui::{Align2, Color32, Frame, Margin, Rect, RichText, ScrollArea, Sense, Stroke, Ui, pos2, vec2};

use super::{about, selection, wiring};
use crate::app::form::{head, number, tight, weak};
use crate::app::theme::Theme;
use crate::app::view::View;
use crate::app::words;
use crate::board::Run;
use crate::plan::{Problem, Severity};
use crate::session::command::Command;
use crate::workbench::Workbench;

pub fn show(ui: &mut Ui, workbench: &Workbench, view: &mut View, asked: &mut Vec<Command>) {
    ScrollArea::vertical().auto_shrink(false).show(ui, |ui| {
        Frame::new().inner_margin(Margin { left: 14, right: 14, top: 0, bottom: 12 }).show(ui, |ui| {
            ui.spacing_mut().item_spacing.y = 4.0;
            selection::show(ui, workbench, view, asked);
            // Each in a part of its own: what comes and goes in one moves no id of another.
            ui.push_id("cost", |ui| cost(ui, workbench));
            ui.push_id("memory", |ui| memory(ui, workbench, view));
            ui.push_id("problems", |ui| problems(ui, workbench, asked));
            ui.push_id("block", |ui| wiring::show(ui, workbench, view));
            ui.push_id("about", |ui| about::show(ui, workbench, view));
        });
    });
}

fn cost(ui: &mut Ui, workbench: &Workbench) {
    let plan = &workbench.plan;
    let (stack, class_head) = (plan.trainable(), plan.head_count());
    head(ui, "Cost");
    let sum = format!("{} + {} head", words::count(stack), words::count(class_head));
    number(ui, "Trainable", sum, "Counted exactly before any training. The task's head is always trained.");
    let help = "The stack's parameters, as a part of the frozen network's.";
    number(ui, "Of the backbone", words::percent(stack, plan.anatomy.count()), help);
    number(ui, "Exported file", words::bytes(plan.cost.export), "The adapter with its head, in 32-bit floats.");
    let help = "Floating-point operations of one training step: the forward pass, and the needed part of the backward pass.";
    number(ui, "A step", words::flops(plan.cost.flops_step), help);
}

fn memory(ui: &mut Ui, workbench: &Workbench, view: &View) {
    let theme = Theme::of(ui);
    let bytes = &workbench.plan.cost.bytes;
    let parts = [
        ("Backbone", bytes.backbone),
        ("Trainable", bytes.trainable),
        ("Gradients", bytes.gradients),
        ("Optimiser", bytes.optimizer),
        ("Activations", bytes.activations),
    ];
    head(ui, "Memory in training, predicted");
    let (rect, _) = ui.allocate_exact_size(vec2(ui.available_width(), 12.0), Sense::hover());
    let all = bytes.total().max(1) as f32;
    let mut x = rect.left();
    for (n, (_, part)) in parts.iter().enumerate() {
        let width = rect.width() * *part as f32 / all;
        if width >= 0.5 {
            let right = (x + width - 1.0).max(x + 1.0);
            let part = Rect::from_min_max(pos2(x, rect.top()), pos2(right, rect.bottom()));
            ui.painter().rect_filled(part, 2.0, theme.step(n, parts.len()));
        }
        x += width;
    }
    for (n, (name, part)) in parts.into_iter().enumerate() {
        legend(ui, name, part, theme.step(n, parts.len()));
    }
    number(ui, "Predicted peak", words::bytes(bytes.total()), "All of the above at once.");
    if let Some(run) = view.run.as_ref().and_then(|id| workbench.board.run(id)) {
        measured(ui, run);
    }
}

fn legend(ui: &mut Ui, name: &str, bytes: usize, color: Color32) {
    let theme = Theme::of(ui);
    tight(ui, |ui| {
        dot(ui, color);
        ui.label(RichText::new(name).color(theme.weak));
        ui.with_layout(eframe::egui::Layout::right_to_left(eframe::egui::Align::Center), |ui| ui.label(words::bytes(bytes)));
    });
}

/// What the selected run used, beside what the plan had said.
fn measured(ui: &mut Ui, run: &Run) {
    let peak = run.peak_bytes();
    if peak == 0 {
        return;
    }
    let name = format!("Measured, {}", words::cut(&run.id, 17));
    let help = format!(
        "{}: the most that a training step held at once, beyond what the program held before the run. Evaluations are not in it.",
        run.id
    );
    number(ui, &name, words::bytes(peak), &help);
    if let Some(started) = run.started.as_ref().filter(|s| s.predicted_bytes > 0) {
        let error = 100.0 * (peak as f64 / started.predicted_bytes as f64 - 1.0);
        let said = words::bytes(started.predicted_bytes);
        number(ui, "Predicted for it", format!("{said} ({error:+.0} %)"), "What the plan said when the run began.");
    }
}

fn problems(ui: &mut Ui, workbench: &Workbench, asked: &mut Vec<Command>) {
    let list = &workbench.plan.problems;
    if list.is_empty() {
        return;
    }
    head(ui, if list.len() == 1 { "Problem" } else { "Problems" });
    // What blocks training comes before what is worth knowing.
    let mut sorted: Vec<&Problem> = list.iter().collect();
    sorted.sort_by_key(|problem| problem.severity == Severity::Note);
    for problem in sorted {
        one(ui, problem, asked);
    }
}

fn one(ui: &mut Ui, problem: &Problem, asked: &mut Vec<Command>) {
    let theme = Theme::of(ui);
    let (fill, color) = match problem.severity {
        Severity::Blocks => (theme.error_ground, theme.error),
        Severity::Untrainable | Severity::Note => (theme.warn_ground, theme.warn),
    };
    let frame = Frame::new()
        .fill(fill)
        .stroke(Stroke::new(1.0, color.gamma_multiply(0.5)))
        .corner_radius(5.0)
        .inner_margin(Margin::symmetric(10, 7));
    frame.show(ui, |ui| {
        ui.set_width(ui.available_width());
        ui.label(&problem.words).on_hover_text(&problem.place);
        if problem.severity == Severity::Blocks {
            weak(ui, "Training waits until this is mended.");
        }
        if let Some(remedy) = &problem.remedy
            && ui.button(remedy.label()).clicked()
        {
            asked.push(Command::Edit(remedy.edit()));
        }
    });
}

/// A mark of a method's colour, as large as a letter.
pub fn dot(ui: &mut Ui, color: Color32) {
    let (rect, _) = ui.allocate_exact_size(vec2(10.0, 12.0), Sense::hover());
    let square = Align2::CENTER_CENTER.align_size_within_rect(vec2(10.0, 10.0), rect);
    ui.painter().rect_filled(square, 2.5, color);
}
