//! What the configuration of an AdapterHub folder means here. Called when one is read.

use serde_json::Value as Json;

use super::{BENDS, Form, LORA_ROLES, Meant, forms};
use crate::exports::tensors::known_only;
use crate::plan::anatomy::Anatomy;
use crate::session::settings::{Settings, Value};

pub(super) fn bottleneck_meant(config: &Json, anatomy: &Anatomy) -> Result<Meant, String> {
    // Fields that only matter in training, or only for layers that are then refused.
    let known = [
        "adapter_residual_before_ln",
        "dropout",
        "factorized_phm_W",
        "factorized_phm_rule",
        "hypercomplex_nonlinearity",
        "init_weights",
        "init_weights_seed",
        "inv_adapter_reduction_factor",
        "is_parallel",
        "learn_phm",
        "leave_out",
        "mh_adapter",
        "non_linearity",
        "original_ln_after",
        "original_ln_before",
        "output_adapter",
        "phm_bias",
        "phm_c_init",
        "phm_dim",
        "phm_init_range",
        "phm_rank",
        "reduction_factor",
        "residual_before_ln",
        "scaling",
        "shared_W_phm",
        "shared_phm_rule",
        "stochastic_depth",
        "use_gating",
    ];
    known_only(config, |name| known.contains(&name))?;
    let flag = |name: &str, default| config[name].as_bool().unwrap_or(default);
    if !flag("original_ln_after", true) {
        return Err("`original_ln_after` is false: the residual would not join, which is not known here".to_owned());
    }
    let (before, parallel) = (flag("original_ln_before", false), flag("is_parallel", false));
    if before && !parallel && config["residual_before_ln"] != true {
        return Err(format!(
            "`residual_before_ln` is {}: the residual would join twice, which is not known here",
            config["residual_before_ln"]
        ));
    }
    let (forms, _) = forms(anatomy)?;
    let of = |form: &&Form| form.is_parallel == parallel && (parallel || form.original_ln_before == before);
    let form = forms.iter().find(of).ok_or("no adapter here stands as `original_ln_before` and `is_parallel` say")?;
    let mut roles = Vec::new();
    if flag("mh_adapter", false) {
        roles.push(
            form.attention
                .ok_or("`mh_adapter` with `is_parallel`: beside the attention and its norm, which is not known here")?,
        );
    }
    if flag("output_adapter", false) {
        roles.push(form.mlp);
    }
    let factor = config["reduction_factor"].as_f64().filter(|f| *f > 0.0);
    let factor = factor.ok_or_else(|| {
        format!("`reduction_factor` is {}; one number for all blocks is known here", config["reduction_factor"])
    })?;
    let width = ((anatomy.width as f64 / factor).floor() as i64).max(1);
    let bend = config["non_linearity"].as_str().unwrap_or_default().to_lowercase();
    let bend = BENDS.iter().find(|(_, theirs)| *theirs == bend).map(|(ours, _)| (*ours).to_owned());
    let bend = bend.ok_or_else(|| {
        format!("`non_linearity` is {}; relu, gelu, silu, swish and linear are known here", config["non_linearity"])
    })?;
    let mut settings = Settings::default();
    settings.set("bottleneck", Value::Whole(width));
    settings.set("form", Value::Text(form.form.to_owned()));
    settings.set("activation", Value::Text(bend));
    settings.set("gate", Value::Flag(flag("use_gating", false)));
    match &config["scaling"] {
        Json::Null => {}
        Json::String(word) if word == "learned" => settings.set("learn_scale", Value::Flag(true)),
        value => {
            let scale = value.as_f64().ok_or_else(|| format!("`scaling` is {value}; a number or \"learned\" is known here"))?;
            settings.set("scale", Value::Real(scale));
        }
    }
    Ok(("bottleneck", settings, roles))
}

pub(super) fn lora_meant(config: &Json) -> Result<Meant, String> {
    let known = [
        "architecture",
        "alpha",
        "attn_matrices",
        "composition_mode",
        "dropout",
        "dtype",
        "init_weights",
        "init_weights_seed",
        "intermediate_lora",
        "leave_out",
        "output_lora",
        "r",
        "selfattn_lora",
        "use_gating",
    ];
    known_only(config, |name| known.contains(&name))?;
    if config["composition_mode"].as_str().is_some_and(|mode| mode != "add") {
        return Err(format!("`composition_mode` is {}; `add` is known here", config["composition_mode"]));
    }
    let matrices: Vec<&str> = config["attn_matrices"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
    let stands = |name: &str| match name.len() {
        1 => config["selfattn_lora"].as_bool().unwrap_or(true) && matrices.contains(&name),
        _ => config[name].as_bool().unwrap_or(false),
    };
    let roles = LORA_ROLES.iter().filter(|(_, name)| stands(name)).map(|(role, _)| *role).collect();
    let mut settings = Settings::default();
    settings.set("rank", Value::Whole(config["r"].as_i64().unwrap_or(8)));
    settings.set("alpha", Value::Real(config["alpha"].as_f64().unwrap_or(8.0)));
    settings.set("gate", Value::Flag(config["use_gating"].as_bool().unwrap_or(false)));
    Ok(("lora", settings, roles))
}
