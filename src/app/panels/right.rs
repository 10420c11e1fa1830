//! The right panel: what is selected, what the session costs, what is wrong, what to do.
//! Called by `panels::show`; the selected method's form is drawn by `selection`.
//! Must not compute anything: the plan holds counts, bytes and problems.

use eframe::egui::{Align2, Color32, Frame, Margin, Rect, RichText, ScrollArea, Sense, Stroke, Ui, pos2, vec2};

use super::selection;
use crate::app::form::{head, number, tight, weak};
use crate::app::theme::Theme;
use crate::app::view::View;
use crate::app::words;
use crate::board::Run;
use crate::methods::Family;
use crate::plan::{Problem, Remedy, Severity};
use crate::session::command::{Command, Edit};
use crate::workbench::Workbench;

pub fn show(ui: &mut Ui, workbench: &Workbench, view: &mut View, asked: &mut Vec<Command>) {
    ScrollArea::vertical().auto_shrink(false).show(ui, |ui| {
        Frame::new().inner_margin(Margin { left: 14, right: 14, top: 0, bottom: 12 }).show(ui, |ui| {
            ui.spacing_mut().item_spacing.y = 4.0;
            problems(ui, workbench, asked);
            selection::show(ui, workbench, view, asked);
            cost(ui, workbench);
            memory(ui, workbench, view);
        });
    });
}

fn cost(ui: &mut Ui, workbench: &Workbench) {
    let plan = &workbench.plan;
    let (stack, class_head) = (plan.trainable(), plan.head_count());
    head(ui, "Cost");
    number(ui, "Trainable, without head", words::count(stack), "Parameters of the stack, counted exactly before any training.");
    number(ui, "Trainable, with head", words::count(stack + class_head), "The task head is always trained.");
    number(
        ui,
        "Of the backbone",
        words::percent(stack, plan.anatomy.count()),
        "The stack's parameters, as a part of the frozen network's.",
    );
    number(ui, "Exported file", words::bytes(plan.cost.export), "The adapter with its head, in 32-bit floats.");
    number(
        ui,
        "A step",
        words::flops(plan.cost.flops_step),
        "Floating-point operations of one training step: the forward pass, and the needed part of the backward pass.",
    );
}

fn memory(ui: &mut Ui, workbench: &Workbench, view: &View) {
    let theme = Theme::of(ui);
    let bytes = &workbench.plan.cost.bytes;
    let parts = [
        ("Backbone", bytes.backbone, theme.frozen),
        ("Trainable", bytes.trainable, theme.family(Family::LowRank)),
        ("Gradients", bytes.gradients, theme.family(Family::Adapter)),
        ("Optimiser", bytes.optimizer, theme.family(Family::Prefix)),
        ("Activations", bytes.activations, theme.family(Family::Prompt)),
    ];
    head(ui, "Memory in training, predicted");
    let (rect, _) = ui.allocate_exact_size(vec2(ui.available_width(), 14.0), Sense::hover());
    let all = bytes.total().max(1) as f32;
    let mut x = rect.left();
    for (_, part, color) in &parts {
        let width = rect.width() * *part as f32 / all;
        if width >= 0.5 {
            let right = (x + width - 1.0).max(x + 1.0);
            ui.painter().rect_filled(Rect::from_min_max(pos2(x, rect.top()), pos2(right, rect.bottom())), 2.0, *color);
        }
        x += width;
    }
    for (name, part, color) in parts {
        legend(ui, name, part, color);
    }
    number(ui, "Predicted peak", words::bytes(bytes.total()), "All of the above at once.");
    let run = view.run.as_ref().and_then(|id| workbench.board.run(id));
    if let Some(run) = run {
        measured(ui, run);
    }
}

fn legend(ui: &mut Ui, name: &str, bytes: usize, color: Color32) {
    let theme = Theme::of(ui);
    tight(ui, |ui| {
        let (rect, _) = ui.allocate_exact_size(vec2(9.0, 9.0), Sense::hover());
        ui.painter().rect_filled(rect, 2.0, color);
        ui.label(RichText::new(name).color(theme.weak));
        ui.with_layout(eframe::egui::Layout::right_to_left(eframe::egui::Align::Center), |ui| ui.label(words::bytes(bytes)));
    });
}

fn measured(ui: &mut Ui, run: &Run) {
    let peak = run.peak_bytes();
    if peak == 0 {
        return;
    }
    head(ui, "Memory of the selected run");
    number(
        ui,
        "Measured peak",
        words::bytes(peak),
        "The most that a training step held at once, beyond what the program held before the run. Evaluations are not in it.",
    );
    if let Some(started) = run.started.as_ref().filter(|s| s.predicted_bytes > 0) {
        let error = 100.0 * (peak as f64 / started.predicted_bytes as f64 - 1.0);
        number(ui, "Predicted for it", words::bytes(started.predicted_bytes), "What the plan said when the run began.");
        weak(ui, format!("{}, measured {error:+.1} %", run.id));
    }
}

fn problems(ui: &mut Ui, workbench: &Workbench, asked: &mut Vec<Command>) {
    let list = &workbench.plan.problems;
    if list.is_empty() {
        return;
    }
    head(ui, if list.len() == 1 { "Problem" } else { "Problems" });
    for problem in list {
        one(ui, problem, asked);
    }
}

fn one(ui: &mut Ui, problem: &Problem, asked: &mut Vec<Command>) {
    let theme = Theme::of(ui);
    let (fill, color) = match problem.severity {
        Severity::Blocks => (theme.error_ground, theme.error),
        Severity::Note => (theme.warn_ground, theme.warn),
    };
    let frame = Frame::new()
        .fill(fill)
        .stroke(Stroke::new(1.0, color.gamma_multiply(0.5)))
        .corner_radius(5.0)
        .inner_margin(Margin::symmetric(10, 7));
    frame.show(ui, |ui| {
        ui.set_width(ui.available_width());
        ui.label(&problem.words).on_hover_text(&problem.place);
        if let Some(remedy) = &problem.remedy
            && ui.button(remedy.label()).clicked()
        {
            asked.push(Command::Edit(edit(remedy)));
        }
    });
}

fn edit(remedy: &Remedy) -> Edit {
    match remedy.clone() {
        Remedy::DefaultPlace { index } => Edit::DefaultPlace { index },
        Remedy::Remove { index } => Edit::Remove { index },
        Remedy::Reset { path } => Edit::Reset { path },
    }
}

/// A mark of a method's colour, as large as a letter.
pub fn dot(ui: &mut Ui, color: Color32) {
    let (rect, _) = ui.allocate_exact_size(vec2(10.0, 12.0), Sense::hover());
    let square = Align2::CENTER_CENTER.align_size_within_rect(vec2(10.0, 10.0), rect);
    ui.painter().rect_filled(square, 2.5, color);
}
