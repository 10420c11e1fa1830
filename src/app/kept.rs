//! What the window keeps from one start to the next: theme, zoom, size, open sides, in `view.toml` of the home folder.
//! Read and written by `App`; panels change it through the view.
//! Must not hold anything of a session or a run. A file that cannot be read or written costs nothing but the choice.

use std::collections::BTreeSet;
use std::path::Path;

use eframe::egui;
use serde::{Deserialize, Serialize};

use crate::compare::PPT_C;

/// What C may be, in millions of parameters.
pub const PPT_LEAST: f64 = 0.001;
pub const PPT_MOST: f64 = 10_000.0;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Look {
    #[default]
    System,
    Dark,
    Light,
}

impl Look {
    pub fn preference(self) -> egui::ThemePreference {
        match self {
            Look::System => egui::ThemePreference::System,
            Look::Dark => egui::ThemePreference::Dark,
            Look::Light => egui::ThemePreference::Light,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Kept {
    pub theme: Look,
    pub zoom: f32,
    /// Width and height of the window, in points.
    pub size: [f32; 2],
    /// The sides are open.
    pub left: bool,
    pub right: bool,
    /// Shade the cells by gradient norm.
    pub heat: bool,
    /// C of the score PPT in the runs table, in millions of parameters.
    pub ppt_c: f64,
    /// Titles of the palette's families that are open.
    pub families: BTreeSet<String>,
}

impl Default for Kept {
    fn default() -> Kept {
        Kept {
            theme: Look::System,
            zoom: 1.0,
            size: [1440.0, 900.0],
            left: true,
            right: true,
            heat: true,
            ppt_c: PPT_C / 1e6,
            families: BTreeSet::new(),
        }
    }
}

const FILE: &str = "view.toml";

impl Kept {
    pub fn read(home: &Path) -> Kept {
        let text = std::fs::read_to_string(home.join(FILE)).unwrap_or_default();
        let mut kept: Kept = toml::from_str(&text).unwrap_or_default();
        kept.ppt_c = kept.ppt_c.clamp(PPT_LEAST, PPT_MOST);
        kept.zoom = kept.zoom.clamp(0.5, 3.0);
        kept.size = [kept.size[0].clamp(600.0, 10_000.0), kept.size[1].clamp(400.0, 10_000.0)];
        kept
    }

    pub fn write(&self, home: &Path) {
        if let Ok(text) = toml::to_string(self) {
            let _ = crate::session::file::write_whole(&home.join(FILE), text.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back_and_nonsense_costs_nothing() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(Kept::read(home.path()), Kept::default());
        let kept = Kept { theme: Look::Light, zoom: 1.2, families: ["Low rank".to_owned()].into(), ..Kept::default() };
        kept.write(home.path());
        assert_eq!(Kept::read(home.path()), kept);
        std::fs::write(home.path().join(FILE), "zoom = \"far\"").unwrap();
        assert_eq!(Kept::read(home.path()), Kept::default());
    }
}
