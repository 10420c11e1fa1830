//! Methods on these networks.

use super::*;

/// Every method of the catalogue trains on a network of stages or says in words why it does not stand there, and one that folds
/// gives the same folded: what fills windows up is then seen as the method would have made it.
#[test]
fn on_a_swin_every_method_stands_or_is_refused_in_words() {
    let (mut refused, mut still, mut strange, mut folds) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for card in methods::CATALOG {
        for settings in ways(card.fields) {
            for (name, side) in [("swin", 20), ("swin-odd", 0)] {
                let words = format!("{name}: {} {settings:?}", card.name);
                let stack = vec![common::placed(card, settings.clone())];
                let session = Session { backbone: choice(&fixture(name), side), ..common::session(stack) };
                let mut problems = Vec::new();
                let opened = backbones::open(&session.backbone).expect("the folder opens");
                let plan = Plan::on(&session, opened.network.anatomy(), 3, &mut problems);
                if plan.members.is_empty() {
                    assert!(problems.iter().any(|problem| problem.words.len() > 40), "{words}: {problems:?}");
                    refused.push((settings.0.is_empty(), card.name));
                    continue;
                }
                let device = Device::flex();
                let weights = (opened.weights)(0, &device).expect("weights");
                let Ok(mut bag) = Bag::make(&plan, &weights, 3, &device) else { continue }; // it wants something measured
                for (n, param) in bag.params.values_mut().enumerate() {
                    let dims = param.dims();
                    let noise = TensorData::new(common::numbers(dims.iter().product(), n as f32), dims);
                    let moved = param.clone().inner() + Tensor::from_data(noise, &device) * 0.1;
                    *param = moved.autodiff().require_grad();
                }
                let model = Model { plan, backbone: opened.network, weights, bag, device, names: None };
                let side = model.plan.anatomy.side();
                let pixels = TensorData::new(common::numbers(2 * 3 * side * side, 0.5), [2, 3, side, side]);
                let pixels = || Tensor::<4>::from_data(pixels.clone(), &model.device);
                let logits = model.logits(&model.bag, pixels(), None);
                let ours = host(logits.clone()).expect("logits");
                let moved = model.bag.gradients((logits.square()).sum().backward());
                let dead =
                    moved.values().filter(|g| host((*g).clone().abs().sum().unsqueeze::<2>()).expect("a sum")[0] == 0.0).count();
                if moved.is_empty() || dead == moved.len() || ours.iter().any(|v| !v.is_finite()) {
                    still.push(words.clone());
                }
                if (petl_workbench::exports::merged::CARD.fits)(&model.plan).is_ok() {
                    let folded = folded(&model, &session);
                    let apart = apart(&host(folded.logits(&folded.bag, pixels(), None)).expect("logits"), &ours);
                    folds += 1;
                    if apart > 1e-4 {
                        strange.push(format!("{words}: {apart:e}"));
                    }
                }
            }
        }
    }
    refused.dedup();
    let by_default = |default| refused.iter().filter(|(is, _)| *is == default).map(|(_, name)| *name).collect::<Vec<_>>();
    let wholly = ["fact", "hyperformer", "padapter", "prompt", "prefix", "lst"];
    assert_eq!(by_default(true), wholly);
    let also: Vec<_> = by_default(false).into_iter().filter(|name| !wholly.contains(name)).collect();
    assert_eq!(also, ["bottleneck"], "one adapter for layers of several widths");
    assert!(still.is_empty(), "no gradient: {still:#?}");
    assert!(folds >= 50 && strange.is_empty(), "{strange:#?} of {folds}");
}

/// The network of `model` with its stack folded into the weights, and its head.
pub fn folded(model: &Model, session: &Session) -> Model {
    let frozen = model.bag.frozen();
    let tuner = Tuner::new(&model.plan, &model.weights, &frozen, None);
    let mut weights = model.weights.clone();
    for site in &model.plan.anatomy.sites {
        for part in &site.parts {
            weights.insert(format!("{}.{}", site.path, part.name), tuner.folded(site, part.name));
        }
    }
    let session = Session { methods: vec![], ..session.clone() };
    let plan = Plan::on(&session, model.plan.anatomy.clone(), 3, &mut vec![]);
    let head = frozen.params.iter().filter(|(key, _)| key.starts_with("head/"));
    let bag = Bag { params: head.map(|(key, value)| (key.clone(), value.clone())).collect(), ..Bag::default() };
    Model { plan, backbone: model.backbone.clone(), weights, bag, device: model.device.clone(), names: None }
}

