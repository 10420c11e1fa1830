//! The look: every colour, the font and the sizes, for the dark and the light theme.
//! Called by every panel (`Theme::of`) and once by the window when it opens (`install`).
//! Must not know sessions, runs or commands; colours stand nowhere else.

use std::sync::Arc;

use eframe::egui::{self, Color32, CornerRadius, FontFamily, FontId, Margin, Stroke, TextStyle, vec2};

use crate::methods::Family;

/// The design tokens of one theme.
pub struct Theme {
    /// Behind the drawing, the plots and the table.
    pub ground: Color32,
    /// The side panels and bars.
    pub panel: Color32,
    /// Fields, buttons, cards.
    pub raised: Color32,
    pub hovered: Color32,
    pub line: Color32,
    /// An empty cell of the grid.
    pub cell: Color32,
    /// A cell where the armed method cannot stand.
    pub cell_shut: Color32,
    pub text: Color32,
    pub weak: Color32,
    pub faint: Color32,
    pub accent: Color32,
    pub on_accent: Color32,
    pub good: Color32,
    pub warn: Color32,
    pub warn_ground: Color32,
    pub error: Color32,
    pub error_ground: Color32,
    /// By `Family`, in its order: told apart by lightness too, for colour-blind eyes.
    families: [Color32; 8],
    /// Frozen things.
    pub frozen: Color32,
    /// How much of a colour is left in what stands behind: a raw curve behind the smoothed one.
    pub pale: f32,
}

#[expect(clippy::disallowed_methods, reason = "the one place where colours are made")]
const fn rgb(hex: u32) -> Color32 {
    Color32::from_rgb((hex >> 16) as u8, (hex >> 8) as u8, hex as u8)
}

const DARK: Theme = Theme {
    ground: rgb(0x141518),
    panel: rgb(0x1a1c21),
    raised: rgb(0x23262d),
    hovered: rgb(0x2d3139),
    line: rgb(0x2e323a),
    cell: rgb(0x2a2f37),
    cell_shut: rgb(0x1d2025),
    text: rgb(0xe8eaee),
    weak: rgb(0xa4abb6),
    faint: rgb(0x7d8590),
    accent: rgb(0x2f6fdb),
    on_accent: rgb(0xffffff),
    good: rgb(0x8fd16a),
    warn: rgb(0xe8b04b),
    warn_ground: rgb(0x2b2416),
    error: rgb(0xff7b80),
    error_ground: rgb(0x331b1e),
    families: [
        rgb(0x4f9cf2), // low rank: blue
        rgb(0xe59a3a), // adapters: orange
        rgb(0xb78af5), // prompts: violet
        rgb(0x45cdb4), // prefixes: teal
        rgb(0xb3d65c), // selected parameters: lime
        rgb(0xf0dc6a), // scales: yellow
        rgb(0xf2727f), // side networks: red
        rgb(0xd5d9e2), // full: near white
    ],
    frozen: rgb(0x565d69),
    pale: 0.4,
};

const LIGHT: Theme = Theme {
    ground: rgb(0xfbfbfc),
    panel: rgb(0xf1f2f4),
    raised: rgb(0xffffff),
    hovered: rgb(0xe3e7ee),
    line: rgb(0xd3d7de),
    cell: rgb(0xe2e5ea),
    cell_shut: rgb(0xf1f2f5),
    text: rgb(0x1b1e24),
    weak: rgb(0x545b67),
    faint: rgb(0x6c7480),
    accent: rgb(0x1f5fcc),
    on_accent: rgb(0xffffff),
    good: rgb(0x3a7d1c),
    warn: rgb(0x8a5a00),
    warn_ground: rgb(0xfdf3dc),
    error: rgb(0xb3222e),
    error_ground: rgb(0xfde7e8),
    families: [
        rgb(0x1f6fd0),
        rgb(0x9c5200),
        rgb(0x7b4bd0),
        rgb(0x06705f),
        rgb(0x496b00),
        rgb(0x786200),
        rgb(0xc02c41),
        rgb(0x4a5160),
    ],
    frozen: rgb(0xa9afba),
    pale: 0.6,
};

