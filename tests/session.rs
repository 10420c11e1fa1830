//! Session files, placement patterns, edits and undo: triples of session, command, session.

use petl_workbench::backbones::vit::TINY;
use petl_workbench::board::{Run, Status};
use petl_workbench::engine::claim;
use petl_workbench::plan::anatomy::Role;
use petl_workbench::plan::{Plan, Severity};
use petl_workbench::session::command::{Command, Edit};
use petl_workbench::session::edit::{apply, condensed};
use petl_workbench::session::presets::PRESETS;
use petl_workbench::session::{Place, Session, Value, file};
use petl_workbench::workbench::{Workbench, fresh_folder};

fn preset(name: &str) -> Session {
    file::find(name).expect("a preset")
}

fn bench(home: &std::path::Path) -> Workbench {
    Workbench::new(preset("digits-lora"), home.to_owned(), Box::new(|| ())).expect("a workbench")
}

#[test]
fn every_preset_opens_plans_and_comes_back_from_its_own_text() {
    for p in PRESETS {
        let session = preset(p.name);
        let plan = Plan::of(&session);
        assert!(plan.blocked().is_none(), "{}: {:?}", p.name, plan.problems);
        let text = file::text(&session).expect("text");
        let mut back = file::parse(&text, "itself").expect("its own text");
        back.methods.iter_mut().for_each(|m| m.resolved.clear());
        assert_eq!(back, session, "{}", p.name);
    }
}

#[test]
fn saving_keeps_the_pattern_and_what_it_stood_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.petl.toml");
    file::save(&preset("mixed"), &path).expect("saved");
    let text = std::fs::read_to_string(&path).expect("text");
    assert!(text.contains("blocks = \"1-3\"") && text.contains("\"blocks.2.attn.v\""), "{text}");
    assert_eq!(file::open(&path).expect("opened").methods[0].resolved.len(), 6);
}

#[test]
fn faults_in_a_file_name_the_line() {
    let good = file::text(&preset("digits-lora")).expect("text");
    let fault = |from: &str, to: &str| {
        let text = good.replacen(from, to, 1);
        assert_ne!(text, good, "`{from}` is not in the file");
        let line = text.lines().position(|l| to.lines().any(|t| !t.is_empty() && l == t)).map_or(0, |n| n + 1);
        (file::parse(&text, "a.petl.toml").expect_err("a fault").to_string(), line)
    };
    for (from, to, word) in [
        ("seed = 7", "seed = 7\nsede = 7", "sede"),
        ("batch_size = 16", "batch_size = \"many\"", "batch_size"),
        ("rank = 8", "rank = [8]", "rank"),
        ("petl = 1", "petl = 9", "newer"),
        ("epochs = 5", "epochs = -1", "epochs"),
        ("title = \"Digits, LoRA\"", "title = \"Digits", "a.petl.toml"),
    ] {
        let (words, line) = fault(from, to);
        let near = [line, line + 1].iter().any(|n| words.contains(&format!("line {n}")));
        assert!(near && words.contains(word), "`{to}` (line {line}) gave: {words}");
    }
}

#[test]
fn what_can_be_saved_can_be_opened_again_whatever_is_wrong_with_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("blocked.petl.toml");
    let ladder = preset("digits-ladder");
    let lora = preset("digits-lora");
    let mut sessions = vec![];
    for wrong in ["methods.0.settings.reduction=5", "methods.0.settings.reduction=9000", "methods.0.settings.redcution=8"] {
        sessions.push(file::set(&ladder, &[wrong.to_owned()]).expect("a session can hold it"));
    }
    for wrong in [
        "methods.0.place.blocks=7-9",
        "methods.0.place.sites=[\"blocks.40.attn.q\"]",
        "methods.0.place.roles=[\"block\"]",
        "methods.0.place.roles=[]",
        "methods.0.learning_rate_factor=-1",
        "methods.0.name=lroa",
        "backbone.name=vit-giant",
        "data.name=letters",
        "task.name=guess",
        "recipe.epochs=0",
    ] {
        sessions.push(file::set(&lora, &[wrong.to_owned()]).expect("a session can hold it"));
    }
    for session in sessions {
        let problem = Plan::of(&session).blocked().cloned().expect("blocked");
        file::save(&session, &path).expect("saved");
        let mut back = file::open(&path).unwrap_or_else(|e| panic!("{problem:?}: {e:#}"));
        back.methods.iter_mut().for_each(|m| m.resolved.clear());
        assert_eq!(back, session);
        assert_eq!(Plan::of(&back).blocked(), Some(&problem));
        // The window takes it too, with the problem beside the drawing.
        let mut bench = bench(folder.path());
        bench.try_carry_out(Command::Open(path.clone())).expect("opened in the window");
        assert_eq!(bench.plan.blocked(), Some(&problem));
    }
}

