//! The CPU's fused kernels against Burn's own operations: values and gradients.

mod common;

use burn::tensor::{Device, Int, Tensor, TensorData};
use common::numbers;
use petl_workbench::engine::kernels::packed::Packed;
use petl_workbench::engine::kernels::{self, Mask, reference};

type Operation<'a> = &'a dyn Fn(&[Tensor<3>]) -> Tensor<3>;

fn tensor(dims: [usize; 3], phase: f32, device: &Device) -> Tensor<3> {
    let values: Vec<f32> = numbers(dims.iter().product(), phase).iter().map(|v| v * 4.0).collect();
    Tensor::from_data(TensorData::new(values, dims), device)
}

/// Values of `operation` and the gradient of each input under one upstream gradient.
fn run(operation: Operation, inputs: &[[usize; 3]]) -> Vec<TensorData> {
    let device = Device::flex();
    let leaves: Vec<_> =
        inputs.iter().enumerate().map(|(n, dims)| tensor(*dims, n as f32, &device).autodiff().require_grad()).collect();
    let y = operation(&leaves);
    let upstream = tensor(y.dims(), 9.0, &device);
    let value = y.clone().inner().into_data();
    let gradients = (y * upstream).sum().backward();
    let mut all = vec![value];
    all.extend(leaves.iter().map(|leaf| leaf.grad(&gradients).expect("a gradient").into_data()));
    all
}

fn compare(what: &str, fused: Operation, reference: Operation, inputs: &[[usize; 3]]) {
    for (n, (a, b)) in run(fused, inputs).iter().zip(run(reference, inputs)).enumerate() {
        let (a, b) = (a.try_to_vec::<f32>().expect("f32"), b.try_to_vec::<f32>().expect("f32"));
        let scale = b.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
        let apart = common::apart(&a, &b) / scale;
        assert!(scale > 1e-3 && apart < 1e-5, "{what}, {}: {apart:.1e} of {scale}", if n == 0 { "value" } else { "gradient" });
    }
}

#[test]
fn attention_is_burns_attention() {
    for (queries, keys, heads, width) in [(5, 5, 3, 24), (65, 65, 3, 96), (7, 15, 2, 10), (1, 33, 1, 4), (107, 111, 2, 40)] {
        compare(
            "attention",
            &|x| kernels::attention(x[0].clone(), x[1].clone(), x[2].clone(), heads, Mask::default()),
            &|x| reference::attention(x[0].clone(), x[1].clone(), x[2].clone(), heads, Mask::default()),
            &[[2, queries, width], [2, keys, width], [2, keys, width]],
        );
    }
}

#[test]
fn attention_that_leaves_padding_out_is_burns() {
    for (queries, keys, heads, width) in [(5, 5, 3, 24), (7, 15, 2, 10), (33, 40, 2, 32), (103, 110, 2, 40)] {
        // The first sample is whole, of the second the last two keys but one are padding.
        let hidden = |n: usize| n >= 2 * keys - 3 && n < 2 * keys - 1;
        let seen: Vec<f32> = (0..2 * keys).map(|n| if hidden(n) { 0.0 } else { 1.0 }).collect();
        let seen = || Some(Tensor::<2>::from_data(TensorData::new(seen.clone(), [2, keys]), &Device::flex()));
        let mask = || Mask { seen: seen(), causal: None };
        let fused = |x: &[Tensor<3>]| kernels::attention(x[0].clone(), x[1].clone(), x[2].clone(), heads, mask());
        let plain = |x: &[Tensor<3>]| reference::attention(x[0].clone(), x[1].clone(), x[2].clone(), heads, mask());
        let inputs = [[2, queries, width], [2, keys, width], [2, keys, width]];
        compare("masked attention", &fused, &plain, &inputs);
        // Nothing comes from padding and nothing goes there.
        let [_, _, of_keys, of_values] = run(&fused, &inputs).try_into().expect("a value and three gradients");
        for gradient in [of_keys, of_values] {
            let values = gradient.try_to_vec::<f32>().expect("f32");
            assert!(values.chunks(width).enumerate().all(|(n, row)| !hidden(n) || row.iter().all(|v| v.abs() < 1e-30)));
            assert!(values.chunks(width).enumerate().any(|(n, row)| !hidden(n) && row.iter().any(|v| v.abs() > 1e-3)));
        }
    }
}

