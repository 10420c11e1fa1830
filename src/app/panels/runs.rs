//! The table of runs, and what can be done with the selected one.
//! Called by `panels::show`.
//! Must not change a run: it pushes commands.

use eframe::egui::{self, Align, Button, Layout, RichText, ScrollArea, Sense, Ui, vec2};
use egui_extras::{Column, TableBuilder};

use super::plots::Mark;
use crate::app::dialogs::Ask;
use crate::app::form::button;
use crate::app::theme::{self, Theme};
use crate::app::view::View;
use crate::app::words;
use crate::board::{Run, Status};
use crate::exports;
use crate::figures;
use crate::plan::Plan;
use crate::session::command::Command;
use crate::workbench::Workbench;

pub fn show(ui: &mut Ui, workbench: &Workbench, view: &mut View, asked: &mut Vec<Command>) {
    let theme = Theme::of(ui);
    let runs = &workbench.board.runs;
    ui.add_space(6.0);
    ui.horizontal(|ui| {
        ui.label(RichText::new("Runs").font(theme::semibold(theme::BODY)));
        ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
            ui.style_mut().override_font_id = Some(theme::regular(theme::SMALL));
            actions(ui, workbench, view, asked);
        });
    });
    if runs.is_empty() {
        ui.add_space(10.0);
        let words = "No run yet. Train keeps every run here, with its curves, its adapter and the session it was started with.";
        ui.label(RichText::new(words).color(theme.weak));
        return;
    }
    table(ui, workbench, view, asked);
}

fn table(ui: &mut Ui, workbench: &Workbench, view: &mut View, asked: &mut Vec<Command>) {
    let theme = Theme::of(ui);
    let small = |words: &str| RichText::new(words).font(theme::regular(theme::SMALL)).color(theme.weak);
    let space = ui.available_width();
    let board = &workbench.board;
    let wide = space > 800.0;
    ui.style_mut().spacing.item_spacing = vec2(if wide { 10.0 } else { 6.0 }, 2.0);
    ui.visuals_mut().selection.bg_fill = theme.hovered;
    ui.visuals_mut().selection.stroke.color = theme.text;
    // Stack, places, trainable, head, accuracy, peak, a step, status.
    let widths =
        if wide { [130.0, 120.0, 62.0, 62.0, 64.0, 64.0, 66.0, 78.0] } else { [84.0, 70.0, 60.0, 44.0, 58.0, 60.0, 62.0, 64.0] };
    ScrollArea::horizontal().id_salt("runs").show(ui, |ui| {
        let table = TableBuilder::new(ui)
            .id_salt("runs table")
            .auto_shrink(false)
            .sense(Sense::click())
            .cell_layout(Layout::left_to_right(Align::Center))
            .column(Column::exact(22.0))
            .column(Column::remainder().at_least(84.0).clip(true));
        widths
            .iter()
            .fold(table, |table, width| table.column(Column::exact(*width).clip(true)))
            .header(20.0, |mut row| {
                for (n, name) in ["", "title", "stack", "places", "trainable", "head", "accuracy", "peak", "a step", "status"]
                    .iter()
                    .enumerate()
                {
                    row.col(|ui| {
                        let layout = if (4..9).contains(&n) {
                            Layout::right_to_left(Align::Center)
                        } else {
                            Layout::left_to_right(Align::Center)
                        };
                        ui.with_layout(layout, |ui| ui.label(small(name)));
                    });
                }
            })
            .body(|body| {
                let count = board.runs.len();
                body.rows(24.0, count, |mut row| {
                    let run = &board.runs[count - 1 - row.index()]; // the newest on top
                    row.set_selected(view.run.as_ref() == Some(&run.id));
                    cells(&mut row, workbench, run);
                    let answer = row.response();
                    answer
                        .widget_info(|| egui::WidgetInfo::selected(egui::Role::Row, true, run.shown, format!("Run {}", run.id)));
                    if answer.clicked() {
                        // A row that is not selected is selected, and shown; the selected row is switched.
                        if view.run.as_ref() == Some(&run.id) || !run.shown {
                            asked.push(Command::ToggleRun(run.id.clone()));
                        }
                        view.run = Some(run.id.clone());
                    }
                    answer.on_hover_text(format!(
                        "{}\nClick to select; a click on the selected row {} its curves.",
                        run.id,
                        if run.shown { "hides" } else { "shows" }
                    ));
                });
            });
    });
}

