//! The network as a grid: columns are blocks, rows the places in a block. Painting cells places a method.
//! Called by `panels::show`; the cells themselves are drawn by `cells`, what lives in none by `lanes`.
//! Must not know any single method or backbone: all comes from the plan and its anatomy.

use eframe::egui::{
    self, Align2, Button, CursorIcon, Id, PointerButton, Pos2, Rect, Response, RichText, Role as Kind, ScrollArea, Sense, Stroke,
    StrokeKind, Ui, WidgetInfo, pos2, vec2,
};

use super::cells::{self, Heat, Mood};
use super::lanes;
use super::palette::ring;
use super::pick::{self, fitting};
use crate::app::keys::commit;
use crate::app::theme::{self, Theme};
use crate::app::view::{Brush, Dragged, List, Pick, Sweep, View};
use crate::methods::{self, Card};
use crate::plan::Plan;
use crate::plan::anatomy::{Anatomy, Site};
use crate::session::command::{Command, Edit};
use crate::workbench::Workbench;

/// Widths of what stands beside the columns, and the gap between cells.
const TOKENS: f32 = 78.0;
const NAMES: f32 = 64.0;
const OUTSIDE: f32 = 56.0;
/// From one site in no block to the next.
const BESIDE: f32 = OUTSIDE + 8.0;
/// Room for the name above a site before the blocks.
const NAME: f32 = 20.0;
const HEAD: f32 = 64.0;
const GAP: f32 = 4.0;
const HEADS: f32 = 20.0;
/// Beside sites that stand between two blocks.
const MARGIN: f32 = 12.0;
/// Seconds for which a remark stands.
const SAID: f64 = 8.0;

/// Where everything lies.
pub struct Lay {
    pub rect: Rect,
    pub rows: Vec<&'static str>,
    pub columns: usize,
    pub wide: f32,
    pub pitch: f32,
    /// How far each column stands further right for the sites in no block that come before it: a merging, a tower's end.
    pub shifts: Vec<f32>,
}

impl Lay {
    /// Left edge of the rows' names.
    pub fn names(&self) -> f32 {
        self.rect.left() + TOKENS
    }

    pub fn left(&self) -> f32 {
        self.names() + NAMES
    }

    pub fn top(&self) -> f32 {
        self.rect.top() + HEADS
    }

    pub fn cell(&self, row: usize, column: usize) -> Rect {
        let min = pos2(self.column(column), self.top() + row as f32 * self.pitch);
        Rect::from_min_size(min, vec2(self.wide, self.pitch - 3.0))
    }

    /// Left edge of a column.
    fn column(&self, column: usize) -> f32 {
        let shift = self.shifts.get(column).or(self.shifts.last()).copied().unwrap_or(0.0);
        self.left() + column as f32 * (self.wide + GAP) + shift
    }

    pub fn right(&self) -> f32 {
        self.column(self.columns)
    }

    pub fn bottom(&self) -> f32 {
        self.top() + self.rows.len() as f32 * self.pitch
    }

    /// Height of the residual stream's line.
    pub fn residual(&self) -> f32 {
        self.bottom() + 14.0
    }

    /// Row and column nearest to `at`.
    pub fn nearest(&self, at: Pos2) -> (usize, usize) {
        let row = ((at.y - self.top()) / self.pitch).floor().clamp(0.0, self.rows.len().saturating_sub(1) as f32);
        let column = (1..self.columns).rfind(|column| self.column(*column) <= at.x).unwrap_or(0);
        (row as usize, column)
    }