#[test]
fn whatever_blocks_training_has_a_remedy_that_mends_it() {
    let (lora, ladder) = (preset("digits-lora"), preset("digits-ladder"));
    let recipe = ["epochs=0", "batch_size=0", "learning_rate=0", "warm_up=2", "momentum=1", "report_every=0", "crop=99"];
    let recipe = recipe.map(|r| format!("recipe.{r}"));
    let recipe = recipe.iter().map(|r| (&lora, r.as_str(), r.split('=').next().unwrap_or_default()));
    let others = [
        (&ladder, "methods.0.settings.reduction=5", "methods[0].settings"),
        (&ladder, "methods.0.settings.reduction=9000", "methods[0].settings.reduction"),
        (&lora, "methods.0.settings.ranc=8", "methods[0].settings.ranc"),
        (&lora, "methods.0.place.blocks=7-9", "methods[0].place"),
        (&lora, "methods.0.place.sites=[\"blocks.40.attn.q\"]", "methods[0].place"),
        (&lora, "methods.0.place.roles=[\"block\"]", "methods[0].place"),
        (&lora, "methods.0.place.roles=[]", "methods[0].place"),
        (&lora, "methods.0.learning_rate_factor=-1", "methods[0].learning_rate_factor"),
        (&lora, "methods.0.name=lroa", "methods[0].name"),
        (&lora, "backbone.name=vit-giant", "backbone.name"),
        (&lora, "backbone.settings.weihgts=random", "backbone.settings.weihgts"),
        (&lora, "data.name=letters", "data.name"),
        (&lora, "task.name=guess", "task.name"),
    ];
    for (session, wrong, place) in others.into_iter().chain(recipe) {
        let mut session = file::set(session, &[wrong.to_owned()]).expect("a session can hold it");
        let mut plan = Plan::of(&session);
        let first = plan.blocked().unwrap_or_else(|| panic!("{wrong} does not block"));
        assert_eq!(first.place, place, "{wrong}: {first:?}");
        // One remedy after the other, as a person presses the buttons (another backbone may bring another problem).
        for _ in 0..3 {
            let Some(problem) = plan.blocked() else { break };
            let remedy = problem.remedy.as_ref().unwrap_or_else(|| panic!("{wrong}: no remedy for {problem:?}"));
            session = apply(&session, &plan.anatomy, &remedy.edit()).expect("a remedy is an edit that fits");
            plan = Plan::of(&session);
        }
        assert_eq!(plan.blocked(), None, "{wrong}");
    }
}

#[test]
fn a_pattern_that_matches_nothing_blocks_and_says_so() {
    let mut session = preset("digits-lora");
    session.methods[0].place = Place { roles: vec![], ..Place::roles(&[Role::Q]) };
    let plan = Plan::of(&session);
    let problem = plan.blocked().expect("blocked");
    assert!(problem.words.contains("matches no site") && problem.remedy.is_some(), "{problem:?}");
    session.methods[0].place = Place { blocks: "5-9".into(), ..Place::roles(&[Role::Q]) };
    assert!(Plan::of(&session).problems.iter().any(|p| p.severity == Severity::Blocks && p.words.contains("from 1 to 6")));
    session.methods[0].place = Place::sites(&["blocks.9.attn.q"]);
    assert!(Plan::of(&session).problems.iter().any(|p| p.words.contains("no site `blocks.9.attn.q`")));
}

