//! Widgets shared by the panels: a field of a catalogue card as a widget, rows of numbers, heads, buttons that ask.
//! Called by the panels.
//! Must not change anything: what the person did comes back as a value or is pushed as a command.

use eframe::egui::{self, Align, Button, DragValue, Layout, Response, RichText, TextEdit, Ui, vec2};

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

/// A name at the left and what stands for it at the right.
pub fn row<R>(ui: &mut Ui, name: &str, help: &str, widget: impl FnOnce(&mut Ui) -> R) -> R {
    let theme = Theme::of(ui);
    ui.horizontal(|ui| {
        ui.set_min_height(22.0);
        let label = ui.label(RichText::new(name).color(theme.weak));
        if !help.is_empty() {
            label.on_hover_text(help);
        }
        ui.with_layout(Layout::right_to_left(Align::Center), widget).inner
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
    let size = vec2(WIDGET, 22.0);
    match (field.kind, value) {
        (Kind::Flag(_), value) => {
            let mut on = matches!(value, Value::Flag(true));
            let answer = ui.checkbox(&mut on, "").on_hover_text(field.help).accessible_name(name);
            answer.changed().then_some(Value::Flag(on))
        }
        (Kind::Whole { min, max, .. }, value) => {
            let mut n = if let Value::Whole(n) = value { *n } else { min };
            let speed = (((max - min) as f64) / 400.0).clamp(0.05, 5.0);
            let drag = DragValue::new(&mut n).range(min..=max).speed(speed).update_while_editing(false);
            let answer = ui.add_sized(size, drag).on_hover_text(field.help).accessible_name(name);
            answer.changed().then_some(Value::Whole(n))
        }
        (Kind::Real { min, max, .. }, value) => {
            let mut v = match value {
                Value::Real(v) => *v,
                Value::Whole(n) => *n as f64,
                _ => min,
            };
            real(ui, name, field.help, &mut v, min, max).then_some(Value::Real(v))
        }
        (Kind::Choice(words), value) => {
            let mut chosen = value.to_string();
            egui::ComboBox::from_id_salt(name)
                .width(WIDGET)
                .truncate()
                .selected_text(chosen.clone())
                .show_ui(ui, |ui| {
                    for word in words {
                        ui.selectable_value(&mut chosen, (*word).to_owned(), *word);
                    }
                })
                .response
                .on_hover_text(field.help)
                .accessible_name(name);
            (Value::Text(chosen.clone()) != *value).then_some(Value::Text(chosen))
        }
        (Kind::Text(_), value) => {
            let mut text = value.to_string();
            let answer = ui.add_sized(size, TextEdit::singleline(&mut text)).on_hover_text(field.help).accessible_name(name);
            answer.changed().then_some(Value::Text(text))
        }
    }
}

/// A real number; dragging changes it by a part of itself. True when it changed.
pub fn real(ui: &mut Ui, name: &str, help: &str, v: &mut f64, min: f64, max: f64) -> bool {
    let speed = if *v == 0.0 { (max - min).min(1.0) / 200.0 } else { v.abs() / 50.0 };
    let drag = DragValue::new(v).range(min..=max).speed(speed).update_while_editing(false).custom_formatter(|v, _| shortest(v));
    ui.add_sized(vec2(WIDGET, 22.0), drag).on_hover_text(help).accessible_name(name).changed()
}

/// As few digits as say the number, to four that count.
fn shortest(v: f64) -> String {
    if v == 0.0 {
        return "0".into();
    }
    if v.abs() < 1e-3 || v.abs() >= 1e6 {
        let text = format!("{v:.3e}");
        return match text.split_once('e') {
            Some((digits, power)) => format!("{}e{power}", digits.trim_end_matches('0').trim_end_matches('.')),
            None => text,
        };
    }
    let decimals = (3 - v.abs().log10().floor() as i32).clamp(0, 6) as usize;
    let text = format!("{v:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// All fields of a card; edits go to `path` as in `methods.0.settings`.
pub fn fields(ui: &mut Ui, fields: &[Field], settings: &Settings, path: &str, asked: &mut Vec<Command>) {
    for each in fields {
        let value = settings.get(each);
        ui.push_id(each.name, |ui| {
            if let Some(value) = field(ui, each, &value) {
                asked.push(Command::Edit(Edit::Set { path: format!("{path}.{}", each.name), value }));
            }
        });
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
