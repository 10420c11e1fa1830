//! What the grid's cells and lanes look like: colours by family, shade by gradient, labels that fit, hover words.
//! Called by `grid`.
//! Must not react to the pointer or change anything.

use std::collections::BTreeMap;

use eframe::egui::{Align2, Color32, CornerRadius, Rect, RichText, Shape, Stroke, StrokeKind, Ui, pos2, vec2};

use super::grid::Lay;
use crate::app::theme::{self, Theme};
use crate::app::view::View;
use crate::app::words;
use crate::methods::{Card, Family};
use crate::plan::anatomy::{Door, Site};
use crate::plan::{Member, Plan};
use crate::session::settings::Value;
use crate::workbench::Workbench;

/// Gradient norms by site, of the newest step of a run.
pub struct Heat {
    pub step: usize,
    norms: BTreeMap<String, f64>,
    largest: f64,
}

impl Heat {
    /// Of the run that trains, else of the selected one; none where the drawing shows another stack than the run had.
    pub fn of(workbench: &Workbench, view: &View) -> Option<Heat> {
        if !view.heat {
            return None;
        }
        let run = workbench.board.live().or_else(|| workbench.board.run(view.run.as_ref()?))?;
        let session = run.session.as_ref()?;
        let same = |a: &crate::session::Placed, b: &crate::session::Placed| a.name == b.name && a.place == b.place;
        let (now, then) = (&workbench.session.methods, &session.methods);
        if now.len() != then.len() || !now.iter().zip(then).all(|(a, b)| same(a, b)) {
            return None;
        }
        let step = run.steps.iter().rev().find(|step| !step.gradients.is_empty())?;
        let norms = step.gradients_by_site();
        let largest = norms.values().copied().fold(0.0, f64::max);
        (largest > 0.0).then_some(Heat { step: step.step, norms, largest })
    }

    fn part(&self, site: &str) -> f32 {
        let norm = self.norms.get(site).copied().unwrap_or(0.0);
        0.3 + 0.7 * (norm / self.largest).sqrt() as f32
    }
}

/// The methods whose pattern covers `site`.
pub fn standing<'a>(plan: &'a Plan, site: &str) -> Vec<&'a Member> {
    plan.members.iter().filter(|m| m.sites.iter().any(|s| s == site)).collect()
}

/// Has parameters of its own at the site.
fn trains_at(member: &Member, site: &str) -> bool {
    member.placements.iter().any(|p| p.site == site && !p.tidies)
}

/// The number that the field names a method's size by: its first whole setting.
fn size(member: &Member) -> Option<String> {
    let field = member.card.fields.first()?;
    match member.settings.get(field) {
        Value::Whole(n) => Some(n.to_string()),
        _ => None,
    }
}

/// Labels from long to short.
fn labels(member: &Member) -> Vec<String> {
    let word = member.card.title.split(' ').next().unwrap_or_default();
    let size = size(member);
    let mut all = Vec::new();
    all.extend(size.as_ref().map(|n| format!("{word} {n}")));
    all.push(word.to_owned());
    if word.chars().count() > 5 {
        all.push(word.chars().take(4).collect());
    }
    all.extend(size);
    all
}

#[expect(clippy::too_many_arguments, reason = "a cell's looks depend on all of these")]
pub fn cell(ui: &Ui, rect: Rect, site: &Site, stand: &[&Member], view: &View, heat: Option<&Heat>, open: bool, target: bool) {
    let theme = Theme::of(ui);
    let radius = CornerRadius::same(3);
    let ground = if open { theme.cell } else { theme.cell_shut };
    ui.painter().rect_filled(rect, radius, ground);
    let width = rect.width() / stand.len().max(1) as f32;
    for (n, member) in stand.iter().enumerate() {
        let color = theme.family(member.card.family);
        let part = Rect::from_min_size(pos2(rect.left() + n as f32 * width, rect.top()), vec2(width, rect.height()));
        let part = if n + 1 < stand.len() { part.with_max_x(part.right() - 1.0) } else { part };
        let chosen = view.selected == Some(member.index);
        if trains_at(member, &site.path) {
            let shade = heat.map_or(0.82, |heat| heat.part(&site.path));
            let fill = theme.shade(color, shade);
            ui.painter().rect_filled(part, radius, fill);
            label(ui, part, &labels(member), theme.on(fill));
        } else {
            // Covered by the pattern, but its parameters live elsewhere.
            ui.painter().rect(
                part,
                radius,
                theme.shade(color, 0.15),
                Stroke::new(1.0, theme.shade(color, 0.5)),
                StrokeKind::Inside,
            );
        }
        if chosen {
            ui.painter().rect_stroke(part, radius, Stroke::new(1.5, theme.text), StrokeKind::Inside);
        }
    }
    if target {
        ui.painter().rect_stroke(rect, radius, Stroke::new(1.0, theme.weak), StrokeKind::Inside);
    }
}

/// The longest of `labels` that fits.
fn label(ui: &Ui, rect: Rect, labels: &[String], color: Color32) {
    let painter = ui.painter_at(rect);
    for words in labels {
        let galley = painter.layout_no_wrap(words.clone(), theme::medium(11.0), color);
        if galley.size().x <= rect.width() - 4.0 {
            painter.galley(Align2::CENTER_CENTER.align_size_within_rect(galley.size(), rect).min, galley, color);
            return;
        }
    }
}

