//! Widgets shared by the panels: a field of a catalogue card as a widget, rows of numbers, heads, buttons that ask.
//! Called by the panels.
//! Must not change anything: what the person did comes back as a value or is pushed as a command.

use eframe::egui::{self, Align, Button, DragValue, Layout, Rect, Response, RichText, TextEdit, Ui, UiBuilder, vec2};

use super::theme::{self, Theme};
use super::words;
use crate::session::command::{Command, Edit};
use crate::session::settings::{Field, Kind, Settings, Value};

/// Width of the widgets in a form, flush right.
pub const WIDGET: f32 = 100.0;

/// A section's head.
pub fn head(ui: &mut Ui, words: &str) {
    let theme = Theme::of(ui);
    ui.add_space(10.0);
    ui.label(RichText::new(words).font(theme::semibold(theme::SMALL)).color(theme.weak));
}

/// A line in small grey type, wrapped.
pub fn weak(ui: &mut Ui, words: impl Into<String>) -> Response {
    let theme = Theme::of(ui);
    ui.label(RichText::new(words).font(theme::regular(theme::SMALL)).color(theme.weak))
}

/// A name at the left and what stands for it at the right. Its ids hang on the name alone, so that a field keeps the keyboard
/// or a drag when something appears above it.
pub fn row<R>(ui: &mut Ui, name: &str, help: &str, widget: impl FnOnce(&mut Ui) -> R) -> R {
    let theme = Theme::of(ui);
    let size = vec2(ui.available_width(), 22.0);
    let rect = Rect::from_min_size(ui.cursor().min, size);
    let id = ui.scope_id().with(("row", name));
    let layout = Layout::left_to_right(Align::Center);
    ui.scope_builder(UiBuilder::new().scope_id(id).max_rect(rect).layout(layout), |ui| {
        ui.set_min_height(size.y);
        let label = ui.label(RichText::new(name).color(theme.weak));
        if !help.is_empty() {
            label.on_hover_text(help);
        }
        let rest = ui.available_rect_before_wrap();
        let right = UiBuilder::new().scope_id(id.with("right")).max_rect(rest).layout(Layout::right_to_left(Align::Center));
        ui.scope_builder(right, widget).inner
    })
    .inner
}

/// A line that is no higher than its text.
pub fn tight<R>(ui: &mut Ui, contents: impl FnOnce(&mut Ui) -> R) -> R {
    ui.scope(|ui| {
        ui.spacing_mut().interact_size.y = 17.0;
        ui.horizontal(contents).inner
    })
    .inner
}

/// A row with a number, in columns.
pub fn number(ui: &mut Ui, name: &str, value: impl Into<String>, help: &str) {
    let theme = Theme::of(ui);
    tight(ui, |ui| {
        let label = ui.label(RichText::new(name).color(theme.weak));
        if !help.is_empty() {
            label.on_hover_text(help);
        }
        ui.with_layout(Layout::right_to_left(Align::Center), |ui| ui.label(value.into()));
    });
}

/// One field with its widget; the new value when the person changed it.
pub fn field(ui: &mut Ui, field: &Field, value: &Value) -> Option<Value> {
    let name = words::sentence(field.name);
    row(ui, &name, field.help, |ui| widget(ui, field, &name, value))
}

fn widget(ui: &mut Ui, field: &Field, name: &str, value: &Value) -> Option<Value> {
    match (field.kind, value) {
        (Kind::Flag(_), value) => {
            let mut on = matches!(value, Value::Flag(true));
            let answer = ui.checkbox(&mut on, "").on_hover_text(field.help).accessible_name(name);
            answer.changed().then_some(Value::Flag(on))
        }
        (Kind::Whole { min, max, .. }, value) => {
            let mut n = if let Value::Whole(n) = value { *n } else { min };
            whole(ui, name, field.help, &mut n, min, max).then_some(Value::Whole(n))
        }
        (Kind::Real { min, max, .. }, value) => {
            let mut v = match value {
                Value::Real(v) => *v,
                Value::Whole(n) => *n as f64,
                _ => min,
            };
            real(ui, name, field.help, &mut v, min, max).then_some(Value::Real(v))
        }
        (Kind::Choice(all), value) => {
            let mut chosen = value.to_string();
            egui::ComboBox::from_id_salt(name)
                .width(WIDGET)
                .truncate()
                .selected_text(words::term(&chosen).to_owned())
                .show_ui(ui, |ui| {
                    for word in all {
                        ui.selectable_value(&mut chosen, (*word).to_owned(), words::term(word));
                    }
                })
                .response
                .on_hover_text(field.help)
                .accessible_name(name);
            (Value::Text(chosen.clone()) != *value).then_some(Value::Text(chosen))
        }
        (Kind::Text(_), value) => text(ui, name, field.help, &value.to_string(), WIDGET).map(Value::Text),
    }
}

