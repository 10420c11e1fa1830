//! Bad input: each a clear message that names the file and the remedy; never a panic, nothing written half.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use half::f16;
use petl_workbench::backbones::{vit, weights};
use petl_workbench::engine::Event;
use petl_workbench::engine::run::{self, Surroundings};
use petl_workbench::plan::Plan;
use petl_workbench::session::file;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

fn petl(home: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_petl")).args(arguments).env("PETL_HOME", home).output().unwrap()
}

/// It ended with `code`, said all of `words` and nothing of a panic.
#[track_caller]
fn says(output: &Output, code: i32, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "`{word}` is not said in: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Files in `folder` and below.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = vec![];
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { all.extend(files(&path)) } else { all.push(path) }
    }
    all
}

// Backbone weights.

/// The tiny backbone's tensors as a safetensors file, changed by `change`: (name, dtype, shape, bytes).
type Raw = (String, Dtype, Vec<usize>, Vec<u8>);
fn backbone(path: &Path, change: impl Fn(&mut Vec<Raw>)) {
    let mut raw: Vec<Raw> = vec![];
    for site in vit::TINY.declare().sites {
        for part in &site.parts {
            let bytes = std::iter::repeat_n(f16::from_f32(0.01).to_le_bytes(), part.count()).flatten().collect();
            raw.push((format!("{}.{}", site.path, part.name), Dtype::F16, vec![part.rows, part.cols], bytes));
        }
    }
    change(&mut raw);
    let views =
        raw.iter().map(|(name, dtype, shape, bytes)| (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn faulty_backbone_weights_end_a_run_with_words() {
    let home = scratch();
    let path = home.path().join("weights.safetensors");
    let set = format!("backbone.settings.weights={}", text(&path));
    let out = home.path().join("run");
    let train = || {
        let _ = std::fs::remove_dir_all(&out);
        petl(home.path(), &["train", "digits-lora", "--set", &set, "--set", "device=cpu", "--out", text(&out)])
    };
    says(&train(), 1, &[text(&path), "cannot read", "pretrained"]);

    backbone(&path, |_| ());
    let whole = std::fs::read(&path).unwrap();
    for length in [0, 5, 100, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).unwrap();
        says(&train(), 1, &[text(&path), "not a whole safetensors file"]);
    }
    backbone(&path, |raw| {
        let (_, dtype, _, bytes) = &mut raw[0];
        *dtype = Dtype::I16; // as many bytes as f16
        assert!(!bytes.is_empty());
    });
    says(&train(), 1, &[text(&path), "embed.weight", "f32, f16 and bf16"]);
    backbone(&path, |raw| raw[0].2.swap(0, 1));
    says(&train(), 1, &[text(&path), "embed.weight", "[96, 48]", "[48, 96]"]);
    backbone(&path, |raw| drop(raw.remove(3)));
    says(&train(), 1, &[text(&path), "lacks 1 tensor"]);
    backbone(&path, |raw| raw.push(("blocks.9.attn.q.weight".into(), Dtype::F16, vec![1], vec![0, 0])));
    says(&train(), 1, &[text(&path), "blocks.9.attn.q.weight"]);
    // What is left of a run that never began: its session and what happened, no adapter, nothing half.
    for file in files(&out) {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        assert!(["session.petl.toml", "events.jsonl"].contains(&name.as_str()), "{name} was left");
    }
    assert!(std::fs::read_to_string(out.join("events.jsonl")).unwrap().contains("\"failed\""));
}

#[test]
fn a_device_that_is_gone_is_named_with_those_that_are_there() {
    let home = scratch();
    let output = petl(home.path(), &["train", "digits-lora", "--set", "device=gpu 9"]);
    says(&output, 1, &["`gpu 9`", "`cpu`", "auto"]);
}

// Sessions.

#[track_caller]
fn session_fault(toml: &str, words: &[&str]) {
    let home = scratch();
    let path = home.path().join("mine.petl.toml");
    std::fs::write(&path, toml).unwrap();
    let mut all = vec![text(&path)];
    all.extend(words);
    for command in ["plan", "train"] {
        says(&petl(home.path(), &[command, text(&path)]), 2, &all);
    }
    assert_eq!(files(home.path()), std::slice::from_ref(&path), "something was written");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), toml, "the session was changed");
}

fn preset() -> String {
    petl_workbench::session::presets::find("digits-lora").unwrap().text.to_owned()
}

