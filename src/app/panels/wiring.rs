//! One block, opened: its parts in the order of the data flow, frozen in grey, with the methods that stand there in their colour.
//! A click selects the same cell in the grid. Called by `right`.
//! Must not know any single method or backbone: branches begin at norms or at what they hold, and a place that covers others is drawn around them.

use eframe::egui::{
    self, Align, Align2, Button, Id, Layout, Pos2, Rect, RichText, Role as Kind, Sense, Stroke, StrokeKind, Ui, pos2, vec2,
};

use super::cells::{self, covers, own};
use super::palette::ring;
use crate::app::form::weak;
use crate::app::theme::{self, Theme};
use crate::app::view::View;
use crate::plan::anatomy::{Anatomy, Role, Site};
use crate::workbench::Workbench;

const BOX: f32 = 22.0;
const BADGE: f32 = 14.0;
const GAP: f32 = 4.0;
/// From the residual stream to the first box.
const INDENT: f32 = 12.0;

pub fn show(ui: &mut Ui, workbench: &Workbench, view: &mut View) {
    let anatomy = &workbench.plan.anatomy;
    let block = view.block(workbench).unwrap_or(0).min(anatomy.blocks.saturating_sub(1));
    head(ui, workbench, view, block);
    for branch in branches(anatomy, block) {
        draw(ui, workbench, view, &branch);
    }
    let passing = anatomy.sites.iter().find(|site| site.block == Some(block)).map(|site| anatomy.stage(site));
    let (tokens, width) = passing.map_or((anatomy.tokens, anatomy.width), |stage| (stage.tokens, stage.width));
    weak(ui, format!("[batch, {tokens}, {width}] in and out; grey is frozen, colour is trained here"));
}

/// The block's name, and the way to its neighbours.
fn head(ui: &mut Ui, workbench: &Workbench, view: &mut View, block: usize) {
    let theme = Theme::of(ui);
    ui.add_space(10.0);
    ui.horizontal(|ui| {
        let words = format!("Block {}, opened", block + 1);
        ui.label(RichText::new(words).font(theme::semibold(theme::SMALL)).color(theme.weak));
        ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
            let anatomy = &workbench.plan.anatomy;
            let whole =
                |n: usize| anatomy.sites.iter().find(|s| s.block == Some(n) && s.role == Role::Block).map(|s| s.path.clone());
            let last = block + 1 >= anatomy.blocks;
            for (sign, name, shut, to) in [
                ("›", "Open the next block", last, block + 1),
                ("‹", "Open the block before", block == 0, block.saturating_sub(1)),
            ] {
                let button = ui.add_enabled(!shut, Button::new(sign).small());
                if button.on_hover_text(name).accessible_name(name).clicked() {
                    view.cell = whole(to);
                }
            }
            // What stands at the block as a whole acts on the residual stream, before the first branch.
            if let Some(path) = whole(block) {
                for member in cells::standing(&workbench.plan, &path) {
                    let words = RichText::new(&cells::labels(member)[0]).font(theme::medium(theme::SMALL));
                    ui.label(words.color(theme.family(member.card.family))).on_hover_text("Stands at the block as a whole.");
                }
            }
        });
    });
}

/// The block's sites in forward order, cut where a branch begins: at its norm, or at its first layer where norms stand behind.
fn branches(anatomy: &Anatomy, block: usize) -> Vec<Vec<&Site>> {
    let sites: Vec<&Site> = anatomy.sites.iter().filter(|s| s.block == Some(block) && s.role != Role::Block).collect();
    let norm_first = sites.first().is_some_and(|site| site.role == Role::Norm);
    let begins = |site: &Site| if norm_first { site.role == Role::Norm } else { matches!(site.role, Role::Attn | Role::Mlp) };
    let mut branches: Vec<Vec<&Site>> = Vec::new();
    for site in sites {
        match branches.last_mut().filter(|_| !begins(site)) {
            Some(branch) => branch.push(site),
            None => branches.push(vec![site]),
        }
    }
    branches
}

