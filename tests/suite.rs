//! `petl suite`: one recipe for all, several seeds, resuming, and the published table beside ours.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use petl_workbench::board::Run;
use petl_workbench::compare::{self, PPT_C};
use petl_workbench::session::{Recipe, file};
use petl_workbench::suite::{self, Request};
use serde_json::Value as Json;

fn petl(folder: &Path, more: &[&str]) -> Output {
    let tiny = ["data.settings.train=32", "data.settings.test=40", "device=cpu", "backbone.settings.weights=random"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_petl"));
    command.args(["suite", folder.to_str().unwrap(), "--data", "digits"]).args(more);
    tiny.iter().for_each(|change| {
        command.args(["--set", change]);
    });
    command.env("PETL_HOME", folder.join("home")).output().unwrap()
}

fn json(folder: &Path, more: &[&str]) -> (Json, String) {
    let output = petl(folder, &[more, &["--json"]].concat());
    let noted = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{noted}");
    (serde_json::from_slice(&output.stdout).unwrap(), noted)
}

/// When each run's events were written last.
fn written(folder: &Path) -> BTreeMap<String, std::time::SystemTime> {
    let runs = std::fs::read_dir(folder.join("runs")).unwrap().map(|entry| entry.unwrap());
    let when = |run: &std::fs::DirEntry| run.path().join("events.jsonl").metadata().unwrap().modified().unwrap();
    runs.map(|run| (run.file_name().into_string().unwrap(), when(&run))).collect()
}

#[test]
fn a_suite_trains_what_is_missing_and_nothing_twice() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("suite");
    let asked = ["--methods", "probe,bitfit", "--set", "recipe.epochs=1"];

    let (report, _) = json(&folder, &[&asked[..], &["--seeds", "1"]].concat());
    assert_eq!((&report["finished"], &report["asked"]), (&2.into(), &2.into()));
    let lines = report["lines"].as_array().unwrap();
    assert_eq!(lines.iter().map(|l| l["method"].as_str().unwrap()).collect::<Vec<_>>(), ["probe", "bitfit"]);
    let run = Run::open(&folder.join("runs/bitfit.digits.1")).unwrap();
    let (accuracy, trainable) = (run.accuracy().unwrap(), run.started.as_ref().unwrap().trainable);
    let line = &lines[1];
    assert_eq!(line["trainable"], trainable);
    for (name, number) in [("mean", accuracy), ("ppt", compare::ppt(accuracy, trainable, PPT_C))] {
        assert!((line[name].as_f64().unwrap() - number).abs() < 1e-9, "{name}: {} and {number}", line[name]);
    }
    assert_eq!(line["cells"][0]["deviation"], Json::Null, "one seed has no spread");
    assert_eq!(lines[0]["ppt"], lines[0]["mean"], "a probe trains the head alone");
    assert_eq!(line["published"]["mean"], 62.05);
    assert_eq!(report["not_comparable"], "not comparable: other backbone and data");
    assert_eq!(report["published"].as_array().unwrap().len(), 20);
    let first = written(&folder);

    let (report, noted) = json(&folder, &[&asked[..], &["--seeds", "2"]].concat());
    assert_eq!((&report["finished"], &report["asked"]), (&4.into(), &4.into()));
    assert!(report["lines"][1]["cells"][0]["deviation"].as_f64().is_some(), "two seeds have a spread");
    assert!(noted.contains("finished before"), "{noted}");
    let second = written(&folder);
    assert!(first.iter().all(|(run, when)| second[run] == *when), "a finished run was trained again");

    // The program was ended in the middle of one run: its last line is missing.
    let cut = folder.join("runs/bitfit.digits.2/events.jsonl");
    let text = std::fs::read_to_string(&cut).unwrap();
    std::fs::write(&cut, text.lines().next().unwrap().to_owned() + "\n").unwrap();
    let output = petl(&folder, &[&asked[..], &["--seeds", "2"]].concat());
    assert!(output.status.success());
    assert!(std::fs::read_to_string(&cut).unwrap().contains("\"finished\""), "the cut run was not trained again");
    let third = written(&folder);
    for run in ["probe.digits.1", "bitfit.digits.1", "probe.digits.2"] {
        assert_eq!(third[run], second[run], "{run} was trained again");
    }

    let page = String::from_utf8(output.stdout).unwrap();
    for words in ["| bitfit | BitFit |", " ± ", "| digits | 0.005 |", "not comparable: other backbone and data", "| SNF |"] {
        assert!(page.contains(words), "no `{words}` in\n{page}");
    }
    assert_eq!(page, std::fs::read_to_string(folder.join("suite.md")).unwrap());

    // Every run that is held against another has one and the same recipe.
    let recipes: Vec<Recipe> =
        third.keys().map(|run| file::open(&folder.join("runs").join(run).join("session.petl.toml")).unwrap().recipe).collect();
    assert_eq!(recipes.len(), 4);
    assert!(recipes.iter().all(|recipe| *recipe == recipes[0]));

    // Another recipe in the same folder would be compared with the old one.
    let output = petl(&folder, &["--methods", "probe,bitfit", "--set", "recipe.epochs=2", "--seeds", "1"]);
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{words}");
    assert!(words.contains("another recipe") && words.contains("choose another folder"), "{words}");
    assert_eq!(written(&folder), third, "a refused request trained something");
}

#[test]
fn a_wrong_request_is_refused_before_anything_is_trained() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("suite");
    for (arguments, words) in [
        (&["--methods", "lorra"][..], &["lorra", "probe", "bottleneck", "digits-lora"][..]),
        (&["--methods", "lora,lora"], &["`lora` is named twice"]),
        (&["--set", "seed=3"], &["a suite sets `seed` itself", "--seeds"]),
        (&["--set", "methods.0.settings.rank=4"], &["--methods"]),
        (&["--set", "recipe.epohs=3"], &["epohs"]),
        (&["--ppt-c", "0"], &["a number above 0"]),
    ] {
        let output = petl(&folder, arguments);
        let noted = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {noted}");
        assert!(words.iter().all(|word| noted.contains(word)), "{arguments:?}: {noted}");
    }
    assert!(!folder.exists(), "a refused request left a folder behind");
}

#[test]
fn the_runs_of_a_suite_differ_in_method_data_and_seed_alone() {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let request = Request {
        methods: names(&suite::METHODS),
        data: names(&["digits", "emoji"]),
        seeds: 2,
        set: names(&["recipe.batch_size=8", "backbone.settings.weights=random"]),
    };
    let jobs = suite::jobs(&request).unwrap();
    assert_eq!(jobs.len(), suite::METHODS.len() * 2 * 2);
    for job in &jobs {
        let bare = |session: &petl_workbench::session::Session| {
            let (mut session, data) = (compare::alike(session), jobs[0].session.data.clone());
            session.methods.clear();
            session.data = data;
            session
        };
        assert_eq!(bare(&job.session), bare(&jobs[0].session), "{}", job.id());
        assert_eq!(job.session.recipe.batch_size, 8);
    }
    let ids: std::collections::BTreeSet<_> = jobs.iter().map(suite::Job::id).collect();
    assert_eq!(ids.len(), jobs.len(), "two runs share a folder");
}
