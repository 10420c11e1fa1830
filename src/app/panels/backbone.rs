//! The parts of the left panel for the frozen network and the data: which, their settings, sample pictures.
//! Called by `left`.
//! Must not load weights or data: thumbnails come from the view.

use std::path::Path;

use eframe::egui::{self, Image, Label, RichText, Ui, vec2};

use crate::app::dialogs::Ask;
use crate::app::form::{WIDGET, fields, head, row, text, weak};
use crate::app::samples::TILES;
use crate::app::theme::{self, Theme};
use crate::app::view::View;
use crate::app::words;
use crate::datasets::Holds;
use crate::plan::anatomy::Entry;
use crate::session::command::{Command, Edit};
use crate::session::settings::{Field, Value};
use crate::workbench::Workbench;
use crate::{backbones, datasets};

/// Height of a spectrogram and of the name below it, in points.
const SOUND: f32 = 44.0;
const NAME: f32 = 14.0;
/// Height of an opened list of a catalogue, in points.
const LIST: f32 = 420.0;
/// The setting that names the file of the weights; it gets a choice instead of a bare text.
const WEIGHTS: &str = "weights";

pub fn backbone(ui: &mut Ui, workbench: &Workbench, view: &mut View, asked: &mut Vec<Command>) {
    let (session, anatomy) = (&workbench.session, &workbench.plan.anatomy);
    head(ui, "Backbone");
    let entries = backbones::CATALOG.iter().map(|card| (card.name, card.title, card.help));
    if let Some(name) = pick(ui, "Backbone", &session.backbone.name, entries) {
        asked.push(Command::Edit(Edit::Backbone(name)));
    }
    let enters = match anatomy.entry {
        Entry::Image { side, .. } => format!("{side} x {side} pixels"),
        Entry::Text { .. } => format!("{} tokens", anatomy.tokens),
        Entry::Sound { bins, frames, .. } => format!("{bins} x {frames} of sound"),
    };
    let lost = || workbench.plan.problems.iter().find(|p| workbench.plan.lost && p.place.starts_with("backbone"));
    match lost() {
        // The drawing is then another network's.
        Some(problem) => {
            ui.label(RichText::new(&problem.words).font(theme::regular(theme::SMALL)).color(Theme::of(ui).error));
        }
        None => {
            let (blocks, width, weights) = (anatomy.blocks, anatomy.width, words::short(anatomy.count()));
            weak(ui, format!("{blocks} blocks · width {width} · {weights} weights · {enters}"));
        }
    }
    if let Some(card) = backbones::find(&session.backbone.name) {
        let (own, others): (Vec<_>, Vec<_>) =
            card.fields.iter().partition(|field| [WEIGHTS, backbones::FOLDER, backbones::SOURCE.name].contains(&field.name));
        for field in own {
            let now = session.backbone.settings.get(field).to_string();
            match field.name {
                WEIGHTS => weights(ui, view, field, &now, asked),
                name if name == backbones::SOURCE.name => {
                    if !now.is_empty() {
                        row(ui, "Source", field.help, |ui| ui.add(Label::new(small(ui, &now)).truncate()).on_hover_text(&now));
                    }
                }
                _ => folder(ui, field, &now),
            }
        }
        let others: Vec<Field> = others.into_iter().copied().collect();
        ui.push_id("backbone", |ui| fields(ui, &others, &session.backbone.settings, "backbone.settings", asked));
    }
    let help = "A folder with config.json and safetensors, as transformers or timm save a pretrained network.";
    if ui.button("Open a model folder...").on_hover_text(help).clicked() {
        view.wanted = Some(Ask::Model);
    }
    let help =
        "Fetches a pretrained network by its name on the Hugging Face hub. What it holds and under which licence is shown first.";
    if ui.button("Fetch from the hub...").on_hover_text(help).clicked() {
        view.hub.get_or_insert_default();
    }
}

