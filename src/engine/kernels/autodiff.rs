//! The fused operations under Burn's autodiff: which inputs a backward pass keeps, and where its gradients go.

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;

use super::{Fused, Kernels};

#[derive(Debug)]
struct Attention;

/// Inputs, what is seen of the keys, in what order, sums of the scores, heads.
type Attended<B> = ([FloatTensor<B>; 3], Option<FloatTensor<B>>, Option<usize>, FloatTensor<B>, usize);

impl<B: Kernels> Backward<B, 3> for Attention {
    type State = Attended<B>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (inputs, seen, causal, sums, heads) = ops.state;
        let all = B::attention_backward(inputs, seen, causal, sums, heads, grad);
        for (parent, grad) in ops.parents.into_iter().zip(all) {
            if let Some(node) = parent {
                grads.register::<B>(node.id, grad);
            }
        }
    }
}

#[derive(Debug)]
struct LayerNorm;

impl<B: Kernels> Backward<B, 3> for LayerNorm {
    type State = (FloatTensor<B>, FloatTensor<B>, f32);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (x, gamma, epsilon) = ops.state;
        for (parent, grad) in ops.parents.into_iter().zip(B::layer_norm_backward(x, gamma, epsilon, grad)) {
            if let Some(node) = parent {
                grads.register::<B>(node.id, grad);
            }
        }
    }
}

#[derive(Debug)]
struct Gelu;

impl<B: Kernels> Backward<B, 1> for Gelu {
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let [parent] = ops.parents;
        if let Some(node) = parent {
            grads.register::<B>(node.id, <B as Kernels>::gelu_backward(ops.state, grad));
        }
    }
}

#[derive(Debug)]
struct RmsNorm;

impl<B: Kernels> Backward<B, 2> for RmsNorm {
    type State = (FloatTensor<B>, FloatTensor<B>, f32);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (x, gamma, epsilon) = ops.state;
        for (parent, grad) in ops.parents.into_iter().zip(B::rms_norm_backward(x, gamma, epsilon, grad)) {
            if let Some(node) = parent {
                grads.register::<B>(node.id, grad);
            }
        }
    }
}

#[derive(Debug)]
struct Rotate;

impl<B: Kernels> Backward<B, 1> for Rotate {
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let [parent] = ops.parents;
        if let Some(node) = parent {
            grads.register::<B>(node.id, <B as Kernels>::rotate(grad, ops.state, true));
        }
    }
}

impl<B: Kernels, C: CheckpointStrategy> Fused for Autodiff<B, C> {
    fn fused_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        heads: usize,
        causal: Option<usize>,
    ) -> FloatTensor<Self> {
        attention::<B, C>(q, k, v, None, heads, causal)
    }

    fn fused_masked_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        seen: FloatTensor<Self>,
        heads: usize,
        causal: Option<usize>,
    ) -> FloatTensor<Self> {
        attention::<B, C>(q, k, v, Some(seen.into_parts().0), heads, causal)
    }

    fn fused_layer_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f32,
    ) -> FloatTensor<Self> {
        let ((x, x_node), (gamma, gamma_node), (beta, beta_node)) = (x.into_parts(), gamma.into_parts(), beta.into_parts());
        let y = <B as Kernels>::layer_norm(x.clone(), gamma.clone(), beta, epsilon);
        match LayerNorm.prepare::<C>([x_node, gamma_node, beta_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((x, gamma, epsilon), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn fused_rms_norm(x: FloatTensor<Self>, gamma: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self> {
        let ((x, x_node), (gamma, gamma_node)) = (x.into_parts(), gamma.into_parts());
        let y = <B as Kernels>::rms_norm(x.clone(), gamma.clone(), epsilon);
        match RmsNorm.prepare::<C>([x_node, gamma_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((x, gamma, epsilon), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn fused_rotate(x: FloatTensor<Self>, angles: FloatTensor<Self>) -> FloatTensor<Self> {
        let ((x, node), (angles, _)) = (x.into_parts(), angles.into_parts());
        let y = <B as Kernels>::rotate(x, angles.clone(), false);
        match Rotate.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(angles, y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn fused_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let y = <B as Kernels>::gelu(x.clone());
        match Gelu.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(x, y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}

/// Attention with what its backward pass needs.
fn attention<B: Kernels, C: CheckpointStrategy>(
    q: FloatTensor<Autodiff<B, C>>,
    k: FloatTensor<Autodiff<B, C>>,
    v: FloatTensor<Autodiff<B, C>>,
    seen: Option<FloatTensor<B>>,
    heads: usize,
    causal: Option<usize>,
) -> FloatTensor<Autodiff<B, C>> {
    let ((q, q_node), (k, k_node), (v, v_node)) = (q.into_parts(), k.into_parts(), v.into_parts());
    let inputs = [q, k, v];
    let (y, sums) = <B as Kernels>::attention(inputs.clone(), seen.clone(), causal, heads);
    match Attention.prepare::<C>([q_node, k_node, v_node]).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish((inputs, seen, causal, sums, heads), y),
        OpsKind::UnTracked(prep) => prep.finish(y),
    }
}
