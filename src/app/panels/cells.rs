//! What the grid's cells look like: colours by family, shade by gradient, labels that fit, hover words.
//! Called by `grid`.
//! Must not react to the pointer or change anything.

use std::collections::BTreeMap;

use eframe::egui::{Align2, Color32, CornerRadius, Rect, RichText, Stroke, StrokeKind, Ui, pos2, vec2};

use crate::app::theme::{self, Theme};
use crate::app::view::View;
use crate::app::words;
use crate::methods::{Card, Scope};
use crate::plan::anatomy::{Role, Site};
use crate::plan::{Member, Plan};
use crate::session::Session;
use crate::session::settings::Value;
use crate::tasks::Aim;
use crate::workbench::Workbench;

/// Gradient norms by site, of the newest step of a run.
pub struct Heat {
    pub step: usize,
    norms: BTreeMap<String, f64>,
    largest: f64,
}

impl Heat {
    /// Of the run that trains, else of the selected one; none where the drawing shows another stack than the run had.
    pub fn of(workbench: &Workbench, view: &View) -> Option<Heat> {
        if !view.kept.heat {
            return None;
        }
        let run = workbench.board.live().or_else(|| workbench.board.run(view.run.as_ref()?))?;
        let session = run.session.as_ref()?;
        let same = |a: &crate::session::Placed, b: &crate::session::Placed| a.name == b.name && a.place == b.place;
        let (now, then) = (&workbench.session.methods, &session.methods);
        if now.len() != then.len() || !now.iter().zip(then).all(|(a, b)| same(a, b)) {
            return None;
        }
        let step = run.steps.iter().rev().find(|step| !step.gradients.is_empty())?;
        let by_site = step.gradients_by_site();
        // One cell may cover several places: its norm is that of all of them together.
        let mut norms: BTreeMap<String, f64> = BTreeMap::new();
        for site in &workbench.plan.anatomy.sites {
            let squares = by_site.iter().filter(|(at, _)| covers(&site.path, at)).map(|(_, v)| v * v);
            norms.insert(site.path.clone(), squares.sum::<f64>().sqrt());
        }
        let largest =
            workbench.plan.members.iter().flat_map(|m| &m.sites).filter_map(|s| norms.get(s)).fold(0.0, |a, b| f64::max(a, *b));
        (largest > 0.0).then_some(Heat { step: step.step, norms, largest })
    }

    fn part(&self, site: &str) -> f32 {
        let norm = self.norms.get(site).copied().unwrap_or(0.0);
        0.3 + 0.7 * (norm / self.largest).sqrt() as f32
    }
}

/// `at` is the site itself or a part of it: `blocks.0.attn` covers `blocks.0.attn.k`.
pub fn covers(site: &str, at: &str) -> bool {
    at.strip_prefix(site).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The methods whose pattern covers `site`.
pub fn standing<'a>(plan: &'a Plan, site: &str) -> Vec<&'a Member> {
    plan.members.iter().filter(|m| m.sites.iter().any(|s| s == site)).collect()
}

/// Trainable parameters that the method keeps at the site, or below it where the pattern names no cell.
pub fn own(member: &Member, site: &str) -> usize {
    let here = |at: &str| at == site || (covers(site, at) && !member.sites.iter().any(|s| s == at));
    member.placements.iter().filter(|p| here(&p.site)).map(|p| p.count()).sum()
}

/// Some of its parameters serve all its places.
fn shares(member: &Member) -> bool {
    member.placements.iter().flat_map(|p| &p.params).any(|spec| spec.scope == Scope::Method)
}

/// The number that the field names a method's size by: its first setting, where that is a whole number.
fn size(card: &Card, value: &Value) -> Option<String> {
    match (card.fields.first()?.name, value) {
        ("reduction", Value::Whole(n)) => Some(format!("1/{n}")), // not a width, but what divides it
        (_, Value::Whole(n)) => Some(n.to_string()),
        _ => None,
    }
}

pub fn member_size(member: &Member) -> Option<String> {
    size(member.card, &member.settings.get(member.card.fields.first()?))
}

/// "LoRA 8 + BitFit": the stack as the table and the curves name it.
pub fn stack_words(session: &Session) -> String {
    let word = |placed: &crate::session::Placed| {
        let Some(card) = crate::methods::find(&placed.name) else { return placed.name.clone() };
        let size = card.fields.first().and_then(|field| size(card, &placed.settings.get(field)));
        let title = if card.title.chars().count() > 18 { first_word(card.title) } else { card.title };
        size.map_or_else(|| title.to_owned(), |n| format!("{title} {n}"))
    };
    match session.methods.as_slice() {
        [] => Aim::of(&session.task).alone().to_owned(),
        methods => methods.iter().map(word).collect::<Vec<_>>().join(" + "),
    }
}

fn first_word(title: &str) -> &str {
    title.split(' ').next().unwrap_or_default()
}