pub fn hover(ui: &mut Ui, plan: &Plan, site: &Site, card: Option<&Card>, open: bool) {
    let theme = Theme::of(ui);
    ui.set_max_width(320.0);
    ui.label(RichText::new(&site.path).font(theme::medium(theme::BODY)));
    let frozen = match site.count() {
        0 => "no weights of its own".to_owned(),
        n => format!("{} frozen parameters", words::count(n)),
    };
    ui.label(RichText::new(format!("{}, {} in, {} out, {frozen}", site.place, site.d_in, site.d_out)).color(theme.weak));
    for member in standing(plan, &site.path) {
        let here: usize =
            member.placements.iter().filter(|p| p.site == site.path).flat_map(|p| &p.params).map(|spec| spec.count()).sum();
        ui.label(
            RichText::new(format!("{}: {} trainable here", member.card.title, words::count(here)))
                .color(theme.family(member.card.family)),
        );
    }
    if let (Some(card), false) = (card, open) {
        let roles: Vec<_> = card.roles.iter().map(|r| r.word()).collect();
        ui.label(RichText::new(format!("{} cannot stand here; it takes {}.", card.title, roles.join(", "))).color(theme.warn));
    }
}

/// What lives in no cell: tokens and prompts at the left, the residual stream, the side network below it, the head.
pub fn lanes(ui: &Ui, workbench: &Workbench, lay: &Lay) {
    let (theme, plan) = (Theme::of(ui), &workbench.plan);
    let small = theme::regular(theme::SMALL);
    let painter = ui.painter();
    let y = lay.residual();
    tokens(ui, plan, lay);

    // The residual stream, with an arrow at its end.
    let head = Rect::from_center_size(pos2(lay.right() + 8.0 + 39.0, y), vec2(78.0, 24.0));
    painter.text(pos2(lay.left() - 8.0, y), Align2::RIGHT_CENTER, "residual", small.clone(), theme.weak);
    painter.line_segment([pos2(lay.left(), y), pos2(head.left() - 2.0, y)], Stroke::new(1.5, theme.frozen));
    let tip = pos2(head.left() - 1.0, y);
    painter.add(Shape::convex_polygon(vec![tip, tip + vec2(-6.0, -3.5), tip + vec2(-6.0, 3.5)], theme.frozen, Stroke::NONE));

    for member in plan.members.iter().filter(|m| m.placements.iter().any(|p| p.door == Door::Readout)) {
        side(ui, member, lay, theme.family(member.card.family));
    }
    painter.rect(head, 6.0, theme.panel, Stroke::new(1.5, theme.good), StrokeKind::Inside);
    painter.text(
        head.center(),
        Align2::CENTER_CENTER,
        format!("Head {}", plan.classes.len()),
        theme::medium(theme::SMALL),
        theme.text,
    );
}

fn tokens(ui: &Ui, plan: &Plan, lay: &Lay) {
    let (theme, painter) = (Theme::of(ui), ui.painter());
    let small = theme::regular(theme::SMALL);
    let (left, side, step) = (lay.rect.left() + 16.0, 8.0, 11.0);
    let mut y = lay.top() + lay.pitch + 8.0;
    let mut squares = |count: usize, color: Color32, words: String, words_color: Color32| {
        let shown = count.clamp(1, 16);
        for n in 0..shown {
            let at = pos2(left + (n % 4) as f32 * step, y + (n / 4) as f32 * step);
            painter.rect_filled(Rect::from_min_size(at, vec2(side, side)), 1.5, color);
        }
        y += shown.div_ceil(4) as f32 * step + 2.0;
        painter.text(pos2(left, y), Align2::LEFT_TOP, words, small.clone(), words_color);
        y += 20.0;
    };
    squares(16, theme.frozen, format!("{} tokens", plan.anatomy.tokens), theme.weak);
    for member in plan.members.iter().filter(|m| m.card.family == Family::Prompt) {
        let color = theme.family(member.card.family);
        let count = size(member).and_then(|n| n.parse::<usize>().ok()).unwrap_or(1);
        squares(count, color, format!("+{count} prompts"), color);
    }
}

/// The side network: a rung down from every block that it reads. The blocks are those whose number its parameters carry.
fn side(ui: &Ui, member: &Member, lay: &Lay, color: Color32) {
    let painter = ui.painter();
    let theme = Theme::of(ui);
    let (y, low) = (lay.residual(), lay.residual() + 32.0);
    painter.text(pos2(lay.left() - 8.0, low), Align2::RIGHT_CENTER, "side", theme::regular(theme::SMALL), color);
    let specs: Vec<_> = member.placements.iter().flat_map(|p| &p.params).collect();
    let mut last: Option<Rect> = None;
    for block in 1..=lay.columns {
        let ending = format!("_{block}");
        let Some(spec) = specs.iter().find(|spec| spec.name.ends_with(&ending) && spec.rows > 1) else { continue };
        let middle = lay.cell(0, block - 1).center().x;
        let rect = Rect::from_center_size(pos2(middle, low), vec2((lay.wide * 0.55).max(24.0), 18.0));
        painter.add(Shape::dashed_line(&[pos2(middle, y), pos2(middle, rect.top())], Stroke::new(1.0, color), 3.0, 3.0));
        painter.circle_filled(pos2(middle, y), 2.0, color);
        if let Some(last) = last {
            painter.line_segment([last.right_center(), rect.left_center()], Stroke::new(1.5, color));
        }
        painter.rect(rect, 4.0, theme.ground, Stroke::new(1.5, color), StrokeKind::Inside);
        painter.text(rect.center(), Align2::CENTER_CENTER, spec.cols.to_string(), theme::regular(theme::SMALL), color);
        last = Some(rect);
    }
    if let Some(last) = last {
        let corner = pos2(lay.right() + 8.0 + 39.0, low);
        painter.line_segment([last.right_center(), corner], Stroke::new(1.5, color));
        painter.line_segment([corner, pos2(corner.x, y + 12.0)], Stroke::new(1.5, color));
    }
}
