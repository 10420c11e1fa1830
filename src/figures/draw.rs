//! The three charts, drawn alike on SVG and on pixels. Called by `figures` only; gets numbers ready to draw. Colours are those of
//! Okabe and Ito (2008), which colour-blind readers can tell apart; shapes and direct labels say the same again.

use plotters::chart::{ChartBuilder, ChartContext};
use plotters::coord::Shift;
use plotters::coord::ranged1d::{Ranged, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::Entry;
use crate::board::Run;

pub type Area<B> = DrawingArea<B, Shift>;
type Drawn<B> = Result<(), DrawingAreaErrorKind<<B as DrawingBackend>::ErrorType>>;

const INK: RGBColor = RGBColor(34, 34, 34);
const QUIET: RGBColor = RGBColor(110, 110, 110);
const LINE: RGBColor = RGBColor(225, 225, 225);
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(60, 60, 60),
];

fn colour(n: usize) -> RGBColor {
    COLOURS[n % COLOURS.len()]
}

fn font(points: u32, scale: u32) -> TextStyle<'static> {
    TextStyle::from(("sans-serif", f64::from(points * scale))).color(&INK)
}

/// The same, placed by the middle of its height.
fn level(points: u32, scale: u32) -> TextStyle<'static> {
    font(points, scale).pos(Pos::new(HPos::Left, VPos::Center))
}

/// How an axis writes its numbers.
type Words<'f> = &'f dyn Fn(&f64) -> String;

/// Axes and grid in one manner for all charts.
fn axes<'a, B, X, Y>(
    chart: &mut ChartContext<'a, B, Cartesian2d<X, Y>>,
    (x, y): (&str, &str),
    (format_x, format_y): (Words, Words),
    level_lines: bool,
    scale: u32,
) -> Drawn<B>
where
    B: DrawingBackend + 'a,
    X: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let mut mesh = chart.configure_mesh();
    if !level_lines {
        mesh.disable_y_mesh();
    }
    mesh.light_line_style(TRANSPARENT)
        .bold_line_style(LINE.stroke_width(scale))
        .axis_style(QUIET.stroke_width(scale))
        .label_style(font(12, scale).color(&QUIET))
        .axis_desc_style(font(13, scale))
        .x_desc(x)
        .y_desc(y)
        .x_labels(6)
        .y_labels(6)
        .x_label_formatter(format_x)
        .y_label_formatter(format_y)
        .draw()
}

fn per_cent(v: &f64) -> String {
    format!("{:.0} %", v * 100.0)
}

/// 18432 as "18 k": short enough for an axis.
fn short(v: &f64) -> String {
    match *v {
        v if v >= 1e6 => format!("{} M", trimmed(v / 1e6)),
        v if v >= 1e3 => format!("{} k", trimmed(v / 1e3)),
        v => trimmed(v),
    }
}

fn trimmed(v: f64) -> String {
    if v >= 10.0 || v.fract().abs() < 1e-9 { format!("{v:.0}") } else { format!("{v:.1}") }
}

/// A range around values, with air; an empty one becomes 0 to 1.
fn around(values: impl Iterator<Item = f64>, air: f64) -> (f64, f64) {
    let (low, high) = values.filter(|v| v.is_finite()).fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    if low > high {
        return (0.0, 1.0);
    }
    let margin = ((high - low) * air).max(high.abs() * 0.01).max(1e-6);
    (low - margin, high + margin)
}

