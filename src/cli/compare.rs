//! `petl compare`: runs side by side, each against the first one by an exact test on the same test items. Called by the command
//! line; the statistics are in `crate::compare`. Says what is higher or cannot be told apart, never what is better.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value as Json, json};

use super::{Answer, asked, out, run_folder};
use crate::board::Run;
use crate::compare::{self, Items, Paired};
use crate::figures;
use crate::plan::Plan;

const CAVEAT: &str = "The test (McNemar, exact, two-sided) is about these trained networks on these test items, not about their methods; \
                      train several seeds to learn about those.";

/// Prints the runs as a table or as JSON, and draws the figure that was asked for.
pub fn compare(names: &[String], json: bool, figure: Option<&Path>, kind: &str, ppt_c: f64) -> Answer {
    let mut runs = Vec::new();
    for name in names {
        let folder = run_folder(name)?;
        runs.push(asked(Run::open(&folder))?);
    }
    let refs: Vec<&Run> = runs.iter().collect();
    let items = items(&refs);
    let verdicts = verdicts(&refs, &items);
    let groups = compare::groups(&refs);
    let drawn = match figure {
        Some(path) => figures::write(kind, &refs, path)?,
        None => vec![],
    };
    if json {
        let rows: Vec<_> = refs.iter().zip(&verdicts).map(|(run, verdict)| as_json(run, verdict, ppt_c)).collect();
        let group = |g: &compare::Group| {
            json!({
                "runs": g.runs.iter().map(|r| &r.id).collect::<Vec<_>>(),
                "accuracy_mean": g.mean,
                "accuracy_sd": g.deviation,
                "n": g.n,
                "finished": g.finished,
                "ppt": g.ppt(ppt_c),
            })
        };
        return out::json(&json!({
            "runs": rows,
            "groups": groups.iter().map(group).collect::<Vec<_>>(),
            "figures": drawn,
            "ppt_c": ppt_c,
            "test": CAVEAT,
        }));
    }
    let rows: Vec<Vec<String>> = refs.iter().zip(&verdicts).map(|(run, verdict)| row(run, verdict, ppt_c)).collect();
    out::say(&out::table(
        &[
            "run",
            "stack",
            "places",
            "trainable",
            "head",
            "accuracy",
            "PPT",
            "against the first",
            "peak",
            "in evaluation",
            "ms a step",
        ],
        &rows,
        &[3, 4, 5, 6, 8, 9, 10],
    ))?;
    let seeded: Vec<_> = groups.iter().filter(|g| g.n > 1).collect();
    if !seeded.is_empty() {
        let rows: Vec<Vec<String>> = (seeded.iter())
            .map(|g| {
                vec![
                    g.title(),
                    g.runs.first().map_or(String::new(), |r| r.stack()),
                    g.words(),
                    score(g.ppt(ppt_c)),
                    g.runs.iter().map(|r| r.id.as_str()).collect::<Vec<_>>().join(", "),
                ]
            })
            .collect();
        out::say("")?;
        out::say(&out::table(&["same but for the seed", "stack", "accuracy %", "PPT", "runs"], &rows, &[2, 3]))?;
    }
    if refs.len() > 1 {
        out::say("")?;
        let holm = if refs.len() > 2 { " p is corrected for several comparisons (Holm)." } else { "" };
        out::say(&format!("{CAVEAT}{holm}"))?;
    }
    out::say("")?;
    out::say(&format!(
        "PPT is accuracy · exp(-log10(trainable / C + 1)) with C = {ppt_c:e}, trainable without head (V-PETL Bench); --ppt-c sets C."
    ))?;
    for run in &refs {
        if let Some(damage) = &run.damage {
            out::note(&format!("petl: note: {damage}"));
        }
    }
    for path in drawn {
        out::say(&format!("Wrote {}", path.display()))?;
    }
    Ok(())
}

/// The test items of every run, each data set read once; where there are none, why. One data set that cannot be read says
/// nothing of the others.
fn items(runs: &[&Run]) -> Vec<Result<Items, &'static str>> {
    let mut read: BTreeMap<String, Option<Items>> = BTreeMap::new();
    let mut of = |run: &Run| {
        let session = run.session.as_ref().ok_or("one of the two has lost its session")?;
        let key = format!("{:?} {}", session.data, session.seed);
        let items = read.entry(key).or_insert_with(|| match Items::of(session) {
            Ok(items) => Some(items),
            Err(error) => {
                out::note(&format!("petl: note: the data of {} cannot be read: {error:#}", run.id));
                None
            }
        });
        items.clone().ok_or("the data of one of the two cannot be read")
    };
    runs.iter().map(|run| of(run)).collect()
}

