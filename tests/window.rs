//! The window, driven as a person would: by the names that screen readers get. No GPU is needed, because nothing is drawn;
//! `tests/drawing.rs` draws.
#![cfg(feature = "window")]

use std::time::{Duration, Instant};

use eframe::egui::accesskit::Role;
use eframe::egui::{Key, Modifiers};
use egui_kittest::Harness;
use egui_kittest::kittest::{NodeT, Queryable};
use petl_workbench::app::App;
use petl_workbench::engine::measure::Counting;
use petl_workbench::session::command::{Command, Edit};
use petl_workbench::session::{Choice, Recipe, Session, Value, file, presets};
use petl_workbench::workbench::Workbench;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

type Window = Harness<'static, App>;

/// A session that trains in seconds.
fn small() -> Session {
    let mut session = file::find("digits-probe").expect("the preset is there");
    session.data.settings.set("train", Value::Whole(64));
    session.data.settings.set("test", Value::Whole(50));
    session.backbone.settings.set("weights", Value::Text("random".into())); // the window is tried here, not the backbone
    session.recipe.epochs = 2;
    session.device = "cpu".into();
    session
}

fn window(home: &std::path::Path) -> Window {
    let workbench = Workbench::new(small(), home.to_owned(), Box::new(|| {})).expect("a worker thread");
    let builder = Harness::builder().with_size([1440.0, 900.0]).with_step_dt(0.1);
    let mut harness = builder.build_eframe(move |cc| App::new(&cc.egui_ctx, workbench));
    harness.run_steps(3);
    harness
}

fn home() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn bench(harness: &Window) -> &Workbench {
    harness.state().workbench()
}

/// Draws frames until `fine`, or fails after a while.
fn until(harness: &mut Window, what: &str, seconds: u64, fine: impl Fn(&Workbench) -> bool) {
    let start = Instant::now();
    while !fine(bench(harness)) {
        assert!(start.elapsed() < Duration::from_secs(seconds), "{what}: not within {seconds} s; {:?}", bench(harness).notice);
        harness.step();
        std::thread::sleep(Duration::from_millis(20));
    }
    harness.run_steps(3);
}

/// Clicks the button of this name; text that only says the same is passed over.
fn click(harness: &mut Window, label: &str) {
    let all: Vec<_> = harness.get_all_by_label(label).collect();
    let button = all.iter().find(|node| node.accesskit_node().role() != Role::Label).unwrap_or(&all[0]);
    button.click();
    drop(all);
    harness.run_steps(4);
}

#[test]
fn a_card_places_its_method_and_undo_takes_it_back() {
    let home = home();
    let mut harness = window(home.path());
    assert_eq!(bench(&harness).plan.trainable(), 0);
    harness.get_by_label("blocks.2.attn.q empty");
    click(&mut harness, "LoRA");
    let after = bench(&harness).plan.trainable();
    assert!(after > 0);
    harness.get_by_label("blocks.2.attn.q LoRA");
    // A cell extends the selected method; the row's head paints the whole row.
    click(&mut harness, "blocks.2.attn.k empty");
    assert!(bench(&harness).plan.trainable() > after);
    click(&mut harness, "Row o");
    harness.get_by_label("blocks.5.attn.o LoRA");
    // Where it cannot stand nothing happens.
    let count = bench(&harness).plan.trainable();
    click(&mut harness, "blocks.2.norm1 empty");
    assert_eq!(bench(&harness).plan.trainable(), count);
    // A right click erases one cell.
    harness.get_by_label("blocks.5.attn.o LoRA").click_secondary();
    harness.run_steps(4);
    harness.get_by_label("blocks.5.attn.o empty");
    for _ in 0..4 {
        harness.key_press_modifiers(Modifiers::COMMAND, Key::Z);
        harness.run_steps(3);
    }
    assert_eq!(bench(&harness).session, small());
}

#[test]
fn every_preset_opens_and_draws() {
    let home = home();
    let mut harness = window(home.path());
    for preset in presets::PRESETS {
        harness.state_mut().carry_out(Command::OpenPreset(preset.name.into()));
        harness.run_steps(2);
        assert_eq!(bench(&harness).notice, None, "{}", preset.name);
        assert_eq!(bench(&harness).plan.blocked(), None, "{}", preset.name);
    }
}

