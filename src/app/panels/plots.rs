//! The plots: accuracy, loss, memory over steps, and the parameters of every run that is shown.
//! Called by `panels::show`.
//! Must not change the board; hidden runs are not drawn.

use eframe::egui::{self, Align2, Color32, Rect, RichText, Role, Sense, Stroke, Ui, Vec2b, WidgetInfo, pos2, vec2};
use egui_plot::{AxisHints, Bar, BarChart, GridInput, GridMark, HoverPosition, Line, LineStyle, Plot, PlotPoints, Text};

use super::cells::stack_words;
use super::marks::Mark;
use crate::app::curves::{Curves, Series};
use crate::app::theme::{self, Theme};
use crate::app::view::View;
use crate::app::words;
use crate::board::Run;
use crate::workbench::Workbench;

/// Height of a row of the table below, and the least of the plots.
const ROW: f32 = 26.0;
const LEAST: f32 = 130.0;
/// Below this width of the centre the four plots stand two by two.
pub const NARROW: f32 = 700.0;
/// Names written into a plot, if it is high enough for them.
const NAMED: usize = 4;

/// A run with what the plots need of it.
struct Shown<'a> {
    run: &'a Run,
    mark: Mark,
    series: &'a Series,
    name: String,
    selected: bool,
}

pub fn show(ui: &mut Ui, workbench: &Workbench, view: &mut View) {
    let board = &workbench.board;
    let mut curves = std::mem::take(&mut view.curves);
    curves.follow(&board.shown().collect::<Vec<_>>());
    let rows = if ui.available_width() < NARROW { 2 } else { 1 };
    let gap = 16.0;
    let table = 58.0 + ROW * board.runs.len().clamp(2, 5) as f32;
    let height = ((ui.available_height() - table) / rows as f32).clamp(LEAST, 260.0);
    let columns = 4 / rows;
    let width = ((ui.available_width() - (columns - 1) as f32 * gap) / columns as f32).floor();
    let shown = shown(ui, workbench, view, &curves, width);
    let empty = if board.runs.is_empty() {
        "Train to see the curve of the test set."
    } else {
        "No run is shown. Click a line in the table."
    };
    let all: [Panel; 4] = [
        ("Accuracy", "test %, training paler", empty, accuracy),
        ("Loss", "training, raw paler", "The training loss appears here while a run trains.", loss),
        ("Memory", "MB, predicted dashed", "Measured bytes, beside what the plan predicts.", memory),
        ("Parameters", "trainable, head paler", "A bar for every run.", parameters),
    ];
    ui.add_space(4.0);
    for line in all.chunks(columns) {
        ui.horizontal_top(|ui| {
            ui.spacing_mut().item_spacing.x = gap;
            for panel in line {
                one(ui, panel, &shown, vec2(width, height));
            }
        });
    }
    view.curves = curves;
}