/// Every method leaves the order alone: what follows a token changes nothing at it. But for those that the papers let read the whole
/// text: gates that take its mean, and the Conformer adapter's convolution.
#[test]
fn no_method_lets_a_decoder_look_ahead() {
    let (mut stood, mut ahead) = (0, Vec::new());
    for (name, card) in ["llama", "gpt2"].into_iter().flat_map(|name| methods::CATALOG.iter().map(move |card| (name, card))) {
        for settings in ways(card.fields) {
            let words = format!("{name}: {} {settings:?}", card.name);
            let set = settings.filled(card.fields);
            let gate =
                set.0.get("gate").is_some_and(|gate| matches!(gate, Value::Flag(true)) || *gate == Value::Text("small".into()));
            let whole = card.name == "conformer" || gate;
            let Some(model) = shaken(&fixture(name), card, settings) else { continue };
            let of = |ids: &[u32]| {
                let text = Text {
                    length: ids.len(),
                    kinds: vec![0; ids.len()],
                    ids: ids.to_vec(),
                    seen: vec![true; ids.len()],
                    device: Device::flex(),
                };
                host(model.features(&model.bag.frozen(), Input::Text(text), None)).expect("features")
            };
            let (short, long) = (of(&[7, 21, 9]), of(&[7, 21, 9, 33, 40, 12]));
            let apart = apart(&long[..short.len()], &short);
            if (apart > 1e-4) != whole {
                ahead.push(format!("{words}: {apart:e}"));
            }
            stood += 1;
        }
    }
    assert!(stood >= 120 && ahead.is_empty(), "{ahead:?} of {stood} ways");
}

/// The default settings, and each with one flag or one choice turned.
pub fn ways(fields: &[Field]) -> Vec<Settings> {
    let mut all = vec![Settings::default()];
    for field in fields {
        let values = match field.kind {
            Kind::Flag(default) => vec![Value::Flag(!default)],
            Kind::Choice(words) => words[1..].iter().map(|word| Value::Text((*word).to_owned())).collect(),
            _ => vec![],
        };
        all.extend(values.into_iter().map(|value| Settings([(field.name.to_owned(), value)].into())));
    }
    all
}

#[test]
fn padding_changes_nothing_for_any_method() {
    let (mut stood, mut changed) = (0, Vec::new());
    let ways = methods::CATALOG.iter().flat_map(|card| ways(card.fields).into_iter().map(move |set| (card, set)));
    for (name, (card, settings)) in
        ways.flat_map(|way| ["bert", "llama", "gpt2", "t5", "t5-gated"].map(|name| (name, way.clone())))
    {
        let words = format!("{name}: {} {settings:?}", card.name);
        let Some(model) = shaken(&fixture(name), card, settings) else { continue };
        let apart = apart(&filled_up(&model, 9), &filled_up(&model, 5));
        if apart > 1e-4 {
            changed.push(format!("{words}: {apart:e}"));
        }
        stood += 1;
    }
    assert!(stood >= 180 && changed.is_empty(), "{changed:?} of {stood} ways");
}

/// Logits of a text of five tokens in a batch so long.
fn filled_up(model: &Model, length: usize) -> Vec<f32> {
    let mut ids = vec![7, 21, 9, 33, 40];
    let seen = (0..length).map(|n| n < ids.len()).collect();
    ids.resize(length, 0);
    let text = Text { length, kinds: vec![0; length], ids, seen, device: model.device.clone() };
    host(model.logits(&model.bag.frozen(), Input::Text(text), None)).expect("logits")
}

#[test]
fn a_decoder_block_has_two_attentions_that_are_told_apart() {
    let anatomy = backbones::open(&choice(&fixture("t5"), 0)).expect("opens").network.anatomy();
    let site = |path: &str| anatomy.site(path).unwrap_or_else(|| panic!("{path}"));
    let path = |site: Option<&Site>| site.map(|s| s.path.clone()).unwrap_or_default();
    assert_eq!(path(anatomy.beside(site("blocks.2.cross"), Role::K)), "blocks.2.cross.k");
    assert_eq!(path(anatomy.beside(site("blocks.2.cross.q"), Role::O)), "blocks.2.cross.o");
    assert_eq!(path(anatomy.beside(site("blocks.2.attn"), Role::K)), "blocks.2.attn.k");
    assert_eq!(path(anatomy.beside(site("blocks.2.mlp"), Role::Mid)), "blocks.2.mid");
    assert_eq!(path(anatomy.read_by(site("blocks.2.cross.q"))), "blocks.2.cross");
    assert_eq!(path(anatomy.read_by(site("blocks.2.cross.k"))), "", "it reads what the encoder made");
    assert_eq!(path(anatomy.read_by(site("blocks.2.attn.k"))), "blocks.2.attn");
    assert_eq!(path(anatomy.last_behind(0)), "blocks.1", "where the encoder ends");
    assert_eq!(path(anatomy.last_behind(2)), "blocks.3");
    assert!(anatomy.places().contains(&"cross-attention"));
    assert!(anatomy.cell("cross-attention", 0).is_none() && anatomy.cell("cross-attention", 2).is_some());
}

