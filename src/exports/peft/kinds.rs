//! The kinds of adapter that a PEFT folder holds and this program has too: what PEFT calls each, how its tensors are named, shaped
//! and turned, and what its own settings mean here. To add one: an entry in `KINDS`. Knows no files.

use std::collections::BTreeMap;

use burn::tensor::TensorData;
use serde_json::{Value as Json, json};

use super::targets::Config;
use crate::exports::tensors;
use crate::methods::{ia3, lora, pissa};
use crate::plan::anatomy::{Role, Site};
use crate::session::settings::{Settings, Value};

/// One kind.
pub struct Kind {
    pub peft_type: &'static str,
    /// Our method.
    pub method: &'static str,
    /// Whether a configuration of this type means this kind: LoRA and DoRA share one.
    pub is: fn(&Config) -> bool,
    /// The tensors of one place.
    pub parts: fn(&Settings, &Site) -> Vec<Part>,
    /// Tensors that all places share, once at the top.
    pub shared: &'static [Part],
    /// PEFT's own fields for these settings; the flag says that every member of the stack has rsLoRA's scale.
    pub fields: fn(&Settings, bool) -> Vec<(&'static str, Json)>,
    /// Our settings for one module, or why it cannot be.
    pub settings: fn(&Config, &str, &Site) -> Result<Settings, String>,
    /// The fields of rank and strength, which `rank_pattern` and `alpha_pattern` change by module.
    pub by_module: Option<[&'static str; 2]>,
    /// Fields that are read, or that only matter in training.
    pub known: &'static [&'static str],
    /// Adds what PEFT leaves out of its file.
    pub complete: fn(&Config, &str, &Site, &mut Found) -> Result<(), String>,
}

/// The tensors of one place by our names.
pub type Found = BTreeMap<&'static str, TensorData>;

/// One tensor: our name, PEFT's behind the module's, and how PEFT keeps it.
#[derive(Clone, Copy)]
pub struct Part {
    pub ours: &'static str,
    pub theirs: &'static str,
    pub how: How,
}

/// How PEFT keeps a matrix of ours, `[rows, cols]`.
#[derive(Clone, Copy, PartialEq)]
pub enum How {
    /// `[cols, rows]`.
    Turned,
    /// One row, as `[cols]`.
    Vector,
    /// One row, standing: `[cols, 1]`.
    Column,
    Same,
    /// With the other sign.
    Minus,
    /// Upper triangles of skew matrices, row by row, as whole matrices of this side, so many rounds of them, with the other sign.
    Skew {
        side: usize,
        rounds: usize,
    },
}

const NONE: &[Part] = &[];

/// Every kind; of those that share a type, the particular ones first.
pub const KINDS: &[Kind] = &[
    Kind {
        peft_type: "LORA",
        method: "dora",
        is: |config| config.flag("use_dora"),
        parts: |_, _| [&AB[..], &[part("m", "lora_magnitude_vector", How::Vector)]].concat(),
        shared: NONE,
        fields: |set, _| {
            let mut fields = lora_fields(set.whole("rank"), set.real("alpha"), false, set);
            fields.push(("use_dora", json!(true)));
            fields
        },
        settings: |config, module, _| {
            let (rank, alpha) = rank_and_alpha(config, module, ["r", "lora_alpha"])?;
            // DoRA here has one scale, α / r; rsLoRA's is written as the α that gives it.
            let alpha = if config.flag("use_rslora") { alpha * (rank as f64).sqrt() } else { alpha };
            Ok(settings([("rank", Value::Whole(rank)), ("alpha", Value::Real(alpha))]))
        },
        by_module: Some(["r", "lora_alpha"]),
        known: LORA_KNOWN,
        complete: |_, _, _, _| Ok(()),
    },
    Kind {
        peft_type: "LORA",
        method: "lora",
        is: |config| !config.flag("use_dora"),
        parts: |_, _| AB.to_vec(),
        shared: NONE,
        fields: |set, rslora| {
            // PiSSA leaves as one change of twice the rank; where both scales occur, each strength is the one that α / r needs.
            let (r, wide) = (set.whole("rank"), rank_of(set));
            let wider = wide as f64 / r as f64;
            let alpha = if rslora { set.real("alpha") * wider.sqrt() } else { lora::scale(set) * r as f64 * wider };
            lora_fields(wide, alpha, rslora, set)
        },
        settings: |config, module, _| {
            let (rank, alpha) = rank_and_alpha(config, module, ["r", "lora_alpha"])?;
            let scaling = if config.flag("use_rslora") { RSLORA } else { "alpha / r" };
            let scaling = Value::Text(scaling.to_owned());
            Ok(settings([("rank", Value::Whole(rank)), ("alpha", Value::Real(alpha)), ("scaling", scaling)]))
        },
        by_module: Some(["r", "lora_alpha"]),
        known: LORA_KNOWN,
        complete: |_, _, _, _| Ok(()),
    },
    Kind {
        peft_type: "IA3",
        method: "ia3",
        is: |_| true,
        // Scales of inputs lie, scales of outputs stand.
        parts: |set, site| vec![part("l", "ia3_l", if ia3::scales_input(set, site) { How::Same } else { How::Column })],
        shared: NONE,
        fields: |_, _| vec![],
        settings: |config, module, site| {
            let input = config.means("feedforward_modules", module)?;
            let side = if input { "input" } else { "output" };
            Ok(match input == (site.role == Role::Down) {
                true => Settings::default(),
                false => settings([("side", Value::Text(side.to_owned()))]),
            })
        },
        by_module: None,
        known: &["feedforward_modules", "init_ia3_weights"],
        complete: |_, _, _, _| Ok(()),
    },
    Kind {
        peft_type: "LN_TUNING",
        method: "layernorm",
        is: |_| true,
        parts: |_, _| {
            let of = |ours, theirs| part(ours, theirs, How::Vector);
            vec![of("weight", "ln_tuning_layers.weight"), of("bias", "ln_tuning_layers.bias")]
        },
        shared: NONE,
        fields: |_, _| vec![],
        settings: |_, _, _| Ok(Settings::default()),
        by_module: None,
        known: &[],
        complete: |_, _, _, _| Ok(()),
    },
    Kind {
        peft_type: "VERA",
        method: "vera",
        is: |_| true,
        parts: |_, _| vec![part("d", "vera_lambda_d", How::Vector), part("b", "vera_lambda_b", How::Vector)],
        shared: &[part("A", "vera_A", How::Turned), part("B", "vera_B", How::Turned)],
        fields: |set, _| {
            vec![("r", json!(set.whole("rank"))), ("save_projection", json!(true)), ("d_initial", json!(set.real("d_initial")))]
        },
        settings: |config, _, _| {
            match config.0["save_projection"].as_bool() {
            Some(false) => Err("save_projection is false: the random pair is not in the folder, and only PyTorch can draw it again. Save it with save_projection".to_owned()),
            _ => Ok(settings([("rank", Value::Whole(config.whole("r", 256)))])),
        }
        },
        by_module: None,
        known: &["r", "save_projection", "projection_prng_key", "vera_dropout", "d_initial", "init_weights"],
        complete: |_, _, _, _| Ok(()),
    },
    Kind {
        peft_type: "LOHA",
        method: "loha",
        is: |_| true,
        parts: |_, _| {
            let of = |ours, theirs| part(ours, theirs, How::Turned);
            vec![of("A1", "hada_w1_b"), of("B1", "hada_w1_a"), of("A2", "hada_w2_b"), of("B2", "hada_w2_a")]
        },
        shared: NONE,
        fields: |set, _| vec![("r", json!(set.whole("rank"))), ("alpha", number(set.real("alpha")))],
        settings: |config, module, _| {
            let (rank, alpha) = rank_and_alpha(config, module, ["r", "alpha"])?;
            Ok(settings([("rank", Value::Whole(rank)), ("alpha", Value::Real(alpha))]))
        },
        by_module: Some(["r", "alpha"]),
        known: LYCORIS_KNOWN,
        complete: |_, _, _, _| Ok(()),
    },
    Kind {
        peft_type: "LOKR",
        method: "lokr",
        is: |_| true,
        parts: |_, _| {
            let of = |ours, theirs| part(ours, theirs, How::Turned);
            let left = [of("C", "lokr_w1"), of("C_a", "lokr_w1_b"), of("C_b", "lokr_w1_a")];
            let right = [of("D", "lokr_w2"), of("A", "lokr_w2_b"), of("B", "lokr_w2_a")];
            [left, right].concat()
        },
        shared: NONE,
        fields: |set, _| {
            let factor = set.whole("factor");
            let factor = if factor == 0 { json!(-1) } else { json!(factor) };
            vec![
                ("r", json!(set.whole("rank"))),
                ("alpha", number(set.real("alpha"))),
                ("decompose_both", json!(set.flag("decompose_both"))),
                ("decompose_factor", factor),
            ]
        },
        settings: |config, module, _| {
            let (rank, alpha) = rank_and_alpha(config, module, ["r", "alpha"])?;
            let factor = config.whole("decompose_factor", -1).max(0);
            let both = Value::Flag(config.flag("decompose_both"));
            let of = [
                ("rank", Value::Whole(rank)),
                ("alpha", Value::Real(alpha)),
                ("factor", Value::Whole(factor)),
                ("decompose_both", both),
            ];
            Ok(settings(of))
        },
        by_module: Some(["r", "alpha"]),
        known: LYCORIS_KNOWN,
        complete: |_, _, _, _| Ok(()),
    },
    Kind {
        peft_type: "OFT",
        method: "oft",
        is: |_| true,
        // PEFT's exact map is (I - Q)(I + Q)⁻¹, and its series of five terms is that of (I + Q)(I - Q)⁻¹, as here.
        parts: |set, _| vec![part("Q", "oft_R.weight", if set.text("inverse") == "five terms" { How::Same } else { How::Minus })],
        shared: NONE,
        fields: |set, _| {
            let series = set.text("inverse") == "five terms";
            let (size, share) = (json!(set.whole("block_size")), json!(set.flag("share")));
            vec![("oft_block_size", size), ("block_share", share), ("use_cayley_neumann", json!(series))]
        },
        settings: |config, _, site| {
            let series = config.0["use_cayley_neumann"].as_bool().unwrap_or(true);
            let terms = config.whole("num_cayley_neumann_terms", 5);
            if series && terms != 5 {
                return Err(format!(
                    "num_cayley_neumann_terms is {terms}; the series has 5 terms here, or use_cayley_neumann is false"
                ));
            }
            let size = match (config.whole("oft_block_size", 32), config.whole("r", 0)) {
                (0, blocks) if blocks > 0 => site.d_in as i64 / blocks,
                (size, _) => size,
            };
            let inverse = Value::Text(if series { "five terms" } else { "exact" }.to_owned());
            let share = Value::Flag(config.flag("block_share"));
            Ok(settings([("block_size", Value::Whole(size)), ("inverse", inverse), ("share", share)]))
        },
        by_module: None,
        known: &[
            "r",
            "oft_block_size",
            "module_dropout",
            "eps",
            "init_weights",
            "block_share",
            "use_cayley_neumann",
            "num_cayley_neumann_terms",
        ],
        complete: |_, _, _, _| Ok(()),
    },
    Kind {
        peft_type: "BOFT",
        method: "boft",
        is: |_| true,
        parts: |set, _| {
            let how = How::Skew { side: set.whole("block_size"), rounds: set.whole("factors") };
            vec![part("Q", "boft_R", how), part("s", "boft_s", How::Column)]
        },
        shared: NONE,
        fields: |set, _| {
            let (size, factors) = (json!(set.whole("block_size")), json!(set.whole("factors")));
            vec![("boft_block_size", size), ("boft_block_num", json!(0)), ("boft_n_butterfly_factor", factors)]
        },
        settings: |config, _, site| {
            let size = match (config.whole("boft_block_size", 4), config.whole("boft_block_num", 0)) {
                (0, blocks) if blocks > 0 => site.d_in as i64 / blocks,
                (size, _) => size,
            };
            let factors = Value::Whole(config.whole("boft_n_butterfly_factor", 1));
            Ok(settings([("block_size", Value::Whole(size)), ("factors", factors), ("scale", Value::Flag(true))]))
        },
        by_module: None,
        known: &["boft_block_size", "boft_block_num", "boft_n_butterfly_factor", "boft_dropout", "init_weights"],
        complete: |_, _, site, found| {
            found.entry("s").or_insert_with(|| TensorData::new(vec![1.0f32; site.d_out], [1, site.d_out]));
            Ok(())
        },
    },
    Kind {
        peft_type: "ADALORA",
        method: "adalora",
        is: |_| true,
        parts: |_, _| {
            let of = |ours, theirs| part(ours, theirs, How::Turned);
            vec![of("P", "lora_A"), of("Lambda", "lora_E"), of("Q", "lora_B")]
        },
        shared: NONE,
        // Every row leaves, those cut to zero too: PEFT's `rank_pattern` would only make the file smaller. It takes α / (r + 1e-5) of
        // the first rank r, also where rows were cut. A schedule must be there, or PEFT does not open the folder.
        fields: |set, _| adalora_fields(set, 1),
        settings: |config, _, _| {
            let (rows, alpha) = (config.whole("init_r", 12), config.0["lora_alpha"].as_f64().unwrap_or(8.0));
            let rank = rank_for(usize::try_from(rows).unwrap_or(0)) as i64;
            let alpha = if alpha > 0.0 { alpha } else { rows as f64 };
            Ok(settings([("rank", Value::Whole(rank)), ("scale", Value::Real(alpha / (rows as f64 + 1e-5)))]))
        },
        by_module: None,
        known: &[
            "r",
            "init_r",
            "target_r",
            "lora_alpha",
            "tinit",
            "tfinal",
            "deltaT",
            "beta1",
            "beta2",
            "orth_reg_weight",
            "total_step",
            "rank_pattern",
            "lora_dropout",
            "init_lora_weights",
            "alpha_pattern",
            "use_rslora",
            "qalora_group_size",
            "megatron_core",
        ],
        complete: grown,
    },
];

/// How a session and PEFT each call rsLoRA's scale.
pub const RSLORA: &str = "alpha / sqrt r";

const AB: [Part; 2] = [part("A", "lora_A.weight", How::Turned), part("B", "lora_B.weight", How::Turned)];
const LORA_KNOWN: &[&str] = &[
    "r",
    "lora_alpha",
    "lora_dropout",
    "use_rslora",
    "use_dora",
    "init_lora_weights",
    "rank_pattern",
    "alpha_pattern",
    "qalora_group_size",
    "megatron_core",
    "megatron_config",
    "lora_bias",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "runtime_config",
];
const LYCORIS_KNOWN: &[&str] = &[
    "r",
    "alpha",
    "rank_dropout",
    "module_dropout",
    "rank_dropout_scale",
    "init_weights",
    "rank_pattern",
    "alpha_pattern",
    "decompose_both",
    "decompose_factor",
    "use_effective_conv2d",
];
/// Fields that every kind has.
pub const COMMON: &[&str] = &[
    "peft_type",
    "task_type",
    "auto_mapping",
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "target_modules",
    "exclude_modules",
    "modules_to_save",
    "layers_to_transform",
    "layers_pattern",
    "fan_in_fan_out",
    "bias",
];

const fn part(ours: &'static str, theirs: &'static str, how: How) -> Part {
    Part { ours, theirs, how }
}

/// The rank that PEFT needs for LoRA. It adds to the original weight, where PiSSA takes its start A0 B0 from it first: as in PEFT's
/// own conversion of PiSSA, the difference leaves as one change of twice the rank.
pub fn rank_of(set: &Settings) -> usize {
    set.whole("rank") * if pissa::is_chosen(set) { 2 } else { 1 }
}

/// The smallest rank of AdaLoRA here that begins with that many rows.
fn rank_for(rows: usize) -> usize {
    2 * (rows.max(1) - 1) / 3 + 1
}

/// r₀ of AdaLoRA here.
fn first_rank(rank: usize) -> usize {
    (3 * rank).div_ceil(2)
}

/// Of AdaLoRA, with the rows of so many sites in a layer.
pub fn adalora_fields(set: &Settings, sites: usize) -> Vec<(&'static str, Json)> {
    let rows = first_rank(set.whole("rank")) * sites;
    let alpha = (set.real("scale") * (rows as f64 + 1e-5)).max(1e-9); // at 0 PEFT takes r in its place
    let rank = set.whole("rank") * sites;
    vec![("init_r", json!(rows)), ("target_r", json!(rank)), ("lora_alpha", json!(alpha)), ("total_step", json!(1))]
}

fn lora_fields(rank: usize, alpha: f64, rslora: bool, set: &Settings) -> Vec<(&'static str, Json)> {
    vec![
        ("r", json!(rank)),
        ("lora_alpha", number(alpha)),
        ("bias", json!("none")),
        ("lora_dropout", json!(set.real("dropout"))),
        ("use_rslora", json!(rslora)),
    ]
}

/// A whole number where it is one, as PEFT writes its strengths.
pub fn number(value: f64) -> Json {
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}

fn settings<const N: usize>(of: [(&str, Value); N]) -> Settings {
    Settings(of.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

/// Rank and strength of one module; PEFT's default of both is 8.
fn rank_and_alpha(config: &Config, module: &str, [rank, alpha]: [&str; 2]) -> Result<(i64, f64), String> {
    let rank = config.by_module(rank, "rank_pattern", module)?.as_i64().unwrap_or(8);
    let alpha = config.by_module(alpha, "alpha_pattern", module)?.as_f64().unwrap_or(8.0);
    Ok((rank, alpha))
}

/// AdaLoRA's matrices with the rows that PEFT cut, as zeros, and what is only of use while training.
fn grown(config: &Config, module: &str, site: &Site, found: &mut Found) -> Result<(), String> {
    let first = usize::try_from(config.whole("init_r", 12)).unwrap_or(0);
    let wanted = first_rank(rank_for(first));
    let pattern = &config.0["rank_pattern"][format!("{module}.lora_E")];
    let kept = pattern.as_array().map_or(first, |mask| mask.iter().filter(|on| on.as_bool() == Some(true)).count());
    let Some(rows) = found.get("Lambda").map(|lambda| lambda.shape().num_elements()) else { return Ok(()) };
    if rows != kept {
        return Err(format!("lora_E of `{module}` has {rows} rows, but init_r and rank_pattern leave {kept}"));
    }
    let fault = |e: anyhow::Error| e.to_string();
    for (name, lines, across) in [("P", site.d_in, true), ("Lambda", 1, true), ("Q", site.d_out, false)] {
        let Some(data) = found.get(name) else { continue };
        let values = tensors::values(name, data).map_err(fault)?;
        if values.len() != lines * rows {
            continue; // the shape is complained of later
        }
        let data = match across {
            true => {
                let line = |n: usize| values[n * rows..(n + 1) * rows].iter().copied().chain(vec![0.0; wanted - rows]);
                TensorData::new((0..lines).flat_map(line).collect::<Vec<f32>>(), [lines, wanted])
            }
            false => {
                let all = values.into_iter().chain(vec![0.0; (wanted - rows) * lines]).collect::<Vec<f32>>();
                TensorData::new(all, [wanted, lines])
            }
        };
        found.insert(name, data);
    }
    let mask = (0..wanted).map(|n| f32::from(n < rows)).collect::<Vec<f32>>();
    found.insert("mask", TensorData::new(mask, [1, wanted]));
    let lines = site.d_in + 1 + site.d_out;
    for name in ["I", "U"] {
        found.insert(name, TensorData::new(vec![0.0f32; lines * wanted], [lines, wanted]));
    }
    Ok(())
}
