//! The panels of the window and where they lie.
//! Called by `App::ui` once a frame.
//! Must not change the workbench: panels push commands.

mod about;
mod backbone;
mod cells;
pub mod grid;
pub mod hub;
mod lanes;
mod left;
mod marks;
mod notices;
mod palette;
mod pick;
mod plots;
mod right;
mod runs;
mod selection;
mod status;
mod top;
mod wiring;

use eframe::egui::{CentralPanel, Frame, Margin, Panel, ScrollArea, Ui, vec2};

use super::theme::Theme;
use super::view::View;
use crate::session::command::Command;
use crate::workbench::Workbench;

/// What the person said about the window itself.
#[derive(Clone, Copy, Debug)]
pub enum Said {
    /// Close it, without saving.
    Close,
    /// The bar that asks for a path: take it, or not.
    Path(bool),
}

/// Below these widths of the window the left and the right side close by themselves; they open again above.
const NARROW: [f32; 2] = [700.0, 980.0];

/// Draws the whole window.
pub fn show(ui: &mut Ui, workbench: &Workbench, view: &mut View, asked: &mut Vec<Command>) -> Option<Said> {
    let theme = Theme::of(ui);
    let side = |x| Frame::new().fill(theme.panel).inner_margin(Margin::symmetric(x, 0));
    narrow(ui, view);
    Panel::top("top").exact_size(40.0).resizable(false).frame(side(12)).show(ui, |ui| top::show(ui, workbench, view, asked));
    let said = notices::show(ui, workbench, view, asked);
    Panel::bottom("status").exact_size(24.0).resizable(false).frame(side(12)).show(ui, |ui| status::show(ui, workbench, view));
    let (mut left, mut right) = (view.kept.left, view.kept.right);
    let panel = Panel::left("left").default_size(236.0).size_range(200.0..=360.0).resizable(true).frame(side(0));
    panel.show_collapsible(ui, &mut left, |ui| left::show(ui, workbench, view, asked));
    let panel = Panel::right("right").default_size(288.0).size_range(240.0..=420.0).resizable(true).frame(side(0));
    panel.show_collapsible(ui, &mut right, |ui| right::show(ui, workbench, view, asked));
    (view.kept.left, view.kept.right) = (left, right);
    CentralPanel::default()
        .frame(Frame::new().fill(theme.ground).inner_margin(Margin { left: 14, right: 14, top: 0, bottom: 6 }))
        .show(ui, |ui| {
            ui.spacing_mut().item_spacing.y = 4.0;
            // A low window scrolls instead of squeezing the table to nothing.
            let (width, height) = (ui.available_width(), ui.available_height());
            let least = if width < plots::NARROW { 760.0 } else { 520.0 };
            ScrollArea::vertical().id_salt("centre").auto_shrink(false).show(ui, |ui| {
                ui.allocate_ui(vec2(ui.available_width(), height.max(least)), |ui| {
                    grid::show(ui, workbench, view, asked);
                    plots::show(ui, workbench, view);
                    runs::show(ui, workbench, view, asked);
                });
            });
        });
    palette::carried(ui, view);
    said
}

fn narrow(ui: &Ui, view: &mut View) {
    let width = ui.max_rect().width();
    let before = std::mem::replace(&mut view.width, width);
    for (n, edge) in NARROW.into_iter().enumerate() {
        let open = if n == 0 { &mut view.kept.left } else { &mut view.kept.right };
        if width < edge && (before >= edge || before == 0.0) && *open {
            (*open, view.folded[n]) = (false, true);
        } else if width >= edge && std::mem::take(&mut view.folded[n]) {
            *open = true;
        }
    }
}