/// Each stands in it and learns at every place, or says in words why not.
#[test]
fn every_method_learns_in_an_encoder_decoder_or_says_why_not() {
    let (mut stood, mut refused, mut faults) = (0, Vec::new(), Vec::new());
    let ways = methods::CATALOG.iter().flat_map(|card| ways(card.fields).into_iter().map(move |set| (card, set)));
    for (name, (card, settings)) in ways.flat_map(|way| BOTH.map(|name| (name, way.clone()))) {
        let words = format!("{name}: {} {settings:?}", card.name);
        let session =
            Session { backbone: choice(&fixture(name), 0), ..common::session(vec![common::placed(card, settings.clone())]) };
        let plan = Plan::of_anatomy(&session, backbones::open(&session.backbone).expect("opens").network.anatomy());
        let said = plan.problems.iter().find(|problem| problem.place.starts_with("methods[0]") && problem.remedy.is_some());
        if let Some(problem) = said {
            assert!(problem.words.contains(card.title), "{words}: {}", problem.words);
            refused.push(format!("{words}: {}", problem.words));
            continue;
        }
        let Some(model) = shaken(&fixture(name), card, settings) else { continue }; // what wants something measured first
        let expected = Tensors::open(&fixture(name).join("expected.safetensors")).expect("expected values");
        let logits = model.logits(&model.bag, Input::Text(text(&expected, 9)), Some(1));
        let loss = (logits.clone() * logits).sum();
        let gradients = model.bag.gradients(loss.backward());
        for key in model.bag.params.keys() {
            let size = gradients.get(key).map_or(0.0, |g| g.clone().square().sum().into_scalar::<f32>());
            if !size.is_finite() || size == 0.0 {
                faults.push(format!("{words}: {key} {size}"));
            }
        }
        stood += 1;
    }
    assert!(faults.is_empty(), "{faults:#?}");
    assert!(stood >= 110, "{stood} stood; refused: {refused:#?}");
    assert!(refused.iter().any(|words| words.contains("a bias of each distance joins their scores")), "{refused:#?}");
}

/// The same at the decoder's attention to the encoder alone, with prompts on the decoder's side beside them, which the encoder has not.
#[test]
fn what_stands_in_cross_attention_does_not_see_padding() {
    let (mut stood, mut changed) = (Vec::new(), Vec::new());
    for name in BOTH {
        let anatomy = backbones::open(&choice(&fixture(name), 0)).expect("opens").network.anatomy();
        let first = anatomy.decoder().expect("a decoder");
        for card in methods::CATALOG {
            let fits = |site: &&Site| site.crosses() && card.roles.contains(&site.role);
            let sites: Vec<&str> = anatomy.sites.iter().filter(fits).map(|s| s.path.as_str()).collect();
            if sites.is_empty() {
                continue;
            }
            let method = Placed { place: Place::sites(&sites), ..common::placed(card, Settings::default()) };
            let blocks = format!("{}-{}", first + 1, anatomy.blocks);
            let prompts = Placed {
                place: Place { blocks, ..Place::roles(&[Role::Block]) },
                ..common::with(&methods::prompt::CARD, &[("depth", Value::Text("deep".into())), ("tokens", Value::Whole(3))])
            };
            // A convolution's neighbours are other ones where padding stands between the tokens and the prompts.
            let stacks =
                if card.name == "conformer" { vec![vec![method]] } else { vec![vec![method.clone()], vec![prompts, method]] };
            for stack in stacks {
                let words = format!("{name}: {} in a stack of {}", card.name, stack.len());
                let Some(model) = shaken_stack(&fixture(name), stack) else { continue };
                let apart = apart(&filled_up(&model, 9), &filled_up(&model, 5));
                if apart > 1e-4 || apart.is_nan() {
                    changed.push(format!("{words}: {apart:e}"));
                }
                stood.push(words);
            }
        }
    }
    assert!(changed.is_empty(), "{changed:#?}");
    assert!(stood.iter().filter(|words| words.contains(": padapter")).count() == 4, "{stood:#?}");
    assert!(stood.len() >= 80, "{}: {stood:#?}", stood.len());
}

