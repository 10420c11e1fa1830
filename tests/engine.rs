//! The engine without a window: what the worker does when it is told to, when numbers break and when code does; and the parts
//! of a training step by themselves.

use std::path::Path;

/// The embedded weights carry the command that made them; the page beside them and the program's own page give the same one.
#[test]
fn the_weights_name_the_program_and_the_command_that_made_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read(root.join(path)).expect("a file of the repository");
    let weights = read("assets/backbones/vit-tiny-32/model.safetensors");
    let (_, header) = safetensors::SafeTensors::read_metadata(&weights).expect("a safetensors file");
    let made_by = header.metadata().as_ref().and_then(|notes| notes.get("made_by")).expect("a note").clone();
    let (program, settings) = made_by.split_once(" --").expect("a program and its settings");
    assert!(root.join(program).join("main.rs").exists(), "there is no program {program}");
    for page in ["assets/backbones/README.md", "examples/pretrain_vit_tiny/main.rs"] {
        let page = String::from_utf8(read(page)).expect("text");
        let command = page.lines().find(|line| line.contains("--example pretrain_vit_tiny")).expect("the command");
        for setting in settings.split(" --").filter(|setting| *setting != "seed 1") {
            assert!(command.contains(&format!("--{setting} ")), "`{command}` does not set {setting}");
        }
    }
}
