//! The window, driven as a person would: by the names that screen readers get, with a pointer and keys. No GPU is needed, because
//! nothing is drawn; `tests/drawing.rs` draws.
#![cfg(feature = "window")]

mod common;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use eframe::egui::accesskit::{Role, Toggled};
use eframe::egui::{Event, Key, Modifiers, PointerButton, Pos2, ViewportCommand, ViewportEvent, ViewportId};
use egui_kittest::Harness;
use egui_kittest::kittest::{NodeT, Queryable};
use petl_workbench::app::{App, Ask};
use petl_workbench::board::Status;
use petl_workbench::engine::measure::Counting;
use petl_workbench::exports;
use petl_workbench::methods::{CATALOG, Family};
use petl_workbench::session::command::{Command, Edit};
use petl_workbench::session::{Choice, Session, Value, file, presets};
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

fn window(home: &Path) -> Window {
    window_on(small(), home)
}

fn window_on(session: Session, home: &Path) -> Window {
    let workbench = Workbench::new(session, home.to_owned(), Box::new(|| {})).expect("a worker thread");
    let builder = Harness::builder().with_size([1440.0, 1500.0]).with_step_dt(0.1);
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

fn session(harness: &Window) -> &Session {
    &bench(harness).session
}

/// Names of the stack.
fn stack(harness: &Window) -> Vec<&str> {
    session(harness).methods.iter().map(|m| m.name.as_str()).collect()
}

fn ask(harness: &mut Window, command: Command) {
    harness.state_mut().carry_out(command);
    harness.run_steps(3);
}

/// Draws frames until `fine`, or fails after a while.
fn until(harness: &mut Window, what: &str, seconds: u64, fine: impl Fn(&Window) -> bool) {
    let start = Instant::now();
    while !fine(harness) {
        assert!(start.elapsed() < Duration::from_secs(seconds), "{what}: not within {seconds} s; {:?}", bench(harness).notice);
        harness.step();
        std::thread::sleep(Duration::from_millis(20));
    }
    harness.run_steps(3);
}

/// What is named so and can be clicked; text that only says the same is passed over.
fn middle(harness: &Window, label: &str) -> Pos2 {
    let all: Vec<_> = harness.get_all_by_label(label).collect();
    let button = all.iter().find(|node| node.accesskit_node().role() != Role::Label).unwrap_or(&all[0]);
    button.rect().center()
}

/// A click with the pointer, which takes the keyboard from wherever it was.
fn click(harness: &mut Window, label: &str) {
    let at = middle(harness, label);
    harness.drag_at(at);
    harness.drop_at(at);
    harness.run_steps(4);
}

/// Drags from the middle of one named thing to a point.
fn drag(harness: &mut Window, from: &str, to: Pos2) {
    let from = middle(harness, from);
    harness.hover_at(from);
    harness.step();
    harness.drag_at(from);
    harness.step();
    for part in [0.3, 0.7, 1.0, 1.0] {
        harness.hover_at(from + (to - from) * part);
        harness.step();
    }
    harness.drop_at(to);
    harness.run_steps(4);
}

fn key(harness: &mut Window, modifiers: Modifiers, key: Key) {
    harness.key_press_modifiers(modifiers, key);
    harness.run_steps(3);
}

fn undo(harness: &mut Window) {
    key(harness, Modifiers::COMMAND, Key::Z);
}

/// Clicks a number's field and types over it, without leaving it.
fn type_into(harness: &mut Window, label: &str, text: &str) {
    click(harness, label);
    harness.event(Event::Text(text.into()));
    harness.run_steps(2);
}

fn shows(harness: &Window, words: &str) -> bool {
    harness.query_all_by_label_contains(words).next().is_some()
}

/// The window's own close button.
fn press_close(harness: &mut Window) {
    harness.input_mut().viewports.entry(ViewportId::ROOT).or_default().events.push(ViewportEvent::Close);
    harness.step();
}

fn closes(harness: &Window) -> bool {
    let root = harness.output().viewport_output.get(&ViewportId::ROOT);
    let commands = root.map(|viewport| viewport.commands.clone()).unwrap_or_default();
    commands.contains(&ViewportCommand::Close) && !commands.contains(&ViewportCommand::CancelClose)
}

/// Answers every dialog from now on; the paths that were asked for, in order.
fn answer(harness: &mut Window, answer: impl Fn(&Ask) -> Option<PathBuf> + Send + Sync + 'static) -> Arc<Mutex<Vec<String>>> {
    let asked = Arc::new(Mutex::new(vec![]));
    let kept = asked.clone();
    harness.state_mut().answer_dialogs(move |ask| {
        kept.lock().expect("not poisoned").push(ask.title().to_owned());
        answer(ask)
    });
    asked
}

#[test]
fn a_card_places_its_method_and_undo_takes_it_back() {
    let home = home();
    let mut harness = window(home.path());
    assert_eq!(bench(&harness).plan.trainable(), 0);
    harness.get_by_label("blocks.2.attn.q empty");
    place(&mut harness, "LoRA");
    let after = bench(&harness).plan.trainable();
    assert!(after > 0);
    harness.get_by_label("blocks.2.attn.q LoRA");
    // A second click selects what stands, also a double one: nothing is placed twice by accident.
    place(&mut harness, "LoRA");
    assert_eq!(stack(&harness), ["lora"]);
    // A cell extends the selected method; the row's head paints the whole row.
    click(&mut harness, "blocks.2.attn.k empty");
    assert!(bench(&harness).plan.trainable() > after);
    click(&mut harness, "Row o");
    harness.get_by_label("blocks.5.attn.o LoRA");
    // A right click erases one cell.
    harness.get_by_label("blocks.5.attn.o LoRA").click_secondary();
    harness.run_steps(4);
    harness.get_by_label("blocks.5.attn.o empty");
    for _ in 0..4 {
        undo(&mut harness);
    }
    assert_eq!(*session(&harness), small());
}

/// Finds a card by name and clicks it, with the keyboard's help.
fn place(harness: &mut Window, title: &str) {
    find(harness, title);
    click(harness, title);
    find(harness, "");
}

/// Types into the search box, which then shows the cards of that name.
fn find(harness: &mut Window, text: &str) {
    key(harness, Modifiers::COMMAND, Key::F);
    key(harness, Modifiers::COMMAND, Key::A);
    match text {
        "" => {
            key(harness, Modifiers::NONE, Key::Delete);
            key(harness, Modifiers::NONE, Key::Escape);
        }
        text => harness.event(Event::Text(text.into())),
    }
    harness.run_steps(3);
}

#[test]
fn what_cannot_stand_where_it_is_clicked_is_asked_for() {
    let home = home();
    let mut harness = window(home.path());
    // Nothing is in hand: a click offers what fits, and Esc closes the offer.
    click(&mut harness, "blocks.2.attn.k empty");
    assert!(shows(&harness, "Place at k, block 3"));
    key(&mut harness, Modifiers::NONE, Key::Escape);
    assert!(!shows(&harness, "Place at k, block 3") && stack(&harness).is_empty());
    click(&mut harness, "blocks.2.attn.k empty");
    // The palette's card has the same name, at the left.
    let offer = harness.get_all_by_label("LoRA").map(|node| node.rect().center()).find(|at| at.x > 300.0).expect("it fits there");
    harness.drag_at(offer);
    harness.drop_at(offer);
    harness.run_steps(4);
    assert_eq!(session(&harness).methods[0].place.words(), "k · block 3");
    // LoRA is in hand now, and does not fit a norm.
    click(&mut harness, "blocks.2.norm1 empty");
    assert!(shows(&harness, "Place at norm 1, block 3"));
    assert_eq!(session(&harness).methods[0].place.words(), "k · block 3");
}

#[test]
fn a_card_is_dragged_onto_a_cell_a_row_a_block_and_anywhere_else() {
    let home = home();
    let mut harness = window(home.path());
    find(&mut harness, "LoRA");
    let to = middle(&harness, "blocks.2.attn.k empty");
    drag(&mut harness, "LoRA", to);
    assert_eq!(session(&harness).methods[0].place.words(), "k · block 3");
    undo(&mut harness);
    let to = middle(&harness, "Row o");
    drag(&mut harness, "LoRA", to);
    assert_eq!(session(&harness).methods[0].place.words(), "o");
    undo(&mut harness);
    let to = middle(&harness, "Block 3");
    drag(&mut harness, "LoRA", to);
    assert_eq!(session(&harness).methods[0].place.words(), "q, k, v, o, up, down · block 3");
    undo(&mut harness);
    // Onto a norm: the nearest cell of that block that fits, with a remark.
    let to = middle(&harness, "blocks.4.norm2 empty");
    drag(&mut harness, "LoRA", to);
    assert_eq!(session(&harness).methods[0].place.words(), "o · block 5");
    assert!(shows(&harness, "Placed LoRA at"));
    undo(&mut harness);
    // Where no place in line fits it goes where its paper puts it, and that is said.
    find(&mut harness, "Ladder side network");
    let to = middle(&harness, "blocks.2.attn.q empty");
    drag(&mut harness, "Ladder side network", to);
    assert_eq!(stack(&harness), ["lst"]);
    assert!(shows(&harness, "it cannot stand where it is dropped"));
    undo(&mut harness);
    // Beside the network nothing is placed.
    drag(&mut harness, "Ladder side network", Pos2::new(1300.0, 700.0));
    assert_eq!(*session(&harness), small());
}

#[test]
fn a_sweep_is_one_step_of_undo_for_painting_and_for_erasing() {
    let home = home();
    let mut session = small();
    session.methods = file::find("mixed").expect("a preset").methods;
    let mut harness = window_on(session.clone(), home.path());
    assert!(session.methods.len() > 1);
    click(&mut harness, "Stack 1 LoRA");
    let before = bench(&harness).plan.trainable();
    let to = middle(&harness, "blocks.3.attn.o empty");
    drag(&mut harness, "blocks.0.attn.k empty", to);
    harness.get_by_label("blocks.3.attn.o LoRA");
    assert!(bench(&harness).plan.trainable() > before);
    undo(&mut harness);
    assert_eq!(*self::session(&harness), session);
    // The eraser takes all methods off the rectangle, in one step too.
    click(&mut harness, "Eraser");
    let from = bench(&harness).plan.anatomy.sites.iter().find(|s| s.block == Some(0)).map(|s| s.path.clone()).expect("a site");
    let from = format!("{from}.norm1 empty");
    let last = bench(&harness).plan.anatomy.blocks - 1;
    let to = middle(&harness, &format!("blocks.{last}.mlp.act empty"));
    drag(&mut harness, &from, to);
    assert!(self::session(&harness).methods.len() < session.methods.len());
    undo(&mut harness);
    assert_eq!(*self::session(&harness), session);
}

#[test]
fn every_preset_opens_and_draws() {
    let home = home();
    let mut harness = window(home.path());
    for preset in presets::PRESETS {
        ask(&mut harness, Command::OpenPreset(preset.name.into()));
        assert!(bench(&harness).notice.as_ref().is_none_or(|notice| !notice.is_error), "{}", preset.name);
        assert_eq!(bench(&harness).plan.blocked(), None, "{}", preset.name);
        for index in 0..session(&harness).methods.len() {
            let title = bench(&harness).plan.members[index].card.title;
            click(&mut harness, &format!("Stack {} {title}", index + 1));
        }
    }
}

#[test]
fn every_method_is_in_the_palette_under_its_family_and_found_by_name() {
    let home = home();
    let mut harness = window(home.path());
    for family in Family::ALL {
        let cards: Vec<_> = CATALOG.iter().filter(|card| card.family == family).collect();
        if cards.len() > 1 {
            let heading = format!("{}, {} methods, closed", family.title(), cards.len());
            assert!(shows(&harness, &heading), "{heading}");
        }
    }
    for card in CATALOG {
        find(&mut harness, card.title);
        assert!(harness.get_all_by_label(card.title).any(|node| node.accesskit_node().role() == Role::Button), "{}", card.title);
    }
    // Enter places the first that is found; an author finds it too.
    find(&mut harness, "hu et al lora");
    key(&mut harness, Modifiers::NONE, Key::Enter);
    assert_eq!(stack(&harness), ["lora"]);
}

#[test]
fn the_menu_opens_a_preset_and_escape_closes_menus_first() {
    let home = home();
    let mut harness = window(home.path());
    click(&mut harness, "File");
    assert!(shows(&harness, "Save as..."));
    key(&mut harness, Modifiers::NONE, Key::Escape);
    assert!(!shows(&harness, "Save as..."));
    click(&mut harness, "Eraser");
    assert!(shows(&harness, "Eraser: click or drag"));
    click(&mut harness, "File");
    assert!(shows(&harness, "Eraser: click or drag"));
    key(&mut harness, Modifiers::NONE, Key::Escape);
    assert!(!shows(&harness, "Save as...") && shows(&harness, "Eraser: click or drag"), "Esc took the eraser too");
    key(&mut harness, Modifiers::NONE, Key::Escape);
    assert!(!shows(&harness, "Eraser: click or drag"));
    click(&mut harness, "File");
    harness.get_by_label_contains("Open preset").click();
    harness.run_steps(6);
    click(&mut harness, "houlsby");
    assert_eq!(stack(&harness), ["bottleneck"]);
    harness.get_by_label("blocks.0.attn Bottleneck adapter");
}

#[test]
fn a_number_that_was_just_typed_counts_for_the_run_that_is_started() {
    let home = home();
    let mut harness = window(home.path());
    type_into(&mut harness, "Epochs", "3");
    click(&mut harness, "Train");
    let epochs = |harness: &Window, n: usize| bench(harness).board.runs[n].session.as_ref().map(|s| s.recipe.epochs);
    assert_eq!(epochs(&harness, 0), Some(3));
    ended(&mut harness, 1);
    type_into(&mut harness, "Epochs", "1");
    key(&mut harness, Modifiers::NONE, Key::F5);
    assert_eq!(epochs(&harness, 1), Some(1));
    ended(&mut harness, 2);
    // The undo step has the setting's name; each setting is a step of its own.
    assert_eq!(bench(&harness).history.labels().0, Some("Set epochs"));
    type_into(&mut harness, "Batch size", "16");
    key(&mut harness, Modifiers::NONE, Key::Enter);
    assert_eq!(session(&harness).recipe.batch_size, 16);
    undo(&mut harness);
    assert_eq!((session(&harness).recipe.batch_size, session(&harness).recipe.epochs), (small().recipe.batch_size, 1));
}

fn ended(harness: &mut Window, runs: usize) {
    let fine = move |harness: &Window| {
        let board = &bench(harness).board;
        board.runs.len() == runs && board.live().is_none()
    };
    until(harness, "training", 120, fine);
}

#[test]
fn a_number_typed_for_one_method_stays_with_it_when_another_is_selected() {
    let home = home();
    let mut session = small();
    session.methods = file::find("mixed").expect("a preset").methods;
    let mut harness = window_on(session, home.path());
    let other = bench(&harness).plan.members[1].card.title;
    click(&mut harness, "Stack 1 LoRA");
    type_into(&mut harness, "Rank", "5");
    click(&mut harness, &format!("Stack 2 {other}"));
    assert_eq!(self::session(&harness).methods[0].settings.whole("rank"), 5);
}

#[test]
fn looking_at_a_session_changes_nothing() {
    let home = home();
    let mut session = file::find("mixed").expect("a preset");
    session.recipe.epochs = 20_000; // out of the form's range, each of them
    session.recipe.report_every = 5_000_000;
    session.recipe.clip_norm = 1e12;
    session.recipe.label_smoothing = 0.99999;
    session.methods[0].settings.set("rank", Value::Whole(100_000));
    session.methods[0].learning_rate_factor = 1e5;
    session.seed = i64::MAX as u64;
    let mut harness = window_on(session.clone(), home.path());
    for (index, placed) in session.methods.iter().enumerate() {
        let title = CATALOG.iter().find(|card| card.name == placed.name).map_or("", |card| card.title);
        click(&mut harness, &format!("Stack {} {title}", index + 1));
        key(&mut harness, Modifiers::NONE, Key::Tab);
        key(&mut harness, Modifiers::NONE, Key::Tab);
    }
    assert_eq!(*self::session(&harness), session);
    assert!(!bench(&harness).dirty);
    assert!(bench(&harness).plan.problems.iter().filter(|p| p.remedy.is_some()).count() >= 6);
    // A remedy's button mends.
    let remedies = bench(&harness).plan.problems.len();
    click(&mut harness, "Use the default");
    assert!(bench(&harness).plan.problems.len() < remedies);
}

#[test]
fn a_field_keeps_the_keyboard_when_something_appears_above_it() {
    let home = home();
    let mut harness = window(home.path());
    type_into(&mut harness, "Epochs", "4");
    harness.state_mut().carry_out(Command::Save); // fails: there is no file, and a bar says so
    harness.run_steps(3);
    assert!(bench(&harness).notice.as_ref().is_some_and(|notice| notice.is_error));
    harness.event(Event::Text("2".into()));
    harness.run_steps(2);
    key(&mut harness, Modifiers::NONE, Key::Enter);
    assert_eq!(session(&harness).recipe.epochs, 42);
}

#[test]
fn selection_follows_its_method() {
    let home = home();
    let mut session = small();
    for name in ["mixed", "bitfit", "ia3"] {
        session.methods.extend(file::find(name).expect("a preset").methods);
    }
    let mut harness = window_on(session.clone(), home.path());
    let count = session.methods.len();
    let title = |index: usize| {
        CATALOG.iter().find(|card| card.name == session.methods[index].name).map_or("", |card| card.title).to_owned()
    };
    let selected = |harness: &Window| {
        let nodes = harness.query_all_by_label_contains("Stack ");
        let chosen: Vec<_> = nodes.filter(|n| n.accesskit_node().toggled() == Some(Toggled::True)).collect();
        chosen.first().and_then(|node| node.accesskit_node().label()).unwrap_or_default()
    };
    click(&mut harness, &format!("Stack {count} {}", title(count - 1)));
    ask(&mut harness, Command::Edit(Edit::Remove { index: 0 }));
    assert_eq!(selected(&harness), format!("Stack {} {}", count - 1, title(count - 1)), "it moved up with its method");
    undo(&mut harness);
    assert_eq!(selected(&harness), format!("Stack 1 {}", title(0)), "what came back is selected");
}

#[test]
fn closing_asks_saves_or_waits_and_does_neither_behind_ones_back() {
    let home = home();
    let mut harness = window(home.path());
    press_close(&mut harness);
    assert!(!shows(&harness, "Save before closing?"), "nothing is unsaved, nothing runs");
    ask(&mut harness, Command::Edit(Edit::Seed(71)));
    press_close(&mut harness);
    harness.run_steps(2);
    assert!(shows(&harness, "Save before closing?"));
    key(&mut harness, Modifiers::NONE, Key::Escape);
    assert!(!shows(&harness, "Save before closing?"));

    // Save, and the dialog is cancelled: a later save must not close the window.
    press_close(&mut harness);
    harness.run_steps(2);
    let path = home.path().join("kept.petl.toml");
    let asked = answer(&mut harness, |_| None);
    click(&mut harness, "Save...");
    until(&mut harness, "the dialog", 5, |_| !asked.lock().expect("not poisoned").is_empty());
    harness.run_steps(5);
    assert!(bench(&harness).dirty && !shows(&harness, "Save before closing?"));
    let there = path.clone();
    answer(&mut harness, move |_| Some(there.clone()));
    key(&mut harness, Modifiers::COMMAND, Key::S);
    for _ in 0..50 {
        harness.step();
        assert!(!closes(&harness), "an ordinary save closed the window");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(!bench(&harness).dirty && path.is_file());

    // Without saving.
    ask(&mut harness, Command::Edit(Edit::Seed(81)));
    press_close(&mut harness);
    harness.run_steps(2);
    click_and_look(&mut harness, "Close without saving");
    until_closed(&mut harness);
}

/// A click that leaves the frame of the release to be looked at.
fn click_and_look(harness: &mut Window, label: &str) {
    let at = middle(harness, label);
    harness.drag_at(at);
    harness.step();
    let (button, modifiers) = (PointerButton::Primary, Modifiers::NONE);
    harness.event(Event::PointerButton { pos: at, button, pressed: false, modifiers });
    harness.step();
}

fn until_closed(harness: &mut Window) {
    let start = Instant::now();
    while !closes(harness) {
        assert!(start.elapsed() < Duration::from_secs(60), "it does not close");
        harness.step();
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn closing_while_a_run_trains_stops_and_keeps_it() {
    let home = home();
    let mut session = small();
    session.recipe.epochs = 5000;
    session.methods = file::find("bitfit").expect("a preset").methods;
    let mut harness = window_on(session, home.path());
    click(&mut harness, "Train");
    until(&mut harness, "a step", 60, |harness| bench(harness).board.live().is_some_and(|run| !run.steps.is_empty()));
    press_close(&mut harness);
    harness.run_steps(2);
    assert!(shows(&harness, "The run that is training is stopped and kept."));
    click_and_look(&mut harness, "Close");
    until_closed(&mut harness);
    assert_eq!(bench(&harness).board.runs[0].status, Status::Stopped);
    assert!(bench(&harness).board.runs[0].folder.join("adapter.safetensors").is_file());
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
    assert!(stack(&harness).is_empty() && session(&harness).backbone == Choice::named("vit-tiny-32"));
    let whole = |path: &str, n| Edit::Set { path: path.into(), value: Value::Whole(n) };
    let few = [("data.settings.train", 240), ("data.settings.test", 100), ("recipe.epochs", 4), ("recipe.batch_size", 16)];
    for edit in few.map(|(path, n)| whole(path, n)).into_iter().chain([Edit::Device("cpu".into())]) {
        ask(&mut harness, Command::Edit(edit));
    }
    place(&mut harness, "LoRA");
    click(&mut harness, "blocks.2.attn.k empty");
    click(&mut harness, "Row o");
    harness.get_by_label("blocks.5.attn.o LoRA");
    click(&mut harness, "Train");
    ended(&mut harness, 1);
    let run = &bench(&harness).board.runs[0];
    assert!(run.finished.is_some(), "{:?}", run.status);
    let curve: Vec<f64> = run.evaluations.iter().map(|e| e.accuracy).collect();
    assert!(curve.len() == 4 && curve[3] > curve[0] + 0.05 && curve[3] > 0.3, "the curve rises: {curve:?}");
    let (first, last) = (&run.steps[0], &run.steps[run.steps.len() - 1]);
    assert!(last.loss < 0.8 * first.loss, "the loss falls: {} to {}", first.loss, last.loss);
    let (id, accuracy) = (run.id.clone(), run.accuracy().expect("an accuracy"));
    assert!(harness.query_all_by_label(&format!("{:.1} %", 100.0 * accuracy)).count() > 0);
    assert!(shows(&harness, &format!("Accuracy on the test set, %: LoRA 8  {:.1}", 100.0 * accuracy)), "the plot names its line");
    // A row selects; the piece of its line shows and hides.
    click(&mut harness, &format!("Run {id}"));
    assert!(bench(&harness).board.runs[0].shown);
    click(&mut harness, &format!("Hide curves of {id}"));
    assert!(!bench(&harness).board.runs[0].shown);
    click(&mut harness, &format!("Show curves of {id}"));

    let (path, folder) = (home.path().join("mine.petl.toml"), home.path().join("adapter"));
    let (to, into) = (path.clone(), folder.clone());
    let asked = answer(&mut harness, move |ask| match ask {
        Ask::Export { .. } => Some(into.clone()),
        Ask::SaveAs { .. } => Some(to.with_file_name("mine")), // the ending is added
        _ => Some(to.clone()),
    });
    key(&mut harness, Modifiers::COMMAND, Key::S);
    until(&mut harness, "the file", 5, |harness| !bench(harness).dirty);
    assert!(path.is_file());
    let saved = session(&harness).clone();

    // Another edit, and the file again: it asks before the edit is lost.
    ask(&mut harness, Command::Edit(Edit::Seed(99)));
    key(&mut harness, Modifiers::COMMAND, Key::O);
    until(&mut harness, "the question", 5, |harness| shows(harness, "before mine.petl.toml is opened?"));
    assert_eq!(session(&harness).seed, 99);
    click(&mut harness, "Cancel");
    assert_eq!(session(&harness).seed, 99);
    key(&mut harness, Modifiers::COMMAND, Key::O);
    until(&mut harness, "the question", 5, |harness| shows(harness, "before mine.petl.toml is opened?"));
    click(&mut harness, "Open without saving");
    assert_eq!((session(&harness).seed, &session(&harness).title), (saved.seed, &saved.title));
    assert_eq!(session(&harness).methods[0].place, saved.methods[0].place);

    click(&mut harness, "Export");
    let own = exports::CATALOG.iter().find(|card| card.name == "petl").expect("our own folder");
    click(&mut harness, &format!("{}...", own.title));
    until(&mut harness, "the export", 60, |harness| {
        bench(harness).notice.as_ref().is_some_and(|n| n.words.starts_with("Exported"))
    });
    assert!(folder.read_dir().is_ok_and(|mut files| files.next().is_some()));
    let titles = ["Save the session", "Open a session", "Open a session", "Export into a new folder"];
    assert_eq!(*asked.lock().expect("not poisoned"), titles);
    click(&mut harness, "Dismiss");

    ask(&mut harness, Command::Edit(Edit::Remove { index: 0 }));
    click(&mut harness, "Restore session");
    assert_eq!(session(&harness).methods.len(), 1);
    // Delete is about the list that was clicked last.
    click(&mut harness, &format!("Run {id}"));
    harness.hover_at(Pos2::new(5.0, 600.0));
    key(&mut harness, Modifiers::NONE, Key::Delete);
    assert_eq!(stack(&harness), ["lora"]);
    click(&mut harness, "Delete for good");
    assert!(bench(&harness).board.runs.is_empty());
}

#[test]
fn old_runs_wait_in_the_table_and_a_closed_side_stays_closed() {
    let home = home();
    for n in 1..=6 {
        let folder = home.path().join("runs").join(format!("old-{n:03}"));
        std::fs::create_dir_all(&folder).expect("a folder");
        file::save(&small(), &folder.join("session.petl.toml")).expect("saved");
        std::fs::write(folder.join("events.jsonl"), "").expect("written");
    }
    std::fs::write(home.path().join("view.toml"), "left = false\n").expect("written");
    let harness = window(home.path());
    assert_eq!(bench(&harness).board.runs.len(), 6);
    assert_eq!(bench(&harness).board.shown().count(), 4);
    assert!(harness.query_by_label("Find a method").is_none(), "the left side stays closed");
}

#[test]
fn a_data_set_of_several_tasks_says_which_and_its_runs_say_how_each_does() {
    let home = home();
    let mut harness = window(home.path());
    assert!(!shows(&harness, "3 tasks: digits 10, emoji 7, shapes 8"));
    click(&mut harness, "Data set");
    click(&mut harness, "Three tasks in one");
    assert_eq!(session(&harness).data.name, "three-tasks");
    assert!(shows(&harness, "3 tasks: digits 10, emoji 7, shapes 8"));
    ask(&mut harness, Command::OpenPreset("vl-adapter-multiple".into()));
    for (name, value) in [("digits", 20), ("emoji", 20), ("shapes", 20), ("test", 10)] {
        let path = format!("data.settings.{name}");
        ask(&mut harness, Command::Edit(Edit::Set { path, value: Value::Whole(value) }));
    }
    ask(&mut harness, Command::Edit(Edit::Set { path: "recipe.epochs".into(), value: Value::Whole(1) }));
    ask(&mut harness, Command::Train);
    ended(&mut harness, 1);
    let run = &bench(&harness).board.runs[0];
    let each: Vec<_> = run.accuracy_by_task().iter().map(|(task, a)| format!("{task} {:.1}", 100.0 * a)).collect();
    assert_eq!(each.len(), 3);
    assert!(shows(&harness, "by task") && shows(&harness, &each.join(" · ")), "{each:?}");
}

#[test]
fn data_with_quality_scores_says_so_and_who_goes_by_them() {
    let home = home();
    let mut harness = window(home.path());
    ask(&mut harness, Command::OpenPreset("twin".into()));
    ask(&mut harness, Command::Edit(Edit::Data("shapes".into())));
    assert!(!shows(&harness, "Quality scores") && shows(&harness, "goes by the sharpness of each image"));
    ask(&mut harness, Command::Edit(Edit::Set { path: "data.settings.degraded".into(), value: Value::Real(0.5) }));
    assert!(shows(&harness, "Quality scores: 0.25 to 1"));
    assert!(shows(&harness, "goes by the quality score that the data gives each sample, 0.25 to 1"));
}

#[test]
fn sounds_are_shown_as_the_network_gets_them() {
    let home = home();
    let mut harness = window(home.path());
    let root = home.path().join("sounds");
    for n in 0..12 {
        let class = root.join(["high", "low"][n % 2]);
        std::fs::create_dir_all(&class).expect("a folder");
        let tone = |k: usize| (f32::sin(k as f32 * [0.9, 0.1][n % 2]) * 9000.0) as i16;
        std::fs::write(class.join(format!("{n}.wav")), common::wav(8000, 1, &(0..1200).map(tone).collect::<Vec<_>>()))
            .expect("written");
    }
    ask(&mut harness, Command::Edit(Edit::Data("audio-folder".into())));
    let folder =
        |path: &str, at: &Path| Command::Edit(Edit::Set { path: path.into(), value: Value::Text(at.display().to_string()) });
    ask(&mut harness, folder("data.settings.folder", &root));
    let problem = bench(&harness).plan.blocked().expect("a network that sees hears nothing");
    assert!(problem.words.contains("holds sounds"), "{problem:?}");
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/backbones/whisper");
    let chosen = model.clone();
    harness.state_mut().answer_dialogs(move |ask| matches!(ask, Ask::Model).then(|| chosen.clone()));
    click(&mut harness, "Open a model folder...");
    for words in ["16 x 100 of sound", "2 classes · 10 train · 2 test"] {
        until(&mut harness, words, 20, move |harness| shows(harness, words));
    }
    assert_eq!(session(&harness).backbone.name, "whisper");
    assert!(bench(&harness).plan.blocked().is_none(), "{:?}", bench(&harness).plan.blocked());
    assert!(shows(&harness, "[16, 100], 1 s at 16 kHz, (max(lg mel, loudest - 8) + 4) / 4"), "what the network gets");
    for class in ["high", "low"] {
        assert!(harness.query_all_by_label(&format!("Sample of class {class}")).count() >= 2, "{class} is drawn");
        assert!(shows(&harness, class));
    }
    // The stem's convolutions and positions are drawn, and the grid has a row for every part of a block.
    let places: Vec<_> = bench(&harness).plan.anatomy.sites.iter().take(3).map(|site| site.place).collect();
    assert_eq!(places, ["conv 1", "conv 2", "positions"]);
    ask(&mut harness, Command::Train);
    ended(&mut harness, 1);
    assert!(bench(&harness).board.runs[0].accuracy().is_some());
}

#[test]
fn a_data_set_of_files_is_chosen_by_a_dialog_and_shows_what_is_in_it() {
    let home = home();
    let mut harness = window(home.path());
    click(&mut harness, "Data set");
    click(&mut harness, "Text table");
    assert!(shows(&harness, "no file is chosen. Choose a file that ends in .csv, .tsv, .jsonl or .parquet"));
    let path = home.path().join("films.csv");
    let rows: String = (0..10).map(|n| format!("the film {n},{}\n", ["bad", "good"][n % 2])).collect();
    std::fs::write(&path, format!("text,label\n{rows}")).expect("written");
    let chosen = path.clone();
    harness.state_mut().answer_dialogs(move |ask| match ask {
        Ask::Data { field } => (*field == "file").then(|| chosen.clone()),
        _ => None,
    });
    click(&mut harness, "Choose...");
    let until = Instant::now() + Duration::from_secs(20);
    while !shows(&harness, "2 classes · 8 train · 2 test") {
        assert!(Instant::now() < until, "the samples are shown");
        std::thread::sleep(Duration::from_millis(20));
        harness.run_steps(2);
    }
    assert_eq!(session(&harness).data.settings.text("file"), path.display().to_string());
    let shown = (0..10).filter(|n| shows(&harness, &format!("the film {n}"))).count();
    assert!((3..=8).contains(&shown), "{shown} of the training texts are shown");
    assert!(shows(&harness, "[3, 32, 32], (byte / 255 - 0.5) / 0.5"), "what the network gets");
    let problem = bench(&harness).plan.blocked().expect("a network that sees reads nothing");
    assert!(problem.words.contains("holds texts") && problem.remedy.is_some(), "{problem:?}");
}

/// What cannot be fetched says how to bring it by hand, and what was typed stays.
#[test]
fn the_hub_is_asked_on_request_only_and_says_what_to_do_without_a_network() {
    let home = home();
    let mut workbench = Workbench::new(small(), home.path().to_owned(), Box::new(|| {})).expect("a worker thread");
    workbench.download.hub.endpoint = Some("http://127.0.0.1:9".into()); // where nobody listens
    let builder = Harness::builder().with_size([1440.0, 1500.0]).with_step_dt(0.1);
    let mut harness: Window = builder.build_eframe(move |cc| App::new(&cc.egui_ctx, workbench));
    harness.run_steps(3);
    click(&mut harness, "Fetch from the hub...");
    assert!(harness.get_by_label("Look").accesskit_node().is_disabled());
    harness.get_by_label("Repository").type_text("tiny/vit");
    harness.run_steps(2);
    click(&mut harness, "Look");
    let told =
        |harness: &Window| bench(harness).notice.as_ref().is_some_and(|n| n.is_error && n.words.contains("Without a network"));
    until(&mut harness, "the hub cannot be reached", 20, move |harness| told(harness));
    assert_eq!(harness.get_by_label("Repository").value().as_deref(), Some("tiny/vit"));
    click(&mut harness, "Cancel");
    assert!(harness.query_by_label("Repository").is_none());
}

/// Places are the same in every block, widths are not; what merges stands beside the blocks.
#[test]
fn a_network_of_stages_is_drawn_merges_and_all() {
    let home = home();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/backbones/swin");
    let backbone = petl_workbench::backbones::of_folder(&folder).expect("the folder opens");
    let mut harness = window_on(Session { backbone, ..small() }, home.path());
    let passing = |tokens, width| format!("[batch, {tokens}, {width}] in and out; grey is frozen, colour is trained here");
    assert!(shows(&harness, &passing(144, 16)), "the first block");
    harness.get_by_label("blocks.1.merge.norm empty");
    harness.get_by_label("blocks.1.merge empty");
    click(&mut harness, "blocks.3.attn.distance empty");
    assert!(shows(&harness, &passing(36, 32)), "the last block");
    ask(&mut harness, Command::Edit(Edit::AddVariant { method: "lora".into(), variant: 0 }));
    ask(&mut harness, Command::Edit(Edit::Paint { index: 0, sites: vec!["blocks.1.merge".into()] }));
    harness.get_by_label("blocks.1.merge LoRA");
    assert_eq!(bench(&harness).plan.blocked(), None);
}