/// p-adapter in cross-attention: the map that it works out is the network's own, and with p = 2 a step is plain smoothing,
/// (A F_v + μ F_q) / (1 + μ).
#[test]
fn p_adapter_passes_messages_on_the_map_of_cross_attention() {
    let at = |path: &str| format!("blocks.2.cross{path}");
    let place = Place::sites(&["blocks.2.cross"]);
    let stack = vec![Placed { place, ..common::with(&methods::padapter::CARD, &[("p", Value::Real(2.0))]) }];
    let mut model = shaken_stack(&fixture("t5"), stack).expect("it stands");
    let key = |name: &str| format!("0.padapter/blocks.2.cross/{name}");
    for (name, value) in [("p", 2.0), ("theta", 0.0)] {
        common::put(&mut model, &key(name), vec![value]);
    }
    let bag = model.bag.frozen();
    let mut tuner = Tuner::new(&model.plan, &model.weights, &bag, None);
    tuner.watched = [".q", ".k", ".v", ".o", ""].map(|path| (at(path), None)).into();
    let ids = [7, 21, 9, 33, 40, 12];
    let text = Text { length: 6, kinds: vec![0; 6], ids: ids.to_vec(), seen: vec![true; 6], device: model.device.clone() };
    let input = Input::Text(text);
    tuner.look(&input);
    model.backbone.forward(&mut tuner, input);
    let left = |path: &str| tuner.watched[&at(path)].clone().expect("it came by");

    let split = |x: Tensor<3>| {
        let [batch, positions, width] = x.dims();
        x.reshape([batch, positions, 4, width / 4]).swap_dims(1, 2)
    };
    let joined = |x: Tensor<4>| x.swap_dims(1, 2).flatten::<3>(2, 3);
    let a = activation::softmax(split(left(".q")).matmul(split(left(".k")).swap_dims(2, 3)), 3);
    let o = model.weights.matrix(&at(".o.weight")).expect("o").unsqueeze::<3>();
    let h = joined(a.clone().matmul(split(left(".v")))).matmul(o.clone());
    assert!(apart(&host(left(".o")).expect("h"), &host(h.clone()).expect("h")) < 1e-4, "the map is the network's own");

    let of = |name: &str| bag.params[&key(name)].clone().unsqueeze::<3>();
    let features = |x: Tensor<3>| split(x.matmul(o.clone()).matmul(of("W_i")) + of("b_i"));
    let mu = 0.2; // 2 μ0
    let f = joined((a.matmul(features(left(".v"))) + features(left(".q")) * mu) / (1.0 + mu));
    let gate = activation::gelu(h.clone().matmul(of("W_g")) + of("b_g"));
    let y = h + (gate * f).matmul(of("W_o")) + of("b_o");
    let apart = apart(&host(left("")).expect("y"), &host(y).expect("y"));
    assert!(apart < 1e-4, "{apart:e}");
}

/// What is folded into the weights gives what it gives beside them, both sides of the network.
#[test]
fn changes_fold_into_an_encoder_decoder() {
    let mut folds = Vec::new();
    for (name, card) in BOTH.into_iter().flat_map(|name| methods::CATALOG.iter().map(move |card| (name, card))) {
        let Some(mut model) = shaken(&fixture(name), card, Settings::default()) else { continue };
        if merged::fits(&model.plan).is_err() {
            continue;
        }
        let beside = filled_up(&model, 7);
        for (part, data) in merged::folded(&model).expect("folded") {
            model.weights.insert(part, Tensor::from_data(data, &model.device));
        }
        let session = Session { backbone: choice(&fixture(name), 0), ..common::session(vec![]) };
        model.plan = Plan::on(&session, model.backbone.anatomy(), 3, &mut vec![]);
        let apart = apart(&filled_up(&model, 7), &beside);
        assert!(apart < 1e-4, "{name}: {}: {apart:e}", card.name);
        folds.push(card.name);
    }
    assert!(["lora", "dora", "difffit", "ia3"].iter().all(|name| folds.contains(name)), "{folds:?}");
}

