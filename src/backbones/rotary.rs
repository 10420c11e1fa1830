//! Rotary positions (Su et al. 2021) and the ways in which a configuration stretches them: `linear` (Chen et al. 2023), `llama3` (the
//! release of Llama 3.1). Called by the decoders; knows no file.

use burn::tensor::{Device, Tensor, TensorData};
use serde_json::Value as Json;

use super::folder::Folder;

/// The type of positions of which every pair's step has a divisor of its own, as GGUF files hold them.
pub const DIVISORS: &str = "divisors";

/// How far a position turns each pair of channels.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotary {
    /// Radians a position, pair by pair: θ^(-2 c / depth).
    pub steps: Vec<f64>,
}

impl Rotary {
    /// For heads `depth` channels wide.
    pub fn plain(theta: f64, depth: usize) -> Rotary {
        let step = |pair: usize| theta.powf(-2.0 * pair as f64 / depth as f64);
        Rotary { steps: (0..depth / 2).map(step).collect() }
    }

    /// What a configuration says: `rope_theta` and `rope_scaling` of transformers 4, `rope_parameters` of 5.
    ///
    /// # Errors
    /// In words, where it says something that this file does not know.
    pub fn of(folder: &Folder, depth: usize) -> Result<Rotary, String> {
        let new = &folder.config["rope_parameters"];
        let old = &folder.config["rope_scaling"];
        let scaling = if new.is_object() { new } else { old };
        let theta = new["rope_theta"].as_f64().map_or_else(|| folder.real_or("rope_theta", 10_000.0), Ok)?;
        let plain = Rotary::plain(theta, depth);
        let fault = |words: String| format!("{}: rotary positions {words}", folder.path.join("config.json").display());
        let number = |name: &str| {
            let value = scaling[name].as_f64().filter(|v| *v > 0.0 && v.is_finite());
            value.ok_or_else(|| fault(format!("need `{name}` above 0, but have {}", scaling[name])))
        };
        if let Some(part) =
            [&new["partial_rotary_factor"], &folder.config["partial_rotary_factor"]].iter().find_map(|v| v.as_f64())
            && part != 1.0
        {
            return Err(fault(format!("turn {part} of the channels only, which is not known here")));
        }
        match scaling["rope_type"].as_str().or(scaling["type"].as_str()).unwrap_or("default") {
            "default" => Ok(plain),
            "linear" => {
                let factor = number("factor")?;
                Ok(Rotary { steps: plain.steps.iter().map(|step| step / factor).collect() })
            }
            "llama3" => {
                let [factor, low, high] = [number("factor")?, number("low_freq_factor")?, number("high_freq_factor")?];
                let before = number("original_max_position_embeddings")?;
                Ok(plain.llama3(factor, low, high, before))
            }
            DIVISORS => {
                let divisors: Vec<f64> = scaling["divisors"].as_array().into_iter().flatten().filter_map(Json::as_f64).collect();
                if divisors.len() != plain.steps.len() || divisors.iter().any(|d| d.is_nan() || *d <= 0.0) {
                    return Err(fault(format!("have {} divisors for {} pairs of channels", divisors.len(), plain.steps.len())));
                }
                Ok(Rotary { steps: plain.steps.iter().zip(divisors).map(|(step, divisor)| step / divisor).collect() })
            }
            other => Err(fault(format!("of type `{other}` are not known here; known are default, linear, llama3"))),
        }
    }

    /// Slow pairs, of which fewer than `low` turns fit into `before` positions, are slowed down by `factor`, those with more than
    /// `high` not at all, those between in between.
    fn llama3(self, factor: f64, low: f64, high: f64, before: f64) -> Rotary {
        let stretch = |step: f64| {
            let turns = before * step / std::f64::consts::TAU;
            let share = ((turns - low) / (high - low)).clamp(0.0, 1.0);
            (1.0 - share) * step / factor + share * step
        };
        Rotary { steps: self.steps.into_iter().map(stretch).collect() }
    }

    /// Angles of these positions, `[positions, depth / 2]`, in radians.
    pub fn angles(&self, positions: impl Iterator<Item = usize>, device: &Device) -> Tensor<2> {
        let values: Vec<f32> = positions.flat_map(|at| self.steps.iter().map(move |step| (at as f64 * step) as f32)).collect();
        let rows = values.len() / self.steps.len().max(1);
        Tensor::from_data(TensorData::new(values, [rows, self.steps.len()]), device)
    }
}