#[test]
fn a_faulty_session_names_its_line() {
    let line = |text: &str, word: &str| {
        let n = text.lines().position(|l| l.contains(word)).unwrap() + 1;
        format!("line {n}")
    };
    let broken = preset().replace("[recipe]", "[recipe");
    session_fault(&broken, &[&line(&broken, "[recipe")]);
    let unknown = preset().replace("epochs = 5", "epohcs = 5");
    assert!(unknown.contains("epohcs"), "the preset has changed; mend this test");
    session_fault(&unknown, &[&line(&unknown, "epohcs"), "epohcs"]);
    let newer = preset().replace("petl = 1", "petl = 7");
    session_fault(&newer, &["line 1", "newer"]);
    let setting = preset().replace("rank = 8", "rnak = 8");
    session_fault(&setting, &[&line(&setting, "rnak"), "rnak", "rank"]);
    let range = preset().replace("rank = 8", "rank = 9000");
    session_fault(&range, &[&line(&range, "9000"), "1 to 512"]);
    let method = preset().replace("name = \"lora\"", "name = \"lroa\"");
    session_fault(&method, &[&line(&method, "lroa"), "lroa", "lora"]);
    session_fault("", &["petl = 1"]);
    session_fault("title = \"no version\"", &["petl = 1"]);
    let place = preset().replace("roles = [\"q\", \"v\"]", "roles = [\"q\", \"w\"]");
    session_fault(&place, &[&line(&place, "\"w\"")]);
}

#[test]
fn a_session_that_is_no_text_is_said_to_be_none() {
    let home = scratch();
    let path = home.path().join("mine.petl.toml");
    std::fs::write(&path, [0xff, 0xfe, 0, 1, 2]).unwrap();
    says(&petl(home.path(), &["plan", text(&path)]), 2, &[text(&path)]);
    says(&petl(home.path(), &["plan", text(home.path())]), 2, &[text(home.path())]);
}

// Runs.

fn tiny_run(home: &Path) -> PathBuf {
    let run = home.join("run");
    let mut arguments = vec!["train", "digits-lora", "--out", text(&run)];
    for set in
        ["data.settings.train=10", "data.settings.test=10", "recipe.epochs=1", "device=cpu", "backbone.settings.weights=random"]
    {
        arguments.extend(["--set", set]);
    }
    let output = petl(home, &arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    run
}

#[test]
fn a_damaged_run_is_found_before_anything_is_written() {
    let home = scratch();
    let run = tiny_run(home.path());
    let into = home.path().join("into");
    let export = || petl(home.path(), &["export", text(&run), "--as", "petl", text(&into)]);
    let adapter = run.join("adapter.safetensors");
    let whole = std::fs::read(&adapter).unwrap();
    std::fs::write(&adapter, &whole[..whole.len() / 2]).unwrap();
    says(&export(), 1, &[text(&adapter), "not a whole safetensors file"]);
    std::fs::remove_file(&adapter).unwrap();
    says(&export(), 1, &[text(&adapter), "cannot read"]);
    std::fs::write(&adapter, &whole).unwrap();

    // A session that makes other shapes than the adapter holds.
    let session = run.join("adapter.toml");
    let toml = std::fs::read_to_string(&session).unwrap();
    std::fs::write(&session, toml.replace("rank = 8", "rank = 4")).unwrap();
    says(&export(), 1, &[text(&adapter), "does not fit", "[96, 8]"]);
    std::fs::remove_file(&session).unwrap();
    says(&export(), 1, &["adapter.toml", "Train it again"]);
    assert!(!into.exists());

    // A cut line of events loses that line, not the run.
    let events = run.join("events.jsonl");
    let log = std::fs::read_to_string(&events).unwrap();
    std::fs::write(&events, format!("{log}{{\"event\":\"step\",\"ru")).unwrap();
    let output = petl(home.path(), &["compare", text(&run)]);
    says(&output, 0, &["line", "events.jsonl"]);
    std::fs::remove_file(&events).unwrap();
    says(&petl(home.path(), &["compare", text(&run)]), 2, &[text(&run), "is not a run"]);
}

#[test]
fn a_run_on_a_file_named_from_one_folder_is_read_from_every_other() {
    let home = scratch();
    let there = home.path().join("there");
    std::fs::create_dir(&there).unwrap();
    backbone(&there.join("weights.safetensors"), |_| ());
    let run = home.path().join("run");
    let sets = [
        "data.settings.train=10",
        "data.settings.test=10",
        "recipe.epochs=1",
        "device=cpu",
        "backbone.settings.weights=weights.safetensors",
    ];
    let mut command = Command::new(env!("CARGO_BIN_EXE_petl"));
    command.args(["train", "digits-lora", "--out", text(&run)]).args(sets.iter().flat_map(|set| ["--set", set]));
    says(&command.current_dir(&there).env("PETL_HOME", home.path()).output().unwrap(), 0, &[]);
    let into = home.path().join("into");
    says(&petl(home.path(), &["export", text(&run), "--as", "petl", text(&into)]), 0, &[]);
    let kept = std::fs::read_to_string(into.join("adapter.toml")).unwrap();
    assert!(kept.contains(text(&there.join("weights.safetensors"))), "{kept}");
}

#[test]
fn faulty_inputs_of_a_prediction_are_named() {
    let home = scratch();
    let run = tiny_run(home.path());
    let (inputs, out) = (home.path().join("in.safetensors"), home.path().join("out.safetensors"));
    let predict = || petl(home.path(), &["predict", text(&run), "--inputs", text(&inputs), "--out", text(&out)]);
    let write = |name: &str, shape: &[usize], value: f32| {
        let data = burn::tensor::TensorData::new(vec![value; shape.iter().product()], shape.to_vec());
        weights::write(&inputs, &[(name.to_owned(), data)].into(), false, Default::default()).unwrap();
    };
    says(&predict(), 2, &[text(&inputs), "cannot read"]);
    std::fs::write(&inputs, "no tensors").unwrap();
    says(&predict(), 2, &[text(&inputs), "not a whole safetensors file"]);
    write("pixels", &[1, 3, 32, 32], 0.0);
    says(&predict(), 2, &["`pixel_values`", "pixels"]);
    write("pixel_values", &[1, 32, 32, 3], 0.0);
    says(&predict(), 2, &["[1, 32, 32, 3]", "channels first"]);
    write("pixel_values", &[1, 3, 32, 32], f32::NAN);
    says(&predict(), 2, &["NaN", "picture 0"]);
    assert!(!out.exists());
    write("pixel_values", &[1, 3, 32, 32], 200.0);
    says(&predict(), 0, &["from -1 to 1"]);
    // The folder is not there and cannot be made: below a file.
    let output =
        petl(home.path(), &["predict", text(&run), "--inputs", text(&inputs), "--out", text(&inputs.join("x.safetensors"))]);
    says(&output, 1, &["cannot write"]);
}

// Disks.

#[test]
#[cfg(unix)]
fn a_folder_that_cannot_be_written_is_named() {
    use std::os::unix::fs::PermissionsExt;
    let home = scratch();
    let locked = home.path().join("locked");
    std::fs::create_dir(&locked).unwrap();
    std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o500)).unwrap();
    // Below a plain file nothing can be made, whoever asks; below `locked` only root can.
    let file = home.path().join("file");
    std::fs::write(&file, "").unwrap();
    let mut places = vec![file.join("run")];
    if std::fs::write(locked.join("probe"), "").is_err() {
        places.push(locked.join("run"));
    }
    for place in places {
        says(&petl(home.path(), &["train", "digits-lora", "--out", text(&place)]), 1, &[text(&place), "May you write there"]);
        let parent = place.parent().unwrap();
        let set =
            Command::new(env!("CARGO_BIN_EXE_petl")).args(["train", "digits-lora"]).env("PETL_HOME", parent).output().unwrap();
        says(&set, 1, &["May you write there", "PETL_HOME"]);
    }
    std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o700)).unwrap();
}

