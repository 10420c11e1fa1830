//! What came out of a suite: one line a method, mean and spread over seeds on each data set, the score, and the published table
//! beside it. Plain numbers, and their Markdown. Called by the command line.

use serde::Serialize;

use super::{Outcome, published};
use crate::compare;
use crate::plan::Plan;

/// Accuracy on one data set, from 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cell {
    pub mean: f64,
    /// Sample standard deviation over seeds; none for one.
    pub deviation: Option<f64>,
    pub n: usize,
}

/// One method.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    pub method: String,
    pub stack: String,
    /// Without head.
    pub trainable: usize,
    /// In the order of `Report::data`; none where no run has ended.
    pub cells: Vec<Option<Cell>>,
    /// Plain mean of the data sets, where all of them have a number.
    pub mean: Option<f64>,
    /// Of that mean.
    pub ppt: Option<f64>,
    /// The published line for the same method.
    pub published: Option<published::Row>,
    /// Why it could not be placed or did not end, if so.
    pub fault: Option<String>,
}

/// How one data set is trained on, the same for every method.
#[derive(Clone, Debug, Serialize)]
pub struct Training {
    pub data: String,
    pub recipe: crate::session::Recipe,
}

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub backbone: String,
    pub data: Vec<String>,
    pub training: Vec<Training>,
    pub seeds: u64,
    /// Runs that have ended, of how many.
    pub finished: usize,
    pub asked: usize,
    pub ppt_c: f64,
    pub lines: Vec<Line>,
    /// Why the published numbers must not be held against ours; none when they may.
    pub not_comparable: Option<String>,
    pub published_source: &'static str,
    pub published_tasks: Vec<&'static str>,
    pub published: Vec<published::Row>,
}

/// Sums up every run of a suite.
pub fn report(outcomes: &[Outcome], ppt_c: f64) -> Report {
    let mut data: Vec<String> = Vec::new();
    let mut names: Vec<String> = Vec::new();
    let mut training: Vec<Training> = Vec::new();
    for Outcome { job, .. } in outcomes {
        if !names.contains(&job.method) {
            names.push(job.method.clone());
        }
        let name = &job.session.data.name;
        if !data.contains(name) {
            data.push(name.clone());
            training.push(Training { data: name.clone(), recipe: job.session.recipe.clone() });
        }
    }
    let lines = names.iter().map(|name| line(name, &data, outcomes, ppt_c)).collect();
    Report {
        backbone: outcomes.first().map_or(String::new(), |o| o.job.session.backbone.name.clone()),
        training,
        seeds: outcomes.iter().map(|o| o.job.session.seed).max().unwrap_or(0),
        finished: outcomes.iter().filter(|o| o.run.is_some()).count(),
        asked: outcomes.len(),
        ppt_c,
        lines,
        not_comparable: published::not_comparable(outcomes.iter().map(|o| &o.job.session)),
        published_source: published::SOURCE,
        published_tasks: published::tasks(),
        published: published::table(),
        data,
    }
}

fn line(name: &str, data: &[String], outcomes: &[Outcome], ppt_c: f64) -> Line {
    let own: Vec<&Outcome> = outcomes.iter().filter(|o| o.job.method == name).collect();
    let cell = |data: &String| {
        let runs = own.iter().filter(|o| o.job.session.data.name == *data);
        let scores: Vec<f64> = runs.filter_map(|o| o.run.as_ref()?.accuracy()).collect();
        let n = scores.len();
        let mean = scores.iter().sum::<f64>() / n as f64;
        let squares = scores.iter().map(|score| (score - mean).powi(2)).sum::<f64>();
        (n > 0).then(|| Cell { mean, deviation: (n > 1).then(|| (squares / (n as f64 - 1.0)).sqrt()), n })
    };
    let cells: Vec<_> = data.iter().map(cell).collect();
    let means: Option<Vec<f64>> = cells.iter().map(|cell| Some(cell.as_ref()?.mean)).collect();
    let mean = means.map(|means| means.iter().sum::<f64>() / means.len() as f64);
    let plan = own.first().map(|o| Plan::of(&o.job.session));
    let trainable = plan.as_ref().map_or(0, Plan::trainable);
    Line {
        method: name.to_owned(),
        stack: plan.as_ref().map_or(String::new(), Plan::words),
        trainable,
        cells,
        mean,
        ppt: mean.map(|mean| compare::ppt(mean, trainable, ppt_c)),
        published: published::row(name),
        fault: own.iter().find_map(|o| o.fault.clone()),
    }
}

