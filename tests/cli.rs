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
fn a_method_is_listed_with_all_that_its_card_says() {
    let home = tempfile::tempdir().unwrap();
    let all = out(&petl(home.path(), &["list", "methods"]));
    for card in petl_workbench::methods::CATALOG {
        let one = out(&petl(home.path(), &["list", "methods", card.name]));
        assert!(all.contains(&one), "{} reads otherwise alone", card.name);
        let rate = format!("learning rate: {:e} (AdamW)", card.learning_rate);
        let paper = format!("paper: {} ({})", card.paper, card.year);
        let mut words = vec![card.help, card.formula, card.count, card.released, card.caution, card.licence, &paper, &rate];
        words.extend(card.drawing.lines());
        words.extend(card.fields.iter().map(|f| f.help));
        words.extend(card.published.iter().map(|p| p.what));
        for word in words {
            assert!(one.contains(word), "{} does not print `{word}`:\n{one}", card.name);
        }
    }
    let lora = json(home.path(), &["list", "methods", "lora", "--json"]);
    assert_eq!(lora.as_array().unwrap().len(), 1);
    assert_eq!(lora[0]["published"][0]["trainable"], 294_912);
    assert_eq!(lora[0]["learning_rate"], 2e-4);
    for key in ["drawing", "paper", "released", "caution"] {
        assert!(lora[0][key].as_str().unwrap().len() > 10, "{key}");
    }
    assert!(out(&petl(home.path(), &["list", "methods", "lora"])).contains("294,912"));
    refused(home.path(), &["list", "methods", "lroa"], &["`lroa`", "lora"]);
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
    // A folder that is no run is a bad request of every command.
    let empty = home.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let empty = empty.to_str().unwrap();
    let none = format!("{empty} is not a run");
    refused(home.path(), &["compare", empty], &[&none]);
    refused(home.path(), &["export", empty, "--as", "petl", "x"], &[&none]);
    refused(home.path(), &["predict", empty, "--inputs", "a", "--out", "b"], &[&none]);
    refused(home.path(), &["compare", empty, "--kind", "curves"], &["--figure"]);
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
    for word in ["list", "plan", "train", "predict", "export", "compare", "suite", "compose", "bench", "Exit codes", "130"] {
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
    refused(home.path(), &["export", &probe, "--as", "peft", &at("no")], &["a head alone", "`merged`"]);
    assert_eq!(json(home.path(), &["export", &run, "--as", "merged", &at("merged"), "--json"])["samples"], 64);

    // Composition: two runs of one backbone, either head.
    let composed = json(
        home.path(),
        &[
            "compose",
            &run,
            &lora,
            "--out",
            &at("sum"),
            "--factor",
            "1",
            "--factor",
            "-0.5",
            "--head",
            &lora,
            "--base",
            &run,
            "--json",
        ],
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
fn bench_reads_the_loss_back_as_often_as_the_session_says_and_keeps_nothing() {
    let home = tempfile::tempdir().unwrap();
    let bench = |every: &str| {
        let mut arguments = vec!["bench", "digits-lora", "--json", "--steps", "4", "--warm-up", "1", "--set", every];
        arguments.extend(TINY);
        json(home.path(), &arguments)
    };
    // Reports after steps 1, 4, 7: one step to warm up, two reports of three steps.
    let measured = bench("recipe.report_every=3");
    assert_eq!((&measured["steps"], &measured["reports"]), (&Json::from(6), &Json::from(2)));
    let (ms, rate) = (measured["step_ms"].as_f64().unwrap(), measured["samples_per_second"].as_f64().unwrap());
    // 40 samples in batches of 16 are 3 steps.
    assert!((rate * ms / 1e3 - 40.0 / 3.0).abs() < 1e-6, "{rate} samples a second at {ms} ms a step");
    let measured = bench("recipe.report_every=1");
    assert_eq!((&measured["steps"], &measured["reports"]), (&Json::from(4), &Json::from(4)));
    assert!(measured["step_ms"].as_f64().unwrap() > 0.0 && measured["samples_per_second"].as_f64().unwrap() > 0.0);
    assert!(measured["peak_bytes"].as_u64().unwrap() > 0 && measured["activation_bytes"].as_u64().unwrap() > 0);
    assert!(!home.path().join("runs").exists(), "a benchmark keeps nothing");
}

/// A training that would take minutes, with its events as JSON lines on a pipe, from where it has done its first step.
#[cfg(unix)]
fn long_training(home: &Path, run: &str, more: &[&str]) -> (std::process::Child, std::io::BufReader<std::process::ChildStdout>) {
    use std::io::BufRead;
    let mut child = Command::new(env!("CARGO_BIN_EXE_petl"))
        .args(["train", "digits-lora", "--json", "--out", run, "--set", "device=cpu", "--set", "data.settings.test=10"])
        .args(more)
        .env("PETL_HOME", home)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut events = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("\"step\"") {
        line.clear();
        assert!(events.read_line(&mut line).unwrap() > 0, "it ended before its first step");
    }
    (child, events)
}

#[test]
#[cfg(unix)]
fn ctrl_c_stops_a_training_between_two_reports_and_keeps_it() {
    use std::io::BufRead;
    let home = tempfile::tempdir().unwrap();
    let run = home.path().join("run");
    // One report at the first step, the next after thousands: nothing but the signal can end it soon.
    let quiet = ["--set", "recipe.report_every=100000", "--set", "recipe.epochs=500", "--set", "recipe.batch_size=1"];
    let (child, events) = long_training(home.path(), run.to_str().unwrap(), &quiet);
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let events: Vec<Json> = events.lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(err(&output).contains("what was learned is kept"), "{}", err(&output));
    let last = events.last().unwrap();
    assert_eq!((&last["event"], &last["stopped"]), (&Json::from("finished"), &Json::from(true)));
    let steps = last["steps"].as_u64().unwrap();
    assert!((1..1000).contains(&steps), "it went on to step {steps}, the end of its first epoch");
    for name in ["session.petl.toml", "events.jsonl", "adapter.safetensors", "adapter.toml", "summary.json"] {
        assert!(run.join(name).is_file(), "no {name}");
    }
    assert!(!run.join("training.lock").exists());
    // What was kept can be used.
    let export = json(
        home.path(),
        &["export", run.to_str().unwrap(), "--as", "petl", home.path().join("out").to_str().unwrap(), "--json"],
    );
    assert_eq!(export["difference"], 0.0);
}

#[test]
#[cfg(unix)]
fn a_run_in_training_is_claimed() {
    let home = tempfile::tempdir().unwrap();
    let run = home.path().join("runs").join("theirs");
    let (mut child, events) = long_training(home.path(), run.to_str().unwrap(), &["--set", "recipe.epochs=500"]);
    let compared = json(home.path(), &["compare", run.to_str().unwrap(), "--json"]);
    assert_eq!(compared["runs"][0]["status"], "training elsewhere");
    child.kill().unwrap();
    child.wait().unwrap();
    drop(events);
    let compared = json(home.path(), &["compare", run.to_str().unwrap(), "--json"]);
    assert_eq!(compared["runs"][0]["status"], "cut off");
}

#[test]
#[cfg(unix)]
fn a_reader_that_leaves_ends_no_training() {
    let home = tempfile::tempdir().unwrap();
    let run = home.path().join("run");
    let some = ["--set", "recipe.epochs=2", "--set", "data.settings.train=200", "--set", "backbone.settings.weights=random"];
    let (child, events) = long_training(home.path(), run.to_str().unwrap(), &some);
    drop(events);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(run.join("adapter.safetensors").is_file() && run.join("summary.json").is_file());
    let kept = petl_workbench::board::Run::open(&run).unwrap();
    assert_eq!(kept.status, petl_workbench::board::Status::Finished);
}

/// Every `petl` command in `text`, its paths under /tmp, runs/ and adapters/ moved below `home`, its trainings made short.
fn tour(home: &Path, text: &str) -> Vec<Vec<String>> {
    let below = |word: &str| {
        let moved = ["/tmp/", "runs/", "adapters/"].iter().find_map(|from| Some((from, word.strip_prefix(from)?)));
        moved.map_or_else(|| word.to_owned(), |(from, rest)| home.join(from.trim_matches('/')).join(rest).display().to_string())
    };
    let commands = text.lines().filter_map(|line| line.trim().strip_prefix("petl "));
    let one = |line: &str| {
        let line = line.split(" #").next().unwrap_or(line);
        let mut words: Vec<String> = line.split_whitespace().map(below).collect();
        if ["train", "bench", "suite"].contains(&words[0].as_str()) {
            words.extend(TINY.map(str::to_owned));
        }
        words
    };
    commands.map(one).collect()
}

/// The tours of the help text and of the README, as they stand there, one command after the other.
#[test]
fn the_tours_go_through() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let home = tempfile::tempdir().unwrap();
    let help = out(&petl(home.path(), &["help"]));
    let help = help.split("A first tour:").nth(1).unwrap();
    for (text, least) in [(help, 6), (readme.as_str(), 7)] {
        let home = tempfile::tempdir().unwrap();
        let commands = tour(home.path(), text);
        assert!(commands.len() >= least, "{commands:?}");
        for words in commands {
            // `predict` wants a file of the reader's own.
            if let Some(inputs) = words.iter().position(|w| w == "--inputs").and_then(|n| words.get(n + 1)) {
                let pixels = burn::tensor::TensorData::new(vec![0.5_f32; 3 * 32 * 32], [1, 3, 32, 32]);
                let path = home.path().join(inputs);
                weights::write(&path, &[("pixel_values".to_owned(), pixels)].into(), false, Default::default()).unwrap();
            }
            let output = Command::new(env!("CARGO_BIN_EXE_petl"))
                .args(&words)
                .env("PETL_HOME", home.path())
                .current_dir(home.path())
                .output()
                .unwrap();
            assert!(output.status.success(), "petl {}: {}", words.join(" "), err(&output));
        }
    }
}

#[test]
fn one_data_set_that_cannot_be_read_says_nothing_of_the_others() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    for (name, seed) in [("a", "seed=1"), ("b", "seed=2"), ("c", "seed=3")] {
        let mut arguments = vec!["train", "digits-probe", "--set", seed];
        let out = at(name);
        arguments.extend(TINY);
        arguments.extend(["--out", &out]);
        assert!(petl(home.path(), &arguments).status.success());
    }
    let session = home.path().join("c/session.petl.toml");
    let text = std::fs::read_to_string(&session).unwrap();
    std::fs::write(&session, text.replace("name = \"digits\"", "name = \"letters\"")).unwrap();
    let output = petl(home.path(), &["compare", &at("a"), &at("b"), &at("c"), "--json"]);
    assert!(output.status.success() && err(&output).contains("letters"), "{}", err(&output));
    let compared: Json = serde_json::from_str(&out(&output)).unwrap();
    assert_eq!(compared["runs"][1]["against_first"]["comparable"], true);
    assert_eq!(compared["runs"][2]["against_first"]["comparable"], false);
}

#[test]
fn a_prediction_never_writes_over_its_inputs() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    let run = at("run");
    let mut arguments = vec!["train", "digits-probe", "--out", &run];
    arguments.extend(TINY);
    assert!(petl(home.path(), &arguments).status.success());
    std::fs::write(at("mine.safetensors"), "mine").unwrap();
    let other = format!("{}/../mine.safetensors", at("run"));
    refused(home.path(), &["predict", &run, "--inputs", &at("mine.safetensors"), "--out", &other], &["write over the inputs"]);
    assert_eq!(std::fs::read_to_string(at("mine.safetensors")).unwrap(), "mine");
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

#[test]
fn a_persons_own_files_are_a_data_set_by_two_overrides() {
    let home = tempfile::tempdir().expect("a folder");
    let output = petl(home.path(), &["list", "datasets", "text-table"]);
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && ["threshold = ", "second = ", "CSV"].iter().all(|part| words.contains(part)), "{words}");
    let output = petl(home.path(), &["list", "datasets", "image-folder", "--json"]);
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(listed[0]["classes"].is_null() && listed[0]["settings"][0]["name"] == "folder", "{listed}");

    for n in 0..12_u8 {
        let class = home.path().join("images").join(["dark", "light"][usize::from(n % 2)]);
        std::fs::create_dir_all(&class).expect("a folder");
        let image = image::RgbImage::from_pixel(40, 33, image::Rgb([n % 2 * 200 + n; 3]));
        image.save(class.join(format!("{n}.png"))).expect("written");
    }
    std::fs::write(home.path().join("images/dark/broken.jpg"), "no image").expect("written");
    let path = format!("data.settings.folder={}", home.path().join("images").display());
    let set = [
        "train",
        "digits-probe",
        "--set",
        "data.name=image-folder",
        "--set",
        &path,
        "--set",
        "recipe.epochs=1",
        "--set",
        "device=cpu",
    ];
    let random = ["--set", "backbone.settings.weights=random"];
    let output = petl(home.path(), &[&set[..], &random].concat());
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && words.contains("broken.jpg") && words.contains("`leave out`"), "{words}");
    let output = petl(home.path(), &[&set[..], &random, &["--set", "data.settings.damaged=leave out"]].concat());
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && words.contains("1 of 13") && words.contains("left out"), "{words}");
    // Without a folder there is nothing to train on, and the remedy is said.
    let output = petl(home.path(), &["train", "digits-probe", "--set", "data.name=image-folder"]);
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(words.contains("no folder is chosen") && words.contains("Remedy"), "{words}");
}