/// A full disk, as a limit on the size of files: writes beyond it fail as on a full disk.
#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_ends_with_words_and_nothing_half() {
    let home = scratch();
    let run = tiny_run(home.path());
    let limited = |kib: usize, arguments: &str| {
        // SIGXFSZ ignored, so that the write itself fails.
        let line = format!("trap '' XFSZ; ulimit -f {kib}; exec \"$0\" {arguments}");
        Command::new("bash").args(["-c", &line, env!("CARGO_BIN_EXE_petl")]).env("PETL_HOME", home.path()).output().unwrap()
    };
    let into = home.path().join("merged");
    let output = limited(64, &format!("export '{}' --as merged '{}'", text(&run), text(&into)));
    says(&output, 1, &["cannot write", "Is there room on the disk"]);
    assert!(!into.exists());
    let left: Vec<_> = files(home.path()).into_iter().filter(|f| !f.starts_with(&run)).collect();
    assert!(left.is_empty(), "half-written files were left: {left:?}");

    let second = home.path().join("second");
    let sets = "--set data.settings.train=40 --set data.settings.test=40 --set recipe.epochs=1 --set device=cpu --set backbone.settings.weights=random";
    let output = limited(8, &format!("train digits-lora {sets} --out '{}'", text(&second)));
    says(&output, 1, &[text(&second), "disk"]);
    assert!(!second.join("adapter.safetensors").exists() && !second.join("summary.json").exists());

    // The adapter (BitFit's is small) would fit, the log does not: first its steps, then only its last line, which carries the
    // prediction of every test sample. That is a failure, not a run that was stopped and kept.
    let sets = "--set data.settings.train=60 --set data.settings.test=500 --set recipe.batch_size=1 --set recipe.report_every=1 --set recipe.epochs=1 \
                --set device=cpu --set backbone.settings.weights=random";
    let whole = home.path().join("whole");
    let output = limited(4096, &format!("train bitfit {sets} --out '{}'", text(&whole)));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let log = std::fs::read(whole.join("events.jsonl")).unwrap();
    let size = |name: &str| std::fs::metadata(whole.join(name)).unwrap().len();
    assert!(size("adapter.safetensors") + 40 * 1024 < log.len() as u64, "the log must be the larger one here");
    let last = log[..log.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap();
    for (name, kib) in [("steps", log.len() / 2048), ("end", last / 1024 + 1)] {
        assert!(kib * 1024 > size("adapter.safetensors") as usize && kib * 1024 < log.len());
        let run = home.path().join(name);
        let output = limited(kib, &format!("train bitfit {sets} --json --out '{}'", text(&run)));
        says(&output, 1, &["events.jsonl", "disk full"]);
        assert!(!run.join("summary.json").exists());
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.contains("\"failed\"") && !said.contains("\"finished\""), "{name}");
        for line in std::fs::read_to_string(run.join("events.jsonl")).unwrap().lines() {
            assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "{name}: half a line was left: {line}");
        }
    }
}

