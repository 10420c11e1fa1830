//! methods/17 (h), against the whole augmented graph in f64, every node and every difference written out. Its test (6), no
//! gradient on an image encoder, has no place here: there is one network, and its frozen bits are a law.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use burn::tensor::activation::{gelu, softmax};
use petl_workbench::backbones::vit;
use petl_workbench::engine::model::{Model, host};
use petl_workbench::engine::tuner::Tuner;
use petl_workbench::methods::{padapter, prefix};
use petl_workbench::plan::Plan;
use petl_workbench::plan::anatomy::Role;
use petl_workbench::session::{Place, Placed, Value};

use crate::common::{CLASSES, TOY, batch, gradients, placed, put, session, toy, with};
use crate::through::{at, list, refusal, set, shake, values};

const CARD: &petl_workbench::methods::Card = &padapter::CARD;
/// Reduction 2 on the toy: r = 12, four channels a head.
const R: usize = 12;
const STEM: &str = "0.padapter/blocks.0.attn";

type Matrix = Vec<Vec<f64>>;

fn matrix(values: &[f32], cols: usize) -> Matrix {
    values.chunks(cols).map(|row| row.iter().map(|v| f64::from(*v)).collect()).collect()
}

/// x W + b
fn dense(x: &Matrix, w: &Matrix, b: &[f64]) -> Matrix {
    let out = |row: &Vec<f64>| (0..b.len()).map(|j| b[j] + row.iter().zip(w).map(|(v, w)| v * w[j]).sum::<f64>()).collect();
    x.iter().map(out).collect()
}

/// One image's q, k, v and what left the output projection and the branch, in block 0.
struct Seen {
    q: Matrix,
    k: Matrix,
    v: Matrix,
    h: Matrix,
    y: Matrix,
}

fn seen(model: &Model) -> Seen {
    let bag = model.bag.frozen();
    let mut tuner = Tuner::new(&model.plan, &model.weights, &bag, None);
    let sites = ["q", "k", "v", "o", ""].map(|part| format!("blocks.0.attn{}{part}", if part.is_empty() { "" } else { "." }));
    tuner.watched = sites.iter().map(|site| (site.clone(), None)).collect();
    model.backbone.forward(&mut tuner, batch(&model.device).0.into());
    let mut left: BTreeMap<_, _> = std::mem::take(&mut tuner.watched);
    let mut of = |n: usize| {
        let whole = left.remove(&sites[n]).flatten().expect("the pass came by");
        matrix(&list(whole.narrow(0, 1, 1)), TOY.width)
    };
    Seen { q: of(0), k: of(1), v: of(2), h: of(3), y: of(4) }
}

fn param(model: &Model, name: &str) -> Matrix {
    let tensor = model.bag.params[&format!("{STEM}/{name}")].clone();
    let cols = tensor.dims()[1];
    matrix(&host(tensor).expect("read"), cols)
}

/// Node features of queries and values, `[head][node][channel]`.
fn nodes(model: &Model, seen: &Seen) -> Vec<Matrix> {
    let frozen = |part: &str| host(model.weights[&format!("blocks.0.attn.o.{part}")].clone()).expect("read");
    let (w_o, b_o) = (matrix(&frozen("weight"), TOY.width), matrix(&frozen("bias"), TOY.width).remove(0));
    let both = [seen.q.clone(), seen.v.clone()].concat();
    let f = dense(&dense(&both, &w_o, &b_o), &param(model, "W_i"), &param(model, "b_i")[0]);
    let c = R / TOY.heads;
    (0..TOY.heads).map(|head| f.iter().map(|row| row[head * c..][..c].to_vec()).collect()).collect()
}

/// Ã of one head: the attention map off the diagonal, nothing on it.
fn graph(seen: &Seen, head: usize) -> Matrix {
    let (queries, values, d) = (seen.q.len(), seen.k.len(), TOY.width / TOY.heads);
    let mut whole = vec![vec![0.0; queries + values]; queries + values];
    for (j, q) in seen.q.iter().enumerate() {
        let score = |k: &Vec<f64>| (head * d..(head + 1) * d).map(|n| q[n] * k[n]).sum::<f64>() / (d as f64).sqrt();
        let scores: Vec<f64> = seen.k.iter().map(|k| score(k).exp()).collect();
        for (k, value) in scores.iter().enumerate() {
            whole[j][queries + k] = value / scores.iter().sum::<f64>();
            whole[queries + k][j] = whole[j][queries + k];
        }
    }
    whole
}

