//! "About LoRA": a method's card in full, folded away under its settings - drawing, formula, paper, when it fails.
//! Called by `right`.
//! Must not know any single method: all words come from its card.

use eframe::egui::{CollapsingHeader, Frame, Margin, RichText, ScrollArea, Stroke, TextStyle, Ui};

use crate::app::form::weak;
use crate::app::theme::{self, Theme};
use crate::app::view::View;
use crate::app::words;
use crate::methods;
use crate::workbench::Workbench;

pub fn show(ui: &mut Ui, workbench: &Workbench, view: &View) {
    let placed = view.selected.and_then(|n| workbench.session.methods.get(n));
    let Some(card) = placed.and_then(|placed| methods::find(&placed.name)) else { return };
    let theme = Theme::of(ui);
    ui.add_space(8.0);
    let title = RichText::new(format!("About {}", card.title)).font(theme::semibold(theme::SMALL)).color(theme.weak);
    CollapsingHeader::new(title).id_salt("about").show_unindented(ui, |ui| {
        ui.label(card.help);
        let frame = Frame::new().fill(theme.ground).stroke(Stroke::new(1.0, theme.line)).corner_radius(4.0);
        frame.inner_margin(Margin::symmetric(8, 6)).show(ui, |ui| {
            ui.set_width(ui.available_width());
            ScrollArea::horizontal().id_salt("drawing").show(ui, |ui| {
                ui.spacing_mut().item_spacing.y = 0.0;
                let text = RichText::new(card.drawing).text_style(TextStyle::Monospace);
                ui.add(eframe::egui::Label::new(text).extend().selectable(true));
            });
        });
        weak(ui, "█ frozen   ▒ trained");
        part(ui, "Formula", card.formula);
        part(ui, "Parameters", card.count);
        part(ui, "Paper", &format!("{}, {}.", card.paper, card.year));
        part(ui, "Learning rate there", &format!("{} with AdamW.", words::shortest(card.learning_rate)));
        part(ui, "Released code", card.released);
        part(ui, "Watch", card.caution);
        part(ui, "Licence of that code", card.licence);
    });
}

fn part(ui: &mut Ui, name: &str, words: &str) {
    let theme = Theme::of(ui);
    ui.add_space(2.0);
    ui.label(RichText::new(name).font(theme::medium(theme::SMALL)).color(theme.text));
    weak(ui, words);
}