impl Report {
    /// The report as a page.
    pub fn markdown(&self) -> String {
        let mut page = vec!["# V-PETL suite".to_owned(), String::new()];
        page.push(format!(
            "{} of {} runs on `{}`, seeds 1 to {}. Accuracy in per cent, mean ± standard deviation over seeds; trainable without head; \
             PPT = mean · exp(-log10(trainable / C + 1)), C = {:e}.",
            self.finished, self.asked, self.backbone, self.seeds, self.ppt_c
        ));
        page.push(String::new());
        let mut heading = vec!["method".to_owned(), "stack".to_owned(), "trainable".to_owned()];
        heading.extend(self.data.iter().cloned());
        heading.extend(["mean", "PPT", "published mean", "published parameters", "published PPT"].map(str::to_owned));
        page.push(cells(&heading));
        page.push(format!("|---|---|{}", "---:|".repeat(heading.len() - 2)));
        page.extend(self.lines.iter().map(Line::markdown));
        page.push(String::new());
        page.push(match &self.not_comparable {
            Some(words) => format!("**The published columns are {words}.** They are from {}.", self.published_source),
            None => format!("The published columns are from {}; backbone, data and recipe are theirs.", self.published_source),
        });
        for line in &self.lines {
            if let Some(fault) = &line.fault {
                page.push(String::new());
                page.push(format!("`{}`: {fault}", line.method));
            }
        }
        page.extend(["", "## Recipe", "", "One recipe for all methods on a data set."].map(str::to_owned));
        page.push(String::new());
        page.push("| data | learning rate | weight decay | batch | epochs | warm-up | label smoothing | clip |".to_owned());
        page.push(format!("|---|{}", "---:|".repeat(7)));
        for Training { data, recipe: r } in &self.training {
            page.push(format!(
                "| {data} | {} | {} | {} | {} | {} | {} | {} |",
                r.learning_rate, r.weight_decay, r.batch_size, r.epochs, r.warm_up, r.label_smoothing, r.clip_norm
            ));
        }
        page.extend([String::new(), format!("## Published, {}", self.published_source), String::new()]);
        if let Some(words) = &self.not_comparable {
            page.extend([format!("With the table above: {words}."), String::new()]);
        }
        let mut heading = vec!["method"];
        heading.extend(&self.published_tasks);
        heading.extend(["mean", "parameters", "PPT"]);
        page.push(cells(&heading));
        page.push(format!("|---|{}", "---:|".repeat(heading.len() - 1)));
        for row in &self.published {
            let mut line = vec![row.method.to_owned()];
            line.extend(row.accuracies.iter().map(|a| format!("{a:.1}")));
            line.extend([format!("{:.2}", row.mean), millions(row.parameters), score(row.ppt, 2)]);
            page.push(cells(&line));
        }
        page.push(String::new());
        page.join("\n")
    }
}

impl Line {
    fn markdown(&self) -> String {
        let mut line = vec![self.method.clone(), self.stack.clone(), self.trainable.to_string()];
        line.extend(self.cells.iter().map(|cell| cell.as_ref().map_or("-".to_owned(), Cell::words)));
        line.push(self.mean.map_or("-".to_owned(), |mean| format!("{:.1}", mean * 100.0)));
        line.push(score(self.ppt, 3));
        match &self.published {
            Some(row) => line.extend([format!("{:.2}", row.mean), millions(row.parameters), score(row.ppt, 2)]),
            None => line.extend(["-", "-", "-"].map(str::to_owned)),
        }
        cells(&line)
    }
}

impl Cell {
    /// "91.2 ± 0.4", or the one accuracy.
    pub fn words(&self) -> String {
        match self.deviation {
            Some(deviation) => format!("{:.1} ± {:.1}", self.mean * 100.0, deviation * 100.0),
            None => format!("{:.1}", self.mean * 100.0),
        }
    }
}

fn cells<T: AsRef<str>>(line: &[T]) -> String {
    format!("| {} |", line.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(" | "))
}

fn millions(parameters: f64) -> String {
    format!("{:.2} M", parameters / 1e6)
}

fn score(ppt: Option<f64>, digits: usize) -> String {
    ppt.map_or("-".to_owned(), |ppt| format!("{ppt:.digits$}"))
}
