//! methods/12, SSF.

use petl_workbench::engine::tuner::Tuner;
use petl_workbench::methods::ssf;
use petl_workbench::plan::anatomy::Role;
use petl_workbench::session::Place;
use petl_workbench::session::settings::Settings;

use crate::common::{apart, logits, placed, session, toy};
use crate::through::{at, gap, list, on_b16, put, set, shake, text, through, values};

#[test]
fn it_stands_behind_every_operation_of_the_paper() {
    let plan = on_b16(vec![placed(&ssf::CARD, Settings::default())]);
    let places = &plan.members[0].placements;
    assert_eq!(places.len(), 1 + 12 * 8 + 1, "patches, eight operations a block, the last norm");
    assert!(["embed", "norm", "blocks.11.mlp.up"].iter().all(|path| places.iter().any(|p| p.site == *path)));
}

#[test]
fn it_scales_and_shifts() {
    let mut model = toy(&session(vec![placed(&ssf::CARD, Settings::default())]));
    let (gamma, beta) = (values([1, 24], 0.1, &model), values([1, 24], 0.2, &model));
    put(&mut model.bag, "0.ssf/blocks.0.attn.q/gamma", gamma.clone());
    put(&mut model.bag, "0.ssf/blocks.0.attn.q/beta", beta.clone());
    let (x, y) = (values([2, 5, 24], 0.3, &model), values([2, 5, 24], 0.4, &model));
    let wanted = y.clone() * gamma.unsqueeze::<3>() + beta.unsqueeze::<3>();
    assert!(gap(through(&model, "blocks.0.attn.q", &x, &y), wanted) < 1e-6);
}

#[test]
fn it_starts_exactly_or_as_the_released_code() {
    let frozen = logits(&toy(&session(vec![])));
    assert_eq!(logits(&toy(&session(vec![placed(&ssf::CARD, Settings::default())]))), frozen);
    let released = toy(&session(vec![placed(&ssf::CARD, set(&[("start", text("as released"))]))]));
    assert!(apart(&logits(&released), &frozen) > 1e-4);
    let all = |name: &str, centre: f32| {
        let of_name = released.bag.params.iter().filter(|(key, _)| key.ends_with(name));
        let drawn: Vec<f32> = of_name.flat_map(|(_, value)| list(value.clone())).map(|v| v - centre).collect();
        let count = drawn.len() as f32;
        (drawn.iter().sum::<f32>() / count, (drawn.iter().map(|v| v * v).sum::<f32>() / count).sqrt())
    };
    for (name, centre) in [("/gamma", 1.0), ("/beta", 0.0)] {
        let (mean, deviation) = all(name, centre);
        assert!(mean.abs() < 3e-3 && (deviation - 0.02).abs() < 3e-3, "{name}: {centre} + {mean}, {deviation}");
    }
}

#[test]
fn the_embedding_folds_exactly_though_positions_join_behind_it() {
    let mut model = toy(&session(vec![at(&ssf::CARD, Settings::default(), Place::roles(&[Role::Embed]))]));
    shake(&mut model, 0.5);
    let unfolded = logits(&model);
    let bag = model.bag.frozen();
    let tuner = Tuner::new(&model.plan, &model.weights, &bag, None);
    let site = model.plan.anatomy.site("embed").expect("the embedding");
    let folded: Vec<_> = site.parts.iter().map(|p| (format!("embed.{}", p.name), tuner.folded(site, p.name))).collect();
    let mut plain = toy(&session(vec![]));
    assert!(apart(&unfolded, &logits(&plain)) > 1e-2, "the shift must be seen");
    for (name, value) in folded {
        if name.ends_with("cls") || name.ends_with("pos") {
            assert_eq!(list(value.clone()), list(plain.weights[&name].clone()), "{name} is not scaled");
        }
        plain.weights.insert(name, value);
    }
    assert!(apart(&unfolded, &logits(&plain)) < 1e-5);
}
