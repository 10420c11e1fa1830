//! Partial-k: full fine-tuning of chosen blocks, by a pattern of the session.

use petl_workbench::backbones::vit;
use petl_workbench::engine::optimise::Optimiser;
use petl_workbench::methods::full;
use petl_workbench::plan::Plan;
use petl_workbench::plan::anatomy::Role;
use petl_workbench::session::settings::Settings;
use petl_workbench::session::{Place, Placed, Recipe};

use crate::common::{CLASSES, logits, placed, session, step, toy};

const BLOCK: &[Role] = &[Role::Norm, Role::Q, Role::K, Role::V, Role::O, Role::Up, Role::Down];

fn blocks(which: &str) -> Placed {
    let place = Place { blocks: which.into(), sites: vec!["norm".into()], ..Place::roles(BLOCK) };
    Placed { place, ..placed(&full::CARD, Settings::default()) }
}

#[test]
fn the_last_blocks_have_the_count_that_their_shapes_give() {
    let count = |which: &str| {
        let mut problems = vec![];
        let plan = Plan::on(&session(vec![blocks(which)]), vit::B_16.declare(), CLASSES, &mut problems);
        assert!(problems.is_empty(), "{problems:?}");
        plan.trainable()
    };
    let block = 4 * (768 * 768 + 768) + 768 * 3072 + 3072 + 3072 * 768 + 768 + 2 * 2 * 768;
    assert_eq!(block, 7_087_872);
    let norm = 2 * 768; // VPT's partial-k trains the last norm too
    assert_eq!(count("12"), block + norm);
    assert_eq!(count("11-12"), 2 * block + norm);
    assert_eq!(count("3, 7"), 2 * block + norm);
}

#[test]
fn one_block_trains_and_the_others_stay() {
    let mut model = toy(&session(vec![blocks("2")]));
    let sites: Vec<_> = model.plan.members[0].sites.clone();
    assert!(sites.iter().all(|site| site.starts_with("blocks.1.") || site == "norm"), "{sites:?}");
    let before = logits(&model);
    let mut optimiser = Optimiser::new(&Recipe::default(), Default::default());
    let (_, squares) = step(&mut model, &mut optimiser, 1e-2);
    assert!(squares.keys().all(|key| key.contains("/blocks.1.") || key.contains("/norm/") || key.starts_with("head/")));
    assert_ne!(before, logits(&model));
    // A method that only adds may follow on the same place; one that trains the same matrix may not.
    let problems = |stack: Vec<Placed>| {
        let mut session = session(stack);
        session.data.name = "digits".into();
        Plan::of(&session).problems
    };
    let lora = Placed { place: Place::roles(&[Role::Q]), ..placed(&petl_workbench::methods::lora::CARD, Settings::default()) };
    let sparse = placed(&petl_workbench::methods::sparse::CARD, Settings::default());
    let everything = placed(&full::CARD, Settings::default());
    assert!(problems(vec![everything.clone(), lora]).is_empty());
    assert!(problems(vec![everything.clone(), sparse.clone()]).is_empty());
    let words = &problems(vec![sparse, everything.clone()])[0].words;
    assert!(words.contains("would have no effect"), "{words}");
    assert!(!problems(vec![everything.clone(), everything]).is_empty());
}
