//! Settings: the words, ranges and defaults of one catalogue entry, and the values a session gives them.
//! Every catalogue card carries a `&[Field]`; the form, the hover text, `petl list` and the checks all read it.
//! Plain data: knows no tensors, no window, no threads.

use std::collections::BTreeMap;

use serde::de::{Deserializer, Visitor};
use serde::{Deserialize, Serialize};

/// One value as a session file writes it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Value {
    Flag(bool),
    Whole(i64),
    Real(f64),
    Text(String),
}

/// By hand, because serde's own words for a value that fits no variant help nobody.
impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Value, D::Error> {
        struct Words;
        impl Visitor<'_> for Words {
            type Value = Value;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a number, true or false, or text in quotes")
            }

            fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
                Ok(Value::Flag(v))
            }

            fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
                Ok(Value::Whole(v))
            }

            fn visit_u64<E: serde::de::Error>(self, v: u64) -> Result<Value, E> {
                let fault = || E::invalid_value(serde::de::Unexpected::Unsigned(v), &"a whole number up to 9223372036854775807");
                i64::try_from(v).map(Value::Whole).map_err(|_| fault())
            }

            fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
                Ok(Value::Real(v))
            }

            fn visit_str<E>(self, v: &str) -> Result<Value, E> {
                Ok(Value::Text(v.to_owned()))
            }
        }
        from.deserialize_any(Words)
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Value::Flag(v) => write!(f, "{v}"),
            Value::Whole(v) => write!(f, "{v}"),
            Value::Real(v) => write!(f, "{v}"),
            Value::Text(v) => write!(f, "{v}"),
        }
    }
}

/// What a field may hold, with its default.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Flag(bool),
    /// `min..=max`, default.
    Whole {
        min: i64,
        max: i64,
        default: i64,
    },
    /// `min..=max`, default.
    Real {
        min: f64,
        max: f64,
        default: f64,
    },
    /// The allowed words; the first is the default.
    Choice(&'static [&'static str]),
    /// Free text (a path, say), with its default.
    Text(&'static str),
}

/// One setting of a catalogue entry.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Name in the session file, in the field's standard term.
    pub name: &'static str,
    /// Help for someone who has not read the paper.
    pub help: &'static str,
    pub kind: Kind,
}

impl Field {
    pub const fn flag(name: &'static str, default: bool, help: &'static str) -> Field {
        Field { name, help, kind: Kind::Flag(default) }
    }

    pub const fn whole(name: &'static str, min: i64, max: i64, default: i64, help: &'static str) -> Field {
        Field { name, help, kind: Kind::Whole { min, max, default } }
    }

    pub const fn real(name: &'static str, min: f64, max: f64, default: f64, help: &'static str) -> Field {
        Field { name, help, kind: Kind::Real { min, max, default } }
    }

    pub const fn choice(name: &'static str, words: &'static [&'static str], help: &'static str) -> Field {
        Field { name, help, kind: Kind::Choice(words) }
    }

    pub const fn text(name: &'static str, default: &'static str, help: &'static str) -> Field {
        Field { name, help, kind: Kind::Text(default) }
    }

    pub fn default(&self) -> Value {
        match self.kind {
            Kind::Text(v) => Value::Text(v.to_owned()),
            Kind::Flag(v) => Value::Flag(v),
            Kind::Whole { default, .. } => Value::Whole(default),
            Kind::Real { default, .. } => Value::Real(default),
            Kind::Choice(words) => Value::Text(words[0].to_owned()),
        }
    }

    /// `value` as this field would keep it, or why it cannot.
    pub fn accept(&self, value: &Value) -> Result<Value, String> {
        let name = self.name;
        match (self.kind, value) {
            (Kind::Flag(_), Value::Flag(v)) => Ok(Value::Flag(*v)),
            (Kind::Whole { min, max, .. }, Value::Whole(v)) if (min..=max).contains(v) => Ok(Value::Whole(*v)),
            (Kind::Whole { min, max, .. }, v) => Err(format!("`{name}` takes a whole number from {min} to {max}, not {v}")),
            (Kind::Real { min, max, .. }, Value::Real(v)) if *v >= min && *v <= max => Ok(Value::Real(*v)),
            (Kind::Real { min, max, .. }, Value::Whole(v)) if *v as f64 >= min && *v as f64 <= max => Ok(Value::Real(*v as f64)),
            (Kind::Real { min, max, .. }, v) => Err(format!("`{name}` takes a number from {min} to {max}, not {v}")),
            (Kind::Choice(words), Value::Text(v)) if words.contains(&v.as_str()) => Ok(Value::Text(v.clone())),
            (Kind::Text(_), Value::Text(v)) => Ok(Value::Text(v.clone())),
            (Kind::Text(_), v) => Err(format!("`{name}` takes text in quotes, not {v}")),
            (Kind::Choice(words), v) => Err(format!("`{name}` is one of {}, not `{v}`", words.join(", "))),
            (Kind::Flag(_), v) => Err(format!("`{name}` is true or false, not {v}")),
        }
    }
}

/// The values a session gives; what it leaves out has the field's default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Settings(pub BTreeMap<String, Value>);

impl Settings {
    /// The value of `field`, or its default.
    pub fn get(&self, field: &Field) -> Value {
        self.0.get(field.name).and_then(|v| field.accept(v).ok()).unwrap_or_else(|| field.default())
    }

    pub fn set(&mut self, name: &str, value: Value) {
        self.0.insert(name.to_owned(), value);
    }

    /// A copy in which every field of `fields` is written out, as the methods read it.
    pub fn filled(&self, fields: &[Field]) -> Settings {
        Settings(fields.iter().map(|f| (f.name.to_owned(), self.get(f))).collect())
    }

    /// Every entry that `fields` does not allow: (name, words).
    pub fn faults(&self, fields: &[Field]) -> Vec<(String, String)> {
        let known = || fields.iter().map(|f| f.name).collect::<Vec<_>>().join(", ");
        (self.0.iter())
            .filter_map(|(name, value)| match fields.iter().find(|f| f.name == name) {
                None if fields.is_empty() => Some((name.clone(), format!("unknown setting `{name}`; it has none"))),
                None => Some((name.clone(), format!("unknown setting `{name}`; one of: {}", known()))),
                Some(field) => field.accept(value).err().map(|words| (name.clone(), words)),
            })
            .collect()
    }

    /// A whole number by name; 0 where a card forgot the field (the catalogue law finds that).
    pub fn whole(&self, name: &str) -> usize {
        match self.0.get(name) {
            Some(Value::Whole(v)) => usize::try_from(*v).unwrap_or(0),
            _ => 0,
        }
    }

    pub fn real(&self, name: &str) -> f64 {
        match self.0.get(name) {
            Some(Value::Real(v)) => *v,
            Some(Value::Whole(v)) => *v as f64,
            _ => 0.0,
        }
    }

    pub fn flag(&self, name: &str) -> bool {
        matches!(self.0.get(name), Some(Value::Flag(true)))
    }

    pub fn text(&self, name: &str) -> &str {
        match self.0.get(name) {
            Some(Value::Text(v)) => v,
            _ => "",
        }
    }
}