fn draw(ui: &mut Ui, workbench: &Workbench, view: &mut View, branch: &[&Site]) {
    let theme = Theme::of(ui);
    let around = |site: &&&Site| branch.iter().any(|other| other.path != site.path && covers(&site.path, &other.path));
    let outer: Option<&Site> = branch.iter().find(around).copied();
    // What is in the branch, and what follows it on the residual stream itself.
    let norm_first = branch.first().is_some_and(|site| site.role == Role::Norm);
    let in_branch = |site: &&Site| match site.role {
        Role::Norm => norm_first,
        Role::Scale => true,
        _ => outer.is_none_or(|outer| covers(&outer.path, &site.path)),
    };
    let (inner, after): (Vec<&Site>, Vec<&Site>) = branch.iter().filter(|site| !around(site)).copied().partition(in_branch);
    let height = BADGE + BOX + if outer.is_some() { BOX } else { 0.0 } + 8.0;
    let (rect, _) = ui.allocate_exact_size(vec2(ui.available_width(), height), Sense::hover());
    let boxes = widths(ui, &inner, rect.width() - INDENT - 8.0);
    let at = |n: usize| {
        let before: f32 = boxes[..n].iter().map(|wide| wide + GAP).sum();
        Rect::from_min_size(pos2(rect.left() + INDENT + before, rect.top() + BADGE + 2.0), vec2(boxes[n], BOX))
    };
    // The residual stream at the left; the branch leaves it and comes back below.
    let painter = ui.painter().clone();
    let stroke = Stroke::new(1.5, theme.frozen);
    let (stem, middle, back) = (rect.left() + 4.0, at(0).center().y, rect.bottom() - 3.0);
    painter.line_segment([pos2(stem, rect.top()), pos2(stem, rect.bottom())], stroke);
    painter.line_segment([pos2(stem, middle), pos2(at(0).left(), middle)], stroke);
    let end = at(inner.len().saturating_sub(1));
    let out: [Pos2; 4] =
        [pos2(end.right(), middle), pos2(rect.right() - 2.0, middle), pos2(rect.right() - 2.0, back), pos2(stem, back)];
    for pair in out.windows(2) {
        painter.line_segment([pair[0], pair[1]], stroke);
    }
    if let Some(outer) = outer {
        let covered: Vec<usize> = (0..inner.len()).filter(|n| covers(&outer.path, &inner[*n].path)).collect();
        let ends = (covered.first().copied().unwrap_or(0), covered.last().copied().unwrap_or(0));
        let frame = Rect::from_min_max(at(ends.0).left_top() - vec2(2.0, 2.0), at(ends.1).right_bottom() + vec2(2.0, BOX));
        painter.rect(frame, 4.0, theme.ground, Stroke::new(1.0, theme.line), StrokeKind::Inside);
        let strip = Rect::from_min_max(pos2(frame.left(), frame.bottom() - BOX + 2.0), frame.max).shrink(2.0);
        part(ui, workbench, view, outer, strip, false);
    }
    for (n, site) in inner.iter().enumerate() {
        let beside_gate = site.role == Role::Up && inner.iter().any(|other| other.role == Role::Gate);
        let parallel = matches!(site.role, Role::Q | Role::K | Role::V) || beside_gate;
        if n > 0 && !parallel {
            painter.line_segment([pos2(at(n).left() - GAP, middle), pos2(at(n).left(), middle)], stroke);
        }
        part(ui, workbench, view, site, at(n), true);
    }
    for site in after {
        let (row, _) = ui.allocate_exact_size(vec2(rect.width(), BOX), Sense::hover());
        painter.line_segment([pos2(stem, row.top() - 4.0), pos2(stem, row.bottom() + 4.0)], stroke);
        part(ui, workbench, view, site, row.with_max_x(row.left() + 130.0), false);
    }
}

/// Widths of the boxes: as their names need, and an equal part of what is left.
fn widths(ui: &Ui, sites: &[&Site], room: f32) -> Vec<f32> {
    let font = theme::regular(theme::SMALL);
    let needs =
        |site: &&Site| ui.painter().layout_no_wrap(site.place.to_owned(), font.clone(), Theme::of(ui).text).size().x + 6.0;
    let needed: Vec<f32> = sites.iter().map(|site| needs(site).max(26.0)).collect();
    let spare = room - needed.iter().map(|wide| wide + GAP).sum::<f32>();
    needed.iter().map(|wide| (wide + spare / sites.len().max(1) as f32).max(12.0)).collect()
}

/// One part of the block as a box, with a badge above it (or in it) for every method that stands there.
fn part(ui: &Ui, workbench: &Workbench, view: &mut View, site: &Site, rect: Rect, badges_above: bool) {
    let (theme, painter) = (Theme::of(ui), ui.painter());
    let answer = ui.interact(rect, Id::unique(("wiring", &site.path)), Sense::click());
    let stand = cells::standing(&workbench.plan, &site.path);
    let names: Vec<_> = stand.iter().map(|m| m.card.title).collect();
    let state = if names.is_empty() { "frozen".to_owned() } else { names.join(", ") };
    answer.widget_info(|| egui::WidgetInfo::labeled(Kind::Button, true, format!("Part {}: {state}", site.place)));
    let trained = stand.iter().find(|member| own(member, &site.path) > 0);
    let color = trained.map_or(theme.line, |member| theme.family(member.card.family));
    let chosen = view.cell.as_ref() == Some(&site.path);
    let edge = if chosen { theme.text } else { color };
    let fill = if answer.hovered() { theme.hovered } else { theme.raised };
    painter.rect(rect, 4.0, fill, ring(theme, &answer, Stroke::new(1.5, edge)), StrokeKind::Inside);
    let align = if badges_above { Align2::CENTER_CENTER } else { Align2::LEFT_CENTER };
    let ink = if stand.is_empty() { theme.weak } else { theme.text };
    painter.text(align.pos_in_rect(&rect.shrink2(vec2(5.0, 0.0))), align, site.place, theme::regular(theme::SMALL), ink);
    let room = if badges_above {
        Rect::from_min_max(rect.left_top() - vec2(0.0, BADGE), rect.right_top())
    } else {
        Rect::from_min_max(pos2(rect.center().x, rect.top() + 3.0), rect.max - vec2(4.0, 3.0))
    };
    let wide = room.width() / stand.len().max(1) as f32;
    for (n, member) in stand.iter().enumerate() {
        let color = theme.family(member.card.family);
        let badge = Rect::from_min_size(pos2(room.left() + n as f32 * wide, room.top()), vec2(wide - 1.0, room.height() - 1.0));
        painter.rect_filled(badge, 2.0, color);
        cells::label(ui, badge, &cells::labels(member), theme.on(color));
    }
    if answer.clicked() {
        view.cell = Some(site.path.clone());
        if let Some(member) = stand.first() {
            view.select(member.index);
        }
    }
    answer.on_hover_ui(|ui| cells::hover(ui, &workbench.plan, site, None, true));
}