/// The end of the folder's path, which is its name, with the whole of it on hovering.
fn folder(ui: &mut Ui, field: &Field, now: &str) {
    let name = Path::new(now).file_name().map_or(now.into(), |name| name.to_string_lossy());
    let shown = if now.is_empty() { "none chosen".into() } else { name };
    row(ui, "Folder", field.help, |ui| {
        ui.add(egui::Label::new(shown).truncate()).on_hover_text(if now.is_empty() { field.help } else { now });
    });
}

/// Pretrained, random, or a file that a dialog asks for.
fn weights(ui: &mut Ui, view: &mut View, field: &Field, now: &str, asked: &mut Vec<Command>) {
    let theme = Theme::of(ui);
    let mut chosen = now.to_owned();
    let is_file = now != "pretrained" && now != "random";
    let shown = if is_file { Path::new(now).file_name().map_or(now.into(), |name| name.to_string_lossy()) } else { now.into() };
    row(ui, "Weights", field.help, |ui| {
        egui::ComboBox::from_id_salt("weights")
            .width(WIDGET)
            .truncate()
            .selected_text(shown)
            .show_ui(ui, |ui| {
                ui.selectable_value(&mut chosen, "pretrained".to_owned(), "pretrained");
                ui.selectable_value(&mut chosen, "random".to_owned(), "random")
                    .on_hover_text("For control experiments: what the network is worth without its pretraining.");
                if ui
                    .selectable_label(is_file, "file...")
                    .on_hover_text("A safetensors file with this backbone's tensors.")
                    .clicked()
                {
                    view.wanted = Some(Ask::Weights);
                }
            })
            .response
            .on_hover_text(field.help)
            .accessible_name("Weights");
    });
    if chosen != now {
        let (path, value) = (format!("backbone.settings.{}", field.name), Value::Text(chosen));
        asked.push(Command::Edit(Edit::Set { path, value }));
    }
    if is_file {
        let there = Path::new(now).is_file();
        let (words, color) = match there {
            true => (now.to_owned(), theme.weak),
            false => (format!("There is no file {now}. Choose another, or \"pretrained\"."), theme.error),
        };
        ui.label(RichText::new(words).font(theme::regular(theme::SMALL)).color(color));
    }
}

pub fn data(ui: &mut Ui, workbench: &Workbench, view: &mut View, asked: &mut Vec<Command>) {
    let session = &workbench.session;
    head(ui, "Data");
    // What an imported adapter was trained on is in no catalogue, but it has a name.
    let own = datasets::find(&session.data.name).filter(|_| workbench.plan.has_no_samples());
    let entries = datasets::CATALOG.iter().copied().chain(own).map(|card| (card.name, card.title, card.help));
    if let Some(name) = pick(ui, "Data set", &session.data.name, entries) {
        asked.push(Command::Edit(Edit::Data(name)));
    }
    let Some(card) = datasets::find(&session.data.name) else { return };
    if workbench.plan.has_no_samples() {
        let classes = &workbench.plan.classes;
        weak(ui, format!("{} classes", classes.len())).on_hover_text(classes.join(", "));
        weak(ui, card.help);
        return;
    }
    let (paths, others): (Vec<&Field>, Vec<&Field>) =
        card.fields.iter().partition(|field| backbones::PATHS.contains(&field.name));
    for field in paths {
        path(ui, view, field, &session.data.settings.get(field).to_string(), asked);
    }
    let thumbs = &view.thumbnails;
    let (classes, tasks) = (&workbench.plan.classes, &workbench.plan.tasks);
    let what = match workbench.plan.holds {
        Holds::Captions => "captions".to_owned(),
        _ => format!("{} classes", classes.len()),
    };
    let line = match (&thumbs.fault, thumbs.is_loading() && thumbs.is_empty()) {
        (Some(_), _) | (None, true) => what,
        _ => format!("{what} · {} train · {} test", words::count(thumbs.train), words::count(thumbs.test)),
    };
    weak(ui, line).on_hover_text(format!(
        "Classes: {}.\nQuality scores: {}.\n\nSource: {}.\nLicence: {}.",
        classes.join(", "),
        workbench.plan.quality.map_or("none".to_owned(), |scores| scores.to_string()),
        card.source,
        card.licence
    ));
    if tasks.len() > 1 {
        let of = |task: &datasets::Task| format!("{} {}", task.name, task.classes);
        let tasks: Vec<_> = tasks.iter().map(of).collect();
        weak(ui, format!("{} tasks: {}", tasks.len(), tasks.join(", "))).on_hover_text(
            "How many classes each has. Every sample is of one task, and only the classes of this task compete for it.",
        );
    }
    if let Some(scores) = workbench.plan.quality {
        weak(ui, format!("Quality scores: {scores}"))
            .on_hover_text("The data gives each sample a score of its own. A method that goes by quality reads it.");
    }
    tiles(ui, view);
    for note in &view.thumbnails.notes {
        weak(ui, note);
    }
    if !workbench.plan.lost {
        weak(ui, workbench.plan.anatomy.takes()).on_hover_text("What the network gets of a sample.");
    }
    ui.add_space(2.0);
    let others: Vec<Field> = others.into_iter().copied().collect();
    ui.push_id("data", |ui| fields(ui, &others, &session.data.settings, "data.settings", asked));
}

