//! A stack of methods is data: LoRA below, adapters above, prompts in front. Built, planned, saved and read back.
//! `cargo run --release --example 03_stack`

#![expect(clippy::print_stdout, reason = "an example shows what it finds")]

use anyhow::Result;
use petl_workbench::plan::Plan;
use petl_workbench::plan::anatomy::Role;
use petl_workbench::session::command::Edit;
use petl_workbench::session::{Place, Value, edit, file};

fn main() -> Result<()> {
    let mut session = file::find("digits-probe")?;
    let anatomy = Plan::of(&session).anatomy;
    for method in ["lora", "bottleneck", "prompt"] {
        session =
            edit::apply(&session, &anatomy, &Edit::Add { method: method.into(), sites: None }).map_err(anyhow::Error::msg)?;
    }
    session.methods[0].place = Place { blocks: "1-3".into(), ..Place::roles(&[Role::Q, Role::V]) };
    session.methods[1].place = Place { blocks: "4-6".into(), ..Place::roles(&[Role::Mlp]) };
    session.methods[2].settings.set("tokens", Value::Whole(4));
    session.title = "Three methods".into();
    println!("{}", file::text(&session)?);
    println!("{} trainable parameters", Plan::of(&session).trainable());
    Ok(())
}
