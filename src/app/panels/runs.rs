//! The table of runs, and what can be done with the selected one.
//! Called by `panels::show`.
//! Must not change a run: it pushes commands.

use eframe::egui::{self, Align, Button, Color32, DragValue, Layout, RichText, ScrollArea, Sense, Ui, vec2};
use egui_extras::{Column, TableBuilder, TableRow};

use super::cells::stack_words;
use super::marks::Mark;
use super::palette::ring;
use crate::app::dialogs::Ask;
use crate::app::form::button;
use crate::app::kept::{PPT_LEAST, PPT_MOST};
use crate::app::theme::{self, Theme};
use crate::app::view::{List, View};
use crate::app::words;
use crate::backbones;
use crate::board::{Run, Status};
use crate::compare;
use crate::exports;
use crate::figures;
use crate::plan::Plan;
use crate::session::command::Command;
use crate::workbench::Workbench;

pub fn show(ui: &mut Ui, workbench: &Workbench, view: &mut View, asked: &mut Vec<Command>) {
    let theme = Theme::of(ui);
    let runs = &workbench.board.runs;
    view.against.follow(ui.ctx(), &workbench.board, view.run.as_deref());
    ui.add_space(6.0);
    ui.horizontal(|ui| {
        ui.label(RichText::new("Runs").font(theme::semibold(theme::BODY)));
        if !runs.is_empty() {
            ui.style_mut().override_font_id = Some(theme::regular(theme::SMALL));
            ui.add_space(6.0);
            ui.label(RichText::new("PPT with C").color(theme.weak)).on_hover_text(PPT);
            let drag = DragValue::new(&mut view.kept.ppt_c).range(PPT_LEAST..=PPT_MOST).speed(0.1).max_decimals(3).suffix(" M");
            ui.add(drag).on_hover_text(PPT).accessible_name("C of PPT, millions of parameters");
        }
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

const PPT: &str = "Performance-parameter trade-off of V-PETL Bench: accuracy · exp(-log10(trainable / C + 1)), without the head. A smaller C \
                   punishes parameters more; the benchmark takes 10 million.";

/// One column: its words for each run, newest run first.
struct Shown {
    name: &'static str,
    help: &'static str,
    width: f32,
    right: bool,
    /// Left out where all runs have the same.
    equal_hides: bool,
    cells: Vec<(String, Option<Color32>)>,
}

/// What the table shows of the runs, from left to right.
fn columns(theme: &Theme, view: &View, runs: &[&Run]) -> Vec<Shown> {
    type Words<'f> = &'f dyn Fn(&Run) -> String;
    let column = |name, help, width, right, equal_hides, words: Words| Shown {
        name,
        help,
        width,
        right,
        equal_hides,
        cells: runs.iter().map(|run| (words(run), None)).collect(),
    };
    let started = |run: &Run, value: fn(&crate::engine::Started) -> usize| {
        run.started.as_ref().map_or_else(dash, |s| words::count(value(s)))
    };
    let session = |run: &Run, value: &dyn Fn(&crate::session::Session) -> String| run.session.as_ref().map_or_else(dash, value);
    let mut status = column("status", "", 88.0, false, true, &|run| run.status.words().to_owned());
    for (cell, run) in status.cells.iter_mut().zip(runs) {
        cell.1 = match run.status {
            Status::Failed(_) => Some(theme.error),
            Status::Cut => Some(theme.warn),
            Status::Training | Status::Paused => Some(theme.focus()),
            _ => Some(theme.weak),
        };
    }
    let mut shown = vec![
        column("run", "Name of the run's folder.", 104.0, false, false, &|run| run.id.clone()),
        column("stack", "The methods, with their size.", 112.0, false, false, &|run| session(run, &stack_words)),
        column("places", "Where the methods stand.", 70.0, false, true, &|run| session(run, &places)),
        column("data", "", 66.0, false, true, &|run| session(run, &|s| s.data.name.clone())),
        column("weights", "Of the backbone.", 70.0, false, true, &|run| session(run, &|s| weights(s))),
        column("rate", "The recipe's learning rate.", 44.0, true, true, &|run| {
            session(run, &|s| format!("{}", s.recipe.learning_rate))
        }),
        column("seed", "", 34.0, true, true, &|run| session(run, &|s| s.seed.to_string())),
        column("trainable", "Parameters of the stack, without the head.", 60.0, true, false, &|run| {
            started(run, |s| s.trainable)
        }),
        column("head", "Parameters of the head, always trained.", 44.0, true, true, &|run| started(run, |s| s.head)),
        column("accuracy", "On the test set.", 58.0, true, false, &|run| {
            run.accuracy().map_or_else(dash, |a| format!("{:.1} %", 100.0 * a))
        }),
        column("PPT", PPT, 44.0, true, false, &|run| match (run.accuracy(), &run.started) {
            (Some(accuracy), Some(started)) => {
                format!("{:.1}", 100.0 * compare::ppt(accuracy, started.trainable, view.kept.ppt_c * 1e6))
            }
            _ => dash(),
        }),
        column(
            "against selected",
            "McNemar's exact test against the selected run, item by item on the same test set; p is corrected for several comparisons \
             (Holm). It is about these two networks, not about their methods: train several seeds to learn about those.",
            148.0,
            false,
            true,
            &|run| view.against.words(run).to_owned(),
        ),
        column("peak", "The most memory that the run held at once.", 66.0, true, false, &|run| match run.peak_bytes() {
            0 => dash(),
            n => words::bytes(n),
        }),
        column("a step", "", 58.0, true, false, &|run| match run.step_ms() {
            ms if ms > 0.0 => words::step(ms),
            _ => dash(),
        }),
        status,
    ];
    if runs.iter().any(|run| !run.accuracy_by_task().is_empty()) {
        let place = shown.iter().position(|column| column.name == "accuracy").map_or(shown.len(), |n| n + 1);
        shown.insert(place, column("by task", "Accuracy on the test set, task by task, %.", 232.0, false, false, &by_task));
    }
    shown
}

/// "digits 91.0 · emoji 40.5"
fn by_task(run: &Run) -> String {
    let each: Vec<_> = run.accuracy_by_task().iter().map(|(task, a)| format!("{task} {:.1}", 100.0 * a)).collect();
    if each.is_empty() { dash() } else { each.join(" · ") }
}

fn dash() -> String {
    "–".to_owned()
}

fn places(session: &crate::session::Session) -> String {
    let places: Vec<_> = session.methods.iter().map(|placed| placed.place.words()).collect();
    if places.is_empty() { "head only".to_owned() } else { places.join(" + ") }
}

fn weights(session: &crate::session::Session) -> String {
    let of = |name| session.backbone.settings.0.get(name).map(ToString::to_string);
    let text = of(backbones::FOLDER).or_else(|| of("weights")).unwrap_or_default();
    let text = text.as_str();
    let name = std::path::Path::new(text).file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    if name.is_empty() { "pretrained".to_owned() } else { name }
}

fn table(ui: &mut Ui, workbench: &Workbench, view: &mut View, asked: &mut Vec<Command>) {
    let theme = Theme::of(ui);
    let small = |words: &str| RichText::new(words).font(theme::regular(theme::SMALL)).color(theme.weak);
    let runs: Vec<&Run> = workbench.board.runs.iter().rev().collect(); // the newest on top
    let mut shown = columns(theme, view, &runs);
    let alone = runs.len() == 1;
    let equal =
        |column: &Shown| column.cells.iter().all(|cell| cell.0 == column.cells[0].0) && !(alone && column.name == "places");
    // The word for a run that trains must stay, though all runs may do the same.
    let live = workbench.board.live().is_some();
    shown.retain(|column| {
        !(column.equal_hides && equal(column)) || (column.name == "status" && (live || runs[0].status != Status::Finished))
    });
    ui.style_mut().spacing.item_spacing = vec2(8.0, 2.0);
    ui.visuals_mut().selection.bg_fill = theme.hovered;
    ui.visuals_mut().selection.stroke.color = theme.text;
    ScrollArea::horizontal().id_salt("runs").show(ui, |ui| {
        // With the line's piece, the gaps and the bar to scroll by.
        let needed = |shown: &[Shown]| 44.0 + shown.iter().map(|column| column.width + 8.0).sum::<f32>();
        // Where room is short, the columns go first that the selected run's session shows too.
        for name in ["head", "rate", "weights", "data", "places", "seed"] {
            if needed(&shown) > ui.available_width() {
                shown.retain(|column| column.name != name);
            }
        }
        // What is left over goes to the names.
        let spare = (ui.available_width() - needed(&shown)).max(0.0);
        let table = TableBuilder::new(ui)
            .id_salt("runs table")
            .auto_shrink(false)
            .min_scrolled_height(0.0)
            .sense(Sense::click())
            .cell_layout(Layout::left_to_right(Align::Center))
            .column(Column::exact(22.0));
        let grows = |column: &&Shown| matches!(column.name, "run" | "stack" | "places");
        let part = spare / shown.iter().filter(grows).count().max(1) as f32;
        let wide = |column: &Shown| column.width + if grows(&column) { part } else { 0.0 };
        shown
            .iter()
            .fold(table, |table, column| table.column(Column::exact(wide(column)).clip(true)))
            .header(20.0, |mut row| {
                row.col(|_| {});
                for column in &shown {
                    row.col(|ui| {
                        let answer = aligned(ui, column.right, |ui| ui.label(small(column.name)));
                        if !column.help.is_empty() {
                            answer.on_hover_text(column.help);
                        }
                    });
                }
            })
            .body(|body| {
                body.rows(24.0, runs.len(), |mut row| {
                    let n = row.index();
                    one(&mut row, view, runs[n], &shown, n, asked);
                });
            });
    });
}

fn aligned<R>(ui: &mut Ui, right: bool, contents: impl FnOnce(&mut Ui) -> R) -> R {
    match right {
        true => ui.with_layout(Layout::right_to_left(Align::Center), contents).inner,
        false => contents(ui),
    }
}

/// One row: a click selects the run; the piece of its line shows or hides its curves.
fn one(row: &mut TableRow<'_, '_>, view: &mut View, run: &Run, shown: &[Shown], n: usize, asked: &mut Vec<Command>) {
    let selected = view.run.as_ref() == Some(&run.id);
    row.set_selected(selected);
    let mut toggled = false;
    row.col(|ui| {
        let theme = Theme::of(ui);
        let (rect, answer) = ui.allocate_exact_size(vec2(20.0, 18.0), Sense::click());
        let words = format!("{} curves of {}", if run.shown { "Hide" } else { "Show" }, run.id);
        answer.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Button, true, &words));
        if answer.hovered() || answer.has_focus() {
            ui.painter().rect(
                rect,
                3.0,
                theme.hovered,
                ring(theme, &answer, egui::Stroke::new(1.0, theme.faint)),
                egui::StrokeKind::Inside,
            );
        }
        Mark::of(theme, view, run).draw(ui, rect.shrink2(vec2(2.0, 0.0)), run.shown);
        toggled = answer.clicked();
        answer.on_hover_cursor(egui::CursorIcon::PointingHand).on_hover_text(words);
    });
    for column in shown {
        row.col(|ui| {
            let (text, color) = &column.cells[n];
            let color = color.unwrap_or(if run.shown { ui.visuals().text_color() } else { Theme::of(ui).weak });
            let label = egui::Label::new(RichText::new(text).color(color)).truncate().selectable(false).sense(Sense::hover());
            let answer = aligned(ui, column.right, |ui| ui.add(label));
            if column.name == "status" {
                if let Status::Failed(words) = &run.status {
                    answer.on_hover_text(words);
                } else if let Some(damage) = &run.damage {
                    answer.on_hover_text(damage);
                }
            }
        });
    }
    let answer = row.response();
    answer.widget_info(|| egui::WidgetInfo::selected(egui::Role::Row, true, selected, format!("Run {}", run.id)));
    if toggled {
        asked.push(Command::ToggleRun(run.id.clone()));
    } else if answer.clicked() {
        view.run = Some(run.id.clone());
        view.list = List::Runs;
    }
    answer.on_hover_text(format!("{}: {}", run.id, run.title()));
}

/// From right to left, as they are laid out.
fn actions(ui: &mut Ui, workbench: &Workbench, view: &mut View, asked: &mut Vec<Command>) {
    let Some(run) = view.run.as_ref().and_then(|id| workbench.board.run(id)) else { return figure(ui, workbench, view) };
    if view.ask_delete.as_ref() == Some(&run.id) {
        if ui.button("Keep").clicked() {
            view.ask_delete = None;
        }
        button(ui, "Delete for good", Command::DeleteRun(run.id.clone()), None, asked);
        let words = format!("Delete {} and its adapter from the disk?", words::cut(&run.id, 40));
        ui.label(RichText::new(words).color(Theme::of(ui).warn));
        return;
    }
    figure(ui, workbench, view);
    let live = run.status.is_live().then_some("It is training. Stop it first.");
    let delete = ui.add_enabled(live.is_none(), Button::new("Delete...")).on_disabled_hover_text(live.unwrap_or_default());
    if delete.on_hover_text("Removes the run's folder from the disk; asks first.").clicked() {
        view.ask_delete = Some(run.id.clone());
    }
    export(ui, run, view);
    let lost = run.session.is_none().then_some("The run has lost its session file.");
    button(ui, "Restore session", Command::RestoreRun(run.id.clone()), lost, asked);
    ui.add(egui::Label::new(RichText::new(words::cut(&run.id, 34)).color(Theme::of(ui).weak)).truncate());
}

fn export(ui: &mut Ui, run: &Run, view: &mut View) {
    let ready = match (&run.status, view.dialogs.is_open()) {
        (_, true) => Err("A file dialog is open."),
        _ if view.exporting.is_some() => Err("Another export is being written."),
        (Status::Finished | Status::Stopped | Status::Imported, _) => Ok(()),
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
                    view.wanted = Some(Ask::Export { run: run.id.clone(), kind: card.name.to_owned() });
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
                    view.wanted = Some(Ask::Figure { kind: (*kind).to_owned() });
                    ui.close();
                }
            }
        })
        .response
        .on_hover_text("Draws the shown runs as SVG and PNG, with the numbers as CSV.")
        .on_disabled_hover_text(if none { "No run is shown." } else { "A file dialog is open." });
    });
}
