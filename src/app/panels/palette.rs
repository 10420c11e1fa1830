//! The palette: a card for every method, by family, with a search box. A click places a method where its paper does (or selects it
//! where it stands already), a drag puts it onto the drawing, the small menu places another, arms it for painting, or places a
//! variant. Called by `left`.
//! Must not know any single method: all words come from the catalogue.

use eframe::egui::text::{LayoutJob, TextFormat, TextWrapping};
use eframe::egui::{
    self, Align2, Color32, CursorIcon, Id, Key, LayerId, Order, Rect, Role, Sense, Stroke, StrokeKind, TextEdit, Ui, WidgetInfo,
    pos2, vec2,
};

use crate::app::form::{head, weak};
use crate::app::keys::commit;
use crate::app::theme::{self, Theme};
use crate::app::view::{Brush, Dragged, View};
use crate::methods::{self, CATALOG, Card, Family};
use crate::session::command::{Command, Edit};
use crate::workbench::Workbench;

const CARD: f32 = 36.0;

pub fn show(ui: &mut Ui, workbench: &Workbench, view: &mut View, asked: &mut Vec<Command>) {
    head(ui, "Methods");
    search(ui, workbench, view, asked);
    let wanted = view.search.trim().to_lowercase();
    if !wanted.is_empty() {
        let found: Vec<_> = found(&wanted).collect();
        for card in &found {
            one(ui, workbench, view, card, asked);
        }
        if found.is_empty() {
            weak(ui, "No method of this name. The search looks at titles, authors and help.");
        }
        return;
    }
    for family in Family::ALL {
        let cards: Vec<&Card> = CATALOG.iter().copied().filter(|card| card.family == family).collect();
        // A heading above a single card would say the same twice.
        if cards.len() > 1 && !heading(ui, workbench, view, family, &cards) {
            continue;
        }
        for card in cards {
            one(ui, workbench, view, card, asked);
        }
    }
}

/// The cards that have every word in their title, name, family, authors or help; titles first.
fn found(wanted: &str) -> impl Iterator<Item = &'static Card> {
    let fits = move |card: &&Card| {
        let variants: Vec<_> = card.variants.iter().map(|v| v.title).collect();
        let all =
            format!("{} {} {} {} {} {}", card.title, card.name, card.family.title(), card.paper, card.help, variants.join(" "));
        let all = all.to_lowercase();
        wanted.split_whitespace().all(|word| all.contains(word))
    };
    let in_title = |card: &&Card| !card.title.to_lowercase().contains(wanted.split_whitespace().next().unwrap_or_default());
    let mut cards: Vec<&'static Card> = CATALOG.iter().copied().filter(fits).collect();
    cards.sort_by_key(in_title);
    cards.into_iter()
}

/// Enter places the first card that is found, the arrow down goes to the cards.
fn search(ui: &mut Ui, workbench: &Workbench, view: &mut View, asked: &mut Vec<Command>) {
    let edit = TextEdit::singleline(&mut view.search).hint_text("Find a method").desired_width(f32::INFINITY);
    let answer = ui.add(edit.id(Id::unique("find a method")).margin(vec2(8.0, 4.0)));
    let answer = answer.on_hover_text("Ctrl+F. Enter places the first method that is found; the arrow keys go through them.");
    let answer = answer.accessible_name("Find a method");
    if std::mem::take(&mut view.find) {
        answer.request_focus();
        answer.scroll_to_me(None);
    }
    let wanted = view.search.trim().to_lowercase();
    if answer.lost_focus()
        && ui.input(|i| i.key_pressed(Key::Enter))
        && let Some(card) = found(&wanted).next().filter(|_| !wanted.is_empty())
    {
        take(workbench, view, card, asked);
        view.search.clear();
    }
    if answer.lost_focus() && ui.input(|i| i.key_pressed(Key::Escape)) {
        view.search.clear();
    }
    if answer.has_focus() && ui.input(|i| i.key_pressed(Key::ArrowDown)) {
        let first = if wanted.is_empty() { None } else { found(&wanted).next() };
        if let Some(card) = first {
            ui.ctx().memory_mut(|memory| memory.request_focus(id(card)));
        }
    }
}