/// A prefix of keys, tokens in order, prompts behind them that count as if they stood before.
#[test]
fn attention_in_order_looks_at_nothing_that_comes_later() {
    let (prefix, tokens, prompts, heads, width) = (2, 5, 3, 2, 8);
    let (queries, keys) = (tokens + prompts, prefix + tokens + prompts);
    let mask = || Mask { seen: None, causal: Some(tokens) };
    let fused = |x: &[Tensor<3>]| kernels::attention(x[0].clone(), x[1].clone(), x[2].clone(), heads, mask());
    let plain = |x: &[Tensor<3>]| reference::attention(x[0].clone(), x[1].clone(), x[2].clone(), heads, mask());
    compare("attention in order", &fused, &plain, &[[2, queries, width], [2, keys, width], [2, keys, width]]);
    // More queries than a block holds, some keys padding.
    let (more, hidden) = (109, 101);
    let seen = || {
        Tensor::<2>::from_data(TensorData::new((0..more).map(|n| f32::from(n != hidden)).collect(), [1, more]), &Device::flex())
    };
    let mask_of_more = || Mask { seen: Some(seen()), causal: Some(more - 4) };
    let fused_more = |x: &[Tensor<3>]| kernels::attention(x[0].clone(), x[1].clone(), x[2].clone(), heads, mask_of_more());
    let plain_more = |x: &[Tensor<3>]| reference::attention(x[0].clone(), x[1].clone(), x[2].clone(), heads, mask_of_more());
    compare("long attention in order", &fused_more, &plain_more, &[[1, more - 1, 40], [1, more, 40], [1, more, 40]]);

    let device = Device::flex();
    let (q, k) = (tensor([1, queries, width], 0.0, &device) * 0.1, tensor([1, keys, width], 1.0, &device) * 0.1);
    let of =
        |v: Tensor<3>| kernels::attention(q.clone(), k.clone(), v, heads, mask()).into_data().try_to_vec::<f32>().expect("f32");
    let v = tensor([1, keys, width], 2.0, &device);
    let before = of(v.clone());
    for key in 0..keys {
        let mut shift = vec![0.0; keys * width];
        shift[key * width..(key + 1) * width].fill(1.0);
        let after = of(v.clone() + Tensor::from_data(TensorData::new(shift, [1, keys, width]), &device));
        for query in 0..queries {
            let moved =
                common::apart(&before[query * width..(query + 1) * width], &after[query * width..(query + 1) * width]) > 1e-6;
            // Everybody's place in the order: the prefix, the prompts, the tokens.
            let place = |n: usize| if n < tokens { prompts + n } else { n - tokens };
            let may = key < prefix || place(key - prefix) <= place(query);
            assert_eq!(moved, may, "query {query} and key {key}");
        }
    }
}

#[test]
fn root_mean_square_norm_and_rotary_positions_are_burns() {
    for width in [96, 24, 7] {
        let vector = |x: &Tensor<3>| x.clone().reshape([width]);
        compare(
            "rms norm",
            &|x| kernels::rms_norm(x[0].clone(), vector(&x[1]), 1e-6),
            &|x| reference::rms_norm(x[0].clone(), vector(&x[1]), 1e-6),
            &[[2, 5, width], [1, 1, width]],
        );
    }
    let angles: Vec<f32> = (0..5 * 6).map(|n| n as f32 * 0.37).collect();
    let angles = Tensor::<2>::from_data(TensorData::new(angles, [5, 6]), &Device::flex());
    let (fused, plain) =
        (|x: &[Tensor<3>]| kernels::rotate(x[0].clone(), &angles), |x: &[Tensor<3>]| reference::rotate(x[0].clone(), &angles));
    compare("rotary positions", &fused, &plain, &[[2, 5, 36]]);
}