/// Labels from long to short.
pub fn labels(member: &Member) -> Vec<String> {
    let word = first_word(member.card.title);
    let size = member_size(member);
    let mut all = Vec::new();
    all.extend(size.as_ref().map(|n| format!("{word} {n}")));
    all.push(word.to_owned());
    if word.chars().count() > 5 {
        all.push(word.chars().take(4).collect());
    }
    all.extend(size);
    all
}

/// How a cell stands out.
#[derive(Clone, Copy)]
pub struct Mood {
    /// The method in hand can stand here.
    pub open: bool,
    /// The method in hand would land here.
    pub lands: bool,
    /// The card that is being dragged could stand here: its colour.
    pub tint: Option<Color32>,
    /// The selected cell.
    pub chosen: bool,
    pub focused: bool,
    /// Methods in the stack.
    pub among: usize,
}

pub fn cell(ui: &Ui, rect: Rect, site: &Site, stand: &[&Member], view: &View, heat: Option<&Heat>, mood: Mood) {
    let theme = Theme::of(ui);
    let radius = CornerRadius::same(3);
    let painter = ui.painter();
    let ground = if mood.open { theme.cell } else { theme.cell_shut };
    painter.rect_filled(rect, radius, mood.tint.map_or(ground, |color| theme.shade(color, 0.22)));
    if !mood.open {
        painter.rect_stroke(rect, radius, Stroke::new(1.0, theme.cell), StrokeKind::Inside);
    }
    let width = rect.width() / stand.len().max(1) as f32;
    for (n, member) in stand.iter().enumerate() {
        let color = theme.family(member.card.family);
        let part = Rect::from_min_size(pos2(rect.left() + n as f32 * width, rect.top()), vec2(width, rect.height()));
        let part = if n + 1 < stand.len() { part.with_max_x(part.right() - 1.0) } else { part };
        let full = own(member, &site.path) > 0;
        // Covered by the pattern, but its parameters live elsewhere: half the strength.
        let shade = if full { heat.map_or(0.82, |heat| heat.part(&site.path)) } else { 0.25 };
        let fill = theme.shade(color, shade);
        painter.rect_filled(part, radius, fill);
        label(ui, part, &labels(member), theme.on(fill));
        // With several methods, the selected one's cells have an edge of their own.
        if mood.among > 1 && view.selected == Some(member.index) {
            let edge = color.lerp_to_gamma(theme.text, 0.55);
            painter.rect_stroke(part, radius, Stroke::new(1.0, edge), StrokeKind::Inside);
        }
    }
    if mood.lands {
        let color = mood.tint.map_or(theme.weak, |color| color.lerp_to_gamma(theme.text, 0.3));
        painter.rect_stroke(rect, radius, Stroke::new(1.5, color), StrokeKind::Inside);
    }
    if mood.chosen {
        painter.rect_stroke(rect, radius, Stroke::new(1.5, theme.text), StrokeKind::Inside);
    }
    if mood.focused {
        painter.rect_stroke(rect.expand(1.0), radius, Stroke::new(2.0, theme.focus()), StrokeKind::Outside);
    }
}

/// The longest of `labels` that fits.
pub fn label(ui: &Ui, rect: Rect, labels: &[String], color: Color32) {
    let painter = ui.painter_at(rect);
    for words in labels {
        let galley = painter.layout_no_wrap(words.clone(), theme::medium(theme::SMALL), color);
        if galley.size().x <= rect.width() - 4.0 {
            painter.galley(Align2::CENTER_CENTER.align_size_within_rect(galley.size(), rect).min, galley, color);
            return;
        }
    }
}

/// "q, block 3", or the place alone where it is in no block.
pub fn place_words(site: &Site) -> String {
    match (site.block, site.role) {
        (Some(block), Role::Block) => format!("block {}", block + 1),
        (Some(block), _) => format!("{}, block {}", site.place, block + 1),
        (None, _) => site.place.to_owned(),
    }
}

pub fn hover(ui: &mut Ui, plan: &Plan, site: &Site, card: Option<&Card>, open: bool) {
    let theme = Theme::of(ui);
    ui.set_max_width(320.0);
    ui.label(RichText::new(format!("{} ({})", place_words(site), site.path)).font(theme::medium(theme::BODY)));
    let frozen = match site.count() {
        0 => "no weights of its own".to_owned(),
        n => format!("{} frozen parameters", words::count(n)),
    };
    ui.label(RichText::new(format!("{} in, {} out, {frozen}", site.d_in, site.d_out)).color(theme.weak));
    for member in standing(plan, &site.path) {
        let here = match own(member, &site.path) {
            0 if shares(member) => "shares the parameters of its first place".to_owned(),
            0 => "acts here; its parameters are at another of its places".to_owned(),
            n => format!("{} trainable here", words::count(n)),
        };
        let line = format!("{}: {here}", member.card.title);
        ui.label(RichText::new(line).color(theme.family(member.card.family)));
    }
    if let (Some(card), false) = (card, open) {
        let roles: Vec<_> = card.roles.iter().map(|r| r.word()).collect();
        let line = format!("{} cannot stand here; it takes {}.", card.title, roles.join(", "));
        ui.label(RichText::new(line).color(theme.warn));
    }
}