/// A file or folder that a dialog asks for; its path can be typed as well.
fn path(ui: &mut Ui, view: &mut View, field: &Field, now: &str, asked: &mut Vec<Command>) {
    let name = words::sentence(field.name);
    row(ui, &name, field.help, |ui| {
        if ui.button("Choose...").on_hover_text(field.help).clicked() {
            view.wanted = Some(Ask::Data { field: field.name });
        }
    });
    let shown = if now.is_empty() { field.help } else { now };
    if let Some(typed) = text(ui, &name, shown, now, ui.available_width()) {
        let path = format!("data.settings.{}", field.name);
        asked.push(Command::Edit(Edit::Set { path, value: Value::Text(typed) }));
    }
}

/// The first texts, each cut to a line, its class in the hover text.
fn texts(ui: &mut Ui, texts: &[(String, String)]) {
    for (text, class) in texts {
        ui.add(Label::new(small(ui, text)).truncate()).on_hover_text(format!("{class}:\n{text}"));
    }
}

fn small(ui: &Ui, words: &str) -> RichText {
    RichText::new(words).font(theme::regular(theme::SMALL)).color(Theme::of(ui).weak)
}

fn tiles(ui: &mut Ui, view: &View) {
    let theme = Theme::of(ui);
    let thumbs = &view.thumbnails;
    if let Some(fault) = &thumbs.fault {
        ui.label(RichText::new(fault).font(theme::regular(theme::SMALL)).color(theme.error));
        return;
    }
    if !thumbs.texts.is_empty() {
        return texts(ui, &thumbs.texts);
    }
    let (columns, gap) = (if thumbs.are_sounds { 2 } else { 6 }, 4.0);
    let wide = ((ui.available_width() - gap * (columns - 1) as f32) / columns as f32).floor();
    let side = if thumbs.are_sounds { SOUND } else { wide };
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
    ui.push_id("tiles", |ui| {
        ui.spacing_mut().item_spacing = vec2(gap, gap);
        for line in thumbs.tiles.chunks(columns) {
            ui.horizontal(|ui| {
                for tile in line {
                    let picture = Image::new(&tile.texture).fit_to_exact_size(vec2(wide, side)).maintain_aspect_ratio(false);
                    let picture = picture.corner_radius(3.0).alt_text(format!("Sample of class {}", tile.label));
                    ui.add(picture).on_hover_text(tile.label.as_str());
                }
            });
            if !thumbs.are_sounds {
                continue;
            }
            ui.horizontal(|ui| {
                for tile in line {
                    let name = Label::new(small(ui, &tile.label)).truncate();
                    ui.add_sized(vec2(wide, NAME), name);
                }
            });
        }
    });
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
        .height(LIST)
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
