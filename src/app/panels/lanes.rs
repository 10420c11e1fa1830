//! What lives in no cell of the grid: tokens and prompts at the left, the residual stream, the side network below it, the head.
//! Called by `grid`.
//! Must not react to the pointer or change anything.

use eframe::egui::{Align2, Color32, Rect, Shape, Stroke, StrokeKind, Ui, pos2, vec2};

use super::cells::{Heat, member_size, own};
use super::grid::{Lay, begins_tower};
use crate::app::theme::{self, Theme};
use crate::app::view::View;
use crate::methods::Family;
use crate::plan::anatomy::Door;
use crate::plan::{Member, Plan};
use crate::tasks::Aim;
use crate::workbench::Workbench;

/// What the shades mean, in the corner above what comes after the blocks.
pub fn legend(ui: &Ui, workbench: &Workbench, view: &View, lay: &Lay, heat: Option<&Heat>) {
    let (theme, plan, painter) = (Theme::of(ui), &workbench.plan, ui.painter());
    let Some(member) = plan.members.iter().find(|m| Some(m.index) == view.selected).or(plan.members.first()) else { return };
    let color = theme.family(member.card.family);
    let (x, mut y) = (lay.right() + 18.0, lay.top() + 10.0);
    if lay.rect.right() - x < 132.0 {
        return;
    }
    let mut line = |draw: &dyn Fn(Rect), words: &str| {
        draw(Rect::from_center_size(pos2(x + 12.0, y), vec2(24.0, 11.0)));
        painter.text(pos2(x + 32.0, y), Align2::LEFT_CENTER, words, theme::regular(theme::SMALL), theme.weak);
        y += 19.0;
    };
    let fill = |part: f32| {
        move |rect: Rect| {
            painter.rect_filled(rect, 2.0, theme.shade(color, part));
        }
    };
    line(&fill(0.82), "trained here");
    let elsewhere = plan.members.iter().any(|m| m.sites.iter().any(|site| own(m, site) == 0));
    if elsewhere {
        line(&fill(0.25), "trained elsewhere");
    }
    if view.card(workbench).is_some() {
        let shut = |rect: Rect| {
            painter.rect(rect, 2.0, theme.cell_shut, Stroke::new(1.0, theme.cell), StrokeKind::Inside);
        };
        line(&shut, "cannot stand here");
    }
    if heat.is_some() {
        let ramp = |rect: Rect| {
            for n in 0..8 {
                let at = pos2(rect.left() + n as f32 * 3.0, rect.top());
                painter.rect_filled(
                    Rect::from_min_size(at, vec2(3.0, rect.height())),
                    0.0,
                    theme.shade(color, 0.3 + 0.1 * n as f32),
                );
            }
        };
        line(&ramp, "larger gradient");
    }
}

pub fn draw(ui: &Ui, workbench: &Workbench, lay: &Lay) {
    let (theme, plan) = (Theme::of(ui), &workbench.plan);
    let painter = ui.painter();
    let y = lay.residual();
    tokens(ui, plan, lay);

    // The residual stream, from the embedding through what comes after the blocks to the head, with an arrow at its end.
    let head = lay.head();
    let stroke = Stroke::new(1.5, theme.frozen);
    painter.text(pos2(lay.left() - 8.0, y), Align2::RIGHT_CENTER, "residual", theme::regular(theme::SMALL), theme.weak);
    let mut from = lay.left();
    for (site, gap) in lay.outside(&plan.anatomy) {
        if begins_tower(&plan.anatomy, site) {
            tower(ui, lay, stroke, from, gap);
        } else if gap.left() > lay.left() {
            painter.line_segment([pos2(from, y), pos2(gap.left(), y)], stroke);
        }
        if gap.left() > lay.left() {
            from = gap.right();
        }
    }
    painter.line_segment([pos2(from, y), pos2(head.left() - 2.0, y)], stroke);
    let tip = pos2(head.left() - 1.0, y);
    painter.add(Shape::convex_polygon(vec![tip, tip + vec2(-6.0, -3.5), tip + vec2(-6.0, 3.5)], theme.frozen, Stroke::NONE));

    for member in plan.members.iter().filter(|m| m.placements.iter().any(|p| p.door == Door::Readout)) {
        side(ui, member, lay, theme.family(member.card.family));
    }
    painter.rect(head, 6.0, theme.panel, Stroke::new(1.5, theme.good), StrokeKind::Inside);
    let words = match plan.aim {
        Aim::Linear | Aim::Mlp(_) | Aim::Cosine(_) => format!("Head {}", plan.classes.len()),
        Aim::ZeroShot(_) => format!("Texts {}", plan.classes.len()),
        Aim::Contrast => "Match".to_owned(),
    };
    painter.text(head.center(), Align2::CENTER_CENTER, words, theme::medium(theme::SMALL), theme.text);
}

/// Where the first tower ends, at `from`, and the second begins, with `entry`: what leaves the first goes below the second to the head.
fn tower(ui: &Ui, lay: &Lay, stroke: Stroke, from: f32, entry: Rect) {
    let (theme, head, y) = (Theme::of(ui), lay.head(), lay.residual());
    let low = y + 17.0;
    let way = [
        pos2(from, y),
        pos2(from + 3.0, y),
        pos2(from + 3.0, low),
        pos2(head.center().x, low),
        pos2(head.center().x, head.bottom()),
    ];
    for pair in way.windows(2) {
        ui.painter().line_segment([pair[0], pair[1]], stroke);
    }
    let at = pos2(entry.center().x, lay.top() - 10.0);
    ui.painter().text(at, Align2::CENTER_CENTER, "text tower", theme::regular(theme::SMALL), theme.weak);
}

fn tokens(ui: &Ui, plan: &Plan, lay: &Lay) {
    let (theme, painter) = (Theme::of(ui), ui.painter());
    let small = theme::regular(theme::SMALL);
    let (left, side, step) = (lay.rect.left() + 2.0, 8.0, 11.0);
    painter.text(pos2(left, lay.rect.top() + 9.0), Align2::LEFT_CENTER, "tokens", small.clone(), theme.weak);
    let mut y = lay.top() + 4.0;
    let mut squares = |count: usize, color: Color32, words: String, words_color: Color32| {
        let shown = count.clamp(1, 16);
        for n in 0..shown {
            let at = pos2(left + (n % 4) as f32 * step, y + (n / 4) as f32 * step);
            painter.rect_filled(Rect::from_min_size(at, vec2(side, side)), 1.5, color);
        }
        y += shown.div_ceil(4) as f32 * step + 2.0;
        painter.text(pos2(left, y), Align2::LEFT_TOP, words, small.clone(), words_color);
        y += 22.0;
    };
    squares(16, theme.frozen, format!("{} tokens", plan.anatomy.tokens), theme.weak);
    for member in plan.members.iter().filter(|m| m.card.family == Family::Prompt) {
        let color = theme.family(member.card.family);
        let count = member_size(member).and_then(|n| n.parse::<usize>().ok()).unwrap_or(1);
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
        let corner = pos2(lay.head().center().x, low);
        painter.line_segment([last.right_center(), corner], Stroke::new(1.5, color));
        painter.line_segment([corner, pos2(corner.x, y + 12.0)], Stroke::new(1.5, color));
    }
}
