//! The stack, and the form of the selected method: its words, its place, its settings, its order in the stack.
//! Called by `right`.
//! Must not know any single method: fields and words come from its card.

use eframe::egui::{self, Button, RichText, Sense, Stroke, StrokeKind, Ui, vec2};

use super::palette::ring;
use super::right::dot;
use crate::app::form::{fields, head, real, row, weak};
use crate::app::theme::{self, Theme};
use crate::app::view::View;
use crate::app::words;
use crate::methods::{self, Card};
use crate::session::Placed;
use crate::session::command::{Command, Edit};
use crate::workbench::Workbench;

pub fn show(ui: &mut Ui, workbench: &Workbench, view: &mut View, asked: &mut Vec<Command>) {
    let stack = &workbench.session.methods;
    head(ui, "Stack");
    if stack.is_empty() {
        let aim = &workbench.plan.aim;
        ui.label(aim.alone());
        let trained = if aim.compares_texts() { "Nothing" } else { "Only the head" };
        weak(ui, format!("{trained} is trained. Click a method at the left, or drag it onto the network."));
        return;
    }
    for index in 0..stack.len() {
        entry(ui, workbench, view, index, asked);
    }
    match view.selected.and_then(|n| Some((n, stack.get(n)?))) {
        None => {
            weak(ui, "Select a method to see and change its settings.");
        }
        Some((index, placed)) => match methods::find(&placed.name) {
            Some(card) => form(ui, workbench, index, placed, card, asked),
            None => {
                weak(ui, format!("There is no method `{}`.", placed.name));
            }
        },
    }
}

/// One line of the stack.
fn entry(ui: &mut Ui, workbench: &Workbench, view: &mut View, index: usize, asked: &mut Vec<Command>) {
    let theme = Theme::of(ui);
    let placed = &workbench.session.methods[index];
    let card = methods::find(&placed.name);
    let title = card.map_or(placed.name.as_str(), |card| card.title);
    let (rect, answer) = ui.allocate_exact_size(vec2(ui.available_width(), 24.0), Sense::click());
    answer.widget_info(|| {
        egui::WidgetInfo::selected(
            egui::Role::ListItem,
            true,
            view.selected == Some(index),
            format!("Stack {} {title}", index + 1),
        )
    });
    let chosen = view.selected == Some(index);
    let fill = if chosen || answer.hovered() { theme.hovered } else { theme.raised };
    let edge = if chosen { Stroke::new(1.0, theme.faint) } else { Stroke::new(1.0, theme.line) };
    ui.painter().rect(rect, 4.0, fill, ring(theme, &answer, edge), StrokeKind::Inside);
    if answer.clicked() {
        view.select(index);
    }
    let mut inside = ui.new_child(
        egui::UiBuilder::new().max_rect(rect.shrink2(vec2(8.0, 0.0))).layout(egui::Layout::left_to_right(egui::Align::Center)),
    );
    dot(&mut inside, card.map_or(theme.weak, |card| theme.family(card.family)));
    inside.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
        ui.spacing_mut().button_padding = vec2(3.0, 0.0);
        ui.spacing_mut().item_spacing.x = 3.0;
        ui.spacing_mut().interact_size.x = 16.0;
        if ui
            .add(Button::new("×").small().frame_when_inactive(false))
            .on_hover_text("Remove this method")
            .accessible_name(format!("Remove {title}"))
            .clicked()
        {
            asked.push(Command::Edit(Edit::Remove { index }));
        }
        let last = index + 1 == workbench.session.methods.len();
        for (sign, later, shut, help) in [("↓", true, last, "Let it act later"), ("↑", false, index == 0, "Let it act earlier")]
        {
            let move_it = ui.add_enabled(!shut, Button::new(sign).small().frame_when_inactive(false));
            let name = format!("Move {title} {}", if later { "later" } else { "earlier" });
            if move_it.on_hover_text(help).accessible_name(name).clicked() {
                asked.push(Command::Edit(Edit::Move { index, later }));
                view.select(if later { index + 1 } else { index - 1 });
            }
        }
        if let Some(member) = workbench.plan.members.iter().find(|m| m.index == index) {
            ui.label(RichText::new(words::count(member.count())).font(theme::regular(theme::SMALL)).color(theme.weak))
                .on_hover_text("Trainable parameters of this method");
        }
        ui.with_layout(egui::Layout::left_to_right(egui::Align::Center), |ui| {
            ui.add(egui::Label::new(RichText::new(title).font(theme::medium(theme::BODY))).truncate());
        });
    });
}

fn form(ui: &mut Ui, workbench: &Workbench, index: usize, placed: &Placed, card: &'static Card, asked: &mut Vec<Command>) {
    let member = workbench.plan.members.iter().find(|m| m.index == index);
    ui.add_space(10.0);
    ui.label(RichText::new(format!("{} at {}", card.title, placed.place.words())).font(theme::semibold(theme::HEAD)));
    let cells = member.map_or(0, |m| m.sites.len());
    let start = if card.identity_at_start { "identity at the start" } else { "changes the output from the start" };
    let places = if cells == 1 { "1 place".to_owned() } else { format!("{cells} places") };
    let count = member.map_or_else(String::new, |m| format!("{} parameters · ", words::count(m.count())));
    let folds = member.map_or(card.folds, |m| m.stays_beside().is_none());
    weak(ui, format!("{count}{places} · {start}{}", if folds { " · folds into the weights" } else { "" }))
        .on_hover_text(card.count);
    ui.add_space(2.0);

    ui.push_id(("method", index), |ui| {
        fields(ui, card.fields, &placed.settings, &format!("methods.{index}.settings"), asked);
        let help = "Multiplies the recipe's learning rate for this method alone.";
        let mut factor = placed.learning_rate_factor;
        if row(ui, "Learning rate ×", help, |ui| real(ui, "Learning-rate factor", help, &mut factor, 0.0, 1e4)) {
            asked.push(Command::Edit(Edit::Factor { index, factor }));
        }
        ui.horizontal_wrapped(|ui| {
            let by_paper =
                ui.button("Place by the paper").on_hover_text("Back to the roles that the paper chose, in every block.");
            if by_paper.clicked() {
                asked.push(Command::Edit(Edit::DefaultPlace { index }));
            }
            if !placed.settings.0.is_empty() && ui.button("Default settings").clicked() {
                asked.push(Command::Edit(Edit::ResetAll { index }));
            }
        });
    });
}