#[test]
#[cfg(target_os = "linux")]
fn standard_output_on_a_full_disk_is_said() {
    let home = scratch();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_petl"))
        .args(["list", "methods"])
        .env("PETL_HOME", home.path())
        .stdout(full)
        .stderr(std::process::Stdio::piped())
        .output()
        .unwrap();
    says(&output, 1, &["standard output", "disk full"]);
}

#[test]
fn saving_over_a_session_is_whole_or_not_at_all() {
    let folder = scratch();
    let path = folder.path().join("s.petl.toml");
    let session = file::find("digits-lora").unwrap();
    file::save(&session, &path).unwrap();
    let before = std::fs::read(&path).unwrap();
    let below = path.join("x.petl.toml");
    let words = format!("{:#}", file::save(&session, &below).unwrap_err());
    assert!(words.contains(text(&below)) && words.contains("room on the disk"), "{words}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(files(folder.path()), [path]);
}

#[test]
#[cfg(unix)]
fn saving_keeps_a_link_a_link_and_who_may_read_the_file() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let folder = scratch();
    let at = |name: &str| folder.path().join(name);
    let session = file::find("digits-lora").unwrap();
    std::fs::create_dir(at("shared")).unwrap();
    std::fs::write(at("shared/true.petl.toml"), "old").unwrap();
    std::fs::set_permissions(at("shared/true.petl.toml"), std::fs::Permissions::from_mode(0o640)).unwrap();
    symlink("shared/true.petl.toml", at("link.petl.toml")).unwrap();
    symlink("shared/new.petl.toml", at("dangling.petl.toml")).unwrap();
    for (link, target) in [("link.petl.toml", "shared/true.petl.toml"), ("dangling.petl.toml", "shared/new.petl.toml")] {
        file::save(&session, &at(link)).unwrap();
        assert!(at(link).is_symlink(), "{link} was replaced by a file");
        assert!(std::fs::read_to_string(at(target)).unwrap().contains("petl = 1"));
    }
    assert_eq!(std::fs::metadata(at("shared/true.petl.toml")).unwrap().permissions().mode() & 0o777, 0o640);
}

#[test]
fn a_blocked_plan_is_never_trained_or_exported() {
    let home = scratch();
    let mut session = file::find("digits-lora").unwrap();
    session.methods[0].place.roles.clear();
    assert!(Plan::of(&session).blocked().is_some());
    // Not by the loop itself, whoever calls it.
    let folder = home.path().join("called");
    let started = std::cell::Cell::new(false);
    let send = |event: Event| {
        started.set(started.get() || matches!(event, Event::Started(_)));
        Ok(())
    };
    let around = Surroundings { run: "called", folder: &folder, send: &send, ask: &|| panic!("a blocked session takes steps") };
    let words = format!("{:#}", run::train(&session, &around).unwrap_err());
    assert!(words.contains("matches no site") && !started.get(), "{words}");
    assert!(!folder.join("adapter.safetensors").exists());
    // Not by the program, which leaves nothing behind.
    let path = home.path().join("blocked.petl.toml");
    file::save(&session, &path).unwrap();
    for command in ["train", "bench"] {
        says(&petl(home.path(), &[command, text(&path)]), 2, &[text(&path), "line", "cannot train", "matches no site", "Remedy"]);
    }
    assert!(!home.path().join("runs").exists());
    // And a run whose session was changed so is not exported.
    let run = tiny_run(home.path());
    let adapter = run.join("adapter.toml");
    let whole = std::fs::read_to_string(&adapter).unwrap();
    let blocked = whole.replace("\"q\",", "").replace("\"v\",", "");
    assert_ne!(blocked, whole);
    std::fs::write(&adapter, blocked).unwrap();
    let into = home.path().join("into");
    says(&petl(home.path(), &["export", text(&run), "--as", "petl", text(&into)]), 1, &["matches no site"]);
    assert!(!into.exists());
}
