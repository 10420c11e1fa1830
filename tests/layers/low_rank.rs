//! Low-rank methods against PEFT.

use petl_workbench::plan::anatomy::Role;
use petl_workbench::session::Value;

use crate::fixture::{Case, TOLERANCE, TURNED};

fn lora(fixture: &'static str, alpha: f64, scaling: &str) -> f32 {
    let settings = [("rank", Value::Whole(4)), ("alpha", Value::Real(alpha)), ("scaling", Value::Text(scaling.into()))];
    let case = Case {
        fixture,
        method: "lora",
        role: Role::Q,
        settings: &settings,
        params: &[("A", "lora_A.weight", TURNED), ("B", "lora_B.weight", TURNED)],
        constants: &[],
    };
    case.apart().largest()
}

#[test]
fn lora_is_pefts() {
    assert!(lora("lora", 6.0, "alpha / r") < TOLERANCE);
}

#[test]
fn rslora_is_pefts() {
    assert!(lora("rslora", 6.0, "alpha / sqrt r") < TOLERANCE);
}

#[test]
fn another_strength_or_scale_is_noticed() {
    assert!(lora("lora", 6.5, "alpha / r") > 1e-2);
    assert!(lora("rslora", 6.0, "alpha / r") > 1e-2);
}