/// M of one head.
fn weights(graph: &Matrix, f: &Matrix, p: f64) -> Matrix {
    let of = |j: usize, k: usize| {
        let slope = |a: &f64, b: &f64| ((graph[j][k] + 1e-8).sqrt() * (a - b) + 1e-8).powi(2);
        graph[j][k] * f[j].iter().zip(&f[k]).map(|(a, b)| slope(a, b)).sum::<f64>().sqrt().powf(p - 2.0)
    };
    (0..f.len()).map(|j| (0..f.len()).map(|k| of(j, k)).collect()).collect()
}

/// diag(α) M F + diag(β) F of the query nodes, heads side by side.
fn smoothed(seen: &Seen, f: &[Matrix], p: f64, mu: f64) -> Matrix {
    let mut out = vec![Vec::new(); seen.q.len()];
    for (head, f) in f.iter().enumerate() {
        let m = weights(&graph(seen, head), f, p);
        for (j, row) in out.iter_mut().enumerate() {
            let alpha = 1.0 / (m[j].iter().sum::<f64>() + 2.0 * mu / p);
            let beta = 2.0 * mu / p * alpha;
            row.extend((0..f[j].len()).map(|c| (0..f.len()).map(|k| alpha * m[j][k] * f[k][c]).sum::<f64>() + beta * f[j][c]));
        }
    }
    out
}

/// What the method adds, with the smoothed features `f`.
fn added(model: &Model, seen: &Seen, f: &Matrix) -> Matrix {
    let gelu = |v: f64| v * normal(v);
    let gate = dense(&seen.h, &param(model, "W_g"), &param(model, "b_g")[0]);
    let gated: Matrix = gate.iter().zip(f).map(|(g, f)| g.iter().zip(f).map(|(g, f)| gelu(*g) * f).collect()).collect();
    dense(&gated, &param(model, "W_o"), &param(model, "b_o")[0])
}