    /// The sites in no block: what comes before the blocks one above the other at the left, the last of it on the residual stream;
    /// the rest where the pass comes by, between two blocks or between blocks and head.
    pub fn outside<'a>(&self, anatomy: &'a Anatomy) -> Vec<(&'a Site, Rect)> {
        let high = self.pitch - 3.0;
        let before = before(anatomy);
        // Columns, and sites since the last of them.
        let (mut column, mut since, mut begun, mut all) = (0, 0, false, vec![]);
        for (n, site) in anatomy.sites.iter().enumerate() {
            if let Some(block) = site.block {
                (column, since, begun) = (block + 1, 0, false);
                continue;
            }
            begun |= begins_tower(anatomy, site);
            let (x, y, wide) = match n < before {
                true => {
                    let rows = (before - n - 1) as f32;
                    (self.rect.left(), self.residual() - rows * (high + NAME), TOKENS - 8.0)
                }
                false => {
                    let end = self.column(column - 1) + self.wide + GAP;
                    let apart = if begun { MARGIN } else { 0.0 };
                    (end + 10.0 + since as f32 * BESIDE + apart, self.residual(), OUTSIDE)
                }
            };
            since += 1;
            all.push((site, Rect::from_min_size(pos2(x, y - high / 2.0), vec2(wide, high))));
        }
        all
    }

    pub fn head(&self) -> Rect {
        Rect::from_center_size(pos2(self.rect.right() - HEAD / 2.0 - 1.0, self.residual()), vec2(HEAD, 24.0))
    }
}

/// Whether another tower begins with this site.
pub fn begins_tower(anatomy: &Anatomy, site: &Site) -> bool {
    anatomy.towers.iter().skip(1).any(|tower| tower.sites.first() == Some(site))
}

/// Sites before the first block.
fn before(anatomy: &Anatomy) -> usize {
    anatomy.sites.iter().take_while(|site| site.block.is_none()).count()
}

/// `Lay::shifts` of a network.
fn shifts(anatomy: &Anatomy) -> Vec<f32> {
    let mut all = vec![0.0_f32; anatomy.blocks.max(1)];
    let (mut between, mut begun) = (0, false);
    for pair in anatomy.sites.windows(2).skip(before(anatomy)) {
        between += usize::from(pair[1].block.is_none());
        begun |= begins_tower(anatomy, &pair[1]);
        if let (None, Some(block)) = (pair[0].block, pair[1].block)
            && between > 0
        {
            let more = between as f32 * BESIDE + MARGIN + if begun { MARGIN } else { 0.0 };
            all[block..].iter_mut().for_each(|shift| *shift += more);
            (between, begun) = (0, false);
        }
    }
    all
}

pub fn show(ui: &mut Ui, workbench: &Workbench, view: &mut View, asked: &mut Vec<Command>) {
    pick::show(ui, workbench, view, asked); // first: the click that opens the list must not close it
    let anatomy = &workbench.plan.anatomy;
    let heat = Heat::of(workbench, view);
    header(ui, workbench, view, heat.as_ref());
    let rows = anatomy.places();
    let has_side = workbench.plan.reads_out();
    let below = 30.0 + if has_side { 32.0 } else { 0.0 };
    let room = (ui.available_height() * 0.47 - HEADS - below) / rows.len().max(1) as f32;
    let pitch = room.clamp(16.0, 24.0);
    let columns = anatomy.blocks;
    let outside = anatomy.sites.iter().filter(|site| site.block.is_none()).count() - before(anatomy);
    let shifts = shifts(anatomy);
    let between = shifts.windows(2).filter(|pair| pair[0] != pair[1]).count() + anatomy.towers.len().saturating_sub(1); // each a margin
    let beside = TOKENS + NAMES + outside as f32 * BESIDE + between as f32 * MARGIN + HEAD + 26.0;
    let wide = ((ui.available_width() - beside) / columns.max(1) as f32 - GAP).clamp(38.0, 118.0).floor();
    let height = HEADS + rows.len() as f32 * pitch + below;
    view.hovered = None;
    view.landing = None;
    ScrollArea::horizontal().auto_shrink([false, true]).id_salt("grid").show(ui, |ui| {
        let width = beside + columns as f32 * (wide + GAP);
        let (rect, _) = ui.allocate_exact_size(vec2(width, height), Sense::hover());
        let lay = Lay { rect, rows, columns, wide, pitch, shifts };
        let lands = drop(ui, workbench, view, &lay, asked);
        opened(ui, workbench, view, &lay);
        heads(ui, workbench, view, &lay, asked);
        for row in 0..lay.rows.len() {
            for column in 0..columns {
                if let Some(site) = anatomy.cell(lay.rows[row], column) {
                    let answer = one(ui, workbench, view, site, lay.cell(row, column), heat.as_ref(), &lands, asked);
                    let erases = view.brush == Brush::Eraser || answer.drag_started_by(PointerButton::Secondary);
                    let may = view.brush == Brush::Eraser || view.card(workbench).is_some() || erases;
                    if may && answer.drag_started() {
                        view.sweep = Some(Sweep { from: (row, column), erases });
                        commit(ui.ctx());
                    }
                }
            }
        }
        lanes::draw(ui, workbench, &lay);
        lanes::legend(ui, workbench, view, &lay, heat.as_ref());
        for (site, rect) in lay.outside(anatomy) {
            let name = rect.center_top() - vec2(0.0, 3.0);
            ui.painter().text(name, Align2::CENTER_BOTTOM, site.place, theme::regular(theme::SMALL), Theme::of(ui).weak);
            one(ui, workbench, view, site, rect, heat.as_ref(), &lands, asked);
        }
        sweep(ui, workbench, view, &lay, asked);
    });
}

