//! `petl suite`: trains what a suite still lacks, one run after the other, and prints its table. Called by the command line; what the
//! runs are and how they are summed up is in `crate::suite`.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use anyhow::{Context, anyhow};

use super::train::{BETWEEN_LOOKS, interrupts, step_words};
use super::{Answer, Fault, asked, out};
use crate::board::Run;
use crate::engine::Event;
use crate::plan::Plan;
use crate::session::command::Command;
use crate::session::file::write_whole;
use crate::suite::report::{Report, report};
use crate::suite::{self, Job, Outcome, Request, Standing};
use crate::workbench::Workbench;

/// Trains every run of `request` that `folder` does not hold yet.
pub fn suite(folder: &Path, request: &Request, ppt_c: f64, json: bool) -> Answer {
    let jobs = asked(suite::jobs(request))?;
    if folder.is_file() {
        return Err(Fault::Request(anyhow!("{} is a file; a suite takes a folder", folder.display())));
    }
    // Whatever is refused is refused before the first run, not after hours.
    for job in &jobs {
        if let Standing::Taken(words) = suite::standing(folder, job) {
            return Err(Fault::Request(anyhow!("{words}")));
        }
    }
    let Some(first) = jobs.first() else { return Err(Fault::Request(anyhow!("there is nothing to train"))) };
    let mut bench = Workbench::headless(first.session.clone(), folder.to_owned(), Box::new(|| ()))?;
    let stop = interrupts()?;
    let mut outcomes: Vec<Outcome> = jobs.into_iter().map(|job| Outcome { job, run: None, fault: None }).collect();
    let (mut failed, count) = (0, outcomes.len());
    for n in 0..count {
        let job = outcomes[n].job.clone();
        let tell = |words: &str| out::note(&format!("[{}/{count}] {}: {words}", n + 1, job.words()));
        let plan = Plan::of(&job.session);
        match suite::standing(folder, &job) {
            Standing::Finished(run) => {
                tell(&format!("{}, finished before", accuracy(&run)));
                outcomes[n].run = Some(*run);
                continue;
            }
            Standing::Taken(words) => return Err(Fault::Failed(anyhow!("{words}"))),
            Standing::Open | Standing::Begun if plan.blocked().is_some() => {
                let words = plan.blocked().map_or(String::new(), |problem| problem.words.clone());
                tell(&format!("left out, {words}"));
                outcomes[n].fault = Some(format!("left out: {words}"));
                continue;
            }
            Standing::Begun => {
                let place = suite::place(folder, &job);
                let fail = || format!("cannot remove {}, which was cut off. May you write there?", place.display());
                std::fs::remove_dir_all(&place).with_context(fail)?;
            }
            Standing::Open => {}
        }
        if stop.load(Relaxed) == 0 {
            match train(&mut bench, folder, &job, &stop)? {
                Ended::Finished(run) => {
                    tell(&accuracy(&run));
                    outcomes[n].run = Some(*run);
                }
                Ended::Failed(words) => {
                    tell(&format!("failed, {words}"));
                    outcomes[n].fault = Some(format!("failed: {words}"));
                    failed += 1;
                }
                Ended::Stopped => tell("stopped; it begins anew next time"),
            }
            write(folder, &report(&outcomes, ppt_c))?;
        }
    }
    let report = report(&outcomes, ppt_c);
    write(folder, &report)?;
    match json {
        true => out::json(&report)?,
        false => out::say(report.markdown().trim_end())?,
    }
    if stop.load(Relaxed) > 0 {
        let words = format!("stopped after {} of {count} runs. The same command goes on from there", report.finished);
        return Err(Fault::Failed(anyhow!(words)));
    }
    if failed > 0 {
        return Err(Fault::Failed(anyhow!("{failed} of {count} runs failed (above). The same command tries them again")));
    }
    Ok(())
}

fn accuracy(run: &Run) -> String {
    run.accuracy().map_or("no accuracy".to_owned(), |accuracy| format!("{:.1} %", accuracy * 100.0))
}

enum Ended {
    Finished(Box<Run>),
    Failed(String),
    Stopped,
}

fn train(bench: &mut Workbench, folder: &Path, job: &Job, stop: &AtomicUsize) -> Answer<Ended> {
    let line = std::io::stderr().is_terminal();
    let (id, place) = (job.id(), suite::place(folder, job));
    bench.session = job.session.clone();
    bench.start_run(&id, &place)?;
    let mut told = false;
    loop {
        if stop.load(Relaxed) > 0 && !told {
            told = true;
            out::note("\nStopping after this step; finished runs are kept. Ctrl-C again ends at once");
            bench.try_carry_out(Command::StopAndKeep)?;
        }
        let event = bench.wait_for(BETWEEN_LOOKS).context("The same command goes on from here")?;
        let Some(event) = event.filter(|event| event.run() == Some(&id)) else { continue };
        match event {
            Event::Step(step) if line => out::progress(&format!("{}  {}", job.words(), step_words(&step))),
            Event::Finished(finished) => {
                if line {
                    out::progress("");
                }
                let run = bench.board.run(&id).cloned().context("the run is not on the board")?;
                return Ok(if finished.stopped { Ended::Stopped } else { Ended::Finished(Box::new(run)) });
            }
            Event::Failed { words, .. } => return Ok(Ended::Failed(words)),
            _ => {}
        }
    }
}

fn write(folder: &Path, report: &Report) -> Answer {
    write_whole(&folder.join("suite.md"), report.markdown().as_bytes())?;
    let json = serde_json::to_string_pretty(report).context("cannot write the table as JSON")?;
    Ok(write_whole(&folder.join("suite.json"), format!("{json}\n").as_bytes())?)
}
