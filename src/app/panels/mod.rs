//! The panels of the window and where they lie.
//! Called by `App::ui` once a frame.
//! Must not change the workbench: panels push commands.

mod backbone;
mod cells;
pub mod grid;
mod left;
mod notices;
mod palette;
mod plots;
mod right;
mod runs;
mod selection;
mod status;
mod top;

use eframe::egui::{CentralPanel, Frame, Margin, Panel, Ui};

use super::theme::Theme;
use super::view::View;
use crate::session::command::Command;
use crate::workbench::Workbench;

/// Draws the whole window.
pub fn show(ui: &mut Ui, workbench: &Workbench, view: &mut View, asked: &mut Vec<Command>) {
    let theme = Theme::of(ui);
    let side = |x| Frame::new().fill(theme.panel).inner_margin(Margin::symmetric(x, 0));
    Panel::top("top").exact_size(40.0).resizable(false).frame(side(12)).show(ui, |ui| top::show(ui, workbench, view, asked));
    notices::show(ui, workbench, view, asked);
    Panel::bottom("status").exact_size(24.0).resizable(false).frame(side(12)).show(ui, |ui| status::show(ui, workbench));
    Panel::left("left").exact_size(236.0).resizable(false).frame(side(0)).show(ui, |ui| left::show(ui, workbench, view, asked));
    Panel::right("right")
        .exact_size(288.0)
        .resizable(false)
        .frame(side(0))
        .show(ui, |ui| right::show(ui, workbench, view, asked));
    CentralPanel::default()
        .frame(Frame::new().fill(theme.ground).inner_margin(Margin { left: 14, right: 14, top: 0, bottom: 6 }))
        .show(ui, |ui| {
            ui.spacing_mut().item_spacing.y = 4.0;
            grid::show(ui, workbench, view, asked);
            plots::show(ui, workbench);
            runs::show(ui, workbench, view, asked);
        });
}
