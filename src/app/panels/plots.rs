//! The plots: accuracy, loss, memory over steps, and the parameters of every run that is shown.
//! Called by `panels::show`.
//! Must not change the board; hidden runs are not drawn.

use eframe::egui::{self, Align2, Color32, RichText, Sense, Stroke, Ui, Vec2b, pos2, vec2};
use egui_plot::{AxisHints, Bar, BarChart, HoverPosition, Line, LineStyle, Plot, PlotPoints};

use crate::app::theme::{self, Theme};
use crate::app::words;
use crate::board::{Board, Run};
use crate::methods;
use crate::workbench::Workbench;

/// How a run is told apart: colour of its first method's family, and a line style among runs of that family.
#[derive(Clone, Copy)]
pub struct Mark {
    pub color: Color32,
    pub style: usize,
}

impl Mark {
    pub fn of(theme: &Theme, board: &Board, run: &Run) -> Mark {
        let family =
            |run: &Run| run.session.as_ref().and_then(|s| methods::find(&s.methods.first()?.name)).map(|card| card.family);
        let own = family(run);
        let before =
            board.runs.iter().take_while(|other| other.id != run.id).filter(|other| other.shown && family(other) == own).count();
        Mark { color: own.map_or(theme.weak, |f| theme.family(f)), style: before % 3 }
    }

    fn line(self) -> LineStyle {
        match self.style {
            0 => LineStyle::Solid,
            1 => LineStyle::Dashed { length: 7.0 },
            _ => LineStyle::Dotted { spacing: 4.0 },
        }
    }

    /// A short piece of the line, for the table.
    pub fn draw(self, ui: &Ui, at: egui::Rect, on: bool) {
        let (painter, y) = (ui.painter(), at.center().y);
        let color = if on { self.color } else { self.color.gamma_multiply(0.25) };
        let stroke = Stroke::new(2.5, color);
        let ends = [pos2(at.left(), y), pos2(at.right(), y)];
        match self.style {
            0 => {
                painter.line_segment(ends, stroke);
            }
            1 => {
                painter.extend(egui::Shape::dashed_line(&ends, stroke, 6.0, 3.0));
            }
            _ => {
                painter.extend(egui::Shape::dotted_line(&ends, color, 4.5, 1.4));
            }
        }
    }
}

pub fn show(ui: &mut Ui, workbench: &Workbench) {
    let theme = Theme::of(ui);
    let board = &workbench.board;
    let runs: Vec<(&Run, Mark)> = board.shown().map(|run| (run, Mark::of(theme, board, run))).collect();
    let height = (ui.available_height() * 0.46).clamp(120.0, 190.0);
    let gap = 16.0;
    let width = ((ui.available_width() - 3.0 * gap) / 4.0).floor();
    ui.add_space(4.0);
    ui.horizontal_top(|ui| {
        ui.spacing_mut().item_spacing.x = gap;
        let mut one = |title: &str, note: &str, empty: &str, plot: &dyn Fn(&mut Ui, f32)| {
            ui.allocate_ui(vec2(width, height), |ui| {
                ui.vertical(|ui| {
                    ui.set_width(width);
                    let note = if width < 205.0 { note.split(',').next().unwrap_or_default() } else { note };
                    title_line(ui, title, note);
                    let left = height - 22.0;
                    ui.style_mut().text_styles.insert(egui::TextStyle::Body, theme::regular(10.5)); // the axes' numbers
                    if runs.is_empty() {
                        nothing(ui, vec2(width, left), empty);
                    } else {
                        plot(ui, left);
                    }
                });
            });
        };
        let empty =
            if board.runs.is_empty() { "Train to see the curve of the test set." } else { "No run is shown. Click a row below." };
        one("Accuracy", "test set, %", empty, &|ui, h| accuracy(ui, &runs, h));
        one("Loss", "training, raw and smoothed", "The training loss appears here while a run trains.", &|ui, h| {
            loss(ui, &runs, h)
        });
        one("Memory", "MB, predicted dashed", "Measured bytes, beside what the plan predicts.", &|ui, h| memory(ui, &runs, h));
        one("Parameters", "trainable, head paler", "A bar for every run.", &|ui, h| parameters(ui, &runs, h));
    });
}

fn title_line(ui: &mut Ui, title: &str, note: &str) {
    let theme = Theme::of(ui);
    ui.horizontal(|ui| {
        ui.label(RichText::new(title).font(theme::semibold(theme::BODY)));
        ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
            ui.spacing_mut().item_spacing.x = 0.0;
            ui.add(egui::Label::new(RichText::new(note).font(theme::regular(theme::SMALL)).color(theme.weak)).truncate());
        });
    });
}

fn nothing(ui: &mut Ui, size: egui::Vec2, words: &str) {
    let theme = Theme::of(ui);
    let (rect, _) = ui.allocate_exact_size(size, Sense::hover());
    ui.painter().rect_stroke(rect, 5.0, Stroke::new(1.0, theme.line), egui::StrokeKind::Inside);
    let galley = ui.painter().layout(words.to_owned(), theme::regular(theme::SMALL), theme.faint, size.x - 28.0);
    let at = Align2::CENTER_CENTER.align_size_within_rect(galley.size(), rect);
    ui.painter().galley(at.min, galley, theme.faint);
}

