//! methods/06 (h) 2, generated adapters.

use petl_workbench::engine::model::Model;
use petl_workbench::methods::hyperformer;
use petl_workbench::plan::anatomy::Role;
use petl_workbench::session::Place;
use petl_workbench::session::settings::Settings;

use crate::common::{placed, session, toy};
use crate::through::{at, gap, put, shake, through, values};

const SITES: [&str; 4] = ["blocks.0.attn", "blocks.0.mlp", "blocks.1.attn", "blocks.1.mlp"];

/// The places whose adapter changes when the parameter `name` does.
fn moved_by(name: &str) -> Vec<&'static str> {
    let fresh = || {
        let mut model = toy(&session(vec![placed(&hyperformer::CARD, Settings::default())]));
        shake(&mut model, 0.3);
        model
    };
    let (before, mut after) = (fresh(), fresh());
    let key = format!("0.hyperformer/all/{name}");
    let old = after.bag.params[&key].clone().inner();
    let more = values(old.dims(), 0.9, &after);
    put(&mut after.bag, &key, old + more);
    let answer = |model: &Model, site| {
        let (x, y) = (values([2, 5, 24], 0.1, model), values([2, 5, 24], 0.2, model));
        through(model, site, &x, &y)
    };
    SITES.into_iter().filter(|site| gap(answer(&before, site), answer(&after, site)) > 0.0).collect()
}

#[test]
fn an_embedding_moves_its_own_places_and_a_generator_all() {
    assert_eq!(moved_by("layer_0"), ["blocks.0.attn", "blocks.0.mlp"]);
    assert_eq!(moved_by("layer_1"), ["blocks.1.attn", "blocks.1.mlp"]);
    assert_eq!(moved_by("place_attn"), ["blocks.0.attn", "blocks.1.attn"]);
    assert_eq!(moved_by("place_mlp"), ["blocks.0.mlp", "blocks.1.mlp"]);
    for name in ["task", "M_1", "M_2_bias", "norm", "G_W_dn", "G_W_dn_bias", "G_b_dn", "G_W_up", "G_b_up", "G_gamma", "G_beta"] {
        assert_eq!(moved_by(name), SITES, "{name}");
    }
}

#[test]
fn everything_is_shared_and_a_layer_without_adapters_has_no_embedding() {
    let place = Place { blocks: "2".into(), ..Place::roles(&[Role::Mlp]) };
    let model = toy(&session(vec![at(&hyperformer::CARD, Settings::default(), place)]));
    let keys: Vec<_> = model.bag.params.keys().filter(|k| !k.starts_with("head/")).collect();
    assert!(keys.iter().all(|k| k.starts_with("0.hyperformer/all/")), "{keys:?}");
    let embeddings: Vec<_> = keys.iter().filter(|k| k.contains("layer_") || k.contains("place_")).collect();
    assert_eq!(embeddings, [&"0.hyperformer/all/layer_1", &"0.hyperformer/all/place_mlp"]);
}