/// The heading of a family; true when it is open.
fn heading(ui: &mut Ui, workbench: &Workbench, view: &mut View, family: Family, cards: &[&Card]) -> bool {
    let theme = Theme::of(ui);
    let open = view.kept.families.contains(family.title());
    let height = if open { 24.0 } else { CARD };
    let (rect, _) = ui.allocate_exact_size(vec2(ui.available_width(), height), Sense::hover());
    let answer = ui.interact(rect, Id::unique(("family", family.title())), Sense::click());
    answer.widget_info(|| {
        let state = if open { "open" } else { "closed" };
        WidgetInfo::labeled(Role::Button, true, format!("{}, {} methods, {state}", family.title(), cards.len()))
    });
    let color = theme.family(family);
    let fill = if answer.hovered() { theme.hovered } else { theme.panel };
    ui.painter().rect(rect, 5.0, fill, ring(theme, &answer, Stroke::new(1.0, theme.line)), StrokeKind::Inside);
    ui.painter().rect_filled(Rect::from_min_size(rect.min + vec2(1.0, 4.0), vec2(3.0, height - 8.0)), 1.5, color);
    let y = if open { rect.center().y } else { rect.top() + 11.0 };
    let title = pos2(rect.left() + 12.0, y);
    ui.painter().text(title, Align2::LEFT_CENTER, family.title(), theme::medium(theme::BODY), theme.text);
    let placed = workbench.session.methods.iter().filter(|placed| cards.iter().any(|card| card.name == placed.name)).count();
    let note = if placed > 0 { format!("{placed} placed · {}", cards.len()) } else { cards.len().to_string() };
    ui.painter().text(pos2(rect.right() - 24.0, y), Align2::RIGHT_CENTER, note, theme::regular(theme::SMALL), theme.weak);
    chevron(ui, pos2(rect.right() - 12.0, y), open, if answer.hovered() { theme.text } else { theme.faint });
    if !open {
        let names: Vec<_> = cards.iter().map(|card| card.title).collect();
        elided(ui, rect.left_top() + vec2(12.0, 20.0), rect.width() - 24.0, &names.join(", "));
    }
    if answer.clicked() {
        let families = &mut view.kept.families;
        if !families.remove(family.title()) {
            families.insert(family.title().to_owned());
        }
    }
    answer.on_hover_cursor(CursorIcon::PointingHand);
    open
}

fn chevron(ui: &Ui, c: egui::Pos2, open: bool, color: Color32) {
    let points = match open {
        true => [c + vec2(-4.0, -2.0), c + vec2(0.0, 2.0), c + vec2(4.0, -2.0)],
        false => [c + vec2(-2.0, -4.0), c + vec2(2.0, 0.0), c + vec2(-2.0, 4.0)],
    };
    ui.painter().line_segment([points[0], points[1]], Stroke::new(1.5, color));
    ui.painter().line_segment([points[1], points[2]], Stroke::new(1.5, color));
}

/// One line of small grey type that ends with an ellipsis where the room ends.
fn elided(ui: &Ui, at: egui::Pos2, width: f32, words: &str) {
    let theme = Theme::of(ui);
    let mut job = LayoutJob::single_section(words.to_owned(), TextFormat::simple(theme::regular(theme::SMALL), theme.weak));
    job.wrap = TextWrapping::truncate_at_width(width);
    let galley = ui.painter().layout_job(job);
    ui.painter().galley(at, galley, theme.weak);
}

/// The edge of a hand-painted widget: the accent when it has the keyboard.
pub fn ring(theme: &Theme, answer: &egui::Response, otherwise: Stroke) -> Stroke {
    if answer.has_focus() { Stroke::new(2.0, theme.focus()) } else { otherwise }
}

fn id(card: &Card) -> Id {
    Id::unique(("palette", card.name))
}

fn one(ui: &mut Ui, workbench: &Workbench, view: &mut View, card: &'static Card, asked: &mut Vec<Command>) {
    let theme = Theme::of(ui);
    let color = theme.family(card.family);
    let (rect, _) = ui.allocate_exact_size(vec2(ui.available_width(), CARD), Sense::hover());
    let more = Rect::from_min_size(pos2(rect.right() - 24.0, rect.top()), vec2(24.0, 21.0));
    let answer = ui.interact(rect, id(card), Sense::click_and_drag());
    answer.widget_info(|| WidgetInfo::labeled(Role::Button, true, card.title));
    answer.dnd_set_drag_payload(Dragged(card.name));
    let armed = view.brush == Brush::New(card.name);
    let stands = workbench.session.methods.iter().filter(|placed| placed.name == card.name).count();

    let fill = if answer.hovered() || answer.dragged() { theme.hovered } else { theme.raised };
    let edge = if armed { Stroke::new(1.5, color) } else { Stroke::new(1.0, theme.line) };
    ui.painter().rect(rect, 5.0, fill, ring(theme, &answer, edge), StrokeKind::Inside);
    ui.painter().rect_filled(Rect::from_min_size(rect.min + vec2(1.0, 4.0), vec2(3.0, rect.height() - 8.0)), 1.5, color);
    let note = match (armed, stands) {
        (true, _) => "paint cells".to_owned(),
        (false, 0) => String::new(),
        (false, 1) => "placed".to_owned(),
        (false, n) => format!("placed {n} times"),
    };
    let (y, small) = (rect.top() + 11.0, theme::regular(theme::SMALL));
    let note = ui.painter().layout_no_wrap(note, small, theme.weak);
    let title = ui.painter().layout_no_wrap(card.title.to_owned(), theme::medium(theme::BODY), theme.text);
    let fits = 12.0 + title.size().x + 8.0 + note.size().x <= rect.width() - 24.0;
    ui.painter().galley(pos2(rect.left() + 12.0, y - title.size().y / 2.0), title, theme.text);
    if fits {
        ui.painter().galley(pos2(more.left() - note.size().x, y - note.size().y / 2.0), note, theme.weak);
    }
    elided(ui, rect.left_top() + vec2(12.0, 20.0), rect.width() - 20.0, card.help);

    if answer.drag_started() {
        commit(ui.ctx()); // a drag, unlike a click, leaves the keyboard where it was
    }
    if answer.clicked() && !answer.double_clicked() {
        take(workbench, view, card, asked);
    }
    let place = words_of(card);
    let click =
        if stands > 0 { "A click selects it; the arrow adds another.".to_owned() } else { format!("A click places it {place}.") };
    answer.on_hover_cursor(CursorIcon::Grab).on_hover_text(format!("{}\n\n{click}", card.help));
    menu(ui, view, card, more, stands, asked);
}