/// A card in hand over the drawing: where it would land, and, when it is let go, that it lands. The sites that light up.
fn drop(ui: &Ui, workbench: &Workbench, view: &mut View, lay: &Lay, asked: &mut Vec<Command>) -> Vec<String> {
    let card = egui::DragAndDrop::payload::<Dragged>(ui.ctx()).and_then(|d| methods::find(d.0));
    let at = ui.input(|i| i.pointer.latest_pos()).filter(|at| lay.rect.contains(*at) && ui.clip_rect().contains(*at));
    let (Some(card), Some(at)) = (card, at) else { return vec![] };
    let landing = pick::landing(card, &workbench.plan.anatomy, lay, at);
    view.landing = Some(landing.words.clone());
    if ui.input(|i| i.pointer.any_released()) {
        asked.push(Command::Edit(Edit::Add { method: card.name.to_owned(), sites: landing.sites.clone() }));
        if landing.moved {
            view.said = Some((format!("Placed {}.", landing.words), ui.input(|i| i.time)));
        }
        view.cell = landing.sites.as_ref().and_then(|sites| sites.first().cloned()).or(view.cell.take());
        egui::DragAndDrop::clear_payload(ui.ctx());
    }
    landing.sites.unwrap_or_default()
}

/// A frame around the opened block.
fn opened(ui: &Ui, workbench: &Workbench, view: &View, lay: &Lay) {
    let Some(column) = view.block(workbench) else { return };
    let (first, last) = (lay.cell(0, column), lay.cell(lay.rows.len().saturating_sub(1), column));
    let rect = Rect::from_min_max(pos2(first.left() - 2.0, lay.rect.top() + 1.0), last.max + vec2(2.0, 2.0));
    ui.painter().rect_stroke(rect, 5.0, Stroke::new(1.0, Theme::of(ui).faint), StrokeKind::Inside);
}

fn header(ui: &mut Ui, workbench: &Workbench, view: &mut View, heat: Option<&Heat>) {
    let theme = Theme::of(ui);
    let small = |words: &str| RichText::new(words).font(theme::regular(theme::SMALL)).color(theme.weak);
    let now = ui.input(|i| i.time);
    if view.said.as_ref().is_some_and(|(_, since)| now - since > SAID) {
        view.said = None;
    }
    ui.add_space(8.0);
    ui.horizontal(|ui| {
        ui.label(RichText::new("Network").font(theme::semibold(theme::BODY)));
        ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
            let on = view.brush == Brush::Eraser;
            let words = RichText::new("Eraser").font(theme::regular(theme::SMALL));
            let eraser = ui
                .add(Button::new(words).selected(on))
                .on_hover_text("Click or drag over cells to take methods away. A right click does so at any time. Esc ends it.");
            if eraser.clicked() {
                view.brush = if on { Brush::Selected } else { Brush::Eraser };
            }
            if let Some(heat) = heat {
                ui.label(small(&format!("shade: gradient norm, step {}", heat.step)));
            }
            ui.with_layout(egui::Layout::left_to_right(egui::Align::Center), |ui| {
                let hint = match view.brush {
                    Brush::Eraser => "Eraser: click or drag over cells. Esc ends it".to_owned(),
                    Brush::New(name) => {
                        format!("Paint cells to place {}. Esc ends it", methods::find(name).map_or(name, |card| card.title))
                    }
                    Brush::Selected if view.card(workbench).is_some() => {
                        "Paint cells to extend the selected method; right click erases".to_owned()
                    }
                    Brush::Selected => {
                        "Depth runs left to right; a row is a place in the block. Click a cell to place a method".to_owned()
                    }
                };
                let words = match &view.said {
                    Some((words, since)) => {
                        ui.ctx().request_repaint_after_secs((SAID - (now - since)) as f32 + 0.1);
                        RichText::new(words).font(theme::regular(theme::SMALL)).color(theme.text)
                    }
                    None => small(&hint),
                };
                ui.add(egui::Label::new(words).truncate());
            });
        });
    });
}

