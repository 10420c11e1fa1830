//! How a run is told apart on the plots and in the table: the colour of its first method's family, shaded among runs of that
//! family, and a dash. Called by `plots` and `runs`.
//! Must not change anything.

use eframe::egui::{self, Color32, Stroke, Ui, pos2};
use egui_plot::LineStyle;

use crate::app::theme::Theme;
use crate::app::view::{View, family};
use crate::board::Run;

#[derive(Clone, Copy)]
pub struct Mark {
    pub color: Color32,
    style: usize,
}

impl Mark {
    pub fn of(theme: &Theme, view: &View, run: &Run) -> Mark {
        let slot = view.slot(run);
        let color = family(run).map_or(theme.weak, |f| theme.family(f));
        // Shade and dash both change from one run to the next; nine runs of a family differ.
        Mark { color: theme.among(color, slot), style: (slot + slot / 3) % 3 }
    }

    pub fn line(self) -> LineStyle {
        match self.style {
            0 => LineStyle::Solid,
            1 => LineStyle::Dashed { length: 7.0 },
            _ => LineStyle::Dotted { spacing: 4.0 },
        }
    }

    /// A short piece of the line, for the table; pale when the curves are hidden.
    pub fn draw(self, ui: &Ui, at: egui::Rect, on: bool) {
        let (painter, y) = (ui.painter(), at.center().y);
        let color = if on { self.color } else { self.color.gamma_multiply(0.3) };
        let stroke = Stroke::new(2.5, color);
        let ends = [pos2(at.left(), y), pos2(at.right(), y)];
        match self.style {
            0 => {
                painter.line_segment(ends, stroke);
            }
            1 => {
                painter.extend(egui::Shape::dashed_line(&ends, stroke, 6.0, 3.0));
            }
            _ => {
                painter.extend(egui::Shape::dotted_line(&ends, color, 4.5, 1.4));
            }
        }
    }
}