/// Where the card's paper puts it.
pub fn words_of(card: &Card) -> String {
    let roles: Vec<_> = card.default_roles.iter().map(|r| r.word()).collect();
    if roles.len() > 6 { "everywhere it can stand".to_owned() } else { format!("at {}", roles.join(", ")) }
}

/// A click on a card: places it, or selects the next one that stands.
fn take(workbench: &Workbench, view: &mut View, card: &Card, asked: &mut Vec<Command>) {
    let stand = workbench.session.methods.iter().enumerate().filter(|(_, placed)| placed.name == card.name);
    let stand: Vec<usize> = stand.map(|(index, _)| index).collect();
    let next = stand.iter().find(|n| view.selected.is_none_or(|now| **n > now)).or(stand.first());
    match next {
        Some(index) => view.select(*index),
        None => asked.push(Command::Edit(Edit::Add { method: card.name.to_owned(), sites: None })),
    }
}

/// The card in hand, beside the pointer: its name, and where it would fall. Drawn last, above everything.
pub fn carried(ui: &Ui, view: &View) {
    let Some(card) = egui::DragAndDrop::payload::<Dragged>(ui.ctx()).and_then(|d| methods::find(d.0)) else { return };
    let Some(at) = ui.input(|i| i.pointer.latest_pos()) else { return };
    let theme = Theme::of(ui);
    let color = theme.family(card.family);
    let painter = ui.ctx().layer_painter(LayerId::new(Order::Tooltip, Id::unique("carried card")));
    let words = view.landing.clone().unwrap_or_else(|| card.title.to_owned());
    let galley = painter.layout_no_wrap(words, theme::medium(theme::BODY), theme.on(color));
    let mut rect = Rect::from_min_size(at + vec2(12.0, 8.0), galley.size() + vec2(14.0, 6.0));
    let screen = ui.input(|i| i.content_rect());
    if rect.right() > screen.right() {
        rect = rect.translate(vec2(screen.right() - rect.right(), 0.0));
    }
    painter.rect_filled(rect, 4.0, color);
    painter.galley(rect.min + vec2(7.0, 3.0), galley, color);
}

fn menu(ui: &mut Ui, view: &mut View, card: &'static Card, rect: Rect, stands: usize, asked: &mut Vec<Command>) {
    let theme = Theme::of(ui);
    let answer = ui.interact(rect, Id::unique(("palette menu", card.name)), Sense::click());
    answer.widget_info(|| WidgetInfo::labeled(Role::Button, true, format!("{} variants", card.title)));
    if answer.has_focus() {
        ui.painter().rect_stroke(rect.shrink(2.0), 4.0, Stroke::new(2.0, theme.focus()), StrokeKind::Inside);
    }
    chevron(ui, rect.center(), true, if answer.hovered() { theme.text } else { theme.faint });
    egui::Popup::menu(&answer).show(|ui| {
        ui.set_min_width(190.0);
        let edit = |edit| Command::Edit(edit);
        let label = if stands > 0 { "Add another" } else { "Place by the paper" };
        if ui.button(label).on_hover_text("The roles that the paper chose, in every block.").clicked() {
            asked.push(edit(Edit::Add { method: card.name.to_owned(), sites: None }));
        }
        if ui
            .button("Paint cell by cell")
            .on_hover_text("The next click or drag on the drawing begins a new method there.")
            .clicked()
        {
            view.brush = Brush::New(card.name);
        }
        if !card.variants.is_empty() {
            ui.separator();
        }
        for (variant, each) in card.variants.iter().enumerate() {
            if ui.button(each.title).on_hover_text(each.help).clicked() {
                asked.push(edit(Edit::AddVariant { method: card.name.to_owned(), variant }));
            }
        }
    });
}
