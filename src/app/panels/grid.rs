//! The network as a grid: columns are blocks, rows the places in a block. Painting cells places a method.
//! Called by `panels::show`; the cells themselves are drawn by `cells`.
//! Must not know any single method or backbone: all comes from the plan and its anatomy.

use eframe::egui::{
    self, Align2, CursorIcon, Id, PointerButton, Pos2, Rect, Response, RichText, Role as Kind, ScrollArea, Sense, Stroke,
    StrokeKind, Ui, WidgetInfo, pos2, vec2,
};

use super::cells::{self, Heat};
use crate::app::theme::{self, Theme};
use crate::app::view::{Brush, Dragged, Sweep, View};
use crate::methods::{self, Card};
use crate::plan::Plan;
use crate::plan::anatomy::{Anatomy, Role, Site};
use crate::session::command::{Command, Edit};
use crate::workbench::Workbench;

/// Widths of what stands beside the columns, and the gap between cells.
const TOKENS: f32 = 84.0;
const NAMES: f32 = 66.0;
const AFTER: f32 = 88.0;
const GAP: f32 = 4.0;
const HEADS: f32 = 20.0;

/// Where everything lies.
pub struct Lay {
    pub rect: Rect,
    pub rows: Vec<&'static str>,
    pub columns: usize,
    pub wide: f32,
    pub pitch: f32,
}

impl Lay {
    pub fn left(&self) -> f32 {
        self.rect.left() + TOKENS + NAMES
    }

    pub fn top(&self) -> f32 {
        self.rect.top() + HEADS
    }

    pub fn cell(&self, row: usize, column: usize) -> Rect {
        let min = pos2(self.left() + column as f32 * (self.wide + GAP), self.top() + row as f32 * self.pitch);
        Rect::from_min_size(min, vec2(self.wide, self.pitch - 3.0))
    }

    pub fn right(&self) -> f32 {
        self.left() + self.columns as f32 * (self.wide + GAP)
    }

    /// Height of the residual stream's line.
    pub fn residual(&self) -> f32 {
        self.top() + self.rows.len() as f32 * self.pitch + 14.0
    }

    /// Row and column nearest to `at`.
    fn nearest(&self, at: Pos2) -> (usize, usize) {
        let row = ((at.y - self.top()) / self.pitch).floor().clamp(0.0, self.rows.len().saturating_sub(1) as f32);
        let column = ((at.x - self.left()) / (self.wide + GAP)).floor().clamp(0.0, self.columns.saturating_sub(1) as f32);
        (row as usize, column as usize)
    }
}

pub fn show(ui: &mut Ui, workbench: &Workbench, view: &mut View, asked: &mut Vec<Command>) {
    let anatomy = &workbench.plan.anatomy;
    let heat = Heat::of(workbench, view);
    header(ui, workbench, view, heat.as_ref());
    let rows = anatomy.places();
    let has_side = workbench.plan.reads_out();
    let below = 30.0 + if has_side { 32.0 } else { 0.0 };
    let room = (ui.available_height() * 0.47 - HEADS - below) / rows.len().max(1) as f32;
    let pitch = room.clamp(16.0, 24.0);
    let columns = anatomy.blocks;
    let wide = ((ui.available_width() - TOKENS - NAMES - AFTER) / columns.max(1) as f32 - GAP).clamp(38.0, 118.0).floor();
    let height = HEADS + rows.len() as f32 * pitch + below;
    view.hovered = None;
    ScrollArea::horizontal().auto_shrink([false, true]).id_salt("grid").show(ui, |ui| {
        let width = TOKENS + NAMES + AFTER + columns as f32 * (wide + GAP);
        let (rect, _) = ui.allocate_exact_size(vec2(width, height), Sense::hover());
        let lay = Lay { rect, rows, columns, wide, pitch };
        heads(ui, workbench, view, &lay, asked);
        for row in 0..lay.rows.len() {
            for column in 0..columns {
                if let Some(site) = anatomy.cell(lay.rows[row], column) {
                    let answer = one(ui, workbench, view, site, lay.cell(row, column), heat.as_ref(), asked);
                    let erases = view.brush == Brush::Eraser || answer.drag_started_by(PointerButton::Secondary);
                    let may = view.brush == Brush::Eraser || view.card(workbench).is_some() || erases;
                    if may && answer.drag_started() {
                        view.sweep = Some(Sweep { from: (row, column), erases });
                    }
                }
            }
        }
        outside(ui, workbench, view, &lay, heat.as_ref(), asked);
        cells::lanes(ui, workbench, &lay);
        sweep(ui, workbench, view, &lay, asked);
    });
}