#[test]
fn the_menu_opens_a_preset() {
    let home = home();
    let mut harness = window(home.path());
    click(&mut harness, "File");
    harness.get_by_label_contains("Open preset").click();
    harness.run_steps(6);
    click(&mut harness, "houlsby");
    let names: Vec<_> = bench(&harness).session.methods.iter().map(|m| m.name.as_str()).collect();
    assert_eq!(names, ["bottleneck"]);
    harness.get_by_label("blocks.0.attn Bottleneck adapter");
}

#[test]
fn open_a_preset_place_lora_train_and_see_it_learn_save_reopen_export() {
    let home = home();
    let mut harness = window(home.path());
    // The preset with its pretrained weights; fewer pictures and epochs, so that it takes seconds.
    click(&mut harness, "File");
    harness.get_by_label_contains("Open preset").click();
    harness.run_steps(6);
    click(&mut harness, "digits-probe");
    assert!(bench(&harness).session.methods.is_empty() && bench(&harness).session.backbone == Choice::named("vit-tiny-32"));
    let recipe = Recipe { epochs: 4, batch_size: 16, ..bench(&harness).session.recipe.clone() };
    for edit in [
        Edit::Device("cpu".into()),
        Edit::Set { path: "data.settings.train".into(), value: Value::Whole(240) },
        Edit::Set { path: "data.settings.test".into(), value: Value::Whole(100) },
        Edit::Recipe(Box::new(recipe)),
    ] {
        harness.state_mut().carry_out(Command::Edit(edit));
    }
    harness.run_steps(2);
    click(&mut harness, "LoRA");
    click(&mut harness, "blocks.2.attn.k empty");
    click(&mut harness, "Row o");
    harness.get_by_label("blocks.5.attn.o LoRA");
    click(&mut harness, "Train");
    until(&mut harness, "training", 120, |bench| bench.board.runs.first().is_some_and(|run| !run.status.is_live()));
    let run = &bench(&harness).board.runs[0];
    assert!(run.finished.is_some(), "{:?}", run.status);
    let (id, accuracy) = (run.id.clone(), run.accuracy().expect("an accuracy"));
    let curve: Vec<f64> = run.evaluations.iter().map(|e| e.accuracy).collect();
    assert!(curve.len() == 4 && curve[3] > curve[0] + 0.05 && curve[3] > 0.3, "the curve rises: {curve:?}");
    let (first, last) = (&run.steps[0], &run.steps[run.steps.len() - 1]);
    assert!(last.loss < 0.8 * first.loss, "the loss falls: {} to {}", first.loss, last.loss);
    assert!(harness.query_all_by_label(&format!("{:.1} %", 100.0 * accuracy)).count() > 0);
    click(&mut harness, &format!("Run {id}"));
    assert!(!bench(&harness).board.runs[0].shown);

    let path = home.path().join("mine.petl.toml");
    harness.state_mut().carry_out(Command::SaveAs(path.clone()));
    harness.run_steps(2);
    assert!(!bench(&harness).dirty);
    let saved = bench(&harness).session.clone();
    harness.state_mut().carry_out(Command::Edit(Edit::Seed(99)));
    harness.state_mut().carry_out(Command::Open(path));
    harness.run_steps(2);
    let opened = &bench(&harness).session;
    assert_eq!((opened.seed, &opened.title), (saved.seed, &saved.title));
    assert_eq!(opened.methods[0].place, saved.methods[0].place);

    let folder = home.path().join("adapter");
    harness.state_mut().carry_out(Command::Export { run: id.clone(), kind: "petl".into(), folder: folder.clone() });
    until(&mut harness, "the export", 60, |bench| bench.notice.is_some());
    let notice = bench(&harness).notice.clone().expect("a notice");
    assert!(!notice.is_error, "{}", notice.words);
    assert!(folder.read_dir().is_ok_and(|mut files| files.next().is_some()));
    click(&mut harness, "Dismiss");

    harness.state_mut().carry_out(Command::Edit(Edit::Remove { index: 0 }));
    click(&mut harness, "Restore session");
    assert_eq!(bench(&harness).session.methods.len(), 1);
    click(&mut harness, "Delete...");
    click(&mut harness, "Delete for good");
    assert!(bench(&harness).board.runs.is_empty());
}