/// Training loss left, test accuracy right, names below.
pub fn curves<B: DrawingBackend>(area: &Area<B>, runs: &[&Run], scale: u32) -> Drawn<B> {
    area.fill(&WHITE)?;
    let s = scale as i32;
    let legend = 18 * (runs.len() as i32 + 1) / 2 * s + 16 * s;
    let height = area.dim_in_pixel().1 as i32;
    let (plots, names) = area.split_vertically(height - legend);
    let panels = plots.split_evenly((1, 2));
    let last =
        runs.iter().flat_map(|r| r.steps.iter().map(|s| s.step).chain(r.evaluations.iter().map(|e| e.step))).max().unwrap_or(1);
    let whole = |v: &f64| format!("{v:.0}");
    let decimal = |v: &f64| format!("{v:.2}");

    let losses = || runs.iter().flat_map(|r| r.steps.iter().map(|s| s.loss)).filter(|v| v.is_finite());
    let (_, top) = around(losses(), 0.05);
    let accuracies = || runs.iter().flat_map(|r| r.evaluations.iter().map(|e| e.accuracy));
    let (bottom, ceiling) = around(accuracies(), 0.1);
    let ranges = [(0.0, top), (bottom.max(0.0), ceiling.min(1.0))];
    for (n, panel) in panels.iter().enumerate() {
        let title = ["Training loss", "Test accuracy"][n];
        let mut chart = (ChartBuilder::on(panel))
            .caption(title, font(15, scale))
            .margin(12 * s)
            .x_label_area_size(38 * s)
            .y_label_area_size(52 * s)
            .build_cartesian_2d(0.0..last as f64, ranges[n].0..ranges[n].1)?;
        axes(&mut chart, ("step", ""), (&whole, if n == 0 { &decimal } else { &per_cent }), true, scale)?;
        for (at, run) in runs.iter().enumerate() {
            let points: Vec<(f64, f64)> = match n {
                0 => run.steps.iter().filter(|s| s.loss.is_finite()).map(|s| (s.step as f64, s.loss)).collect(),
                _ => run.evaluations.iter().map(|e| (e.step as f64, e.accuracy)).collect(),
            };
            if n == 1 {
                chart.draw_series(points.iter().map(|p| Circle::new(*p, 3 * s, colour(at).filled())))?;
            }
            chart.draw_series(LineSeries::new(points, colour(at).stroke_width(2 * scale)))?;
        }
    }
    let width = names.dim_in_pixel().0 as i32;
    for (at, run) in runs.iter().enumerate() {
        let (x, y) = (24 * s + (at as i32 % 2) * width / 2, 2 * s + (at as i32 / 2) * 18 * s);
        names.draw(&PathElement::new([(x, y + 7 * s), (x + 20 * s, y + 7 * s)], colour(at).stroke_width(3 * scale)))?;
        let best = run.accuracy().map_or(String::new(), |a| format!("  {:.1} %", a * 100.0));
        names.draw(&Text::new(format!("{} ({}){best}", run.title(), run.id), (x + 28 * s, y + 7 * s), level(12, scale)))?;
    }
    Ok(())
}

/// A bar of accuracy for each stack with a dot for each seed, and its parameters on a logarithmic axis beside.
pub fn comparison<B: DrawingBackend>(area: &Area<B>, entries: &[Entry], scale: u32) -> Drawn<B> {
    area.fill(&WHITE)?;
    let s = scale as i32;
    let (width, _) = area.dim_in_pixel();
    let (names, rest) = area.split_horizontally(width as i32 * 24 / 100);
    let (left, right) = rest.split_horizontally(rest.dim_in_pixel().0 as i32 * 58 / 100);
    let n = entries.len();
    let rows = -0.6..n as f64 - 0.4;
    let row = |at: usize| (n - 1 - at) as f64; // the first one on top
    let none = |_: &f64| String::new();

    let mut chart = (ChartBuilder::on(&left))
        .caption("Test accuracy", font(15, scale))
        .margin(12 * s)
        .margin_right(28 * s)
        .x_label_area_size(38 * s)
        .build_cartesian_2d(0.0..1.0, rows.clone())?;
    axes(&mut chart, ("mean; dots are seeds, the line is one standard deviation", ""), (&per_cent, &none), false, scale)?;
    for (at, entry) in entries.iter().enumerate() {
        let (y, mean) = (row(at), entry.group.mean);
        chart.draw_series([Rectangle::new([(0.0, y - 0.32), (mean, y + 0.32)], colour(at).mix(0.5).filled())])?;
        if let Some(sd) = entry.group.deviation {
            chart.draw_series([PathElement::new([(mean - sd, y), (mean + sd, y)], INK.stroke_width(2 * scale))])?;
        }
        if entry.group.runs.len() > 1 {
            let seeds = entry.group.runs.iter().filter_map(|r| r.accuracy());
            chart.draw_series(seeds.map(|a| Circle::new((a, y), 2 * s, INK.filled())))?;
        }
        // Inside the bar's foot, where no dot lies; beside the bar where it is too short.
        let place = if mean > 0.35 { 0.02 } else { mean + 0.03 };
        let label = EmptyElement::at((place, y)) + Text::new(entry.group.words(), (0, 0), level(12, scale));
        chart.draw_series([label])?;
    }
    for (at, entry) in entries.iter().enumerate() {
        let y = chart.backend_coord(&(0.0, row(at))).1; // the panels stand side by side: one height for all
        names.draw(&Text::new(shortened(&entry.label, 30), (16 * s, y), level(13, scale)))?;
    }

    let largest = entries.iter().map(|e| e.trainable).max().unwrap_or(1).max(10) as f64;
    let least = entries.iter().map(|e| e.trainable).min().unwrap_or(1).max(1) as f64;
    let floor = 10f64.powf(least.log10().floor()).min(least * 0.8);
    let mut chart = (ChartBuilder::on(&right))
        .caption("Trainable parameters", font(15, scale))
        .margin(12 * s)
        .margin_right(28 * s)
        .x_label_area_size(38 * s)
        .build_cartesian_2d((floor..largest * 8.0).log_scale(), rows)?;
    axes(&mut chart, ("head included, logarithmic", ""), (&short, &none), false, scale)?;
    for (at, entry) in entries.iter().enumerate() {
        let (y, count) = (row(at), entry.trainable.max(1) as f64);
        // A dot, not a bar: a logarithmic axis has no zero for a bar to stand on.
        chart.draw_series([PathElement::new([(floor, y), (count, y)], colour(at).mix(0.5).stroke_width(scale))])?;
        chart.draw_series([Circle::new((count, y), 5 * s, colour(at).filled())])?;
        let label = EmptyElement::at((count, y)) + Text::new(short(&(entry.trainable as f64)), (9 * s, 0), level(12, scale));
        chart.draw_series([label])?;
    }
    Ok(())
}

fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most { text.to_owned() } else { text.chars().take(most - 3).chain("...".chars()).collect() }
}

/// Accuracy against trainable parameters, with the front.
pub fn pareto<B: DrawingBackend>(area: &Area<B>, entries: &[Entry], scale: u32) -> Drawn<B> {
    area.fill(&WHITE)?;
    let s = scale as i32;
    let counts = || entries.iter().map(|e| e.trainable.max(1) as f64);
    let (least, most) = (counts().fold(f64::INFINITY, f64::min) / 1.8, counts().fold(1.0, f64::max) * 3.0);
    let spread = entries.iter().flat_map(|e| e.group.runs.iter().filter_map(|r| r.accuracy()));
    let (low, high) = around(spread, 0.15);
    let mut chart = (ChartBuilder::on(area))
        .caption("Accuracy against trainable parameters", font(15, scale))
        .margin(14 * s)
        .x_label_area_size(40 * s)
        .y_label_area_size(60 * s)
        .build_cartesian_2d((least..most).log_scale(), low.max(0.0)..high.min(1.02))?;
    axes(&mut chart, ("trainable parameters, head included (logarithmic)", "test accuracy"), (&short, &per_cent), true, scale)?;

    let mut front: Vec<(f64, f64)> =
        entries.iter().filter(|e| e.on_front).map(|e| (e.trainable.max(1) as f64, e.group.mean)).collect();
    front.sort_by(|a, b| a.0.total_cmp(&b.0));
    // A staircase: between two stacks nothing is known to reach more than the smaller one.
    let mut stairs: Vec<(f64, f64)> = Vec::new();
    for point in front {
        if let Some(before) = stairs.last().copied() {
            stairs.push((point.0, before.1));
        }
        stairs.push(point);
    }
    chart.draw_series(LineSeries::new(stairs, QUIET.stroke_width(scale)))?;
    let mut taken: Vec<(i32, i32, i32)> = Vec::new(); // left, right and middle of labels that stand already
    for (at, entry) in entries.iter().enumerate() {
        let here = (entry.trainable.max(1) as f64, entry.group.mean);
        for run in &entry.group.runs {
            if entry.group.runs.len() > 1
                && let Some(accuracy) = run.accuracy()
            {
                chart.draw_series([Circle::new((here.0, accuracy), 2 * s, colour(at).mix(0.5).filled())])?;
            }
        }
        if let Some(sd) = entry.group.deviation {
            chart.draw_series([PathElement::new(
                [(here.0, here.1 - sd), (here.0, here.1 + sd)],
                colour(at).stroke_width(2 * scale),
            )])?;
        }
        let style = if entry.on_front { colour(at).filled() } else { colour(at).stroke_width(2 * scale) };
        chart.draw_series([Circle::new(here, 6 * s, style)])?;

        let text = shortened(&entry.label, 34);
        let style = level(12, scale);
        let wide = area.estimate_text_size(&text, &style).map_or(text.len() as i32 * 7 * s, |(w, _)| w as i32);
        let (x, y) = chart.backend_coord(&here);
        let right_end = area.dim_in_pixel().0 as i32 - 14 * s;
        let free = |left: i32, middle: i32| {
            left + wide < right_end
                && left > 60 * s
                && taken.iter().all(|(l, r, m)| left > *r || left + wide < *l || (m - middle).abs() > 15 * s)
        };
        // What is on the front stands above its line, the rest below it; right or left of the point, then further off.
        let mut places = Vec::new();
        let away = if entry.on_front { -1 } else { 1 };
        for rise in [11, -12, 26, -27, 42, -43, 58].map(|rise| rise * away) {
            places.extend([(x + 11 * s, y + rise * s), (x - 11 * s - wide, y + rise * s)]);
        }
        let (left, middle) = places.iter().copied().find(|(left, middle)| free(*left, *middle)).unwrap_or(places[0]);
        taken.push((left, left + wide, middle));
        area.draw(&Text::new(text, (left, middle), style))?;
    }
    Ok(())
}
