//! LoRA and its next of kin against PEFT.

use burn::tensor::Device;
use petl_workbench::engine::bag::Bag;
use petl_workbench::plan::anatomy::Role;
use petl_workbench::session::Value;

use crate::fixture::{self, Case, ROW, SITE, TOLERANCE, TURNED};

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

#[test]
fn pissa_starts_where_pefts_does() {
    let file = fixture::open("pissa");
    let settings = [("rank", Value::Whole(3)), ("alpha", Value::Real(3.0)), ("start", Value::Text("pissa".into()))];
    let case = Case { fixture: "pissa", method: "lora", role: Role::Q, settings: &settings, params: &[], constants: &[] };
    let device = Device::flex();
    let (weights, plan) = (case.weights(&file, &device), case.plan(&file));
    let bag = Bag::make(&plan, &weights, 0, &device).expect("the bag");
    let [a, b] = ["A", "B"].map(|name| bag.params[&format!("0.lora/{SITE}/{name}")].clone().inner());
    // Each singular direction may have either sign, in A and B together.
    let absolute = |m: &burn::tensor::Tensor<2>| m.clone().abs().into_data();
    for (ours, theirs) in [(&a, "param/lora_A.weight"), (&b, "param/lora_B.weight")] {
        let theirs = burn::tensor::Tensor::<2>::from_data(fixture::turned(&file[theirs]), &device);
        let apart = fixture::distance(&absolute(ours), &absolute(&theirs));
        assert!(apart < TOLERANCE, "{apart}");
    }
    let left = weights[&format!("{SITE}.weight")].clone() - a.matmul(b);
    let apart = fixture::distance(&left.into_data(), &fixture::turned(&file["left/weight"]));
    assert!(apart < TOLERANCE, "{apart}");
}

fn dora(norm: &str) -> fixture::Apart {
    let settings = [("rank", Value::Whole(4)), ("alpha", Value::Real(6.0)), ("norm", Value::Text(norm.into()))];
    let params = [("A", "lora_A.weight", TURNED), ("B", "lora_B.weight", TURNED), ("m", "lora_magnitude_vector.weight", ROW)];
    Case { fixture: "dora", method: "dora", role: Role::Q, settings: &settings, params: &params, constants: &[] }.apart()
}

#[test]
fn dora_is_pefts_with_the_norm_held_constant() {
    let apart = dora("constant");
    assert!(apart.largest() < TOLERANCE, "{apart:?}");
    // Through the norm the output is the same, and the gradients are not.
    let through = dora("through");
    assert!(through.y < TOLERANCE && through.gradients["lora_A.weight"] > 1e-2, "{through:?}");
}

#[test]
fn vera_is_pefts() {
    let params = [("d", "vera_lambda_d", ROW), ("b", "vera_lambda_b", ROW)];
    let constants = [("all/A", "const/vera_A", TURNED), ("all/B", "const/vera_B", TURNED)];
    let settings = [("rank", Value::Whole(6))];
    Case { fixture: "vera", method: "vera", role: Role::Q, settings: &settings, params: &params, constants: &constants }.holds();
}