impl Theme {
    /// The tokens of the theme that `ui` is drawn in.
    pub fn of(ui: &egui::Ui) -> &'static Theme {
        if ui.visuals().dark_mode { &DARK } else { &LIGHT }
    }

    pub fn family(&self, family: Family) -> Color32 {
        let index = match family {
            Family::LowRank => 0,
            Family::Adapter => 1,
            Family::Prompt => 2,
            Family::Prefix => 3,
            Family::Select => 4,
            Family::Scale => 5,
            Family::Side => 6,
            Family::Full => 7,
        };
        self.families[index]
    }

    /// Text that is readable on `fill`: of dark and white ink the one that stands out more.
    pub fn on(&self, fill: Color32) -> Color32 {
        let inks = [rgb(0x000000), rgb(0xffffff)]; // black, not nearly so: only then one of them reaches 4.5 on every fill
        if contrast(inks[0], fill) >= contrast(inks[1], fill) { inks[0] } else { inks[1] }
    }

    /// `color` over the ground, `part` of it.
    pub fn shade(&self, color: Color32, part: f32) -> Color32 {
        self.cell.lerp_to_gamma(color, part)
    }

    /// The ring around what has the keyboard.
    pub fn focus(&self) -> Color32 {
        self.family(Family::LowRank)
    }

    /// Step `n` of `count` from frozen grey to the accent, for parts of one whole.
    pub fn step(&self, n: usize, count: usize) -> Color32 {
        self.frozen.lerp_to_gamma(self.family(Family::LowRank), n as f32 / count.saturating_sub(1).max(1) as f32)
    }

    /// The `n`-th run of a family: the family's colour, then steps of it towards the text.
    pub fn among(&self, color: Color32, n: usize) -> Color32 {
        color.lerp_to_gamma(self.text, [0.0, 0.4, 0.7][n % 3])
    }
}

/// Contrast ratio of WCAG 2: 4.5 is the least for small text.
fn contrast(a: Color32, b: Color32) -> f32 {
    let light = |color: Color32| {
        let [r, g, b, _] = egui::Rgba::from(color).to_array();
        0.2126 * r + 0.7152 * g + 0.0722 * b
    };
    let (a, b) = (light(a), light(b));
    (a.max(b) + 0.05) / (a.min(b) + 0.05)
}

/// The three sizes of type. Section heads, cells, axes and the like; what is read; the session's and the selection's name.
pub const SMALL: f32 = 11.5;
pub const BODY: f32 = 13.0;
pub const HEAD: f32 = 15.0;

pub fn regular(size: f32) -> FontId {
    FontId::new(size, FontFamily::Proportional)
}

pub fn medium(size: f32) -> FontId {
    FontId::new(size, FontFamily::Name("medium".into()))
}

pub fn semibold(size: f32) -> FontId {
    FontId::new(size, FontFamily::Name("semibold".into()))
}