fn cells(row: &mut egui_extras::TableRow<'_, '_>, workbench: &Workbench, run: &Run) {
    let started = run.started.as_ref();
    let dash = || "–".to_owned();
    row.col(|ui| {
        let theme = Theme::of(ui);
        let (rect, _) = ui.allocate_exact_size(vec2(18.0, 12.0), Sense::hover());
        Mark::of(theme, &workbench.board, run).draw(ui, rect, run.shown);
    });
    let places: Vec<_> = run.session.iter().flat_map(|s| &s.methods).map(|placed| placed.place.words()).collect();
    let places = if places.is_empty() { "head only".to_owned() } else { places.join(" + ") };
    for text in [run.title(), run.stack(), places] {
        row.col(|ui| {
            let color = if run.shown { ui.visuals().text_color() } else { Theme::of(ui).weak };
            ui.add(egui::Label::new(RichText::new(text).color(color)).truncate());
        });
    }
    let peak = run.peak_bytes();
    let ms = run.step_ms();
    let numbers = [
        started.map_or_else(dash, |s| words::count(s.trainable)),
        started.map_or_else(dash, |s| words::count(s.head)),
        run.accuracy().map_or_else(dash, |a| format!("{:.1} %", 100.0 * a)),
        if peak > 0 { words::bytes(peak) } else { dash() },
        if ms > 0.0 { format!("{ms:.1} ms") } else { dash() },
    ];
    for text in numbers {
        row.col(|ui| {
            ui.with_layout(Layout::right_to_left(Align::Center), |ui| ui.label(text));
        });
    }
    row.col(|ui| {
        let theme = Theme::of(ui);
        let color = match run.status {
            Status::Failed(_) => theme.error,
            Status::Cut => theme.warn,
            Status::Training | Status::Paused => theme.family(crate::methods::Family::LowRank),
            _ => theme.weak,
        };
        let answer = ui.add(egui::Label::new(RichText::new(run.status.words()).color(color)).truncate());
        if let Status::Failed(words) = &run.status {
            answer.on_hover_text(words);
        } else if let Some(damage) = &run.damage {
            answer.on_hover_text(damage);
        }
    });
}

/// From right to left, as they are laid out.
fn actions(ui: &mut Ui, workbench: &Workbench, view: &mut View, asked: &mut Vec<Command>) {
    figure(ui, workbench, view);
    let Some(run) = view.run.as_ref().and_then(|id| workbench.board.run(id)) else { return };
    if view.ask_delete.as_ref() == Some(&run.id) {
        if ui.button("Keep").clicked() {
            view.ask_delete = None;
        }
        button(ui, "Delete for good", Command::DeleteRun(run.id.clone()), None, asked);
        ui.label(RichText::new(format!("Delete {} and its adapter from the disk?", run.id)).color(Theme::of(ui).warn));
        return;
    }
    let live = run.status.is_live().then_some("It is training. Stop it first.");
    let delete = ui.add_enabled(live.is_none(), Button::new("Delete...")).on_disabled_hover_text(live.unwrap_or_default());
    if delete.on_hover_text("Removes the run's folder from the disk; asks first.").clicked() {
        view.ask_delete = Some(run.id.clone());
    }
    export(ui, run, view);
    let lost = run.session.is_none().then_some("The run has lost its session file.");
    button(ui, "Restore session", Command::RestoreRun(run.id.clone()), lost, asked);
    ui.label(RichText::new(words::cut(&run.id, 34)).color(Theme::of(ui).weak));
}

fn export(ui: &mut Ui, run: &Run, view: &mut View) {
    let ready = match (&run.status, view.dialogs.is_open()) {
        (_, true) => Err("A file dialog is open."),
        (Status::Finished | Status::Stopped, _) => Ok(()),
        (Status::Training | Status::Paused, _) => Err("It is still training. Stop and keep it, or wait."),
        (Status::Elsewhere, _) => Err("Another program trains it. Wait until it is done."),
        (Status::Failed(_) | Status::Cut, _) => Err("The run did not end in order; it kept no adapter."),
    };
    ui.add_enabled_ui(ready.is_ok(), |ui| {
        ui.menu_button("Export", |ui| {
            let Some(session) = &run.session else { return };
            let plan = Plan::of(session);
            for card in exports::CATALOG {
                let fits = (card.fits)(&plan);
                let answer = ui.add_enabled(fits.is_ok(), Button::new(format!("{}...", card.title))).on_hover_text(card.help);
                if answer.on_disabled_hover_text(fits.err().unwrap_or_default()).clicked() {
                    view.dialogs.ask(ui.ctx(), Ask::Export { run: run.id.clone(), kind: card.name.to_owned() });
                    ui.close();
                }
            }
        })
        .response
        .on_disabled_hover_text(ready.err().unwrap_or_default());
    });
}

fn figure(ui: &mut Ui, workbench: &Workbench, view: &mut View) {
    let none = workbench.board.shown().next().is_none();
    ui.add_enabled_ui(!none && !view.dialogs.is_open(), |ui| {
        ui.menu_button("Figure", |ui| {
            for (kind, title, help) in figures::KINDS {
                if ui.button(format!("{title}...")).on_hover_text(help).clicked() {
                    view.dialogs.ask(ui.ctx(), Ask::Figure { kind: (*kind).to_owned() });
                    ui.close();
                }
            }
        })
        .response
        .on_hover_text("Draws the shown runs as SVG and PNG, with the numbers as CSV.")
        .on_disabled_hover_text(if none { "No run is shown." } else { "A file dialog is open." });
    });
}