/// What can be said of a run against the first.
enum Verdict {
    First,
    Paired { test: Paired, corrected: f64 },
    Not(&'static str),
}

impl Verdict {
    fn words(&self) -> String {
        match self {
            Verdict::First => "(the first)".to_owned(),
            Verdict::Paired { test, corrected } => compare::words(test.difference, *corrected),
            Verdict::Not(why) => format!("not comparable: {why}"),
        }
    }
}

fn verdicts(runs: &[&Run], items: &[Result<Items, &'static str>]) -> Vec<Verdict> {
    let predictions = |n: usize| runs[n].finished.as_ref().map(|f| f.predictions.as_slice());
    let against_first = |n: usize| -> Result<Paired, &'static str> {
        let (Some(first), Some(this)) = (predictions(0), predictions(n)) else { return Err("one of the two has not finished") };
        let (a, b) = (items[0].as_ref().map_err(|why| *why)?, items[n].as_ref().map_err(|why| *why)?);
        if !a.are_those_of(b) {
            return Err("other test items");
        }
        compare::paired(&a.labels, first, this).ok_or("its predictions do not fit the data set")
    };
    let found: Vec<_> = (1..runs.len()).map(against_first).collect();
    let p: Vec<f64> = found.iter().flatten().map(|test| test.p).collect();
    let mut corrected = compare::holm(&p).into_iter();
    let mut verdicts = vec![Verdict::First];
    verdicts.extend(found.into_iter().map(|test| match test {
        Ok(test) => Verdict::Paired { corrected: corrected.next().unwrap_or(test.p), test },
        Err(why) => Verdict::Not(why),
    }));
    verdicts
}

/// Where the stack stands, in words.
fn places(run: &Run) -> String {
    let Some(session) = &run.session else { return String::new() };
    let plan = Plan::of(session);
    let words = |m: &crate::plan::Member| {
        let place = session.methods.get(m.index).map_or(String::new(), |placed| placed.place.words());
        format!("{place} ({})", m.sites.len())
    };
    match plan.members.as_slice() {
        [] => "(head alone)".to_owned(),
        members => members.iter().map(words).collect::<Vec<_>>().join(" + "),
    }
}

/// A score as the benchmark prints it.
fn score(ppt: Option<f64>) -> String {
    ppt.map_or("-".to_owned(), |ppt| format!("{ppt:.3}"))
}

fn ppt(run: &Run, c: f64) -> Option<f64> {
    Some(compare::ppt(run.accuracy()?, run.started.as_ref()?.trainable, c))
}

fn row(run: &Run, verdict: &Verdict, ppt_c: f64) -> Vec<String> {
    let count = |n: Option<usize>| n.map_or("-".to_owned(), out::count);
    let finished = run.finished.as_ref();
    let accuracy = match (run.accuracy(), finished) {
        (Some(accuracy), Some(end)) if !end.stopped => format!("{:.1} %", accuracy * 100.0),
        (Some(accuracy), _) => format!("{:.1} % ({})", accuracy * 100.0, run.status.words()),
        (None, _) => run.status.words().to_owned(),
    };
    vec![
        run.id.clone(),
        run.stack(),
        places(run),
        count(run.started.as_ref().map(|s| s.trainable)),
        count(run.started.as_ref().map(|s| s.head)),
        accuracy,
        score(ppt(run, ppt_c)),
        verdict.words(),
        out::bytes(run.peak_bytes()),
        out::bytes(run.evaluation_peak_bytes()),
        format!("{:.1}", run.step_ms()),
    ]
}

fn as_json(run: &Run, verdict: &Verdict, ppt_c: f64) -> Json {
    let against = match verdict {
        Verdict::First => Json::Null,
        Verdict::Not(why) => json!({ "comparable": false, "words": verdict.words(), "why": why }),
        Verdict::Paired { test, corrected } => json!({
            "comparable": true,
            "words": verdict.words(),
            "difference": test.difference,
            "only_this": test.only_this,
            "only_first": test.only_first,
            "p": test.p,
            "p_corrected": corrected,
        }),
    };
    json!({
        "run": run.id,
        "folder": run.folder,
        "title": run.title(),
        "stack": run.stack(),
        "places": places(run),
        "status": run.status.words(),
        "seed": run.session.as_ref().map(|s| s.seed),
        "trainable": run.started.as_ref().map(|s| s.trainable),
        "head": run.started.as_ref().map(|s| s.head),
        "accuracy": run.accuracy(),
        "ppt": ppt(run, ppt_c),
        "peak_bytes": run.peak_bytes(),
        "evaluation_peak_bytes": run.evaluation_peak_bytes(),
        "step_ms": run.step_ms(),
        "against_first": against,
    })
}
