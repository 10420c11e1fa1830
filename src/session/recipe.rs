//! The recipe's settings as fields, each with its help, range and default: the form, the checks and the resets read this one
//! table. Called by the editor, the plan's problems and the window. Plain data.

use super::Recipe;
use super::settings::{Field, Settings, Value};

/// In the order in which the form shows them.
pub const FIELDS: &[Field] = &[
    Field::choice("optimizer", &["adamw", "sgd"], "AdamW adapts the step of every parameter; SGD takes the gradient as it is."),
    Field::real("learning_rate", 1e-9, 10.0, 1e-3, "Length of a step, at its highest."),
    Field::choice("schedule", &["cosine", "constant"], "Cosine lets the learning rate fall to 0 at the end."),
    Field::real("warm_up", 0.0, 1.0, 0.1, "Part of all steps in which the learning rate rises from 0."),
    Field::real("weight_decay", 0.0, 10.0, 0.01, "Pulls trained weights towards 0; biases, norms and scales are left out."),
    Field::real("momentum", 0.0, 0.9999, 0.9, "Part of the last step that SGD takes again."),
    Field::real("label_smoothing", 0.0, 0.9999, 0.0, "Part of the target that is spread over all classes of the sample's task."),
    Field::real("clip_norm", 0.0, 1e9, 1.0, "Largest global gradient norm; 0 switches clipping off."),
    Field::whole("batch_size", 1, 4096, 32, "Samples in one step."),
    Field::whole("epochs", 1, 10_000, 6, "Passes over the training set."),
    Field::flag("flip", false, "Mirror images left to right, half of the time. Not for digits or letters."),
    Field::whole("crop", 0, 8, 0, "Shift images by up to this many pixels."),
    Field::whole("report_every", 1, 100_000, 4, "Read the loss back every this many steps; rarer is faster on a GPU."),
];

/// The recipe's values by name, as the session file writes them.
pub fn values(recipe: &Recipe) -> Settings {
    let table = toml::Table::try_from(recipe).unwrap_or_default();
    Settings(table.into_iter().filter_map(|(name, value)| Some((name, value.try_into().ok()?))).collect())
}

/// The recipe with one setting changed, or why not. Out of range is no reason: the plan's problems say that, beside a remedy.
pub fn with(recipe: &Recipe, name: &str, value: &Value) -> Result<Recipe, String> {
    if !FIELDS.iter().any(|field| field.name == name) {
        return Err(format!("the recipe has no setting `{name}`"));
    }
    let fault = |error: &dyn std::fmt::Display| format!("`{name}` of the recipe cannot be {value}: {error}");
    let mut table = toml::Table::try_from(recipe).map_err(|e| fault(&e))?;
    table.insert(name.to_owned(), toml::Value::try_from(value).map_err(|e| fault(&e))?);
    table.try_into().map_err(|e| fault(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_every_setting_with_its_default() {
        let fresh = values(&Recipe::default());
        assert_eq!(fresh.0.len(), FIELDS.len());
        assert_eq!(fresh, fresh.filled(FIELDS), "a default that its own range refuses");
        for field in FIELDS {
            assert_eq!(fresh.get(field), field.default(), "{}", field.name);
            assert_eq!(with(&Recipe::default(), field.name, &field.default()), Ok(Recipe::default()), "{}", field.name);
        }
        assert!(with(&Recipe::default(), "speed", &Value::Whole(1)).is_err());
        assert!(with(&Recipe::default(), "epochs", &Value::Whole(-1)).is_err());
    }
}
