//! What V-PETL Bench printed: its table of VTAB-1k and its recipe by task, from `assets/published/`. Called by the suite; plain
//! numbers, knows no runs.

use serde::Serialize;

use crate::session::{Optimizer, Recipe, Schedule, Session};

const TABLE: &str = include_str!("../../assets/published/v-petl-bench.csv");
const RECIPE: &str = include_str!("../../assets/published/v-petl-bench-recipe.csv");

pub const SOURCE: &str = "V-PETL Bench (Xin et al. 2024), VTAB-1k on ViT-B/16 pretrained on ImageNet-21k";
/// What a backbone must be called here to count as theirs.
const BACKBONE: &str = "vit-b-16-in21k";

/// Their names, and how the same method is called here.
const HERE: &[(&str, &[&str])] = &[
    ("Full", &["full", "digits-full"]),
    ("Linear", &["probe", "digits-probe"]),
    ("Adapter", &["pfeiffer"]),
    ("VPT-Shallow", &["vpt-shallow", "prompt"]),
    ("VPT-Deep", &["vpt-deep"]),
    ("BitFit", &["bitfit"]),
    ("LoRA", &["lora", "digits-lora"]),
    ("AdaptFormer", &["adaptformer"]),
    ("SSF", &["ssf"]),
    ("SCT", &["sct"]),
    ("FacT", &["fact", "fact-tt", "fact-tk"]),
    ("RepAdapter", &["repadapter"]),
    ("LST", &["lst", "digits-ladder"]),
    ("GPS", &["gps"]),
];

/// One line of their table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    pub method: &'static str,
    /// Accuracy in per cent, in the order of `tasks`.
    pub accuracies: Vec<f64>,
    /// In per cent.
    pub mean: f64,
    /// Trained, without the head.
    pub parameters: f64,
    /// None for full fine-tuning.
    pub ppt: Option<f64>,
}

fn lines(text: &'static str) -> impl Iterator<Item = Vec<&'static str>> {
    text.lines().filter(|line| !line.starts_with('#')).map(|line| line.split(',').collect())
}

/// Their tasks, in the order of the table.
pub fn tasks() -> Vec<&'static str> {
    let heading = lines(TABLE).next().unwrap_or_default();
    heading.iter().skip(1).take(heading.len().saturating_sub(4)).copied().collect()
}

/// Their table; a line that cannot be read is left out (a test holds that there is none).
pub fn table() -> Vec<Row> {
    let row = |cells: Vec<&'static str>| {
        let numbers: Vec<Option<f64>> = cells.iter().skip(1).map(|cell| cell.parse().ok()).collect();
        let [accuracies @ .., mean, millions, ppt] = numbers.as_slice() else { return None };
        Some(Row {
            method: cells.first()?,
            accuracies: accuracies.iter().copied().collect::<Option<_>>()?,
            mean: (*mean)?,
            parameters: (*millions)? * 1e6,
            ppt: *ppt,
        })
    };
    lines(TABLE).skip(1).filter_map(row).collect()
}

/// Their line for what is called `name` here.
pub fn row(name: &str) -> Option<Row> {
    let (theirs, _) = HERE.iter().find(|(_, ours)| ours.contains(&name))?;
    table().into_iter().find(|row| row.method == *theirs)
}

/// Their recipe for one of their tasks. Drop-path 0.1 is theirs too, and does not exist here.
pub fn recipe(task: &str) -> Option<Recipe> {
    let line = lines(RECIPE).skip(1).find(|cells| cells.first() == Some(&task))?;
    let [_, learning_rate, weight_decay] = line.as_slice() else { return None };
    Some(Recipe {
        optimizer: Optimizer::AdamW,
        learning_rate: learning_rate.parse().ok()?,
        weight_decay: weight_decay.parse().ok()?,
        schedule: Schedule::Cosine,
        warm_up: 0.1,
        label_smoothing: 0.1,
        batch_size: 64,
        epochs: 100,
        clip_norm: 0.0,
        ..Recipe::default()
    })
}