/// Block and row names: a click paints all of them, a right click erases, a card may be dropped.
fn heads(ui: &mut Ui, workbench: &Workbench, view: &mut View, lay: &Lay, asked: &mut Vec<Command>) {
    let anatomy = &workbench.plan.anatomy;
    let opened = view.block(workbench);
    for column in 0..lay.columns {
        let first = lay.cell(0, column);
        let rect = Rect::from_min_max(pos2(first.left(), lay.rect.top()), pos2(first.right(), first.top() - 1.0));
        let words = if lay.wide < 60.0 { format!("{}", column + 1) } else { format!("block {}", column + 1) };
        let sites = lay.rows.iter().filter_map(|row| anatomy.cell(row, column)).map(|s| s.path.clone()).collect();
        let label = format!("Block {}", column + 1);
        line(ui, workbench, view, (rect, Align2::CENTER_CENTER), (&words, &label, opened == Some(column)), sites, asked);
    }
    for (row, name) in lay.rows.iter().enumerate() {
        let first = lay.cell(row, 0);
        let rect = Rect::from_min_max(pos2(first.left() - NAMES, first.top()), pos2(first.left() - 8.0, first.bottom()));
        let sites = (0..lay.columns).filter_map(|column| anatomy.cell(name, column)).map(|s| s.path.clone()).collect();
        line(ui, workbench, view, (rect, Align2::RIGHT_CENTER), (name, &format!("Row {name}"), false), sites, asked);
    }
}

fn line(
    ui: &mut Ui,
    workbench: &Workbench,
    view: &mut View,
    at: (Rect, Align2),
    (words, label, strong): (&str, &str, bool),
    sites: Vec<String>,
    asked: &mut Vec<Command>,
) {
    let theme = Theme::of(ui);
    let (rect, align) = at;
    let answer = ui.interact(rect, Id::unique(("head", label)), Sense::click());
    answer.widget_info(|| WidgetInfo::labeled(Kind::Button, true, label));
    // A card in hand keeps other widgets from being hovered; the pointer still says where it is.
    let lit = answer.hovered() || (answer.contains_pointer() && egui::DragAndDrop::has_payload_of_type::<Dragged>(ui.ctx()));
    let color = if lit || strong { theme.text } else { theme.weak };
    let font = if strong { theme::semibold(theme::SMALL) } else { theme::regular(theme::SMALL) };
    ui.painter().text(align.pos_in_rect(&rect), align, words, font, color);
    ui.painter().rect_stroke(rect, 3.0, ring(theme, &answer, Stroke::NONE), StrokeKind::Inside);
    if answer.clicked() {
        paint(
            workbench,
            view,
            sites.clone(),
            label.to_lowercase(),
            answer.interact_pointer_pos().unwrap_or(rect.center()),
            asked,
        );
    }
    if answer.secondary_clicked() {
        erase(workbench, view, sites, asked);
    }
    let help = match view.card(workbench) {
        Some(card) => format!("Click: {} wherever it can stand here. Right click: erase.", card.title),
        None if view.brush == Brush::Eraser => "Click: erase all of it.".to_owned(),
        None => "Click to choose a method for all of it, or drag one here from the palette.".to_owned(),
    };
    answer.on_hover_cursor(CursorIcon::PointingHand).on_hover_text(help);
}

