//! Factors and norms against PEFT.

use petl_workbench::plan::anatomy::Role;

use crate::fixture::{Case, ROW};

#[test]
fn ia3_on_an_output_is_pefts() {
    Case { fixture: "ia3", method: "ia3", role: Role::K, settings: &[], params: &[("l", "ia3_l", ROW)], constants: &[] }.holds();
}

#[test]
fn ia3_on_the_input_of_down_is_pefts_feedforward_form() {
    Case { fixture: "ia3-input", method: "ia3", role: Role::Down, settings: &[], params: &[("l", "ia3_l", ROW)], constants: &[] }
        .holds();
}

#[test]
fn a_trained_norm_is_pefts_ln_tuning() {
    let params = [("weight", "ln_tuning_layers.weight", ROW), ("bias", "ln_tuning_layers.bias", ROW)];
    for method in ["layernorm", "full"] {
        Case { fixture: "norm", method, role: Role::Norm, settings: &[], params: &params, constants: &[] }.holds();
    }
}