/// Why the published numbers cannot be held against those of `sessions`; none when they can.
pub fn not_comparable<'a>(sessions: impl IntoIterator<Item = &'a Session>) -> Option<String> {
    let (mut other, tasks) = (std::collections::BTreeSet::new(), tasks());
    for session in sessions {
        if session.backbone.name != BACKBONE || session.backbone.settings.text("weights") == "random" {
            other.insert("backbone");
        }
        match recipe(&session.data.name) {
            None => {
                other.insert("data");
            }
            Some(recipe) if !tasks.contains(&session.data.name.as_str()) || !same(&recipe, &session.recipe) => {
                other.insert("recipe");
            }
            Some(_) => {}
        }
    }
    let words = other.into_iter().collect::<Vec<_>>().join(" and ");
    (!words.is_empty()).then(|| format!("not comparable: other {words}"))
}

/// How often the loss is read back is no part of a recipe.
fn same(one: &Recipe, other: &Recipe) -> bool {
    Recipe { report_every: 1, ..one.clone() } == Recipe { report_every: 1, ..other.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::{PPT_C, ppt};
    use crate::methods;
    use crate::session::{Choice, VERSION, presets};
    use crate::suite::{METHODS, PROBE};

    #[test]
    fn the_table_is_whole_and_its_means_are_the_means() {
        assert_eq!((tasks().len(), table().len()), (19, 20));
        assert_eq!((tasks()[0], tasks()[18]), ("cifar", "snorb-ele"));
        for row in table() {
            assert_eq!(row.accuracies.len(), 19, "{}", row.method);
            let mean = row.accuracies.iter().sum::<f64>() / 19.0;
            assert!((mean - row.mean).abs() < 0.0051, "{}: {mean} and {}", row.method, row.mean);
        }
    }

    #[test]
    fn the_printed_ppt_comes_out_of_the_printed_numbers() {
        let mut exact = 0;
        for row in table() {
            let Some(printed) = row.ppt else {
                assert_eq!(row.method, "Full");
                continue;
            };
            let ours = ppt(row.mean / 100.0, row.parameters as usize, PPT_C);
            let apart = ((ours * 100.0).round() - (printed * 100.0).round()).abs(); // in the table's last digit
            assert!(apart <= 1.0, "{}: {ours} and {printed}", row.method);
            exact += usize::from(apart == 0.0);
        }
        assert_eq!(exact, 16, "of 19");
    }

    #[test]
    fn every_published_task_has_a_recipe_and_others_have_none() {
        for task in tasks() {
            let recipe = recipe(task).expect("a recipe");
            assert!(recipe.learning_rate > 0.0 && recipe.epochs == 100, "{task}");
        }
        let cifar = recipe("cifar").expect("a recipe");
        assert_eq!((cifar.learning_rate, cifar.weight_decay), (0.01, 1.0));
        assert_eq!(recipe("digits"), None);
    }

    #[test]
    fn methods_are_found_by_their_names_here() {
        assert_eq!(row("lora").map(|r| r.method), Some("LoRA"));
        assert_eq!(row("probe").map(|r| r.parameters), Some(0.0));
        assert_eq!(row("houlsby"), None);
        let known: Vec<_> = table().iter().map(|r| r.method).collect();
        assert!(HERE.iter().all(|(theirs, _)| known.contains(theirs)));
        for name in HERE.iter().flat_map(|(_, ours)| *ours) {
            let here = *name == PROBE || methods::find(name).is_some() || presets::find(name).is_some();
            assert!(here, "`{name}` is neither a method nor a preset");
        }
        assert!(METHODS.iter().all(|name| row(name).is_some()), "what runs by itself stands in the table");
    }

    #[test]
    fn only_their_backbone_data_and_recipe_are_comparable() {
        let session = |backbone: &str, data: &str, recipe: Recipe| Session {
            petl: VERSION,
            title: String::new(),
            seed: 0,
            device: "cpu".into(),
            backbone: Choice::named(backbone),
            data: Choice::named(data),
            task: Choice::named("classify"),
            recipe,
            methods: vec![],
        };
        let theirs = recipe("dtd").expect("a recipe");
        assert_eq!(not_comparable(&[session(BACKBONE, "dtd", theirs.clone())]), None);
        let words = |s: Session| not_comparable(&[s]).unwrap_or_default();
        assert_eq!(words(session("vit-tiny-32", "digits", Recipe::default())), "not comparable: other backbone and data");
        assert_eq!(words(session(BACKBONE, "dtd", Recipe { epochs: 5, ..theirs.clone() })), "not comparable: other recipe");
        assert_eq!(words(session("vit-tiny-32", "dtd", theirs)), "not comparable: other backbone");
    }
}