/// Φ(v) by Simpson's rule.
fn normal(v: f64) -> f64 {
    let (steps, density) = (400, |t: f64| (-t * t / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt());
    let h = v / steps as f64;
    let weight = |n: usize| {
        if n == 0 || n == steps {
            1.0
        } else if n % 2 == 1 {
            4.0
        } else {
            2.0
        }
    };
    0.5 + h / 3.0 * (0..=steps).map(|n| weight(n) * density(n as f64 * h)).sum::<f64>()
}

/// Largest difference over the largest value.
fn apart(a: &Matrix, b: &Matrix) -> f64 {
    let flat = |m: &Matrix| m.concat();
    let (a, b) = (flat(a), flat(b));
    assert_eq!(a.len(), b.len());
    let scale = b.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
    a.iter().zip(&b).fold(0.0_f64, |m, (a, b)| m.max((a - b).abs())) / scale
}

fn less(a: &Matrix, b: &Matrix) -> Matrix {
    a.iter().zip(b).map(|(a, b)| a.iter().zip(b).map(|(a, b)| a - b).collect()).collect()
}

/// The toy with a p-adapter whose parameters are far from zero; p and θ as given.
fn model(p: f64, mu: f64, theta: f32, more: Vec<Placed>) -> Model {
    let own = with(CARD, &[("reduction", Value::Whole(2)), ("p", Value::Real(p)), ("mu", Value::Real(mu))]);
    let mut model = toy(&session([vec![own], more].concat()));
    shake(&mut model, 0.5);
    let heads: Vec<_> = model.bag.params.keys().filter(|key| key.ends_with("/p") || key.ends_with("/theta")).cloned().collect();
    for key in heads {
        put(&mut model, &key, vec![if key.ends_with("/p") { p as f32 } else { theta }]);
    }
    model
}

/// How far the method's answer is from that of the whole graph with p and μ.
fn from_the_graph(model: &Model, p: f64, mu: f64) -> f64 {
    let seen = seen(model);
    let f = nodes(model, &seen);
    apart(&less(&seen.y, &seen.h), &added(model, &seen, &smoothed(&seen, &f, p, mu)))
}

#[test]
fn it_is_the_papers_step_on_the_whole_augmented_graph() {
    for (p, mu) in [(1.25, 0.1), (1.5, 10.0), (1.75, 0.1), (1.0, 0.1), (3.0, 1.0)] {
        let model = model(p, mu, 0.4, vec![]);
        let mu = mu * (2.0 + 0.4_f64.tanh());
        let far = from_the_graph(&model, p, mu);
        assert!(far < 1e-5, "p = {p}: {far}");
        assert!(from_the_graph(&model, p + 0.3, mu) > 1e-3, "another p is noticed");
        assert!(from_the_graph(&model, p, 3.0 * mu) > 1e-3, "another μ is noticed");
    }
}

#[test]
fn keys_and_values_of_a_prefix_are_nodes_too() {
    let model = model(1.25, 0.1, 0.0, vec![placed(&prefix::CARD, set(&[("length", Value::Whole(3))]))]);
    let seen = seen(&model);
    assert_eq!((seen.q.len(), seen.k.len(), seen.v.len()), (5, 8, 8));
    let far = from_the_graph(&model, 1.25, 0.2);
    assert!(far < 1e-5, "{far}");
}

#[test]
fn nodes_that_are_the_same_or_nearly_are_told_apart_as_finely_as_f32_allows() {
    for shift in [0.0, 1e-4, 1e-2] {
        let mut model = model(1.25, 0.1, 0.0, vec![]);
        for part in ["weight", "bias"] {
            let q = model.weights[&format!("blocks.0.attn.q.{part}")].clone();
            model.weights.insert(format!("blocks.0.attn.v.{part}"), q * (1.0 + shift));
        }
        let far = from_the_graph(&model, 1.25, 0.2);
        assert!(far < 2e-5, "{shift}: {far}");
        for (key, gradient) in gradients(&model) {
            assert!(list(gradient).iter().all(|v| v.is_finite()), "{key}");
        }
    }
}

#[test]
fn with_p_2_it_is_plain_smoothing_and_with_another_p_it_is_not() {
    // methods/17 (h) 1: (Ã F + μ F) / (Σ_k Ã + μ), and every row of A sums to 1.
    let plain = |p: f64| {
        let model = model(p, 0.1, 0.0, vec![]);
        let (seen, mu) = (seen(&model), 0.2);
        let mut out = vec![Vec::new(); seen.q.len()];
        for (head, f) in nodes(&model, &seen).iter().enumerate() {
            let edges = graph(&seen, head);
            for (j, row) in out.iter_mut().enumerate() {
                let of = |c: usize| ((0..f.len()).map(|k| edges[j][k] * f[k][c]).sum::<f64>() + mu * f[j][c]) / (1.0 + mu);
                row.extend((0..f[j].len()).map(of));
            }
        }
        apart(&less(&seen.y, &seen.h), &added(&model, &seen, &out))
    };
    assert!(plain(2.0) < 1e-5, "{}", plain(2.0));
    assert!(plain(1.25) > 1e-3, "{}", plain(1.25));
}

#[test]
fn features_twice_as_large_weigh_their_edges_by_two_to_the_p_less_2() {
    // methods/17 (h) 2, for M itself and for what the method makes of it.
    let mut model = model(1.25, 0.1, 0.0, vec![]);
    let seen_before = seen(&model);
    let f = nodes(&model, &seen_before);
    let m = weights(&graph(&seen_before, 0), &f[0], 1.25);
    for name in ["W_i", "b_i"] {
        let doubled: Vec<f32> = param(&model, name).concat().iter().map(|v| 2.0 * *v as f32).collect();
        put(&mut model, &format!("{STEM}/{name}"), doubled);
    }
    let seen_after = seen(&model);
    let doubled = nodes(&model, &seen_after);
    let scaled = weights(&graph(&seen_after, 0), &doubled[0], 1.25);
    for (a, b) in m.concat().iter().zip(&scaled.concat()).filter(|(a, _)| **a > 0.0) {
        assert!((b / a / 2.0_f64.powf(-0.75) - 1.0).abs() < 1e-3, "{a} {b}");
    }
    assert!(from_the_graph(&model, 1.25, 0.2) < 1e-5);
    // Weights that did not depend on the features would double the answer.
    let half = |seen: &Seen, by: f64| less(&seen.y, &seen.h).iter().map(|row| row.iter().map(|v| v / by).collect()).collect();
    let bias: Matrix = vec![param(&model, "b_o")[0].clone(); 5];
    let (one, two) = (less(&half(&seen_before, 1.0), &bias), less(&half(&seen_after, 1.0), &bias));
    let doubled: Matrix = one.iter().map(|row| row.iter().map(|v| 2.0 * v).collect()).collect();
    assert!(apart(&two, &doubled) > 1e-3);
}

#[test]
fn the_graph_is_symmetric_and_joins_no_two_queries_and_no_two_values() {
    // methods/17 (h) 3, of the graph to which the method is held above.
    let seen = seen(&model(1.25, 0.1, 0.0, vec![]));
    for head in 0..TOY.heads {
        let edges = graph(&seen, head);
        for (j, row) in edges.iter().enumerate() {
            for (k, edge) in row.iter().enumerate() {
                assert_eq!(*edge, edges[k][j]);
                assert_eq!(*edge == 0.0, (j < 5) == (k < 5));
            }
        }
    }
}

#[test]
fn mu_stays_between_mu0_and_three_times_mu0() {
    // methods/17 (h) 5
    for (theta, times) in [(-30.0, 1.0), (0.0, 2.0), (30.0, 3.0)] {
        let far = from_the_graph(&model(1.5, 0.5, theta, vec![]), 1.5, 0.5 * times);
        assert!(far < 1e-5, "θ = {theta}: {far}");
    }
}

/// What the method adds, in Burn's words with every difference of two nodes in memory.
fn written_out(model: &Model, [q, k, v, h]: [Tensor<3>; 4]) -> Tensor<3> {
    let param = |name: &str| model.bag.params[&format!("{STEM}/{name}")].clone();
    let dense = |x: Tensor<3>, w: Tensor<2>, b: Tensor<2>| x.matmul(w.unsqueeze::<3>()) + b.unsqueeze::<3>();
    let split = |x: Tensor<3>| {
        let [batch, n, width] = x.dims();
        x.reshape([batch, n, TOY.heads, width / TOY.heads]).swap_dims(1, 2)
    };
    let frozen = |part: &str| model.weights[&format!("blocks.0.attn.o.{part}")].clone();
    let features = |x| split(dense(dense(x, frozen("weight"), frozen("bias")), param("W_i"), param("b_i")));
    let a = softmax(split(q.clone()).matmul(split(k).swap_dims(2, 3)) / 8.0_f64.sqrt(), 3);
    let (f_q, f_v) = (features(q), features(v));
    let apart = f_q.clone().unsqueeze_dim::<5>(3) - f_v.clone().unsqueeze_dim::<5>(2); // [batch, heads, queries, values, c]
    let slope = (a.clone() + 1e-8).sqrt().unsqueeze_dim::<5>(4) * apart + 1e-8;
    let length = (slope.clone() * slope).sum_dim(4).squeeze_dim::<4>(4).sqrt();
    let (p, mu) = (param("p").unsqueeze::<4>(), (param("theta").tanh() + 2.0) * 0.1);
    let m = a * (length.log() * (p.clone() - 2.0)).exp();
    let own = mu.unsqueeze::<4>() * 2.0 / p;
    let f = (m.clone().matmul(f_v) + f_q * own.clone()) / (m.sum_dim(3) + own);
    let f = f.swap_dims(1, 2).flatten::<3>(2, 3);
    dense(gelu(dense(h, param("W_g"), param("b_g"))) * f, param("W_o"), param("b_o"))
}

#[test]
fn gradients_are_those_of_the_differences_written_out() {
    // methods/17 (h) 4, and that the distances, whose gradient is not that of how they are worked out, pass on the right one:
    // to every parameter, p and θ among them, and to what enters.
    let model = model(1.25, 0.1, 0.3, vec![]);
    let leaves = || [0.1, 0.2, 0.3, 0.4].map(|n| values([2, 5, TOY.width], n, &model).autodiff().require_grad());
    let g = values([2, 5, TOY.width], 0.5, &model);
    let of = |method: bool| {
        let inputs = leaves();
        let [q, k, v, h] = inputs.clone();
        let added = match method {
            true => {
                let mut tuner = Tuner::new(&model.plan, &model.weights, &model.bag, None);
                tuner.around("blocks.0.attn", h.clone(), |t, x| {
                    for (role, value) in [("q", q), ("k", k), ("v", v)] {
                        t.around(&format!("blocks.0.attn.{role}"), x.clone(), |_, _| value);
                    }
                    h
                }) - inputs[3].clone()
            }
            false => written_out(&model, [q, k, v, h]),
        };
        let mut gradients = (added * g.clone()).sum().backward();
        let entered = inputs.map(|x| list(x.grad_remove(&mut gradients).expect("a gradient")));
        let trained = model.bag.gradients(gradients).into_iter().filter(|(key, _)| key.starts_with(STEM));
        let trained: Vec<_> = trained.map(|(key, value)| (key, list(value))).collect();
        entered.into_iter().enumerate().map(|(n, x)| (n.to_string(), x)).chain(trained).collect::<Vec<_>>()
    };
    let (ours, theirs) = (of(true), of(false));
    assert_eq!(ours.len(), 4 + 8);
    for ((key, a), (_, b)) in ours.iter().zip(&theirs) {
        let scale = b.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
        assert!(scale > 1e-3, "{key}: {scale}");
        let far = crate::common::apart(a, b) / scale;
        assert!(far < 1e-4, "{key}: {far}");
    }
}

#[test]
fn beside_the_mlp_it_adapts_the_residual_stream() {
    let model = model(1.25, 0.1, 0.0, vec![]);
    let bag = model.bag.frozen();
    let mut tuner = Tuner::new(&model.plan, &model.weights, &bag, None);
    let sites = ["blocks.1.mid", "blocks.1.mlp.down", "blocks.1.mlp"];
    tuner.watched = sites.iter().map(|site| ((*site).to_owned(), None)).collect();
    model.backbone.forward(&mut tuner, batch(&model.device).0.into());
    let [mid, down, mlp] = sites.map(|site| tuner.watched[site].clone().expect("the pass came by"));
    let of = |name: &str| bag.params[&format!("0.padapter/blocks.1.mlp/{name}")].clone().unsqueeze::<3>();
    let h = burn::tensor::activation::relu(mid.matmul(of("W_1")) + of("b_1"));
    let own = h.matmul(of("W_2")) + of("b_2");
    assert!(crate::through::gap(mlp, down.clone() + own.clone()) < 1e-5);
    assert!(list(own).iter().any(|v| v.abs() > 1e-2));
}

#[test]
fn what_does_not_fit_is_refused_in_words_that_name_what_does() {
    let words = refusal(vec![placed(CARD, set(&[("reduction", Value::Whole(16))]))]);
    assert!(words.contains("reductions that fit: 1, 2, 4, 8"), "{words}");
    let tokens = |image| {
        let anatomy = vit::Vit { image, ..vit::B_16 }.declare();
        let mut problems = vec![];
        Plan::on(&session(vec![at(CARD, set(&[]), Place::roles(&[Role::Attn]))]), anatomy, CLASSES, &mut problems);
        problems.first().map(|p| p.words.clone())
    };
    assert_eq!(tokens(384), None);
    let words = tokens(528).expect("refused");
    assert!(words.contains("1090") && words.contains("up to 1024 tokens fit"), "{words}");
}
