//! What only one method does: the tests (h) of its file in the catalogue of papers. The laws that hold for every method are
//! in `tests/laws.rs`.

#[path = "../common/mod.rs"]
mod common;

mod bottleneck;
mod compacter;
mod conformer;
mod difffit;
mod hyperformer;
mod layernorm;
mod lst;
mod prefix;
mod ssf;
mod through;
mod vlpet;
