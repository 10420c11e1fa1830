//! The bottom line: where the live run is, how fast, how long yet, and whether the session is saved.
//! Called by `panels::show`.
//! Must not change anything.

use eframe::egui::{Align, Layout, RichText, Ui};

use crate::app::theme::{self, Theme};
use crate::app::view::View;
use crate::app::words;
use crate::board::{Run, Status};
use crate::workbench::Workbench;

pub fn show(ui: &mut Ui, workbench: &Workbench, view: &View) {
    let theme = Theme::of(ui);
    let small = |words: String| RichText::new(words).font(theme::regular(theme::SMALL)).color(theme.weak);
    ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
        let saved = match (workbench.dirty, workbench.path.is_some()) {
            (false, true) => "Saved",
            (false, false) => "Not edited",
            (true, _) => "Edited, not saved; an autosave is kept",
        };
        let runs = workbench.home().join("runs").display().to_string();
        if ui.available_width() > 700.0 {
            ui.label(small(format!("Runs are kept in {}", words::cut_front(&runs, 40)))).on_hover_text(&runs);
            ui.label(small("·".to_owned()));
        }
        ui.label(small(saved.to_owned()));
        ui.with_layout(Layout::left_to_right(Align::Center), |ui| {
            let mut words = match workbench.board.live() {
                Some(run) if view.stopping => format!("{}: stopping ...", words::cut(&run.id, 40)),
                Some(run) => live(run),
                None => workbench.board.runs.last().map_or_else(|| "Ready. No run yet".to_owned(), last),
            };
            if let Some((run, kind)) = &view.exporting {
                let wait = if workbench.board.live().is_some() { ", after the run that trains" } else { "" };
                words = format!("Exporting {} as {kind}{wait} ...  ·  {words}", words::cut(run, 30));
            }
            ui.add(eframe::egui::Label::new(small(words)).truncate());
        });
    });
}

fn live(run: &Run) -> String {
    let all = run.started.as_ref().map_or(0, |s| s.steps);
    let Some(step) = run.steps.last() else {
        let doing = if run.preparing.is_empty() { "preparing" } else { &run.preparing };
        return format!("{}: {doing}", words::cut(&run.id, 40));
    };
    let state = if run.status == Status::Paused { "paused at step" } else { "step" };
    let speed = format!("{:.0} samples a second", step.samples_per_second);
    format!(
        "{}: {state} {} of {}  ·  {speed}  ·  {} left",
        words::cut(&run.id, 40),
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
                words::cut(&run.id, 40),
                run.status.words(),
                100.0 * accuracy,
                words::seconds(done.seconds)
            )
        }
        _ => format!("Ready. {}: {}", words::cut(&run.id, 40), run.status.words()),
    }
}