/// Fonts and both themes' styles, once, before the first frame.
pub fn install(ctx: &egui::Context) {
    let mut fonts = egui::FontDefinitions::default();
    let cuts: [(&str, &'static [u8]); 5] = [
        ("inter", include_bytes!("../../assets/fonts/Inter-Regular.otf")),
        ("inter-medium", include_bytes!("../../assets/fonts/Inter-Medium.otf")),
        ("inter-semibold", include_bytes!("../../assets/fonts/Inter-SemiBold.otf")),
        ("math", include_bytes!("../../assets/fonts/NotoSansMath-Symbols.ttf")),
        ("mono", include_bytes!("../../assets/fonts/DejaVuSansMono-Drawing.ttf")),
    ];
    for (name, bytes) in cuts {
        fonts.font_data.insert(name.to_owned(), Arc::new(egui::FontData::from_static(bytes)));
    }
    // Formulas need signs that Inter lacks; egui's own fonts stand behind both.
    let behind = fonts.families.get(&FontFamily::Proportional).cloned().unwrap_or_default();
    let family =
        |first: &str| [first.to_owned(), "math".to_owned()].into_iter().chain(behind.iter().cloned()).collect::<Vec<_>>();
    fonts.families.insert(FontFamily::Proportional, family("inter"));
    fonts.families.insert(FontFamily::Name("medium".into()), family("inter-medium"));
    fonts.families.insert(FontFamily::Name("semibold".into()), family("inter-semibold"));
    // The cards' drawings: signs of one width, boxes and blocks that meet.
    fonts.families.insert(FontFamily::Monospace, vec!["mono".to_owned(), "math".to_owned()]);
    ctx.set_fonts(fonts);
    for (which, theme) in [(egui::Theme::Dark, &DARK), (egui::Theme::Light, &LIGHT)] {
        ctx.style_mut_of(which, |style| dress(style, theme));
    }
}

fn dress(style: &mut egui::Style, theme: &Theme) {
    style.text_styles = [
        (TextStyle::Small, regular(SMALL)),
        (TextStyle::Body, regular(BODY)),
        (TextStyle::Button, regular(BODY)),
        (TextStyle::Heading, semibold(HEAD)),
        (TextStyle::Monospace, FontId::new(SMALL, FontFamily::Monospace)),
    ]
    .into();
    style.spacing.item_spacing = vec2(8.0, 5.0);
    style.spacing.button_padding = vec2(8.0, 3.0);
    style.spacing.interact_size = vec2(32.0, 22.0);
    style.spacing.menu_margin = Margin::same(5);
    style.spacing.combo_height = 320.0;
    style.spacing.tooltip_width = 340.0;
    style.spacing.scroll = egui::style::ScrollStyle::thin();
    // The fill of widgets is that of the ground in the light theme; the colour of words at its full strength is louder than the words.
    style.spacing.scroll.foreground_color = true;
    (style.spacing.scroll.dormant_handle_opacity, style.spacing.scroll.active_handle_opacity) = (0.35, 0.5);
    style.interaction.selectable_labels = false;
    style.interaction.tooltip_delay = 0.35;

    let visuals = &mut style.visuals;
    visuals.override_text_color = None;
    visuals.weak_text_color = Some(theme.weak);
    visuals.panel_fill = theme.panel;
    visuals.window_fill = theme.panel;
    visuals.window_stroke = Stroke::new(1.0, theme.line);
    visuals.extreme_bg_color = theme.ground;
    visuals.text_edit_bg_color = Some(theme.raised);
    visuals.faint_bg_color = theme.panel;
    visuals.hyperlink_color = theme.family(Family::LowRank);
    visuals.warn_fg_color = theme.warn;
    visuals.error_fg_color = theme.error;
    visuals.selection.bg_fill = theme.accent;
    visuals.selection.stroke = Stroke::new(1.0, theme.on_accent);
    visuals.popup_shadow.blur = 10;
    visuals.menu_corner_radius = CornerRadius::same(6);
    let radius = CornerRadius::same(4);
    let widgets = &mut visuals.widgets;
    let states = [
        (&mut widgets.noninteractive, theme.panel, theme.line, theme.text),
        (&mut widgets.inactive, theme.raised, theme.line, theme.text),
        (&mut widgets.hovered, theme.hovered, theme.faint, theme.text),
        (&mut widgets.active, theme.hovered, theme.accent, theme.text),
        (&mut widgets.open, theme.hovered, theme.line, theme.text),
    ];
    for (state, fill, edge, text) in states {
        state.bg_fill = fill;
        state.weak_bg_fill = fill;
        state.bg_stroke = Stroke::new(1.0, edge);
        state.fg_stroke = Stroke::new(1.0, text);
        state.corner_radius = radius;
        state.expansion = 0.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::CATALOG;

    #[test]
    fn the_drawings_font_has_every_sign_of_every_card() {
        let ctx = egui::Context::default();
        install(&ctx);
        ctx.begin_pass(egui::RawInput::default());
        let font = FontId::new(SMALL, FontFamily::Monospace);
        for card in CATALOG {
            for sign in card.drawing.chars().filter(|c| *c != '\n') {
                assert!(ctx.fonts_mut(|fonts| fonts.has_glyph(&font, sign)), "{}: no {sign:?}", card.name);
                let wide = ctx.fonts_mut(|fonts| fonts.glyph_width(&font, sign));
                assert!((wide - ctx.fonts_mut(|fonts| fonts.glyph_width(&font, 'x'))).abs() < 0.01, "{}: {sign:?}", card.name);
            }
        }
    }

    #[test]
    fn cell_labels_stand_out_at_every_heat() {
        for theme in [&DARK, &LIGHT] {
            for color in theme.families {
                for part in 0..=10 {
                    let fill = theme.shade(color, part as f32 / 10.0);
                    assert!(contrast(theme.on(fill), fill) >= 4.5, "{color:?} at {part}");
                }
                assert!(contrast(color, theme.ground) >= 3.0 && contrast(color, theme.panel) >= 3.0, "{color:?} as a line");
            }
            for ground in [theme.ground, theme.panel, theme.raised] {
                assert!(contrast(theme.text, ground) >= 7.0 && contrast(theme.weak, ground) >= 4.5);
            }
        }
    }
}
