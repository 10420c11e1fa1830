//! The small list of methods that fit where the drawing was clicked with none in hand, and where a dragged card would land.
//! Called by `grid`.
//! Must not know any single method: what fits is on the cards.

use eframe::egui::{self, Id, LayerId, Pos2, RichText, ScrollArea, Ui};

use super::cells::place_words;
use super::grid::Lay;
use super::palette::words_of;
use super::right::dot;
use crate::app::form::weak;
use crate::app::theme::{self, Theme};
use crate::app::view::View;
use crate::methods::{CATALOG, Card, Family};
use crate::plan::anatomy::{Anatomy, Site};
use crate::session::command::{Command, Edit};
use crate::workbench::Workbench;

/// Asks which method shall stand at the clicked cells.
pub fn show(ui: &mut Ui, workbench: &Workbench, view: &mut View, asked: &mut Vec<Command>) {
    let Some(pick) = view.pick.clone() else { return };
    let mut open = true;
    let layer = LayerId::background();
    egui::Popup::new(Id::unique("pick"), ui.ctx().clone(), pick.at, layer).kind(egui::PopupKind::Menu).open_bool(&mut open).show(
        |ui| {
            ui.set_min_width(190.0);
            ui.label(
                RichText::new(format!("Place at {}", pick.words)).font(theme::semibold(theme::SMALL)).color(Theme::of(ui).weak),
            );
            let mut any = false;
            ScrollArea::vertical().max_height(320.0).show(ui, |ui| {
                let in_order =
                    Family::ALL.into_iter().flat_map(|family| CATALOG.iter().filter(move |card| card.family == family));
                for card in in_order {
                    let sites = fitting(card, &workbench.plan.anatomy, &pick.sites);
                    if sites.is_empty() {
                        continue;
                    }
                    any = true;
                    let clicked = ui.horizontal(|ui| {
                        dot(ui, Theme::of(ui).family(card.family));
                        ui.button(card.title).on_hover_text(card.help).clicked()
                    });
                    if clicked.inner {
                        asked.push(Command::Edit(Edit::Add { method: card.name.to_owned(), sites: Some(sites) }));
                        ui.close();
                    }
                }
            });
            if !any {
                weak(ui, "No method stands here.");
            }
        },
    );
    if !open {
        view.pick = None;
    }
}

pub fn fitting(card: &Card, anatomy: &Anatomy, sites: &[String]) -> Vec<String> {
    let fits = |path: &&String| anatomy.site(path).is_some_and(|site| card.roles.contains(&site.role));
    sites.iter().filter(fits).cloned().collect()
}

/// Where a card would land that is let go at a point.
pub struct Landing {
    /// None: at its paper's place.
    pub sites: Option<Vec<String>>,
    /// For the label at the pointer, and, where the point itself did not fit, for the remark afterwards.
    pub words: String,
    /// The point itself did not fit.
    pub moved: bool,
}

/// The cell, row or column under `at`; where the card cannot stand there, the nearest cell in line that fits; else its paper's
/// place.
pub fn landing(card: &Card, anatomy: &Anatomy, lay: &Lay, at: Pos2) -> Landing {
    let fits = |site: &&Site| card.roles.contains(&site.role);
    let (row, column) = lay.nearest(at);
    let line = |sites: Vec<&Site>, what: &str| -> Option<Landing> {
        let sites: Vec<String> = sites.into_iter().filter(fits).map(|s| s.path.clone()).collect();
        let words = format!("{} at {} of {what}", card.title, places(sites.len()));
        (!sites.is_empty()).then_some(Landing { sites: Some(sites), words, moved: false })
    };
    let one = |site: &Site, moved: bool| Landing {
        sites: Some(vec![site.path.clone()]),
        words: format!("{} at {}", card.title, place_words(site)),
        moved,
    };
    let by_paper = || Landing {
        sites: None,
        words: format!("{} {}: it cannot stand where it is dropped", card.title, words_of(card)),
        moved: true,
    };
    let whole_row = |row: usize| (0..lay.columns).filter_map(|column| anatomy.cell(lay.rows[row], column)).collect::<Vec<_>>();
    let whole_column = |column: usize| lay.rows.iter().filter_map(|row| anatomy.cell(row, column)).collect::<Vec<_>>();

    if let Some((site, _)) = lay.outside(anatomy).into_iter().find(|(_, rect)| rect.contains(at)) {
        return if fits(&site) { one(site, false) } else { by_paper() };
    }
    let across = (lay.left()..lay.right()).contains(&at.x);
    let down = (lay.top()..lay.bottom()).contains(&at.y);
    match (across, down) {
        (true, false) if at.y < lay.top() => {
            line(whole_column(column), &format!("block {}", column + 1)).unwrap_or_else(by_paper)
        }
        (false, true) if at.x < lay.left() && at.x >= lay.names() => {
            line(whole_row(row), &format!("row {}", lay.rows[row])).unwrap_or_else(by_paper)
        }
        (true, true) => {
            if let Some(site) = anatomy.cell(lay.rows[row], column).filter(|site| fits(site)) {
                return one(site, false);
            }
            let mut near: Vec<(usize, &Site)> = (0..lay.rows.len())
                .filter_map(|other| Some((other.abs_diff(row), anatomy.cell(lay.rows[other], column)?)))
                .filter(|(_, site)| fits(site))
                .collect();
            near.sort_by_key(|(far, _)| *far);
            near.first().map_or_else(by_paper, |(_, site)| one(site, true))
        }
        _ => by_paper(),
    }
}

fn places(n: usize) -> String {
    if n == 1 { "1 place".to_owned() } else { format!("{n} places") }
}