fn header(ui: &mut Ui, workbench: &Workbench, view: &mut View, heat: Option<&Heat>) {
    let theme = Theme::of(ui);
    let small = |words: &str| RichText::new(words).font(theme::regular(theme::SMALL)).color(theme.weak);
    ui.add_space(8.0);
    ui.horizontal(|ui| {
        ui.label(RichText::new("Network").font(theme::semibold(theme::BODY)));
        let hint = match view.brush {
            Brush::Eraser => "Eraser: click or drag over cells. Esc ends".to_owned(),
            Brush::New(name) => format!("Paint cells to place {}. Esc ends", methods::find(name).map_or(name, |card| card.title)),
            Brush::Selected if view.card(workbench).is_some() => {
                "Paint cells to extend the selected method; right click erases".to_owned()
            }
            Brush::Selected => "Depth runs left to right; a row is a place in the block".to_owned(),
        };
        ui.label(small(&hint));
        ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
            let eraser =
                ui.selectable_label(view.brush == Brush::Eraser, RichText::new("Eraser").font(theme::regular(theme::SMALL)));
            if eraser.on_hover_text("Click or drag over cells to take methods away. A right click does so at any time.").clicked()
            {
                view.brush = if view.brush == Brush::Eraser { Brush::Selected } else { Brush::Eraser };
            }
            if let Some(heat) = heat {
                ui.label(small(&format!("shade: gradient norm, step {}", heat.step)));
            }
        });
    });
}

/// Block and row names: a click paints all of them, a right click erases, a card may be dropped.
fn heads(ui: &mut Ui, workbench: &Workbench, view: &mut View, lay: &Lay, asked: &mut Vec<Command>) {
    let anatomy = &workbench.plan.anatomy;
    for column in 0..lay.columns {
        let first = lay.cell(0, column);
        let rect = Rect::from_min_max(pos2(first.left(), lay.rect.top()), pos2(first.right(), first.top() - 1.0));
        let words = if lay.wide < 60.0 { format!("{}", column + 1) } else { format!("block {}", column + 1) };
        let sites = || lay.rows.iter().filter_map(|row| anatomy.cell(row, column)).map(|s| s.path.clone()).collect();
        let label = format!("Block {}", column + 1);
        line(ui, workbench, view, (rect, Align2::CENTER_CENTER), &words, &label, sites, asked);
    }
    for (row, name) in lay.rows.iter().enumerate() {
        let first = lay.cell(row, 0);
        let rect = Rect::from_min_max(pos2(first.left() - NAMES, first.top()), pos2(first.left() - 8.0, first.bottom()));
        let sites = || (0..lay.columns).filter_map(|column| anatomy.cell(name, column)).map(|s| s.path.clone()).collect();
        line(ui, workbench, view, (rect, Align2::RIGHT_CENTER), name, &format!("Row {name}"), sites, asked);
    }
}

