//! Who may know whom, read from the sources: the walls that ARCHITECTURE.md lists.

use std::path::{Path, PathBuf};

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("src can be read") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Code lines of a file, comments left out.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).expect("a source file");
    text.lines().filter(|line| !line.trim_start().starts_with("//")).map(|l| format!("{l}\n")).collect()
}

fn all() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = vec![];
    sources(&root, &mut found);
    found.sort();
    let name = |p: &Path| p.strip_prefix(&root).expect("below src").to_string_lossy().replace('\\', "/");
    found.iter().map(|p| (name(p), code(p))).collect()
}

fn offenders(of: impl Fn(&str) -> bool, words: &[&str]) -> Vec<String> {
    let guilty = |(name, text): (String, String)| {
        let word = words.iter().find(|w| text.contains(**w))?;
        Some(format!("{name} names `{word}`"))
    };
    all().into_iter().filter(|(name, _)| of(name)).filter_map(guilty).collect()
}

#[test]
fn session_and_plan_know_no_tensors_no_window_no_threads() {
    let found = offenders(
        |n| n.starts_with("session/") || n.starts_with("plan/"),
        &["burn::", "Tensor", "egui", "eframe", "std::thread", "crossbeam"],
    );
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn the_window_knows_no_tensors() {
    let found = offenders(|n| n.starts_with("app/"), &["burn::", "Tensor", "engine::bag", "engine::model", "engine::tuner"]);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn below_the_window_nobody_knows_it() {
    let found = offenders(|n| !n.starts_with("app/"), &["egui", "eframe"]);
    assert!(found.is_empty(), "{found:#?}");
    let found = offenders(|n| !n.starts_with("app/") && !n.starts_with("cli") && n != "lib.rs", &["crate::app"]);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn only_the_workbench_and_the_command_line_see_both_sides() {
    let found = offenders(
        |n| !n.starts_with("cli") && !n.starts_with("app/") && n != "workbench.rs" && n != "lib.rs",
        &["crate::workbench"],
    );
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn methods_do_not_know_each_other() {
    for (name, text) in
        all().into_iter().filter(|(n, _)| n.starts_with("methods/") && n != "methods/mod.rs" && n != "methods/parts.rs")
    {
        let own = name.trim_start_matches("methods/").trim_end_matches(".rs");
        for other in petl_workbench::methods::CATALOG.iter().map(|c| c.name).filter(|c| *c != own) {
            assert!(!text.contains(&format!("super::{other}")), "{name} names the method {other}");
        }
    }
}

#[test]
fn only_the_command_line_prints() {
    let found = offenders(|n| !n.starts_with("cli"), &["println!", "eprintln!", "print!("]);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn every_file_says_what_it_is_and_stays_readable() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (name, _) in all() {
        let text = std::fs::read_to_string(root.join(&name)).expect("a source file");
        assert!(text.starts_with("//!"), "{name} does not open with what it is");
        assert!(text.lines().count() <= 500, "{name} has {} lines", text.lines().count());
    }
}

#[test]
fn a_method_is_one_file_that_is_read_at_a_sitting() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/methods");
    let mut files = vec![];
    sources(&folder, &mut files);
    for card in petl_workbench::methods::CATALOG {
        let file = folder.join(format!("{}.rs", card.name));
        assert!(files.contains(&file), "{} has no file src/methods/{0}.rs of its own", card.name);
    }
    for file in files {
        let name = file.strip_prefix(&folder).expect("a method").with_extension("").to_string_lossy().into_owned();
        let most = match name.as_str() {
            "mod" => continue, // the trait and the catalogue; the limit of every file holds for it
            "parts" => 200,    // no method
            _ => 150,
        };
        let lines = std::fs::read_to_string(&file).expect("a source file").lines().count();
        assert!(
            lines <= most,
            "src/methods/{name}.rs has {lines} lines, more than {most}. Give what it shares to parts.rs, or a second idea a file of its own"
        );
    }
}