#[test]
fn patterns_resolve_and_condense_back() {
    let anatomy = TINY.declare();
    let place = Place { blocks: "1-2, 5".into(), ..Place::roles(&[Role::Q, Role::V]) };
    let cells: Vec<String> = place.resolve(&anatomy, &Role::ALL).expect("sites").iter().map(|s| s.path.clone()).collect();
    assert_eq!(cells.len(), 6);
    assert_eq!(condensed(&cells, &anatomy), place, "a rectangle is written as one");
    let ragged = condensed(&cells[..3], &anatomy);
    assert_eq!((ragged.roles.len(), ragged.sites.len()), (0, 3));
    let except = Place { except: vec!["blocks.0.attn.q".into()], ..Place::roles(&[Role::Q]) };
    assert_eq!(except.resolve(&anatomy, &Role::ALL).expect("sites").len(), 5);
}

/// What runs on every edit, for twelve blocks. No backbone of that size can be named here, so ViT-B/16's sites are declared and
/// all the rest of `Plan::of` is done on them, problems included: for every method of the catalogue alone, and for four at once.
#[test]
fn planning_a_twelve_block_network_takes_under_five_milliseconds() {
    let small = Plan::of(&preset("digits-probe")).anatomy;
    let stack = |names: &[&str]| {
        names.iter().fold(preset("digits-probe"), |session, name| {
            apply(&session, &small, &Edit::Add { method: (*name).into(), sites: None }).expect("placed")
        })
    };
    let mut stacks: Vec<Vec<&str>> = petl_workbench::methods::CATALOG.iter().map(|card| vec![card.name]).collect();
    stacks.push(vec!["lora", "bottleneck", "prompt", "bitfit"]);
    for names in stacks {
        let session = stack(&names);
        let once = || {
            let clock = std::time::Instant::now();
            let plan = Plan::of_anatomy(&session, petl_workbench::backbones::vit::B_16.declare());
            let milliseconds = clock.elapsed().as_secs_f64() * 1e3;
            assert_eq!(plan.members.len(), names.len(), "{names:?}: {:?}", plan.problems);
            milliseconds
        };
        once();
        // Half of all edits: a machine that does something else besides disturbs some of them, not most.
        let mut times: Vec<f64> = (0..21).map(|_| once()).collect();
        times.sort_by(f64::total_cmp);
        assert!(times[10] < 5.0, "{names:?}: median {:.2} ms, slowest {:.2} ms", times[10], times[20]);
    }
}

#[test]
fn edits_are_triples() {
    let anatomy = TINY.declare();
    let before = preset("digits-lora");
    let after =
        apply(&before, &anatomy, &Edit::Erase { index: 0, sites: vec!["blocks.0.attn.q".into(), "blocks.0.attn.v".into()] })
            .expect("erased");
    assert_eq!(after.methods[0].place.words(), "q, v · blocks 2-6");
    let back =
        apply(&after, &anatomy, &Edit::Paint { index: 0, sites: vec!["blocks.0.attn.q".into(), "blocks.0.attn.v".into()] })
            .expect("painted");
    assert_eq!(back, before);
    let wrong = apply(&before, &anatomy, &Edit::Paint { index: 0, sites: vec!["blocks.0.mlp".into()] });
    assert!(wrong.expect_err("refused").contains("cannot stand"));
    let set =
        apply(&before, &anatomy, &Edit::Set { path: "methods.0.settings.rank".into(), value: Value::Whole(4) }).expect("set");
    assert_eq!(set.methods[0].settings.whole("rank"), 4);
    assert!(apply(&before, &anatomy, &Edit::Remove { index: 5 }).is_err());
}

#[test]
fn undo_and_redo_walk_every_edit_and_a_slider_is_one_step() {
    let home = tempfile::tempdir().expect("a home");
    let mut bench = bench(home.path());
    let first = bench.session.clone();
    bench.carry_out(Command::Edit(Edit::Add { method: "bitfit".into(), sites: None }));
    let second = bench.session.clone();
    for seed in 1..20 {
        bench.carry_out(Command::Edit(Edit::Seed(seed)));
    }
    assert_eq!(bench.session.seed, 19);
    bench.carry_out(Command::Undo);
    assert_eq!(bench.session, second);
    bench.carry_out(Command::Undo);
    assert_eq!(bench.session, first);
    bench.carry_out(Command::Redo);
    bench.carry_out(Command::Redo);
    assert_eq!(bench.session.seed, 19);
}

