//! Presets: whole sessions that travel inside the program, from `assets/presets/`. To add one: a file there and a line here.

/// One preset.
pub struct Preset {
    pub name: &'static str,
    pub text: &'static str,
}

macro_rules! presets {
    ($($name:literal),* $(,)?) => {
        &[$(Preset { name: $name, text: include_str!(concat!("../../assets/presets/", $name, ".petl.toml")) }),*]
    };
}

/// In the order in which they are listed; the first one opens with the window.
pub const PRESETS: &[Preset] = presets![
    "digits-lora",
    "digits-lora-all",
    "digits-probe",
    "digits-full",
    "digits-ladder",
    "emoji-lora",
    "shapes-lora",
    "lora-plus",
    "pissa",
    "dora",
    "vera",
    "adalora",
    "twin",
    "loha",
    "lokr",
    "fact-tt",
    "fact-tk",
    "oft",
    "boft",
    "houlsby",
    "pfeiffer",
    "parallel",
    "scaled-parallel",
    "adaptformer",
    "repadapter",
    "single-adapter",
    "compacter",
    "hyperformer",
    "vl-adapter-single",
    "vl-adapter-half-shared",
    "vl-adapter-multiple",
    "hyperformer-tasks",
    "vl-pet",
    "conformer",
    "p-adapter",
    "bitfit",
    "layernorm",
    "difffit",
    "ssf",
    "ia3",
    "vpt-shallow",
    "vpt-deep",
    "prefix",
    "mam",
    "unipelt",
    "shira",
    "gps",
    "lt-sft",
    "sct",
    "partial-1",
    "partial-2",
    "mixed",
];

pub fn find(name: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| preset.name == name)
}

pub fn names() -> String {
    PRESETS.iter().map(|preset| preset.name).collect::<Vec<_>>().join(", ")
}