/// A text that counts when its field is left: half a path would be a wrong one.
pub fn text(ui: &mut Ui, name: &str, help: &str, now: &str, width: f32) -> Option<String> {
    let id = ui.scope_id().with(("text", name));
    let typing = ui.data_mut(|data| data.remove_temp::<String>(id));
    let mut text = typing.unwrap_or_else(|| now.to_owned());
    let edit = TextEdit::singleline(&mut text).clip_text(true);
    let answer = ui.add_sized(vec2(width, 22.0), edit).on_hover_text(help).accessible_name(name);
    if answer.has_focus() {
        ui.data_mut(|data| data.insert_temp(id, text));
        return None;
    }
    let escaped = ui.input(|i| i.key_pressed(egui::Key::Escape));
    (answer.lost_focus() && !escaped && text != now).then_some(text)
}

/// A real number; dragging changes it by a part of itself. What is out of range stays as it is until it is changed: looking at a
/// session must not change it.
pub fn real(ui: &mut Ui, name: &str, help: &str, v: &mut f64, min: f64, max: f64) -> bool {
    let speed = if *v == 0.0 { (max - min).min(1.0) / 200.0 } else { v.abs() / 50.0 };
    let drag = DragValue::new(v).range(min..=max).clamp_existing_to_range(false).speed(speed).update_while_editing(false);
    let drag = drag.custom_formatter(|v, _| words::shortest(v));
    ui.add_sized(vec2(WIDGET, 22.0), drag).on_hover_text(help).accessible_name(name).changed()
}

/// A whole number, as `real`.
pub fn whole(ui: &mut Ui, name: &str, help: &str, n: &mut i64, min: i64, max: i64) -> bool {
    let speed = ((max as f64 - min as f64) / 400.0).clamp(0.05, 5.0).min(0.05 + (*n as f64).abs() / 40.0);
    let drag = DragValue::new(n).range(min..=max).clamp_existing_to_range(false).speed(speed).update_while_editing(false);
    ui.add_sized(vec2(WIDGET, 22.0), drag).on_hover_text(help).accessible_name(name).changed()
}

/// All fields of a card; edits go to `path` as in `methods.0.settings`.
pub fn fields(ui: &mut Ui, fields: &[Field], settings: &Settings, path: &str, asked: &mut Vec<Command>) {
    for each in fields {
        // As it is written, out of range or not: looking at a session must not change it.
        let value = settings.0.get(each.name).cloned().unwrap_or_else(|| each.default());
        if let Some(value) = field(ui, each, &value) {
            asked.push(Command::Edit(Edit::Set { path: format!("{path}.{}", each.name), value }));
        }
    }
}

/// A button for a command; when it cannot be done now, the hover text says why.
pub fn button(ui: &mut Ui, label: &str, command: Command, why_not: Option<&str>, asked: &mut Vec<Command>) -> Response {
    let help = command.help();
    let help = command.shortcut().map_or_else(|| help.to_owned(), |keys| format!("{help} {keys}"));
    let answer = ui.add_enabled(why_not.is_none(), Button::new(label));
    let answer = answer.on_hover_text(help).on_disabled_hover_text(why_not.unwrap_or_default());
    if answer.clicked() {
        asked.push(command);
    }
    answer
}

/// A line of a menu for a command.
pub fn item(ui: &mut Ui, label: &str, command: Command, why_not: Option<&str>, asked: &mut Vec<Command>) {
    let line = Button::new(label);
    let line = match command.shortcut() {
        Some(keys) => line.shortcut_text(keys),
        None => line,
    };
    let answer = ui.add_enabled(why_not.is_none(), line);
    let answer = answer.on_hover_text(command.help()).on_disabled_hover_text(why_not.unwrap_or_default());
    if answer.clicked() {
        asked.push(command);
        ui.close();
    }
}
