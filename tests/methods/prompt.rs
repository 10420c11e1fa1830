//! Prompt tokens (methods/12 names them): shallow and deep ones in one stack.

use petl_workbench::methods::prompt;
use petl_workbench::session::settings::{Settings, Value};
use petl_workbench::session::{Place, Placed};

use crate::common::{apart, logits, placed, session, toy};

fn prompts(depth: &str, tokens: i64) -> Placed {
    let mut set = Settings::default();
    set.set("depth", Value::Text(depth.into()));
    set.set("tokens", Value::Whole(tokens));
    placed(&prompt::CARD, set)
}

#[test]
fn deep_and_shallow_prompts_stand_together_in_either_order() {
    // Deep prompts leave after every block, shallow ones stay to the end: whoever joined first, each must take off its own.
    let (shallow, deep) = (prompts("shallow", 2), prompts("deep", 5));
    let first = toy(&session(vec![shallow.clone(), deep.clone()]));
    let mut second = toy(&session(vec![deep.clone(), shallow.clone()]));
    for (key, value) in &mut second.bag.params {
        if let Some(rest) = key.strip_prefix("0.prompt/") {
            *value = first.bag.params[&format!("1.prompt/{rest}")].clone();
        } else if let Some(rest) = key.strip_prefix("1.prompt/") {
            *value = first.bag.params[&format!("0.prompt/{rest}")].clone();
        }
    }
    let together = logits(&first);
    assert!(apart(&together, &logits(&second)) < 1e-5, "the order of the stack changed which tokens were taken off");
    for alone in [shallow.clone(), deep] {
        assert!(apart(&together, &logits(&toy(&session(vec![alone])))) > 1e-4, "both must be heard");
    }
    // Two deep ones, and two shallow ones from different blocks on, come off whole as well.
    let later = Placed { place: Place { blocks: "2".into(), ..shallow.place.clone() }, ..shallow.clone() };
    for pair in [[prompts("deep", 3), prompts("deep", 4)], [later.clone(), shallow.clone()], [shallow, later]] {
        assert!(logits(&toy(&session(pair.to_vec()))).iter().all(|v| v.is_finite()));
    }
}