fn plot<'a>(ui: &Ui, name: &'a str, height: f32, unit: &'static str, digits: usize) -> Plot<'a> {
    let theme = Theme::of(ui);
    Plot::new(name)
        .height(height)
        .show_background(false)
        .show_crosshair(true)
        .allow_drag(false)
        .allow_zoom(false)
        .allow_scroll(false)
        .allow_boxed_zoom(true)
        .allow_double_click_reset(true)
        .grid_color(theme.line)
        .set_margin_fraction(vec2(0.02, 0.08))
        .custom_x_axes(vec![AxisHints::new_x().label_spacing(20.0..=34.0).tick_label_color(theme.weak)])
        .y_axis_min_width(30.0)
        .label_formatter(move |at: &HoverPosition<'_>| match at {
            HoverPosition::NearDataPoint { plot_name, position, .. } => {
                Some(format!("{plot_name}\nstep {:.0}\n{:.digits$}{unit}", position.x, position.y))
            }
            HoverPosition::Elsewhere { .. } => None,
        })
}

fn line(run: &Run, mark: Mark, points: Vec<[f64; 2]>) -> Line<'static> {
    Line::new(run.title(), PlotPoints::from(points)).color(mark.color).width(2.0).style(mark.line())
}

fn accuracy(ui: &mut Ui, runs: &[(&Run, Mark)], height: f32) {
    plot(ui, "accuracy", height, " %", 1).include_y(0.0).show(ui, |plot| {
        for (run, mark) in runs {
            let train: Vec<_> = run.steps.iter().map(|s| [s.step as f64, 100.0 * s.accuracy]).collect();
            plot.line(
                Line::new(format!("{}, training", run.title()), PlotPoints::from(smooth(&train)))
                    .color(mark.color.gamma_multiply(0.35))
                    .width(1.0),
            );
            let test: Vec<_> = run.evaluations.iter().map(|e| [e.step as f64, 100.0 * e.accuracy]).collect();
            let dots = egui_plot::Points::new(run.title(), PlotPoints::from(test.clone())).color(mark.color).radius(2.5);
            plot.line(line(run, *mark, test));
            plot.points(dots);
        }
    });
}

fn loss(ui: &mut Ui, runs: &[(&Run, Mark)], height: f32) {
    plot(ui, "loss", height, "", 4).include_y(0.0).show(ui, |plot| {
        for (run, mark) in runs {
            let raw: Vec<_> = run.steps.iter().map(|s| [s.step as f64, s.loss]).collect();
            let name = format!("{}, raw", run.title());
            plot.line(Line::new(name, PlotPoints::from(raw.clone())).color(mark.color.gamma_multiply(0.35)).width(1.0));
            plot.line(line(run, *mark, smooth(&raw)));
        }
    });
}

fn memory(ui: &mut Ui, runs: &[(&Run, Mark)], height: f32) {
    plot(ui, "memory", height, " MB", 2).include_y(0.0).show(ui, |plot| {
        for (run, mark) in runs {
            let used: Vec<_> = run.steps.iter().map(|s| [s.step as f64, s.bytes as f64 / 1e6]).collect();
            let end = run.started.as_ref().map_or(0, |s| s.steps) as f64;
            let peak: Vec<_> = run.steps.iter().map(|s| [s.step as f64, s.peak_bytes as f64 / 1e6]).collect();
            let name = format!("{}, between steps", run.title());
            plot.line(Line::new(name, PlotPoints::from(used)).color(mark.color.gamma_multiply(0.45)).width(1.0));
            plot.line(line(run, Mark { style: 0, ..*mark }, peak));
            if let Some(started) = &run.started {
                let all = started.predicted_bytes as f64 / 1e6;
                let name = format!("{}, predicted", run.title());
                let dashed = Line::new(name, PlotPoints::from(vec![[0.0, all], [end, all]])).color(mark.color).width(1.5);
                plot.line(dashed.style(LineStyle::Dashed { length: 5.0 }));
            }
        }
    });
}

fn parameters(ui: &mut Ui, runs: &[(&Run, Mark)], height: f32) {
    let theme = Theme::of(ui);
    let most = runs.iter().filter_map(|(run, _)| run.started.as_ref()).map(|s| s.trainable + s.head).max().unwrap_or(1) as f64;
    let base = Plot::new("parameters")
        .height(height)
        .show_background(false)
        .allow_drag(false)
        .allow_zoom(false)
        .allow_scroll(false)
        .allow_boxed_zoom(false);
    base.grid_color(theme.line)
        .show_axes(Vec2b::new(false, true))
        .show_grid(Vec2b::new(false, true))
        .show_crosshair(false)
        .y_axis_min_width(30.0)
        .set_margin_fraction(vec2(0.05, 0.08))
        .include_y(0.0)
        .include_y(most * 1.05)
        .include_x(-0.6)
        .include_x((runs.len() as f64 - 0.4).max(1.4))
        .y_axis_formatter(|at, _| words::short(at.value.max(0.0) as usize))
        .show(ui, |plot| {
            for (n, (run, mark)) in runs.iter().enumerate() {
                let Some(started) = &run.started else { continue };
                let bar = |from: usize, count: usize, color: Color32| {
                    Bar::new(n as f64, count as f64).base_offset(from as f64).width(0.7).fill(color).stroke(Stroke::NONE)
                };
                let bars = vec![
                    bar(0, started.trainable, mark.color),
                    bar(started.trainable, started.head, mark.color.gamma_multiply(0.4)),
                ];
                let words = format!(
                    "{}\n{} trainable\n{} head",
                    run.title(),
                    words::count(started.trainable),
                    words::count(started.head)
                );
                plot.bar_chart(BarChart::new(run.title(), bars).element_formatter(Box::new(move |_, _| words.clone())));
            }
        });
}

/// Exponential mean, begun at the first value.
fn smooth(points: &[[f64; 2]]) -> Vec<[f64; 2]> {
    let keep = 1.0 - 1.0 / (points.len() as f64 / 20.0).clamp(2.0, 20.0);
    let mut mean = points.first().map_or(0.0, |p| p[1]);
    points
        .iter()
        .map(|[x, y]| {
            mean = keep * mean + (1.0 - keep) * y;
            [*x, mean]
        })
        .collect()
}