type Panel = (&'static str, &'static str, &'static str, fn(&mut Ui, &[Shown], egui::Vec2));

fn shown<'a>(ui: &Ui, workbench: &'a Workbench, view: &View, curves: &'a Curves, width: f32) -> Vec<Shown<'a>> {
    let theme = Theme::of(ui);
    let name = |run: &Run| run.session.as_ref().map_or_else(|| run.id.clone(), stack_words);
    let names: Vec<String> = workbench.board.shown().map(name).collect();
    let mut shown: Vec<Shown> = (workbench.board.shown().zip(&names))
        .filter_map(|(run, name)| {
            // Runs of one stack are told apart by their number.
            let alike = names.iter().filter(|other| *other == name).count() > 1;
            // As many letters as a plot has room for beside its axis and the value.
            let letters = (((width - 100.0) / 6.3) as usize).clamp(8, 21);
            let name = words::cut(name, if alike { letters - 5 } else { letters });
            let name = if alike { format!("{name} {}", words::number(&run.id)) } else { name };
            let selected = view.run.as_ref() == Some(&run.id);
            Some(Shown { run, mark: Mark::of(theme, view, run), series: curves.of(run)?, name, selected })
        })
        .collect();
    // Drawn last, above the others, is what is selected; before it the newest.
    shown.sort_by_key(|each| each.selected);
    shown
}

fn one(ui: &mut Ui, (title, note, empty, draw): &Panel, shown: &[Shown], size: egui::Vec2) {
    ui.push_id(title, |ui| {
        ui.allocate_ui(size, |ui| {
            ui.vertical(|ui| {
                ui.set_width(size.x);
                title_line(ui, title, note);
                let left = vec2(size.x, size.y - 24.0);
                ui.style_mut().text_styles.insert(egui::TextStyle::Body, theme::regular(theme::SMALL)); // the axes' numbers
                if shown.is_empty() {
                    nothing(ui, left, empty);
                } else {
                    draw(ui, shown, left);
                }
            });
        });
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
    let galley = ui.painter().layout(words.to_owned(), theme::regular(theme::SMALL), theme.weak, (size.x - 28.0).max(80.0));
    let at = Align2::CENTER_CENTER.align_size_within_rect(galley.size(), rect);
    ui.painter().galley(at.min, galley, theme.weak);
}

/// Marks at steps of 1, 2 or 5 times a power of ten, about `apart` points from each other on an axis of `length` points.
fn marks(length: f32, apart: f32) -> impl Fn(GridInput) -> Vec<GridMark> {
    move |input| {
        let (low, high) = input.bounds;
        let least = (high - low) / f64::from((length / apart).max(1.0));
        let power = 10f64.powf(least.max(1e-12).log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|n| n * power).into_iter().find(|step| *step >= least).unwrap_or(power);
        let (first, last) = ((low / step).ceil() as i64, (high / step).floor() as i64);
        (first..=last.min(first + 100)).map(|n| GridMark { value: n as f64 * step, step_size: step }).collect()
    }
}

/// With as many decimals as the step between two marks needs.
fn decimals(at: GridMark, _: &std::ops::RangeInclusive<f64>) -> String {
    let digits = (-at.step_size.log10().floor()).clamp(0.0, 6.0) as usize;
    format!("{:.digits$}", at.value)
}

fn plot<'a>(ui: &Ui, name: &'a str, size: egui::Vec2, unit: &'static str, digits: usize) -> Plot<'a> {
    let theme = Theme::of(ui);
    let whole = |at: GridMark, _: &std::ops::RangeInclusive<f64>| words::short(at.value.max(0.0).round() as usize);
    let x = AxisHints::new_x().label_spacing(12.0..=20.0).tick_label_color(theme.weak).formatter(whole);
    let y = AxisHints::new_y().label_spacing(12.0..=20.0).tick_label_color(theme.weak).min_thickness(30.0).formatter(decimals);
    Plot::new(name)
        .height(size.y)
        .show_background(false)
        .show_crosshair(true)
        .allow_drag(false)
        .allow_zoom(false)
        .allow_scroll(false)
        .allow_boxed_zoom(true)
        .allow_double_click_reset(true)
        .grid_color(theme.line)
        .grid_spacing(8.0..=20.0)
        .x_grid_spacer(marks(size.x, 52.0))
        .y_grid_spacer(marks(size.y, 30.0))
        .set_margin_fraction(vec2(0.02, 0.06))
        .custom_x_axes(vec![x])
        .custom_y_axes(vec![y])
        .label_formatter(move |at: &HoverPosition<'_>| match at {
            HoverPosition::NearDataPoint { plot_name, position, .. } => {
                Some(format!("{plot_name}\nstep {:.0}\n{:.digits$}{unit}", position.x, position.y))
            }
            HoverPosition::Elsewhere { .. } => None,
        })
}

fn line<'a>(each: &Shown<'a>, points: &'a [[f64; 2]]) -> Line<'a> {
    let width = if each.selected { 2.5 } else { 1.5 };
    Line::new(each.name.clone(), PlotPoints::from(points.to_vec())).color(each.mark.color).width(width).style(each.mark.line())
}

/// What lies behind the line: the raw values, the training set. With many runs for the selected one alone.
fn behind<'a>(theme: &Theme, each: &Shown<'a>, what: &str, points: &'a [[f64; 2]]) -> Line<'a> {
    let color = theme.ground.lerp_to_gamma(each.mark.color, theme.pale);
    Line::new(format!("{}, {what}", each.name), PlotPoints::from(points.to_vec())).color(color).width(1.0)
}

fn accuracy(ui: &mut Ui, shown: &[Shown], size: egui::Vec2) {
    let theme = Theme::of(ui);
    let spacer = |_: GridInput| (0..=4).map(|n| GridMark { value: f64::from(n) * 25.0, step_size: 25.0 }).collect();
    let answer = plot(ui, "accuracy", size, " %", 1).include_y(0.0).include_y(100.0).y_grid_spacer(spacer).show(ui, |plot| {
        for each in shown.iter().filter(|each| each.selected || shown.len() < 3) {
            plot.line(behind(theme, each, "training", &each.series.train));
        }
        for each in shown {
            let test = &each.series.test;
            plot.line(line(each, test));
            if test.len() <= 12 {
                let dots = egui_plot::Points::new(each.name.clone(), PlotPoints::from(test.clone()));
                plot.points(dots.color(each.mark.color).radius(2.5));
            }
        }
    });
    let value = |each: &Shown| each.run.accuracy().map(|a| format!("{:.1}", 100.0 * a));
    let mut lines = names(theme, shown, size.y, value);
    // Of the selected run, or the newest, task by task.
    if let Some(each) = shown.last() {
        let tasks = each.run.accuracy_by_task().into_iter().map(|(task, a)| format!("{task}  {:.1}", 100.0 * a));
        lines.extend(tasks.map(|words| (words, theme.weak)));
    }
    name(ui, &answer, "Accuracy on the test set, %", Align2::RIGHT_BOTTOM, &lines);
}

fn loss(ui: &mut Ui, shown: &[Shown], size: egui::Vec2) {
    let theme = Theme::of(ui);
    let answer = plot(ui, "loss", size, "", 4).include_y(0.0).show(ui, |plot| {
        for each in shown.iter().filter(|each| each.selected || shown.len() < 3) {
            plot.line(behind(theme, each, "raw", &each.series.raw_loss));
        }
        for each in shown {
            plot.line(line(each, &each.series.loss));
        }
    });
    let value = |each: &Shown| each.series.loss.last().map(|p| format!("{:.3}", p[1]));
    name(ui, &answer, "Training loss", Align2::RIGHT_TOP, &names(theme, shown, size.y, value));
}

fn memory(ui: &mut Ui, shown: &[Shown], size: egui::Vec2) {
    let theme = Theme::of(ui);
    let answer = plot(ui, "memory", size, " MB", 2).include_y(0.0).show(ui, |plot| {
        for each in shown {
            plot.line(behind(theme, each, "between steps", &each.series.used));
            plot.line(line(each, &each.series.peak).style(LineStyle::Solid));
            if let Some(started) = &each.run.started {
                let (all, end) = (started.predicted_bytes as f64 / 1e6, started.steps as f64);
                let name = format!("{}, predicted", each.name);
                let dashed = Line::new(name, PlotPoints::from(vec![[0.0, all], [end, all]])).color(each.mark.color).width(1.0);
                plot.line(dashed.style(LineStyle::Dashed { length: 5.0 }));
            }
        }
    });
    let peak = |run: &Run| run.peak_bytes() as f64 / 1e6;
    let mut lines = vec![];
    if let Some(each) = shown.last().filter(|each| peak(each.run) > 0.0) {
        lines.push((format!("measured {:.1}", peak(each.run)), each.mark.color));
        if let Some(started) = &each.run.started {
            lines.push((format!("predicted {:.1}", started.predicted_bytes as f64 / 1e6), theme.weak));
        }
    }
    let rest = &shown[..shown.len() - usize::from(!lines.is_empty())];
    lines.extend(
        names(theme, rest, size.y, |each| (peak(each.run) > 0.0).then(|| format!("{:.1}", peak(each.run)))).into_iter().take(2),
    );
    name(ui, &answer, "Memory, MB", Align2::RIGHT_BOTTOM, &lines);
}

/// Names with their newest value, the selected run first.
fn names(theme: &Theme, shown: &[Shown], height: f32, value: impl Fn(&Shown) -> Option<String>) -> Vec<(String, Color32)> {
    let most = ((height / 40.0) as usize).clamp(1, NAMED);
    let with_value: Vec<_> = shown.iter().rev().filter_map(|each| Some((each, value(each)?))).collect();
    let mut lines: Vec<_> =
        with_value.iter().take(most).map(|(each, value)| (format!("{}  {value}", each.name), each.mark.color)).collect();
    if with_value.len() > most {
        lines.push((format!("+{}", with_value.len() - most), theme.weak));
    }
    lines
}

/// The names over the plot in a corner, on a ground that keeps them readable, and the same for screen readers.
fn name<R>(ui: &Ui, answer: &egui_plot::PlotResponse<R>, what: &str, corner: Align2, lines: &[(String, Color32)]) {
    let theme = Theme::of(ui);
    let all: Vec<_> = lines.iter().map(|(words, _)| words.as_str()).collect();
    answer.response.widget_info(|| WidgetInfo::labeled(Role::Image, true, format!("{what}: {}", all.join("; "))));
    let frame = answer.response.rect.shrink(4.0);
    let painter = ui.painter().with_clip_rect(answer.response.rect);
    let galleys: Vec<_> = (lines.iter())
        .map(|(words, color)| (painter.layout_no_wrap(words.clone(), theme::medium(theme::SMALL), *color), *color))
        .collect();
    let height: f32 = galleys.iter().map(|(galley, _)| galley.size().y).sum();
    let bottom = corner == Align2::RIGHT_BOTTOM;
    let mut y = if bottom { frame.bottom() - height } else { frame.top() };
    for (galley, color) in galleys {
        let at = pos2(frame.right() - galley.size().x, y);
        y += galley.size().y;
        painter.rect_filled(
            Rect::from_min_size(at, galley.size()).expand2(vec2(3.0, 0.0)),
            2.0,
            theme.ground.gamma_multiply(0.8),
        );
        painter.galley(at, galley, color);
    }
}

fn parameters(ui: &mut Ui, shown: &[Shown], size: egui::Vec2) {
    let theme = Theme::of(ui);
    let mut runs: Vec<&Shown> = shown.iter().filter(|each| each.run.started.is_some()).collect();
    runs.sort_by_key(|each| &each.run.id);
    let all = |each: &Shown| each.run.started.as_ref().map_or(0, |s| s.trainable + s.head);
    let most = runs.iter().map(|each| all(each)).max().unwrap_or(1) as f64;
    let y = AxisHints::new_y().label_spacing(12.0..=20.0).tick_label_color(theme.weak).min_thickness(30.0);
    let y = y.formatter(|at, _| words::short(at.value.max(0.0) as usize));
    let base = Plot::new("parameters")
        .height(size.y)
        .show_background(false)
        .allow_drag(false)
        .allow_zoom(false)
        .allow_scroll(false)
        .allow_boxed_zoom(false);
    let answer = base
        .grid_color(theme.line)
        .grid_spacing(8.0..=20.0)
        .y_grid_spacer(marks(size.y, 30.0))
        .custom_y_axes(vec![y])
        .show_axes(Vec2b::new(false, true))
        .show_grid(Vec2b::new(false, true))
        .show_crosshair(false)
        .set_margin_fraction(vec2(0.05, 0.02))
        .include_y(0.0)
        .include_y(most * 1.15)
        .include_x(-0.6)
        .include_x((runs.len() as f64 - 0.4).max(2.4))
        .show(ui, |plot| {
            for (n, each) in runs.iter().enumerate() {
                let Some(started) = &each.run.started else { continue };
                let bar = |from: usize, count: usize, color: Color32| {
                    Bar::new(n as f64, count as f64).base_offset(from as f64).width(0.7).fill(color).stroke(Stroke::NONE)
                };
                let pale = theme.ground.lerp_to_gamma(each.mark.color, theme.pale);
                let bars = vec![bar(0, started.trainable, each.mark.color), bar(started.trainable, started.head, pale)];
                let (trainable, head) = (words::count(started.trainable), words::count(started.head));
                let hover = format!("{}\n{trainable} trainable\n{head} head", each.name);
                plot.bar_chart(BarChart::new(each.name.clone(), bars).element_formatter(Box::new(move |_, _| hover.clone())));
                if runs.len() <= 6 {
                    let count = RichText::new(words::short(all(each))).font(theme::medium(theme::SMALL));
                    let at = egui_plot::PlotPoint::new(n as f64, all(each) as f64);
                    plot.text(Text::new("", at, count).color(each.mark.color).anchor(Align2::CENTER_BOTTOM));
                }
            }
        });
    let lines: Vec<_> = runs.iter().map(|each| format!("{} {}", each.name, words::count(all(each)))).collect();
    answer.response.widget_info(|| WidgetInfo::labeled(Role::Image, true, format!("Parameters: {}", lines.join("; "))));
}
