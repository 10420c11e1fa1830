//! The Conformer adapter: Cappellazzo, Falavigna, Brutti and Ravanelli, "Parameter-Efficient Transfer Learning of Audio
//! Spectrogram Transformers" (2024): the convolution module of Gulati et al., "Conformer" (2020), as an adapter. Called
//! through the catalogue.

use burn::tensor::ops::ConvOptions;
use burn::tensor::{Tensor, activation, module};

use super::parts::{BRANCHES, kaiming, linear, row, through, without_padding};
use super::{Card, Family, Init, Method, ParamSpec, Placement, Published, Variant};
use crate::engine::bag::At;
use crate::plan::anatomy::{Anatomy, Door, Role, Site};
use crate::session::settings::{Field, Settings};

pub const CARD: Card = Card {
    name: "conformer",
    title: "Conformer adapter",
    family: Family::Adapter,
    help: "An adapter that looks at neighbouring tokens: a gated bottleneck with a convolution of each channel along the sequence.",
    formula: "Ad(x) = PW_2 SiLU(Norm(DW(GLU(PW_1 x)))),  parallel: y ← y + Ad(x);  sequential: y ← y + Ad(y)",
    drawing: "x ─┬─█ attn or mlp █─────────────────────────────────────────────⊕─ y\n   └─▒ PW_1 ▒─ GLU ─▒ DW along tokens ▒─▒ norm ▒─ SiLU ─▒ PW_2 ▒─┘",
    count: "2 d r + 2 r + k r + r + 2 r + r d + d a place",
    published: &[
        // methods/01 (d), 252,288, without its first 2 d: those belong to a norm that the released code never uses.
        Published::new(
            "reduction 96, beside the MLP",
            &[Role::Mlp],
            12 * (2 * 768 * 8 + 2 * 8 + 31 * 8 + 8 + 2 * 8 + 8 * 768 + 768),
        )
        .with(&[("bottleneck", "8"), ("kernel", "31")]),
    ],
    paper: "Cappellazzo et al., Parameter-Efficient Transfer Learning of Audio Spectrogram Transformers",
    year: 2024,
    learning_rate: 5e-3,
    released: "The released code normalises by BatchNorm, declares a LayerNorm whose result it throws away, does not start PW_2 at zero (start = \"as released\"), and also trains the norm before the MLP.",
    caution: "The sequence of an image's patches is its rows one after the other, so neighbours along it are not always neighbours in the image. Without BatchNorm's running statistics it is the paper's module in all but that norm.",
    licence: "MIT OR Apache-2.0 (own code; the paper's was not used)",
    fields: &[
        Field::whole("bottleneck", 2, 2048, 8, "Width r of the hidden layers."),
        Field::whole("kernel", 1, 63, 31, "Tokens that the convolution sees, an odd number."),
        Field::choice("form", &["parallel", "sequential"], "Beside the branch, or behind it."),
        Field::flag(
            "residual",
            false,
            "Adds the adapter's own input too: the paper leaves it out in parallel and needs it behind the branch, where nothing else carries the branch on.",
        ),
        Field::choice(
            "normalisation",
            &["each token", "gain and shift"],
            "Over the r channels of each token, or a gain and a shift alone, as BatchNorm with statistics that never move. BatchNorm itself would need statistics of the whole training set.",
        ),
        Field::choice(
            "start",
            &["exact", "as released"],
            "PW_2 at zero, so that a parallel adapter adds nothing at first; or drawn.",
        ),
    ],
    variants: &[
        Variant::new("Parallel to the MLP", "The paper's choice.", &[Role::Mlp]),
        Variant::new("Parallel to both branches", "Beside attention and the MLP.", BRANCHES),
        Variant::new("Sequential", "Behind the MLP, with the residual.", &[Role::Mlp])
            .with(&[("form", "sequential"), ("residual", "true")]),
    ],
    roles: BRANCHES,
    default_roles: &[Role::Mlp],
    identity_at_start: true,
    folds: false,
    method: &Conformer,
};

struct Conformer;

impl Method for Conformer {
    fn plan(&self, anatomy: &Anatomy, sites: &[&Site], set: &Settings) -> Result<Vec<Placement>, String> {
        let (r, k) = (set.whole("bottleneck"), set.whole("kernel"));
        if k % 2 == 0 {
            return Err(format!("a kernel of {k} tokens has no middle; odd ones fit, such as {}", k + 1));
        }
        let last = |r| if set.text("start") == "exact" { Init::Zeros } else { kaiming(r) };
        let place = |site: &&Site| {
            let d = site.d_out;
            let params = [
                linear("PW_1", d, 2 * r, kaiming(d)),
                [ParamSpec::new("DW", r, k, kaiming(k)), ParamSpec::new("DW_bias", 1, r, Init::Zeros)],
                [ParamSpec::new("gamma", 1, r, Init::Ones), ParamSpec::new("beta", 1, r, Init::Zeros)],
                linear("PW_2", r, d, last(r)),
            ];
            let n = anatomy.tokens;
            Placement::new(site, Door::After, params.concat()).costs(n * (3 * d * r + k * r), n * (d + 9 * r))
        };
        Ok(sites.iter().map(place).collect())
    }

    fn after(&self, at: &At, x: &Tensor<3>, y: Tensor<3>) -> Tensor<3> {
        let parallel = at.set.text("form") == "parallel";
        let seen = if parallel { x.clone() } else { y.clone() };
        let change = adapter(at, seen);
        match (parallel, at.set.flag("residual")) {
            (true, true) => y + change + x.clone(),
            (true, false) | (false, true) => y + change,
            (false, false) => change,
        }
    }
}

/// `[batch, positions, d]` to the same. The class token is the first of the sequence, as in the paper.
fn adapter(at: &At, x: Tensor<3>) -> Tensor<3> {
    let (r, k) = (at.set.whole("bottleneck"), at.set.whole("kernel"));
    let vector = |name: &str| at.param(name).squeeze_dim::<1>(0);
    let h = activation::glu(through(at, "PW_1", x), 2); // [batch, positions, r]
    let h = without_padding(at, h); // a convolution looks beyond the end
    let same = ConvOptions::new([1], [k / 2], [1], r); // one kernel a channel, as many tokens out as in
    let h = module::conv1d(h.swap_dims(1, 2), at.param("DW").reshape([r, 1, k]), Some(vector("DW_bias")), same); // [batch, r, positions]
    let h = h.swap_dims(1, 2); // [batch, positions, r]
    let h = match at.set.text("normalisation") {
        "each token" => module::layer_norm(h, vector("gamma"), Some(vector("beta")), 1e-5),
        _ => h * row(at.param("gamma")) + row(at.param("beta")),
    };
    through(at, "PW_2", activation::silu(h)) // [batch, positions, d]
}