/// A product with a packed matrix is one with its numbers, gradient included.
#[test]
fn a_packed_product_is_a_product() {
    let device = Device::flex();
    for bits in [4, 8] {
        let [rows, cols] = [6, 64];
        let words: Vec<i32> = (0..rows * cols * bits / 32).map(|n| (n as i32).wrapping_mul(0x9e37_79b9_u32 as i32)).collect();
        let of = |from: f32| (0..rows * cols / 32).map(|n| from + n as f32 * 0.01).collect::<Vec<f32>>();
        let packed = Packed::new(words.clone(), of(0.1), of(-0.7), [rows, cols], bits, &device);
        let numbers: Vec<f32> = (0..rows * cols)
            .map(|n| {
                let code = (words[n * bits / 32] as u32 >> (n * bits % 32)) & ((1_u32 << bits) - 1);
                code as f32 * of(0.1)[n / 32] + of(-0.7)[n / 32]
            })
            .collect();
        let whole = Tensor::<2>::from_data(TensorData::new(numbers.clone(), [rows, cols]), &device);
        let unpacked = packed.unpacked().into_data().try_to_vec::<f32>().expect("f32");
        assert!(common::apart(&unpacked, &numbers) < 1e-5);
        let plain = |x: &[Tensor<3>]| x[0].clone().matmul(whole.clone().transpose().unsqueeze::<3>());
        compare("packed product", &|x| packed.product(x[0].clone()), &plain, &[[2, 5, cols]]);
        let picked = Tensor::<1, Int>::from_data(TensorData::new(vec![4_i64, 0, 4], [3]), &device);
        let some = packed.rows(picked).unpacked().into_data().try_to_vec::<f32>().expect("f32");
        assert_eq!(some, [&unpacked[4 * cols..5 * cols], &unpacked[..cols], &unpacked[4 * cols..5 * cols]].concat());
    }
}

#[test]
fn layer_norm_is_burns_layer_norm() {
    for width in [96, 24, 7] {
        let vector = |x: &Tensor<3>| x.clone().reshape([width]);
        compare(
            "layer norm",
            &|x| kernels::layer_norm(x[0].clone(), vector(&x[1]), vector(&x[2]), 1e-6),
            &|x| reference::layer_norm(x[0].clone(), vector(&x[1]), vector(&x[2]), 1e-6),
            &[[2, 5, width], [1, 1, width], [1, 1, width]],
        );
    }
}

#[test]
fn gelu_is_burns_gelu() {
    compare("gelu", &|x| kernels::gelu(x[0].clone()), &|x| reference::gelu(x[0].clone()), &[[2, 5, 37]]);
    let far: Vec<f32> = vec![-100.0, -20.0, -6.0, -1e-8, 0.0, 1e-8, 6.0, 20.0, 100.0];
    let x = Tensor::<3>::from_data(TensorData::new(far, [1, 1, 9]), &Device::flex());
    let both = [kernels::gelu(x.clone()), reference::gelu(x)].map(|y| y.into_data().try_to_vec::<f32>().expect("f32"));
    assert!(common::apart(&both[0], &both[1]) < 1e-6, "{both:?}");
}

#[test]
fn a_frozen_input_gets_no_gradient_and_needs_none() {
    let device = Device::flex();
    let dims = [2, 5, 24];
    let q = tensor(dims, 0.0, &device).autodiff().require_grad();
    let (k, v) = (tensor(dims, 1.0, &device), tensor(dims, 2.0, &device)); // plain
    let gradients = kernels::attention(q.clone(), k, v, 3, Mask::default()).sum().backward();
    assert_eq!(q.grad(&gradients).expect("a gradient").dims(), dims);
}