#[expect(clippy::too_many_arguments, reason = "one head of the sheet, drawn in two places")]
fn line(
    ui: &mut Ui,
    workbench: &Workbench,
    view: &mut View,
    at: (Rect, Align2),
    words: &str,
    label: &str,
    sites: impl Fn() -> Vec<String>,
    asked: &mut Vec<Command>,
) {
    let theme = Theme::of(ui);
    let (rect, align) = at;
    let answer = ui.interact(rect, Id::unique(("head", label)), Sense::click());
    answer.widget_info(|| WidgetInfo::labeled(Kind::Button, true, label));
    let color = if answer.hovered() { theme.text } else { theme.weak };
    ui.painter().text(align.pos_in_rect(&rect), align, words, theme::regular(theme::SMALL), color);
    if let Some(dropped) = answer.dnd_release_payload::<Dragged>() {
        place(workbench, dropped.0, sites(), asked);
    }
    if answer.clicked() {
        paint(workbench, view, sites(), asked);
    }
    if answer.secondary_clicked() {
        erase(workbench, view, sites(), asked);
    }
    let help = match view.card(workbench) {
        Some(card) => format!("Click: {} wherever it can stand here. Right click: erase.", card.title),
        None if view.brush == Brush::Eraser => "Click: erase all of it.".to_owned(),
        None => "Select a method, or drag one here from the palette.".to_owned(),
    };
    answer.on_hover_cursor(CursorIcon::PointingHand).on_hover_text(help);
}

/// One cell: drawn, named, and ready to be clicked or dropped on.
fn one(
    ui: &mut Ui,
    workbench: &Workbench,
    view: &mut View,
    site: &Site,
    rect: Rect,
    heat: Option<&Heat>,
    asked: &mut Vec<Command>,
) -> Response {
    let plan = &workbench.plan;
    let answer = ui.interact(rect, Id::unique(("cell", &site.path)), Sense::click_and_drag());
    let stand = cells::standing(plan, &site.path);
    answer.widget_info(|| {
        let names: Vec<_> = stand.iter().map(|m| m.card.title).collect();
        let names = if names.is_empty() { "empty".to_owned() } else { names.join(", ") };
        WidgetInfo::labeled(Kind::Button, true, format!("{} {names}", site.path))
    });
    let dragged = egui::DragAndDrop::payload::<Dragged>(ui.ctx()).and_then(|d| methods::find(d.0));
    let card = dragged.or_else(|| view.card(workbench));
    let open = card.is_none_or(|card| card.roles.contains(&site.role));
    if answer.hovered() {
        view.hovered = Some(site.path.clone());
    }
    let target = open && (answer.hovered() || (dragged.is_some() && answer.contains_pointer()));
    cells::cell(ui, rect, site, &stand, view, heat, open, target);

    if let Some(dropped) = answer.dnd_release_payload::<Dragged>() {
        place(workbench, dropped.0, vec![site.path.clone()], asked);
    }
    if answer.clicked() {
        let add = ui.input(|i| i.modifiers.command);
        let begins = matches!(view.brush, Brush::New(_)) && open;
        if view.brush == Brush::Eraser {
            erase(workbench, view, vec![site.path.clone()], asked);
        } else if stand.is_empty() || begins || add {
            paint(workbench, view, vec![site.path.clone()], asked);
        } else if let Some(pointer) = answer.interact_pointer_pos() {
            let part = ((pointer.x - rect.left()) / rect.width() * stand.len() as f32) as usize;
            view.selected = Some(stand[part.min(stand.len() - 1)].index);
            view.brush = Brush::Selected;
        }
    }
    if answer.secondary_clicked() {
        erase(workbench, view, vec![site.path.clone()], asked);
    }
    answer.on_hover_ui(|ui| cells::hover(ui, plan, site, card, open))
}

/// Sites that belong to no block: the embedding at the left, what comes after the last block at the right.
fn outside(ui: &mut Ui, workbench: &Workbench, view: &mut View, lay: &Lay, heat: Option<&Heat>, asked: &mut Vec<Command>) {
    let theme = Theme::of(ui);
    let sites: Vec<&Site> = workbench.plan.anatomy.sites.iter().filter(|site| site.block.is_none()).collect();
    let (mut before, mut after) = (0, 0);
    for site in sites {
        let (x, width, n) = match site.role {
            Role::Embed => (lay.rect.left(), TOKENS - 10.0, &mut before),
            _ => (lay.right() + 8.0, AFTER - 10.0, &mut after),
        };
        let name = Rect::from_min_size(pos2(x, lay.rect.top() + *n as f32 * (HEADS + lay.pitch + 2.0)), vec2(width, HEADS));
        *n += 1;
        ui.painter().text(name.center(), Align2::CENTER_CENTER, site.place, theme::regular(theme::SMALL), theme.weak);
        let rect = Rect::from_min_size(pos2(x, name.bottom()), vec2(width, lay.pitch - 3.0));
        one(ui, workbench, view, site, rect, heat, asked);
    }
}