/// One cell: drawn, named, and ready to be clicked.
#[expect(clippy::too_many_arguments, reason = "a cell is drawn and answers in one place")]
fn one(
    ui: &mut Ui,
    workbench: &Workbench,
    view: &mut View,
    site: &Site,
    rect: Rect,
    heat: Option<&Heat>,
    lands: &[String],
    asked: &mut Vec<Command>,
) -> Response {
    let (plan, theme) = (&workbench.plan, Theme::of(ui));
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
    let mood = Mood {
        open,
        lands: lands.contains(&site.path) || (dragged.is_none() && open && answer.hovered()),
        tint: dragged.filter(|_| open).map(|card| theme.family(card.family)),
        chosen: view.cell.as_ref() == Some(&site.path),
        focused: answer.has_focus(),
        among: plan.members.len(),
    };
    cells::cell(ui, rect, site, &stand, view, heat, mood);

    if answer.clicked() {
        let add = ui.input(|i| i.modifiers.command);
        let begins = matches!(view.brush, Brush::New(_));
        view.cell = Some(site.path.clone());
        view.list = List::Stack;
        let at = answer.interact_pointer_pos().unwrap_or(rect.center());
        if view.brush == Brush::Eraser {
            erase(workbench, view, vec![site.path.clone()], asked);
        } else if stand.is_empty() || begins || add {
            paint(workbench, view, vec![site.path.clone()], cells::place_words(site), at, asked);
        } else {
            let part = ((at.x - rect.left()) / rect.width() * stand.len() as f32).max(0.0) as usize;
            view.select(stand[part.min(stand.len() - 1)].index);
        }
    }
    if answer.secondary_clicked() {
        erase(workbench, view, vec![site.path.clone()], asked);
    }
    answer.on_hover_ui(|ui| cells::hover(ui, plan, site, card, open))
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
    let sites: Vec<String> = covered.map(|site| site.path.clone()).collect();
    if sweep.erases {
        erase(workbench, view, sites, asked);
    } else {
        let words = format!("{} cells", sites.len());
        paint(workbench, view, sites, words, at, asked);
    }
}

/// The brush over `sites`; those where it cannot stand are passed over. With no method in hand that fits, the person is asked for one.
fn paint(workbench: &Workbench, view: &mut View, sites: Vec<String>, words: String, at: Pos2, asked: &mut Vec<Command>) {
    if view.brush == Brush::Eraser {
        return erase(workbench, view, sites, asked);
    }
    let fits = view.card(workbench).map(|card: &Card| (card, fitting(card, &workbench.plan.anatomy, &sites)));
    match (fits, view.brush, view.selected) {
        (Some((_, fits)), Brush::New(name), _) if !fits.is_empty() => {
            asked.push(Command::Edit(Edit::Add { method: name.to_owned(), sites: Some(fits) }));
        }
        (Some((_, fits)), _, Some(index)) if !fits.is_empty() => {
            asked.push(Command::Edit(Edit::Paint { index, sites: fits }));
        }
        _ => view.pick = Some(Pick { sites, words, at }),
    }
}

/// Takes the selected method off `sites`, or, where it does not stand, every method that does. A method without any cell left
/// leaves the stack.
pub fn erase(workbench: &Workbench, view: &View, sites: Vec<String>, asked: &mut Vec<Command>) {
    let plan: &Plan = &workbench.plan;
    let on = |m: &&crate::plan::Member| m.sites.iter().any(|site| sites.contains(site));
    let chosen = plan.members.iter().filter(on).find(|m| Some(m.index) == view.selected && view.brush == Brush::Selected);
    let edit = match chosen {
        Some(member) if member.sites.iter().all(|site| sites.contains(site)) => Edit::Remove { index: member.index },
        Some(member) => Edit::Erase { index: member.index, sites },
        None if plan.members.iter().any(|m| on(&m)) => Edit::EraseAll { sites },
        None => return,
    };
    asked.push(Command::Edit(edit));
}