#[test]
fn a_session_is_edited_only_where_it_differs_from_its_file() {
    let home = tempfile::tempdir().expect("a home");
    let mut bench = bench(home.path());
    bench.carry_out(Command::Undo);
    bench.carry_out(Command::Redo);
    assert!(!bench.dirty, "nothing was undone or redone");
    let title = |bench: &mut Workbench, title: &str| {
        bench.end_gesture();
        bench.carry_out(Command::Edit(Edit::Title(title.into())));
    };
    title(&mut bench, "One");
    assert!(bench.dirty);
    bench.carry_out(Command::Undo);
    assert!(!bench.dirty, "back at the start");
    bench.carry_out(Command::Redo);
    assert!(bench.dirty);
    bench.carry_out(Command::SaveAs(home.path().join("mine.petl.toml")));
    assert!(!bench.dirty);
    title(&mut bench, "Two");
    assert!(bench.dirty);
    bench.carry_out(Command::Undo);
    assert!(!bench.dirty, "back at what was saved");
    bench.carry_out(Command::Undo);
    assert!(bench.dirty, "before what was saved");
}

#[test]
fn opening_loses_no_edits_and_undo_brings_back_session_and_file() {
    let home = tempfile::tempdir().expect("a home");
    let (mine, theirs) = (home.path().join("mine.petl.toml"), home.path().join("theirs.petl.toml"));
    file::save(&preset("houlsby"), &theirs).expect("saved");
    let mut bench = bench(home.path());
    bench.carry_out(Command::SaveAs(mine.clone()));
    bench.carry_out(Command::Edit(Edit::Title("An hour of work".into())));
    let edited = bench.session.clone();
    bench.carry_out(Command::Open(theirs.clone()));
    assert!(!bench.dirty && bench.session.methods[0].name == "bottleneck" && bench.path.as_ref() == Some(&theirs));
    let words = bench.notice.clone().expect("a notice").words;
    assert!(words.contains("An hour of work") && words.contains("Undo"), "{words}");
    assert_eq!(bench.history.labels().0, Some("Open theirs.petl.toml"));
    bench.carry_out(Command::Undo);
    assert!(bench.dirty && bench.session == edited && bench.path.as_ref() == Some(&mine));
    bench.carry_out(Command::Save);
    assert_eq!(file::open(&mine).expect("mine").title, "An hour of work");
    assert_ne!(file::open(&theirs).expect("theirs").title, "An hour of work");
    bench.carry_out(Command::Redo);
    assert!(!bench.dirty && bench.path.as_ref() == Some(&theirs));
    // A preset has no file; undo comes back to the one before.
    bench.carry_out(Command::OpenPreset("bitfit".into()));
    assert!(!bench.dirty && bench.path.is_none());
    bench.carry_out(Command::Undo);
    assert!(!bench.dirty && bench.path.as_ref() == Some(&theirs));
    // A path taken by Save as is not given back by undoing an older edit.
    bench.carry_out(Command::Edit(Edit::Title("Later".into())));
    bench.carry_out(Command::SaveAs(mine.clone()));
    bench.carry_out(Command::Undo);
    assert_eq!(bench.path.as_ref(), Some(&mine));
}

/// The title of the unsaved edits that are offered.
fn offered(bench: &Workbench) -> Option<&str> {
    bench.unsaved.as_ref().map(|left| left.session.title.as_str())
}