/// A rectangle in the making, and its end.
fn sweep(ui: &mut Ui, workbench: &Workbench, view: &mut View, lay: &Lay, asked: &mut Vec<Command>) {
    let Some(sweep) = view.sweep else { return };
    let theme = Theme::of(ui);
    let Some(at) = ui.input(|i| i.pointer.latest_pos()) else { return };
    let (to, from) = (lay.nearest(at), sweep.from);
    let (rows, columns) = ((from.0.min(to.0), from.0.max(to.0)), (from.1.min(to.1), from.1.max(to.1)));
    let rect = lay.cell(rows.0, columns.0).union(lay.cell(rows.1, columns.1)).expand(1.5);
    let color = match view.card(workbench) {
        Some(card) if !sweep.erases => theme.family(card.family),
        _ => theme.error,
    };
    ui.painter().rect(rect, 5.0, color.gamma_multiply(0.15), Stroke::new(1.5, color), StrokeKind::Outside);
    if ui.input(|i| i.pointer.any_down()) {
        return;
    }
    view.sweep = None;
    let anatomy = &workbench.plan.anatomy;
    let covered =
        (rows.0..=rows.1).flat_map(|row| (columns.0..=columns.1).filter_map(move |column| anatomy.cell(lay.rows[row], column)));
    let sites = covered.map(|site| site.path.clone()).collect();
    if sweep.erases {
        erase(workbench, view, sites, asked);
    } else {
        paint(workbench, view, sites, asked);
    }
}

fn fitting(card: &Card, anatomy: &Anatomy, sites: Vec<String>) -> Vec<String> {
    sites.into_iter().filter(|path| anatomy.site(path).is_some_and(|site| card.roles.contains(&site.role))).collect()
}

/// A card dropped on cells: a new method there.
fn place(workbench: &Workbench, name: &str, sites: Vec<String>, asked: &mut Vec<Command>) {
    let Some(card) = methods::find(name) else { return };
    let sites = fitting(card, &workbench.plan.anatomy, sites);
    if !sites.is_empty() {
        asked.push(Command::Edit(Edit::Add { method: name.to_owned(), sites: Some(sites) }));
    }
}

/// The brush over `sites`; those where it cannot stand are passed over.
fn paint(workbench: &Workbench, view: &View, sites: Vec<String>, asked: &mut Vec<Command>) {
    if view.brush == Brush::Eraser {
        return erase(workbench, view, sites, asked);
    }
    let Some(card) = view.card(workbench) else { return };
    match (view.brush, view.selected) {
        (Brush::New(name), _) => place(workbench, name, sites, asked),
        (_, Some(index)) => {
            let sites = fitting(card, &workbench.plan.anatomy, sites);
            if !sites.is_empty() {
                asked.push(Command::Edit(Edit::Paint { index, sites }));
            }
        }
        _ => {}
    }
}

/// Takes the selected method off `sites`, or, where it does not stand, every method that does. A method without any cell left
/// leaves the stack.
pub fn erase(workbench: &Workbench, view: &View, sites: Vec<String>, asked: &mut Vec<Command>) {
    let plan: &Plan = &workbench.plan;
    let on = |m: &&crate::plan::Member| m.sites.iter().any(|site| sites.contains(site));
    let chosen = plan.members.iter().filter(on).find(|m| Some(m.index) == view.selected && view.brush == Brush::Selected);
    let mut targets: Vec<_> = match chosen {
        Some(one) => vec![one],
        None => plan.members.iter().filter(on).collect(),
    };
    targets.reverse(); // the last first, so that a removal moves no index that is still needed
    for member in targets {
        let index = member.index;
        let rest = member.sites.iter().any(|site| !sites.contains(site));
        asked.push(Command::Edit(if rest { Edit::Erase { index, sites: sites.clone() } } else { Edit::Remove { index } }));
    }
}
