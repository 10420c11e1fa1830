//! The bottom line: where the live run is, how fast, how long yet, and whether the session is saved.
//! Called by `panels::show`.
//! Must not change anything.

use eframe::egui::{Align, Layout, RichText, Ui};

use crate::app::theme::{self, Theme};
use crate::app::words;
use crate::board::{Run, Status};
use crate::workbench::Workbench;

pub fn show(ui: &mut Ui, workbench: &Workbench) {
    let theme = Theme::of(ui);
    let small = |words: String| RichText::new(words).font(theme::regular(theme::SMALL)).color(theme.weak);
    ui.with_layout(Layout::left_to_right(Align::Center), |ui| {
        ui.label(small(match workbench.board.live() {
            Some(run) => live(run),
            None => workbench.board.runs.last().map_or_else(|| "Ready. No run yet".to_owned(), last),
        }));
        ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
            let saved = match (workbench.dirty, workbench.path.is_some()) {
                (false, true) => "Saved",
                (false, false) => "Not edited",
                (true, _) => "Edited, not saved; an autosave is kept",
            };
            ui.label(small(format!("{saved}   ·   runs are kept in {}", workbench.home().join("runs").display())));
        });
    });
}

fn live(run: &Run) -> String {
    let all = run.started.as_ref().map_or(0, |s| s.steps);
    let Some(step) = run.steps.last() else {
        return match run.preparing.as_str() {
            "" => format!("{}: preparing", run.id),
            words => format!("{}: {words}", run.id),
        };
    };
    let state = if run.status == Status::Paused { "paused at step" } else { "step" };
    let speed = format!("{:.0} samples a second", step.samples_per_second);
    format!(
        "{}: {state} {} of {}  ·  {speed}  ·  {} left",
        run.id,
        words::count(step.step),
        words::count(all),
        words::seconds(step.seconds_left)
    )
}

fn last(run: &Run) -> String {
    match (&run.finished, run.accuracy()) {
        (Some(done), Some(accuracy)) => {
            format!(
                "Ready. {}: {}, {:.1} % on the test set after {}",
                run.id,
                run.status.words(),
                100.0 * accuracy,
                words::seconds(done.seconds)
            )
        }
        _ => format!("Ready. {}: {}", run.id, run.status.words()),
    }
}
