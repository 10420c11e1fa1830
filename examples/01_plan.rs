//! What a session implies, before anything is trained: counts, memory, problems.
//! `cargo run --release --example 01_plan`

#![expect(clippy::print_stdout, reason = "an example shows what it finds")]

use anyhow::Result;
use petl_workbench::plan::Plan;
use petl_workbench::session::{Place, file};

fn main() -> Result<()> {
    let mut session = file::find("digits-lora")?;
    let plan = Plan::of(&session);
    println!("{}: {} trainable, and {} in the head", plan.words(), plan.trainable(), plan.head_count());
    for member in &plan.members {
        println!("  {} at {} places: {} ({})", member.card.title, member.sites.len(), member.count(), member.card.count);
    }
    let bytes = plan.cost.bytes;
    println!(
        "predicted memory {:.1} MB, of it {:.1} MB saved activations",
        bytes.total() as f64 / 1e6,
        bytes.activations as f64 / 1e6
    );

    // A pattern that matches nothing is a problem, not a silent no-op.
    session.methods[0].place = Place::sites(&["blocks.40.attn.q"]);
    for problem in Plan::of(&session).problems {
        println!("problem at {}: {}", problem.place, problem.words);
    }
    Ok(())
}
