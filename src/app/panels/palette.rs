//! The palette: a card for every method. A click places it where its paper does, a drag puts it onto the drawing, the small
//! menu arms it for painting or places a variant. Called by `left`.
//! Must not know any single method: all words come from the catalogue.

use eframe::egui::{
    self, Align2, CursorIcon, Id, LayerId, Order, Rect, Role, Sense, Stroke, StrokeKind, Ui, WidgetInfo, pos2, vec2,
};

use crate::app::form::{head, weak};
use crate::app::theme::{self, Theme};
use crate::app::view::{Brush, Dragged, View};
use crate::methods::{CATALOG, Card};
use crate::session::command::{Command, Edit};
use crate::workbench::Workbench;

pub fn show(ui: &mut Ui, workbench: &Workbench, view: &mut View, asked: &mut Vec<Command>) {
    head(ui, "Methods");
    weak(ui, "Click to place, or drag to the network")
        .on_hover_text("The arrow on a card shows its variants and arms it for painting cell by cell.");
    for card in CATALOG {
        one(ui, workbench, view, card, asked);
    }
}

fn one(ui: &mut Ui, workbench: &Workbench, view: &mut View, card: &'static Card, asked: &mut Vec<Command>) {
    let theme = Theme::of(ui);
    let color = theme.family(card.family);
    let (rect, _) = ui.allocate_exact_size(vec2(ui.available_width(), 32.0), Sense::hover());
    let more = Rect::from_min_max(pos2(rect.right() - 24.0, rect.top()), rect.max);
    let answer = ui.interact(rect.with_max_x(more.left()), Id::unique(("palette", card.name)), Sense::click_and_drag());
    answer.widget_info(|| WidgetInfo::labeled(Role::Button, true, card.title));
    answer.dnd_set_drag_payload(Dragged(card.name));
    let armed = view.brush == Brush::New(card.name);
    let stands = workbench.session.methods.iter().filter(|placed| placed.name == card.name).count();

    let fill = if answer.hovered() || answer.dragged() { theme.hovered } else { theme.raised };
    let edge = if armed { Stroke::new(1.5, color) } else { Stroke::new(1.0, theme.line) };
    ui.painter().rect(rect, 5.0, fill, edge, StrokeKind::Inside);
    ui.painter().rect_filled(Rect::from_min_size(rect.min + vec2(1.0, 4.0), vec2(3.0, rect.height() - 8.0)), 1.5, color);
    ui.painter().text(
        rect.left_center() + vec2(12.0, 0.0),
        Align2::LEFT_CENTER,
        card.title,
        theme::medium(theme::BODY),
        theme.text,
    );
    let note = match (armed, stands) {
        (true, _) => "paint cells".to_owned(),
        (false, 0) => String::new(),
        (false, 1) => "placed".to_owned(),
        (false, n) => format!("placed {n} times"),
    };
    ui.painter().text(pos2(more.left(), rect.center().y), Align2::RIGHT_CENTER, note, theme::regular(theme::SMALL), theme.weak);

    if answer.dragged() {
        carried(ui, card);
    }
    if answer.clicked() {
        asked.push(Command::Edit(Edit::Add { method: card.name.to_owned(), sites: None }));
    }
    let roles: Vec<_> = card.default_roles.iter().map(|r| r.word()).collect();
    let place = if roles.len() > 6 { "everywhere it can stand".to_owned() } else { format!("at {}", roles.join(", ")) };
    answer.on_hover_cursor(CursorIcon::Grab).on_hover_text(format!("{}\n\nA click places it {place}.", card.help));
    menu(ui, view, card, more, asked);
}

/// The name of a card that is being dragged, beside the pointer.
fn carried(ui: &Ui, card: &Card) {
    let Some(at) = ui.input(|i| i.pointer.latest_pos()) else { return };
    let color = Theme::of(ui).family(card.family);
    let painter = ui.ctx().layer_painter(LayerId::new(Order::Tooltip, Id::unique("carried card")));
    let galley = painter.layout_no_wrap(card.title.to_owned(), theme::medium(theme::BODY), Theme::of(ui).on(color));
    let rect = Rect::from_min_size(at + vec2(12.0, 8.0), galley.size() + vec2(14.0, 6.0));
    painter.rect_filled(rect, 4.0, color);
    painter.galley(rect.min + vec2(7.0, 3.0), galley, color);
}

fn menu(ui: &mut Ui, view: &mut View, card: &'static Card, rect: Rect, asked: &mut Vec<Command>) {
    let theme = Theme::of(ui);
    let answer = ui.interact(rect, Id::unique(("palette menu", card.name)), Sense::click());
    answer.widget_info(|| WidgetInfo::labeled(Role::Button, true, format!("{} variants", card.title)));
    let color = if answer.hovered() { theme.text } else { theme.faint };
    let c = rect.center();
    ui.painter().line_segment([c + vec2(-4.0, -2.0), c + vec2(0.0, 2.0)], Stroke::new(1.5, color));
    ui.painter().line_segment([c + vec2(0.0, 2.0), c + vec2(4.0, -2.0)], Stroke::new(1.5, color));
    egui::Popup::menu(&answer).show(|ui| {
        ui.set_min_width(190.0);
        let edit = |edit| Command::Edit(edit);
        if ui.button("Place by the paper").on_hover_text("The roles that the paper chose, in every block.").clicked() {
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
