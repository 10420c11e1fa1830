//! The command line as a person meets it: the built program, its output and its exit codes.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::Path;
use std::process::{Command, Output};

use petl_workbench::backbones::weights;
use petl_workbench::exports::tensors;
use serde_json::Value as Json;

const TINY: [&str; 10] = [
    "--set",
    "data.settings.train=40",
    "--set",
    "data.settings.test=64",
    "--set",
    "recipe.epochs=1",
    "--set",
    "device=cpu",
    "--set",
    "backbone.settings.weights=random",
];

/// The program with these arguments, its runs under `home`, no display.
fn petl(home: &Path, arguments: &[&str]) -> Output {
    (Command::new(env!("CARGO_BIN_EXE_petl")).args(arguments))
        .env("PETL_HOME", home)
        .env_remove("DISPLAY")
        .env_remove("WAYLAND_DISPLAY")
        .output()
        .unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn json(home: &Path, arguments: &[&str]) -> Json {
    let output = petl(home, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", err(&output));
    serde_json::from_str(&out(&output)).unwrap()
}

#[track_caller]
fn refused(home: &Path, arguments: &[&str], words: &[&str]) {
    let output = petl(home, arguments);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", err(&output));
    for word in words {
        assert!(err(&output).contains(word), "{arguments:?} does not say `{word}`: {}", err(&output));
    }
    assert!(!err(&output).contains("panicked"), "{}", err(&output));
}

#[test]
fn every_catalogue_is_listed_in_words_and_as_json() {
    let home = tempfile::tempdir().unwrap();
    for kind in ["backbones", "datasets", "tasks", "methods", "exports", "operations", "presets"] {
        let listed = json(home.path(), &["list", kind, "--json"]);
        let entries = listed.as_array().unwrap();
        assert!(!entries.is_empty(), "{kind}");
        let text = out(&petl(home.path(), &["list", kind]));
        for entry in entries {
            assert!(entry.get("fault").is_none(), "{entry}");
            assert!(text.contains(entry["name"].as_str().unwrap()), "{kind} leaves out {}", entry["name"]);
        }
    }
    let methods = json(home.path(), &["list", "methods", "--json"]);
    assert_eq!(methods[0]["name"], "lora");
    assert!(methods[0]["settings"][0]["help"].as_str().unwrap().len() > 10);
    refused(home.path(), &["list", "colours"], &["possible values"]);
}

#[test]
fn the_cpu_is_always_among_the_devices() {
    let home = tempfile::tempdir().unwrap();
    assert_eq!(json(home.path(), &["list", "devices", "--json"])[0]["id"], "cpu");
}

#[test]
fn a_plan_counts_exactly_and_says_what_blocks() {
    let home = tempfile::tempdir().unwrap();
    let plan = json(home.path(), &["plan", "digits-lora", "--json"]);
    assert_eq!(plan["trainable"], 2 * 6 * 8 * (96 + 96));
    assert_eq!(plan["head"], 96 * 10 + 10);
    assert_eq!(plan["methods"][0]["placements"].as_array().unwrap().len(), 12);
    assert!(plan["bytes"]["total"].as_u64().unwrap() > 1_000_000);
    let changed = json(home.path(), &["plan", "digits-lora", "--set", "methods.0.settings.rank=4", "--json"]);
    assert_eq!(changed["trainable"], 6 * 4 * 4 * 96);
    let text = out(&petl(home.path(), &["plan", "digits-lora"]));
    for word in ["18,432", "A [96, 8] + B [8, 96]", "970", "saved activations", "FLOPs a step"] {
        assert!(text.contains(word), "no `{word}` in\n{text}");
    }
    refused(
        home.path(),
        &["plan", "digits-lora", "--set", "methods.0.place.roles=[]"],
        &["cannot train", "matches no site", "Remedy"],
    );
}

#[test]
fn a_wrong_request_ends_with_two_and_says_the_way_out() {
    let home = tempfile::tempdir().unwrap();
    refused(home.path(), &["plan", "digits-lra"], &["digits-lra", "digits-lora"]);
    refused(home.path(), &["train", "digits-lora", "--set", "recipe.epohs=3"], &["epohs"]);
    refused(home.path(), &["train", "digits-lora", "--set", "methods.0.settings.rank=0"], &["rank", "1 to 512"]);
    refused(home.path(), &["train", "digits-lora", "--set", "recipe.epochs"], &["path=value"]);
    refused(home.path(), &["compare", "nothing-001"], &["there is no run `nothing-001`"]);
    refused(home.path(), &["predict", "nothing", "--inputs", "a", "--out", "b"], &["there is no run"]);
    refused(home.path(), &["nonsense"], &["neither a command, nor a preset"]);
    refused(home.path(), &["export", ".", "--as", "zip", "x"], &["possible values", "petl"]);
    let taken = home.path().join("taken");
    std::fs::create_dir(&taken).unwrap();
    std::fs::write(taken.join("mine.txt"), "mine").unwrap();
    refused(home.path(), &["train", "digits-lora", "--out", taken.to_str().unwrap()], &["is not empty"]);
    assert!(!home.path().join("runs").exists(), "a refused request left a run behind");
}

#[test]
fn help_and_version_are_there() {
    let home = tempfile::tempdir().unwrap();
    let help = petl(home.path(), &["help"]);
    assert!(help.status.success());
    for word in ["list", "plan", "train", "predict", "export", "compare", "suite", "compose", "bench", "Exit codes"] {
        assert!(out(&help).contains(word), "help leaves out {word}");
    }
    let version = petl(home.path(), &["--version"]);
    assert!(version.status.success() && out(&version).contains(env!("CARGO_PKG_VERSION")));
}

#[test]
#[cfg(target_os = "linux")]
fn without_a_display_the_twin_is_named() {
    let home = tempfile::tempdir().unwrap();
    let output = petl(home.path(), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("petl train digits-lora"), "{}", err(&output));
}

#[test]
fn a_run_goes_from_training_to_a_comparison() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    let train = |preset: &str, more: &[&str]| {
        let mut arguments = vec!["train", preset];
        arguments.extend(TINY);
        arguments.extend(more);
        petl(home.path(), &arguments)
    };
    // Training: one JSON object a line, from started to finished.
    let run = at("mine");
    let output = train("digits-lora", &["--json", "--out", &run]);
    assert!(output.status.success(), "{}", err(&output));
    let events: Vec<Json> = out(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<_> = events.iter().map(|e| e["event"].as_str().unwrap()).collect();
    assert_eq!((kinds[0], kinds[kinds.len() - 1]), ("started", "finished"));
    for kind in ["step", "evaluated", "saved"] {
        assert!(kinds.contains(&kind), "no {kind} in {kinds:?}");
    }
    for name in ["session.petl.toml", "events.jsonl", "adapter.safetensors", "adapter.toml", "summary.json"] {
        assert!(home.path().join("mine").join(name).is_file(), "no {name}");
    }
    // Two more, in words, under PETL_HOME; one of them only differs in its seed.
    for (preset, more) in [("digits-lora", "seed=8"), ("digits-probe", "seed=7")] {
        let output = train(preset, &["--set", more]);
        assert!(output.status.success(), "{}", err(&output));
        assert!(out(&output).contains("Finished: test accuracy"), "{}", out(&output));
    }
    let runs = || std::fs::read_dir(home.path().join("runs")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let lora = runs().find(|n| n.contains("lora")).unwrap();
    let probe = runs().find(|n| !n.contains("lora")).unwrap();

    // Prediction: the same session's logits for other pixels.
    let pixels: Vec<f32> = (0..2 * 3 * 32 * 32).map(|n| (n % 255) as f32 / 127.5 - 1.0).collect();
    let inputs = [("pixel_values".to_owned(), burn::tensor::TensorData::new(pixels, [2, 3, 32, 32]))].into();
    weights::write(Path::new(&at("in.safetensors")), &inputs, false, Default::default()).unwrap();
    let output = petl(home.path(), &["predict", &run, "--inputs", &at("in.safetensors"), "--out", &at("out.safetensors")]);
    assert!(output.status.success(), "{}", err(&output));
    let logits = tensors::read(Path::new(&at("out.safetensors")), "").unwrap();
    assert_eq!(logits["logits"].shape().as_slice(), [2, 10]);

    // Export: the difference and the sample count are said.
    let output = petl(home.path(), &["export", &lora, "--as", "peft", &at("peft")]);
    assert!(output.status.success(), "{}", err(&output));
    assert!(out(&output).contains("on 64 samples"), "{}", out(&output));
    refused(home.path(), &["export", &lora, "--as", "peft", &at("peft")], &["is not empty"]);
    refused(home.path(), &["export", &probe, "--as", "peft", &at("no")], &["linear probe", "`merged`"]);
    assert_eq!(json(home.path(), &["export", &run, "--as", "merged", &at("merged"), "--json"])["samples"], 64);

    // Composition: two runs of one backbone, either head.
    let composed = json(
        home.path(),
        &["compose", &run, &lora, "--out", &at("sum"), "--factor", "1", "--factor", "-0.5", "--head", &lora, "--json"],
    );
    assert_eq!((composed["samples"].as_u64(), composed["composed"][1]["factor"].as_f64()), (Some(64), Some(-0.5)));
    assert!(home.path().join("sum/model.safetensors").is_file() && (0.0..=1.0).contains(&composed["accuracy"].as_f64().unwrap()));
    refused(home.path(), &["compose", &run, &lora, "--out", &at("sum")], &["is not empty"]);
    refused(home.path(), &["compose", &run, &lora, "--out", &at("no"), "--factor", "2"], &["1 factors for 2 runs"]);
    refused(home.path(), &["compose", &run, "--out", &at("no"), "--head", &lora], &["not among the runs"]);

    // Comparison: against the first, in words that claim no more than the test; seeds together.
    let compared = json(home.path(), &["compare", &run, &lora, &probe, "--json"]);
    assert_eq!(compared["runs"].as_array().unwrap().len(), 3);
    let against = &compared["runs"][2]["against_first"];
    assert_eq!(against["comparable"], true);
    assert!((0.0..=1.0).contains(&against["p"].as_f64().unwrap()));
    assert_eq!(compared["groups"][0]["n"], 2);
    let ppt = |run: &Json, c: f64| {
        let (accuracy, trainable) = (run["accuracy"].as_f64().unwrap(), run["trainable"].as_u64().unwrap());
        petl_workbench::compare::ppt(accuracy, trainable as usize, c)
    };
    let run_ppt = |compared: &Json| compared["runs"][0]["ppt"].as_f64().unwrap();
    let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} and {b}"); // JSON is read back to the last digit but one
    near(run_ppt(&compared), ppt(&compared["runs"][0], 1e7));
    let strict = json(home.path(), &["compare", &run, &lora, &probe, "--ppt-c", "1000", "--json"]);
    near(run_ppt(&strict), ppt(&strict["runs"][0], 1000.0));
    assert_eq!(strict["ppt_c"], 1000.0);
    refused(home.path(), &["compare", &run, "--ppt-c", "0"], &["a number above 0"]);
    let figure = at("figure.svg");
    let output = petl(home.path(), &["compare", &run, &lora, &probe, "--figure", &figure, "--kind", "pareto"]);
    let text = out(&output);
    assert!(output.status.success(), "{}", err(&output));
    assert!(text.contains("±") && text.contains("n 2") && text.contains("18,432") && !text.contains("better"), "{text}");
    for ending in ["svg", "png", "csv"] {
        assert!(home.path().join(format!("figure.{ending}")).is_file());
    }
    // Other test items: no test.
    let other = at("other");
    let output = train("digits-lora", &["--out", &other, "--set", "data.settings.test=50"]);
    assert!(output.status.success(), "{}", err(&output));
    let compared = json(home.path(), &["compare", &run, &other, "--json"]);
    assert_eq!(compared["runs"][1]["against_first"]["comparable"], false);
}

#[test]
fn bench_measures_the_true_loop() {
    let home = tempfile::tempdir().unwrap();
    let mut arguments = vec!["bench", "digits-lora", "--json", "--steps", "4", "--warm-up", "1"];
    arguments.extend(TINY);
    let measured = json(home.path(), &arguments);
    assert_eq!(measured["steps"], 4);
    assert!(measured["step_ms"].as_f64().unwrap() > 0.0 && measured["samples_per_second"].as_f64().unwrap() > 0.0);
    assert!(measured["peak_bytes"].as_u64().unwrap() > 0 && measured["activation_bytes"].as_u64().unwrap() > 0);
    assert!(!home.path().join("runs").exists(), "a benchmark keeps nothing");
}

#[test]
fn a_reader_that_leaves_is_no_fault() {
    let home = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_petl"))
        .args(["list", "methods", "--json"])
        .env("PETL_HOME", home.path())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(!err(&output).contains("panicked"), "{}", err(&output));
    assert_eq!(output.status.code(), Some(0));
}
