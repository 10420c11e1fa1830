//! `petl plan`: what a session implies, as one table or one JSON object. Called by the command line; must not know tensors.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::{Answer, Asked, Fault, out};
use crate::methods::{ParamSpec, Placement};
use crate::plan::{Member, Plan, Severity};
use crate::session::Session;

/// Prints the plan; a plan that blocks training ends with exit code 2.
pub fn plan(asked: &Asked, json: bool) -> Answer {
    let plan = Plan::of(&asked.session);
    if json {
        out::json(&as_json(&asked.session, &plan))?;
    } else {
        print(&asked.session, &plan)?;
    }
    blocked(&plan, asked)
}

/// Bad request when the plan keeps the session from training; a file's line is named.
pub fn blocked(plan: &Plan, asked: &Asked) -> Answer {
    match plan.blocked() {
        None => Ok(()),
        Some(problem) => {
            let remedy = problem.remedy.as_ref().map_or(String::new(), |r| format!(". Remedy: {}", r.label().to_lowercase()));
            let line = asked.line(problem);
            Err(Fault::Request(anyhow::anyhow!("{line}this session cannot train: {}: {}{remedy}", problem.place, problem.words)))
        }
    }
}

/// Places of a member by what they hold: ("A [96, 8] + B [8, 96]", parameters a place, places).
fn shapes(member: &Member) -> Vec<(String, usize, usize)> {
    let mut found: Vec<(String, usize, usize)> = Vec::new();
    for placement in member.placements.iter().filter(|p| !p.params.is_empty()) {
        let words = placement.params.iter().map(shape).collect::<Vec<_>>().join(" + ");
        match found.iter_mut().find(|(known, _, _)| *known == words) {
            Some((_, _, places)) => *places += 1,
            None => found.push((words, placement.params.iter().map(ParamSpec::count).sum(), 1)),
        }
    }
    found
}

fn shape(spec: &ParamSpec) -> String {
    format!("{} [{}, {}]", spec.name, spec.rows, spec.cols)
}

fn print(session: &Session, plan: &Plan) -> Answer {
    out::say(&format!("{} - {} on {}, {}", session.title, session.backbone.name, session.data.name, plan.words()))?;
    out::say("")?;
    let mut rows = Vec::new();
    for member in &plan.members {
        let place = session.methods.get(member.index).map_or(String::new(), |m| m.place.words());
        rows.push(vec![
            member.card.title.to_owned(),
            place,
            member.card.count.to_owned(),
            String::new(),
            out::count(member.count()),
        ]);
        for (words, each, places) in shapes(member) {
            rows.push(vec![
                String::new(),
                format!("  {places} x"),
                format!("  {words}"),
                out::count(each),
                out::count(each * places),
            ]);
        }
    }
    rows.push(vec!["Trainable, without head".into(), String::new(), String::new(), String::new(), out::count(plan.trainable())]);
    let head = plan.head.iter().map(shape).collect::<Vec<_>>().join(" + ");
    rows.push(vec!["Head".into(), String::new(), head, String::new(), out::count(plan.head_count())]);
    let all = plan.trainable() + plan.head_count();
    rows.push(vec!["Trainable, with head".into(), String::new(), String::new(), String::new(), out::count(all)]);
    rows.push(vec!["Backbone, frozen".into(), String::new(), String::new(), String::new(), out::count(plan.anatomy.count())]);
    out::say(&out::table(&["", "places", "formula", "each", "parameters"], &rows, &[3, 4]))?;

    let bytes = &plan.cost.bytes;
    let rows: Vec<Vec<String>> = [
        ("backbone", bytes.backbone),
        ("trainable", bytes.trainable),
        ("gradients", bytes.gradients),
        ("optimizer", bytes.optimizer),
        ("saved activations", bytes.activations),
        ("together", bytes.total()),
    ]
    .iter()
    .map(|(name, n)| vec![(*name).to_owned(), out::bytes(*n)])
    .collect();
    out::say("")?;
    out::say(&out::table(&["memory (predicted)", "bytes"], &rows, &[1]))?;
    out::say("")?;
    out::say(&format!(
        "{}FLOPs a step (batch {}), {}FLOPs a sample forward, {} to export",
        out::large(plan.cost.flops_step),
        session.recipe.batch_size,
        out::large(plan.cost.flops_sample),
        out::bytes(plan.cost.export)
    ))?;
    for problem in &plan.problems {
        let kind = if problem.severity != Severity::Note { "blocks training" } else { "note" };
        out::say(&format!("{kind}: {}: {}", problem.place, problem.words))?;
    }
    Ok(())
}

fn placement(p: &Placement) -> Json {
    let param = |s: &ParamSpec| json!({ "name": s.name, "shape": [s.rows, s.cols], "count": s.count() });
    json!({
        "site": p.site,
        "door": format!("{:?}", p.door).to_lowercase(),
        "trainable": p.params.iter().map(ParamSpec::count).sum::<usize>(),
        "parameters": p.params.iter().map(param).collect::<Vec<_>>(),
    })
}

fn as_json(session: &Session, plan: &Plan) -> Json {
    let member = |m: &Member| {
        json!({
            "method": m.card.name,
            "title": m.card.title,
            "formula": m.card.formula,
            "count": m.card.count,
            "settings": m.settings,
            "learning_rate_factor": m.learning_rate_factor,
            "sites": m.sites,
            "trainable": m.count(),
            "placements": m.placements.iter().map(placement).collect::<Vec<_>>(),
        })
    };
    let problem = |p: &crate::plan::Problem| {
        json!({
            "blocks": p.severity != Severity::Note,
            "place": p.place,
            "words": p.words,
            "remedy": p.remedy.as_ref().map(|r| r.label()),
        })
    };
    let bytes = &plan.cost.bytes;
    let by_component = BTreeMap::from([
        ("backbone", bytes.backbone),
        ("trainable", bytes.trainable),
        ("gradients", bytes.gradients),
        ("optimizer", bytes.optimizer),
        ("activations", bytes.activations),
        ("total", bytes.total()),
    ]);
    json!({
        "title": session.title,
        "stack": plan.words(),
        "backbone": { "name": session.backbone.name, "parameters": plan.anatomy.count(), "sites": plan.anatomy.sites.len() },
        "trainable": plan.trainable(),
        "head": plan.head_count(),
        "trainable_with_head": plan.trainable() + plan.head_count(),
        "methods": plan.members.iter().map(member).collect::<Vec<_>>(),
        "bytes": by_component,
        "flops_step": plan.cost.flops_step,
        "flops_sample": plan.cost.flops_sample,
        "export_bytes": plan.cost.export,
        "problems": plan.problems.iter().map(problem).collect::<Vec<_>>(),
        "blocked": plan.blocked().is_some(),
    })
}