/// A head of two layers learns, is rebuilt from its files, and leaves where the other program has one.
#[test]
fn a_head_of_two_layers_trains_and_leaves_for_who_has_one() {
    let home = tempfile::tempdir().unwrap();
    let (run, merged) = (home.path().join("run"), home.path().join("merged"));
    let head = ["task.settings.head=mlp", "task.settings.activation=gelu"];
    let few = ["device=cpu", "data.settings.train=300", "data.settings.test=100", "recipe.epochs=3"];
    let mut line = vec!["train", "digits-lora", "--out", run.to_str().unwrap()];
    line.extend(few.iter().chain(&head).flat_map(|value| ["--set", *value]));
    let output = petl(home.path(), &line);
    assert!(output.status.success(), "{}", err(&output));
    let summary = tensors::read_json(&run.join("summary.json")).unwrap();
    assert!(summary["accuracy"].as_f64().unwrap() > 0.7, "{summary}");
    let plan = json(home.path(), &["plan", "digits-lora", "--json", "--set", head[0]]);
    assert_eq!(plan["head"], 96 * 96 + 96 + 96 * 10 + 10);
    let output = petl(home.path(), &["export", run.to_str().unwrap(), "--as", "merged", merged.to_str().unwrap()]);
    assert!(output.status.success(), "{}", err(&output));
    let config = tensors::read_json(&merged.join("config.json")).unwrap();
    assert_eq!(config["head"], "logits are gelu(x dense + dense_bias) weight + bias");
    for kind in ["peft", "transformers", "adapterhub"] {
        let output =
            petl(home.path(), &["export", run.to_str().unwrap(), "--as", kind, home.path().join(kind).to_str().unwrap()]);
        assert!(!output.status.success() && err(&output).contains("the classifier is an MLP"), "{kind}: {}", err(&output));
    }
}