/// An edit, kept in the side file before this returns.
fn edit(bench: &mut Workbench, home: &std::path::Path, title: &str) {
    bench.end_gesture();
    bench.carry_out(Command::Edit(Edit::Title(title.into())));
    bench.autosave();
    let kept = || walk(&home.join("autosaves")).iter().any(|f| std::fs::read_to_string(f).is_ok_and(|t| t.contains(title)));
    let clock = std::time::Instant::now();
    while !kept() {
        assert!(clock.elapsed().as_secs() < 20, "`{title}` was not kept: {:?}", bench.notice);
        bench.poll();
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Files in `folder` and below.
fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(|e| Some(e.ok()?.path()));
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

fn open(path: &std::path::Path, home: &std::path::Path) -> Workbench {
    let session = file::open(path).expect("a session");
    Workbench::with_file(session, Some(path.to_owned()), home.to_owned(), Box::new(|| ())).expect("a workbench")
}

#[test]
fn an_autosave_is_offered_after_a_crash_and_never_touches_the_users_file() {
    let home = tempfile::tempdir().expect("a home");
    edit(&mut bench(home.path()), home.path(), "Edited"); // the program dies here: no `close`
    let mut next = bench(home.path());
    assert_eq!(offered(&next), Some("Edited"));
    next.carry_out(Command::RestoreAutosave);
    assert!(next.session.title == "Edited" && next.dirty);
    assert_eq!(next.history.labels().0, Some("Restore"));
    let path = home.path().join("mine.petl.toml");
    next.carry_out(Command::SaveAs(path.clone()));
    let saved = std::fs::read(&path).expect("saved");
    edit(&mut next, home.path(), "Edited again");
    assert_eq!(std::fs::read(&path).expect("still there"), saved);
    next.carry_out(Command::Save);
    drop(next);
    assert_eq!(offered(&bench(home.path())), None, "a saved session leaves no question");
    assert_eq!(walk(&home.path().join("autosaves")).into_iter().filter(|f| f.extension().is_some()).count(), 0);
}

#[test]
fn after_a_crash_a_file_gets_its_own_edits_back_and_no_others() {
    let home = tempfile::tempdir().expect("a home");
    let mine = home.path().join("mine.petl.toml");
    file::save(&preset("bitfit"), &mine).expect("saved");
    edit(&mut open(&mine, home.path()), home.path(), "Edits of mine");
    edit(&mut bench(home.path()), home.path(), "Edits without a file");
    let before = std::fs::read(&mine).expect("mine");
    {
        let mut bench = open(&mine, home.path());
        assert_eq!(offered(&bench), Some("Edits of mine"));
        bench.carry_out(Command::RestoreAutosave);
        assert_eq!(
            (bench.session.title.as_str(), bench.path.as_ref()),
            ("Edits of mine", Some(&mine.canonicalize().expect("mine")))
        );
        assert_eq!(offered(&bench), None);
        // Not saved, and the program dies again.
    }
    assert_eq!(std::fs::read(&mine).expect("mine"), before);
    {
        let mut bench = open(&mine, home.path());
        assert_eq!(offered(&bench), Some("Edits of mine"));
        bench.carry_out(Command::DiscardAutosave);
    }
    assert_eq!(offered(&open(&mine, home.path())), None);
    // Without a file everything that was left is offered, each with its file.
    edit(&mut open(&mine, home.path()), home.path(), "Mine once more");
    let mut bench = bench(home.path());
    let mut found = vec![];
    while let Some(left) = bench.unsaved.clone() {
        found.push((left.session.title.clone(), left.path.is_some()));
        bench.carry_out(Command::RestoreAutosave);
        assert_eq!((bench.session.title.clone(), bench.path.is_some()), found[found.len() - 1]);
    }
    found.sort();
    assert_eq!(found, [("Edits without a file".to_owned(), false), ("Mine once more".to_owned(), true)]);
    bench.carry_out(Command::Undo);
    assert!(found.iter().any(|(title, has_file)| *title == bench.session.title && *has_file == bench.path.is_some()));
}

#[test]
fn an_open_question_keeps_no_edits_from_being_saved_and_is_not_lost() {
    let home = tempfile::tempdir().expect("a home");
    let mine = home.path().join("mine.petl.toml");
    file::save(&preset("bitfit"), &mine).expect("saved");
    edit(&mut bench(home.path()), home.path(), "First crash");
    {
        let mut bench = bench(home.path());
        assert_eq!(offered(&bench), Some("First crash"));
        edit(&mut bench, home.path(), "Second crash"); // the question still waits
        bench.carry_out(Command::Open(mine.clone()));
        assert_eq!(offered(&bench), Some("First crash"), "opening dropped the question");
    }
    let mut bench = bench(home.path());
    let mut found = vec![];
    while let Some(left) = bench.unsaved.clone() {
        found.push(left.session.title.clone());
        bench.carry_out(Command::DiscardAutosave);
    }
    found.sort();
    assert_eq!(found, ["First crash", "Second crash"]);
}

#[test]
fn two_programs_keep_their_edits_apart_and_ask_nothing_of_each_other() {
    let home = tempfile::tempdir().expect("a home");
    let (mut one, mut other) = (bench(home.path()), bench(home.path()));
    edit(&mut one, home.path(), "Of the one");
    edit(&mut other, home.path(), "Of the other");
    assert_eq!(offered(&bench(home.path())), None, "edits of a program that runs are offered");
    one.close();
    drop(one);
    assert_eq!(offered(&bench(home.path())), None, "an orderly end leaves a question");
    drop(other);
    let asks = bench(home.path());
    assert_eq!(offered(&asks), Some("Of the other"));
    assert_eq!(offered(&bench(home.path())), None, "two programs ask the same question");
}

#[test]
fn edits_that_were_undone_leave_no_question() {
    let home = tempfile::tempdir().expect("a home");
    let mut first = bench(home.path());
    edit(&mut first, home.path(), "Undone");
    first.carry_out(Command::Undo);
    first.autosave();
    drop(first);
    assert_eq!(offered(&bench(home.path())), None);
}

#[test]
fn an_autosave_that_cannot_be_read_is_said_and_kept() {
    let home = tempfile::tempdir().expect("a home");
    edit(&mut bench(home.path()), home.path(), "Edited");
    let side =
        walk(&home.path().join("autosaves")).into_iter().find(|f| f.extension().is_some_and(|e| e == "toml")).expect("kept");
    std::fs::write(&side, "petl = 99").expect("damaged");
    let next = bench(home.path());
    assert_eq!(offered(&next), None);
    let words = next.notice.clone().expect("a notice").words;
    let aside = walk(home.path()).into_iter().find(|f| f.to_string_lossy().contains("unreadable")).expect("put aside");
    assert!(words.contains("newer program") && words.contains(aside.to_str().expect("a path")), "{words}");
    assert_eq!(std::fs::read_to_string(aside).expect("kept"), "petl = 99");
    assert!(bench(home.path()).notice.is_none(), "said twice");
}

#[test]
fn a_file_in_a_folder_that_cannot_be_written_is_autosaved_all_the_same_and_a_fault_is_said_once() {
    let home = tempfile::tempdir().expect("a home");
    let mine = home.path().join("mine.petl.toml");
    file::save(&preset("bitfit"), &mine).expect("saved");
    let mut bench = open(&mine, home.path());
    edit(&mut bench, home.path(), "Edited");
    let beside: Vec<_> =
        std::fs::read_dir(home.path()).expect("home").filter_map(|e| e.ok()?.file_name().into_string().ok()).collect();
    assert!(beside.iter().all(|name| ["mine.petl.toml", "autosaves", "runs"].contains(&name.as_str())), "{beside:?}");
    // A home that is a file: nothing can be kept below it.
    let file = home.path().join("file");
    std::fs::write(&file, "").expect("a file");
    let mut bench = Workbench::new(preset("bitfit"), file, Box::new(|| ())).expect("a workbench");
    let mut said = |title: &str| {
        bench.end_gesture();
        bench.carry_out(Command::Edit(Edit::Title(title.into())));
        bench.autosave();
        for _ in 0..100 {
            bench.poll();
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        let words = bench.notice.clone().map(|notice| notice.words);
        bench.carry_out(Command::DismissNotice);
        words
    };
    assert!(said("One").is_some_and(|words| words.contains("Autosave") && words.contains("May you write there")));
    assert_eq!(said("Two"), None, "the same fault again");
}

#[test]
fn a_run_that_was_removed_by_hand_leaves_the_table_and_one_that_another_program_trains_stays() {
    let home = tempfile::tempdir().expect("a home");
    for id in ["gone", "theirs"] {
        let folder = home.path().join("runs").join(id);
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join("events.jsonl"), "").expect("a log");
    }
    let mut bench = bench(home.path());
    assert_eq!(bench.board.runs.len(), 2);
    let claim = claim::take(&home.path().join("runs/theirs")).expect("the other program's claim");
    let words = bench.try_carry_out(Command::DeleteRun("theirs".into())).expect_err("refused").to_string();
    assert!(words.contains("another program") && home.path().join("runs/theirs/events.jsonl").exists(), "{words}");
    drop(claim);
    bench.try_carry_out(Command::DeleteRun("theirs".into())).expect("removed");
    std::fs::remove_dir_all(home.path().join("runs/gone")).expect("removed by hand");
    bench.try_carry_out(Command::DeleteRun("gone".into())).expect("taken off the table");
    assert!(bench.board.runs.is_empty());
}

#[test]
fn an_export_that_must_wait_says_so() {
    let home = tempfile::tempdir().expect("a home");
    let mut bench = bench(home.path());
    let mut done = Run::new("done", &home.path().join("runs/done"), None);
    done.status = Status::Finished;
    bench.board.runs.push(done);
    let export = Command::Export { run: "done".into(), kind: "petl".into(), folder: home.path().join("out") };
    bench.carry_out(export.clone());
    assert_eq!(bench.notice, None, "nothing trains: it begins at once");
    bench.carry_out(Command::Train);
    bench.carry_out(export);
    let words = bench.notice.clone().expect("a notice").words;
    assert!(words.contains("begins when digits-lora-001 has ended"), "{words}");
}

#[test]
fn two_runs_of_one_title_never_share_a_folder() {
    let home = tempfile::tempdir().expect("a home");
    let runs = home.path().join("runs");
    let take = || fresh_folder(&runs, "Digits, LoRA").expect("a folder");
    let folders: std::collections::BTreeSet<_> = std::thread::scope(|s| {
        let all: Vec<_> = (0..8).map(|_| s.spawn(take)).collect();
        all.into_iter().map(|t| t.join().expect("no panic")).collect()
    });
    assert_eq!(folders.len(), 8);
    // The window's Train takes its folder at once, before the worker gets to it.
    let mut bench = bench(home.path());
    bench.try_carry_out(Command::Train).expect("training");
    assert!(bench.board.runs.last().is_some_and(|run| run.folder.is_dir()));
}

#[test]
fn overrides_reach_every_value_and_refuse_what_is_not_there() {
    let session = preset("digits-lora");
    let set = |o: &str| file::set(&session, &[o.to_owned()]);
    assert_eq!(set("recipe.epochs=3").expect("set").recipe.epochs, 3);
    assert_eq!(set("methods.0.settings.rank=4").expect("set").methods[0].settings.whole("rank"), 4);
    assert_eq!(set("device=cpu").expect("set").device, "cpu");
    for (wrong, word) in [("recipe.epoch=3", "epoch"), ("methods.3.settings.rank=4", "no number 3"), ("nonsense", "path=value")] {
        let words = format!("{:#}", set(wrong).expect_err("refused"));
        assert!(words.contains(word), "{wrong}: {words}");
    }
    for (fine, title) in
        [("title=2024", "2024"), ("title=nan", "nan"), ("title=a: b, line 3: c", "a: b, line 3: c"), ("title=\"q\"", "q")]
    {
        assert_eq!(set(fine).expect("text is text").title, title);
    }
    assert_eq!(set("backbone.settings.weights=2024").expect("a path").backbone.settings.text("weights"), "2024");
    for (wrong, word) in [
        ("methods.0.settings.rank=[1]", "invalid type: sequence, expected a number, true or false, or text in quotes"),
        ("seed=9223372036854775808", "up to 9223372036854775807"),
        ("recipe.epochs=\"a: b, line 3: c\"", "\"a: b, line 3: c\""), // quoted whole
        ("petl=2", "petl = 2"),
    ] {
        let words = format!("{:#}", set(wrong).expect_err("refused"));
        assert!(words.contains(word) && !words.contains("untagged"), "{wrong}: {words}");
    }
    let anatomy = Plan::of(&session).anatomy;
    let largest = apply(&session, &anatomy, &Edit::Seed(i64::MAX as u64)).expect("the largest seed");
    assert_eq!(file::parse(&file::text(&largest).expect("text"), "itself").expect("its own text").seed, i64::MAX as u64);
    assert!(apply(&session, &anatomy, &Edit::Seed(i64::MAX as u64 + 1)).expect_err("refused").contains("9223372036854775807"));
    // What a session can hold, but no plan trains, is shown with the plan.
    assert!(Plan::of(&set("methods.0.settings.rank=0").expect("held")).blocked().is_some_and(|p| p.words.contains("rank")));
}
