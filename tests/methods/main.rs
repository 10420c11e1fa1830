//! What only one method does: the tests (h) of its file in the catalogue of papers. The laws that hold for every method are
//! in `tests/laws.rs`.

#[path = "../common/mod.rs"]
mod common;

mod adalora;
mod boft;
mod bottleneck;
mod compacter;
mod conformer;
mod difffit;
mod dora;
mod fact;
mod full;
mod gps;
mod hyperformer;
mod layernorm;
mod loha;
mod lokr;
mod lora;
mod lst;
mod ltsft;
mod oft;
mod padapter;
mod prefix;
mod prompt;
mod repadapter;
mod sct;
mod sparse;
mod ssf;
mod through;
mod twin;
mod unipelt;
mod vera;
mod vl_adapter;
mod vlpet;