/// A head by angles learns, is rebuilt from its files, and does not leave where nobody has such a head.
#[test]
fn a_head_by_angles_trains_and_stays_where_it_is_known() {
    let home = tempfile::tempdir().unwrap();
    let (run, merged) = (home.path().join("run"), home.path().join("merged"));
    let set = ["device=cpu", "data.settings.train=300", "data.settings.test=100", "recipe.epochs=3", "task.settings.head=cosine"];
    let mut line = vec!["train", "digits-lora", "--out", run.to_str().unwrap()];
    line.extend(set.iter().flat_map(|value| ["--set", *value]));
    let output = petl(home.path(), &line);
    assert!(output.status.success(), "{}", err(&output));
    let summary = tensors::read_json(&run.join("summary.json")).unwrap();
    assert!(summary["accuracy"].as_f64().unwrap() > 0.7, "{summary}");
    let plan = json(home.path(), &["plan", "digits-lora", "--json", "--set", "task.settings.head=cosine"]);
    assert_eq!(plan["head"], 96 * 10, "a centre for each class, and no bias");
    let output = petl(home.path(), &["export", run.to_str().unwrap(), "--as", "merged", merged.to_str().unwrap()]);
    assert!(output.status.success(), "{}", err(&output));
    for kind in ["peft", "transformers"] {
        let output =
            petl(home.path(), &["export", run.to_str().unwrap(), "--as", kind, home.path().join(kind).to_str().unwrap()]);
        assert!(!output.status.success() && err(&output).contains("goes by angles"), "{kind}: {}", err(&output));
    }
}