#[test]
fn what_cannot_leave_an_encoder_decoder_says_why() {
    let model = shaken(&fixture("t5"), &methods::lora::CARD, Settings::default()).expect("it stands");
    let words = (exports::find("adapterhub").expect("an export").fits)(&model.plan).expect_err("no place for the head");
    assert!(words.contains("not on"), "{words}");
    for form in ["petl", "merged", "peft", "transformers"] {
        assert_eq!((exports::find(form).expect("an export").fits)(&model.plan), Ok(()), "{form}");
    }
    let naming = model.plan.anatomy.dialects[0];
    let module = |path: &str| naming.module_of(&model.plan.anatomy, model.plan.anatomy.site(path).expect(path));
    assert_eq!(module("blocks.3.cross.q").as_deref(), Some("transformer.decoder.block.1.layer.1.EncDecAttention.q"));
    assert_eq!(module("blocks.1.attn.q").as_deref(), Some("transformer.encoder.block.1.layer.0.SelfAttention.q"));
}

/// AdapterHub's `original_ln_before` on BERT: the adapter reads the norm of the sum and adds to the branch before it.
#[test]
fn a_bottleneck_through_the_norm_reads_the_sum_that_is_normed_behind() {
    let card = &methods::bottleneck::CARD;
    let set = || Settings([("form".to_owned(), Value::Text(methods::bottleneck::NORMED.into()))].into());
    let model = shaken(&fixture("bert"), card, set()).expect("it stands");
    let bag = model.bag.frozen();
    let mut tuner = Tuner::new(&model.plan, &model.weights, &bag, None);
    let places = ["blocks.1.mid", "blocks.1.mlp.down", "blocks.1.mlp"];
    tuner.watched = places.map(|place| (place.to_owned(), None)).into();
    let ids = vec![7, 21, 9, 33, 40];
    let text = || Text { length: 5, kinds: vec![0; 5], ids: ids.clone(), seen: vec![true; 5], device: Device::flex() };
    model.backbone.forward(&mut tuner, Input::Text(text()));
    let [stream, branch, joined] = places.map(|place| tuner.watched[place].clone().expect("it came by"));
    let frozen = |part: &str| model.weights[&format!("blocks.1.norm2.{part}")].clone().unsqueeze::<3>();
    let own = |part: &str| bag.params[&format!("0.bottleneck/blocks.1.mlp/{part}")].clone().unsqueeze::<3>();
    let sum = stream + branch.clone();
    let centred = sum.clone() - sum.mean_dim(2);
    let normed = centred.clone() / (centred.square().mean_dim(2) + 1e-12).sqrt() * frozen("weight") + frozen("bias");
    let h = activation::relu(normed.matmul(own("down")) + own("down_bias"));
    let wanted = branch + h.matmul(own("up")) + own("up_bias");
    let numbers = |t: Tensor<3>| host(t.flatten::<2>(1, 2)).expect("numbers");
    assert!(apart(&numbers(joined), &numbers(wanted)) < 1e-5);

    let moved = model.bag.gradients(model.logits(&model.bag, Input::Text(text()), None).square().sum().backward());
    let still = |g: &Tensor<2>| host(g.clone().abs().sum().unsqueeze::<2>()).expect("a sum")[0] == 0.0;
    assert!(moved.len() == model.bag.params.len() && !moved.values().any(still), "{:?}", moved.keys().collect::<Vec<_>>());

    let session = |folder: &str, place: Place| {
        let stack = vec![Placed { place, ..common::placed(card, set()) }];
        Session { backbone: choice(&fixture(folder), 0), ..common::session(stack) }
    };
    let start = |methods: Vec<Placed>| {
        let session = Session { methods, ..session("bert", Place::roles(&[])) };
        let opened = backbones::open(&session.backbone).expect("opens");
        let plan = Plan::on(&session, opened.network.anatomy(), 3, &mut vec![]);
        let weights = (opened.weights)(0, &Device::flex()).expect("weights");
        let bag = Bag::make(&plan, &weights, 3, &Device::flex()).expect("a bag").frozen();
        let mut tuner = Tuner::new(&plan, &weights, &bag, None);
        numbers(opened.network.forward(&mut tuner, Input::Text(text())))
    };
    assert_eq!(start(vec![common::placed(card, set())]), start(vec![]), "the first pass is the frozen network's");
    for (folder, role) in [("bert", Role::Mid), ("bert", Role::Block), ("bert", Role::Q), ("t5", Role::Mlp), ("gpt2", Role::Mlp)]
    {
        let mut problems = Vec::new();
        let session = session(folder, Place::roles(&[role]));
        Plan::on(&session, backbones::open(&session.backbone).expect("opens").network.anatomy(), 3, &mut problems);
        assert!(problems.iter().any(|p| p.words.contains("a norm follows")), "{folder}, {role:?}: {problems:?}");
    }
}
