//! The parts of the left panel for the frozen network and the data: which, their settings, sample pictures.
//! Called by `left`.
//! Must not load weights or data: thumbnails come from the view.

use eframe::egui::{self, Image, RichText, Ui, vec2};

use crate::app::form::{fields, head, weak};
use crate::app::samples::TILES;
use crate::app::theme::{self, Theme};
use crate::app::view::View;
use crate::app::words;
use crate::session::command::{Command, Edit};
use crate::workbench::Workbench;
use crate::{backbones, datasets};

pub fn backbone(ui: &mut Ui, workbench: &Workbench, asked: &mut Vec<Command>) {
    let (session, anatomy) = (&workbench.session, &workbench.plan.anatomy);
    head(ui, "Backbone");
    let entries = backbones::CATALOG.iter().map(|card| (card.name, card.title, card.help));
    if let Some(name) = pick(ui, "Backbone", &session.backbone.name, entries) {
        asked.push(Command::Edit(Edit::Backbone(name)));
    }
    weak(ui, format!("{} blocks · width {} · {} weights", anatomy.blocks, anatomy.width, words::short(anatomy.count())));
    if let Some(card) = backbones::find(&session.backbone.name) {
        ui.push_id("backbone", |ui| fields(ui, card.fields, &session.backbone.settings, "backbone.settings", asked));
    }
}

pub fn data(ui: &mut Ui, workbench: &Workbench, view: &View, asked: &mut Vec<Command>) {
    let session = &workbench.session;
    head(ui, "Data");
    let entries = datasets::CATALOG.iter().map(|card| (card.name, card.title, card.help));
    if let Some(name) = pick(ui, "Data set", &session.data.name, entries) {
        asked.push(Command::Edit(Edit::Data(name)));
    }
    let Some(card) = datasets::find(&session.data.name) else { return };
    let thumbs = &view.thumbnails;
    let line = match (&thumbs.fault, thumbs.is_loading() && thumbs.tiles.is_empty()) {
        (Some(_), _) | (None, true) => format!("{} classes", card.classes.len()),
        _ => {
            format!("{} classes · {} train · {} test", card.classes.len(), words::count(thumbs.train), words::count(thumbs.test))
        }
    };
    weak(ui, line).on_hover_text(format!(
        "Classes: {}.\n\nSource: {}.\nLicence: {}.",
        card.classes.join(", "),
        card.source,
        card.licence
    ));
    tiles(ui, view);
    ui.push_id("data", |ui| fields(ui, card.fields, &session.data.settings, "data.settings", asked));
}

fn tiles(ui: &mut Ui, view: &View) {
    let theme = Theme::of(ui);
    let thumbs = &view.thumbnails;
    if let Some(fault) = &thumbs.fault {
        ui.label(RichText::new(fault).font(theme::regular(theme::SMALL)).color(theme.error));
        return;
    }
    let (columns, gap) = (6, 4.0);
    let side = ((ui.available_width() - gap * (columns - 1) as f32) / columns as f32).floor();
    if thumbs.tiles.is_empty() {
        let rows = TILES.div_ceil(columns) as f32;
        let (rect, _) = ui.allocate_exact_size(vec2(ui.available_width(), rows * (side + gap) - gap), egui::Sense::hover());
        ui.painter().rect_filled(rect, 3.0, theme.cell);
        ui.painter().text(
            rect.center(),
            egui::Align2::CENTER_CENTER,
            "Reading samples",
            theme::regular(theme::SMALL),
            theme.weak,
        );
        return;
    }
    ui.spacing_mut().item_spacing = vec2(gap, gap);
    for line in thumbs.tiles.chunks(columns) {
        ui.horizontal(|ui| {
            for tile in line {
                ui.add(Image::new(&tile.texture).fit_to_exact_size(vec2(side, side)).corner_radius(3.0))
                    .on_hover_text(tile.label.as_str());
            }
        });
    }
}

/// A choice from a catalogue; the name when another was chosen.
fn pick(
    ui: &mut Ui,
    what: &str,
    now: &str,
    entries: impl Iterator<Item = (&'static str, &'static str, &'static str)> + Clone,
) -> Option<String> {
    let (title, help) = entries.clone().find(|(name, ..)| *name == now).map_or((now, ""), |(_, title, help)| (title, help));
    let mut chosen = now.to_owned();
    egui::ComboBox::from_id_salt(what)
        .width(ui.available_width())
        .truncate()
        .selected_text(RichText::new(title).font(theme::medium(theme::BODY)))
        .show_ui(ui, |ui| {
            for (name, title, help) in entries {
                ui.selectable_value(&mut chosen, name.to_owned(), title).on_hover_text(help);
            }
        })
        .response
        .on_hover_text(help)
        .accessible_name(what);
    (chosen != now).then_some(chosen)
}
