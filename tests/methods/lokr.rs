//! LoKr: the structured pass is the explicit Kronecker product, for every way of cutting.

use petl_workbench::methods::lokr;
use petl_workbench::plan::anatomy::Role;
use petl_workbench::session::settings::{Settings, Value};
use petl_workbench::session::{Place, Placed};

use crate::common::{apart, change, folded, logits, placed, session, set, shaken, toy, values};

fn everywhere(settings: Settings) -> Placed {
    let roles = [Role::Q, Role::K, Role::V, Role::O, Role::Up, Role::Down];
    Placed { place: Place::roles(&roles), ..placed(&lokr::CARD, settings) }
}

fn ways() -> Vec<Settings> {
    let whole = |name: &'static str, v| (name, Value::Whole(v));
    vec![
        set(&[]),                                                                            // both blocks whole on the toy
        set(&[whole("rank", 1)]),                                                            // right block low-rank
        set(&[whole("rank", 1), ("decompose_both", Value::Flag(true))]),                     // both low-rank
        set(&[whole("factor", 2), whole("rank", 2), ("alpha", Value::Real(5.0))]),           // unlike sides, a scale
        set(&[whole("factor", 5), whole("rank", 2), ("decompose_both", Value::Flag(true))]), // 5 divides nothing: 4
    ]
}

#[test]
fn the_change_is_the_explicit_kronecker_product() {
    for settings in ways() {
        let model = shaken(&session(vec![everywhere(settings.clone())]), 0.5);
        let filled = settings.filled(lokr::CARD.fields);
        let s = (filled.real("alpha") / filled.whole("rank") as f64) as f32;
        for (site, d_in, d_out) in [("blocks.0.attn.q", 24, 24), ("blocks.1.mlp.up", 24, 48), ("blocks.0.mlp.down", 48, 24)] {
            let ((u_in, v_in), (u_out, v_out)) =
                (lokr::cut(d_in, filled.whole("factor")), lokr::cut(d_out, filled.whole("factor")));
            let block = |whole: &str, a: &str, b: &str, cols: usize| {
                let key = |name: &str| format!("0.lokr/{site}/{name}");
                if model.bag.params.contains_key(&key(whole)) {
                    return values(&model, &key(whole));
                }
                let (a, b) = (values(&model, &key(a)), values(&model, &key(b)));
                let r = b.len() / cols;
                (0..a.len() / r * cols)
                    .map(|n| (0..r).map(|k| a[n / cols * r + k] * b[k * cols + n % cols]).sum())
                    .collect::<Vec<f32>>()
            };
            let (c, d) = (block("C", "C_a", "C_b", u_out), block("D", "A", "B", v_out));
            assert_eq!((c.len(), d.len()), (u_in * u_out, v_in * v_out));
            let expected: Vec<f32> = (0..d_in * d_out)
                .map(|n| (n / d_out, n % d_out))
                .map(|(i, j)| c[i / v_in * u_out + j / v_out] * d[i % v_in * v_out + j % v_out] * s)
                .collect();
            assert!(apart(&change(&model, site), &expected) < 1e-5, "{site} {settings:?}");
        }
        assert!(apart(&logits(&model), &logits(&folded(&model))) < 1e-4, "{settings:?}");
        assert!(apart(&logits(&model), &logits(&toy(&session(vec![])))) > 1e-2, "{settings:?}: nothing changed");
    }
}

#[test]
fn widths_are_cut_as_equation_5_says() {
    for ((d, factor), parts) in [
        ((768, 0), (24, 32)),
        ((3072, 0), (48, 64)),
        ((256, 0), (16, 16)),
        ((127, 0), (1, 127)),
        ((128, 4), (4, 32)),
        ((768, 8), (8, 96)),
        ((768, 7), (6, 128)),
        ((96, 48), (8, 12)), // never the larger part
    ] {
        assert_eq!(lokr::cut(d, factor), parts, "{d} by {factor}");
    }
}
