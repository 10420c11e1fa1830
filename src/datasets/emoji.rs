//! Emoji by kind, drawn by three vendors: one style to train on, any to test on. Embedded in the program.
//! Called through the catalogue (`datasets::CATALOG`); reads its sheets with `sheet`.
//! Must not know methods, models or tensors.

use anyhow::{Context, Result};

use super::sheet::{self, Sheet};
use super::{Card, Described, Loaded, Samples, Task, Wanted};
use crate::session::settings::{Field, Settings};

/// Unicode's groups, in short words; `examples/pack_data.rs` has the long ones.
const CLASSES: &[&str] = &["emotion", "people", "nature", "food", "place", "object", "symbol"];
const STYLES: &[&str] = &["noto", "twemoji", "fluent"];
/// `split` is the emoji's, not the picture's: what one style trains on no style tests on.
const COLUMNS: &str = "label,domain,split,code";

pub const CARD: Card = Card {
    name: "emoji",
    title: "Emoji by kind",
    help: "Emotion (faces, hearts), people, nature, food, a place, an object or a symbol? Every emoji in three vendors' styles: \
           train on one style and test on all to see what a method learns of the kind and what of the style. \
           No emoji is both trained and tested on, in any style.",
    source: "Noto Emoji (Google), Twemoji (Twitter), Fluent Emoji 3D (Microsoft), by the npm packages emoji-datasource-google, \
             emoji-datasource-twitter 16.0.0 and @lobehub/fluent-emoji-3d 1.1.0",
    licence: "Apache-2.0 (Noto), CC-BY 4.0 (Twemoji), MIT (Fluent and the packages); see assets/data/emoji/LICENSE.md",
    fields: &[
        Field::choice("train_style", STYLES, "The vendor whose drawings are trained on."),
        Field::choice(
            "test_style",
            &["all", "noto", "twemoji", "fluent"],
            "The vendor whose drawings are tested on; `all` reports each style by itself, too.",
        ),
        Field::whole("train", 10, 595, 595, "How many emoji to train on; the kinds stay in balance."),
        Field::whole("test", 10, 301, 301, "How many emoji to test on, in each style tested; the kinds stay in balance."),
    ],
    describe: |_| Ok(Described::images(CLASSES, STYLES, &[Task { name: "emoji", first: 0, classes: CLASSES.len() }])),
    load,
};

fn load(settings: &Settings, _seed: u64, _wanted: &Wanted) -> Result<Loaded> {
    let mut train = read(settings.text("train_style"), "train")?;
    train.truncate(settings.whole("train"));

    let wanted = settings.text("test_style");
    let mut test = Samples { side: sheet::SIDE, ..Samples::default() };
    for style in STYLES.iter().filter(|style| wanted == "all" || wanted == **style) {
        let mut part = read(style, "test")?;
        part.truncate(settings.whole("test"));
        test.append(&mut part);
    }
    Ok(Loaded::new(train, test))
}

/// The pictures of one style and split.
fn read(style: &str, split: &str) -> Result<Samples> {
    let (place, png, csv) = embedded(style)?;
    let sheet = Sheet { place, png, csv, columns: COLUMNS, side_in: sheet::SIDE, classes: CLASSES, domains: STYLES };
    sheet::open(&sheet, |cells| cells.get(2) == Some(&split))
}

fn embedded(style: &str) -> Result<(&'static str, &'static [u8], &'static str)> {
    match style {
        "noto" => Some((
            "assets/data/emoji/noto",
            include_bytes!("../../assets/data/emoji/noto.png").as_slice(),
            include_str!("../../assets/data/emoji/noto.csv"),
        )),
        "twemoji" => Some((
            "assets/data/emoji/twemoji",
            include_bytes!("../../assets/data/emoji/twemoji.png").as_slice(),
            include_str!("../../assets/data/emoji/twemoji.csv"),
        )),
        "fluent" => Some((
            "assets/data/emoji/fluent",
            include_bytes!("../../assets/data/emoji/fluent.png").as_slice(),
            include_str!("../../assets/data/emoji/fluent.csv"),
        )),
        _ => None,
    }
    .with_context(|| format!("emoji: no style `{style}`; one of {}", STYLES.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::settings::Value;
    use std::collections::HashMap;

    fn with(entries: &[(&str, Value)]) -> Loaded {
        let mut settings = Settings::default();
        for (name, value) in entries {
            settings.set(name, value.clone());
        }
        load(&settings.filled(CARD.fields), 1, &Wanted::all(32)).unwrap()
    }

    fn counts(samples: &Samples) -> Vec<usize> {
        (0..7).map(|class| samples.labels.iter().filter(|label| **label == class).count()).collect()
    }

    #[test]
    fn every_kind_has_the_same_number_in_every_style() {
        for style in STYLES {
            let text = Value::Text((*style).to_owned());
            let all = with(&[("train_style", text.clone()), ("test_style", text)]);
            assert_eq!(counts(&all.train), [85; 7], "{style}");
            assert_eq!(counts(&all.test), [43; 7], "{style}");
            let few = with(&[("train", Value::Whole(70)), ("test", Value::Whole(14))]);
            assert_eq!(counts(&few.train), [10; 7]);
            assert_eq!(counts(&few.test), [6; 7], "14 in each of three styles");
        }
    }

    #[test]
    fn no_emoji_is_in_both_splits_of_any_style() {
        let mut split_of = HashMap::new();
        for style in STYLES {
            let (_, _, csv) = embedded(style).unwrap();
            for line in csv.lines().skip(1) {
                let cells: Vec<&str> = line.split(',').collect();
                assert_eq!(cells[1], *style);
                let (label, split) = *split_of.entry(cells[3]).or_insert((cells[0], cells[2]));
                assert_eq!((label, split), (cells[0], cells[2]), "emoji {} in {style}", cells[3]);
            }
        }
        assert_eq!(split_of.len(), 595 + 301);
        assert!(split_of.values().all(|(_, split)| ["train", "test"].contains(split)));
    }

    #[test]
    fn the_domains_are_the_styles_asked_for() {
        let all = with(&[("train_style", Value::Text("fluent".into())), ("test", Value::Whole(10))]);
        assert!(all.train.domains.iter().all(|d| *d == 2));
        let styles: Vec<u16> = [0, 1, 2].into_iter().flat_map(|d| [d; 10]).collect();
        assert_eq!(all.test.domains, styles);
        assert!(format!("{:#}", embedded("apple").unwrap_err()).contains("no style `apple`; one of noto, twemoji, fluent"));
    }
}
