//! What only one method does: the tests (h) of its file in the catalogue of papers. The laws that hold for every method are
//! in `tests/laws.rs`.

#[path = "../common/mod.rs"]
mod common;

mod bottleneck;
mod lst;
mod prefix;
mod prompt;
