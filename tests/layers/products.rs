//! Changes that are products of two matrices, entry by entry (LoHa) or block by block (LoKr), against PEFT.

use petl_workbench::plan::anatomy::Role;
use petl_workbench::session::Value;

use crate::fixture::{Case, How, TURNED};

#[test]
fn loha_is_pefts() {
    let settings = [("rank", Value::Whole(3)), ("alpha", Value::Real(5.0))];
    let params =
        [("A1", "hada_w1_b", TURNED), ("B1", "hada_w1_a", TURNED), ("A2", "hada_w2_b", TURNED), ("B2", "hada_w2_a", TURNED)];
    Case { fixture: "loha", method: "loha", role: Role::Q, settings: &settings, params: &params, constants: &[] }.holds();
}

const C: (&str, &str, How) = ("C", "lokr_w1", TURNED);
const C_A: (&str, &str, How) = ("C_a", "lokr_w1_b", TURNED);
const C_B: (&str, &str, How) = ("C_b", "lokr_w1_a", TURNED);
const D: (&str, &str, How) = ("D", "lokr_w2", TURNED);
const A: (&str, &str, How) = ("A", "lokr_w2_b", TURNED);
const B: (&str, &str, How) = ("B", "lokr_w2_a", TURNED);

#[track_caller]
fn lokr(fixture: &str, rank: i64, more: &[(&str, Value)], params: &[(&str, &str, How)]) {
    let settings = [&[("rank", Value::Whole(rank)), ("alpha", Value::Real(3.0))], more].concat();
    Case { fixture, method: "lokr", role: Role::Q, settings: &settings, params, constants: &[] }.holds();
}

#[test]
fn lokr_is_pefts() {
    lokr("lokr", 2, &[], &[C, A, B]);
}

#[test]
fn lokr_keeps_a_block_whole_where_peft_does() {
    lokr("lokr-whole", 8, &[], &[C, D]);
}

#[test]
fn lokr_makes_both_blocks_low_rank_where_peft_does() {
    lokr("lokr-both", 1, &[("decompose_both", Value::Flag(true))], &[C_A, C_B, A, B]);
}

#[test]
fn lokr_cuts_widths_as_peft_does() {
    lokr("lokr-factor", 2, &[("factor", Value::Whole(2))], &[C, A, B]);
}
