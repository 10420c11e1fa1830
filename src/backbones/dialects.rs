//! The tables of names: what each program calls the places of each kind of network. Read through `names`, which knows what to do with them.

use super::names::Naming;
use super::stored::Stored;
use crate::plan::anatomy::Role;

const OLD: &[(Role, &str)] = &[
    (Role::Q, "attention.attention.query"),
    (Role::K, "attention.attention.key"),
    (Role::V, "attention.attention.value"),
    (Role::O, "attention.output.dense"),
    (Role::Up, "intermediate.dense"),
    (Role::Down, "output.dense"),
];
const NEW: &[(Role, &str)] = &[
    (Role::Q, "attention.q_proj"),
    (Role::K, "attention.k_proj"),
    (Role::V, "attention.v_proj"),
    (Role::O, "attention.o_proj"),
    (Role::Up, "mlp.fc1"),
    (Role::Down, "mlp.fc2"),
];

/// `ViTForImageClassification` of transformers 4.
pub const VIT_4: Naming = Naming {
    program: "transformers 4",
    prefix: "vit.",
    blocks: "encoder.layer.",
    below: OLD,
    norms: ["layernorm_before", "layernorm_after"],
    scales: ["", ""],
    fused: false,
    flax: false,
    unturned: false,
    staged: ["", "", ""],
    decoder: None,
    towers: None,
    outside: &[
        ("embed.cls", "embeddings.cls_token", Stored::Positions),
        ("embed.dist", "embeddings.distillation_token", Stored::Positions),
        ("embed.pos", "embeddings.position_embeddings", Stored::Positions),
        ("embed.weight", "embeddings.patch_embeddings.projection.weight", Stored::Patches),
        ("embed.bias", "embeddings.patch_embeddings.projection.bias", Stored::Vector),
        ("norm.weight", "layernorm.weight", Stored::Vector),
        ("norm.bias", "layernorm.bias", Stored::Vector),
    ],
};

/// `ViTForImageClassification` of transformers 5.
pub const VIT_5: Naming = Naming { program: "transformers 5", blocks: "layers.", below: NEW, ..VIT_4 };

/// `DeiTForImageClassification`, also with teacher.
pub const DEIT_4: Naming = Naming { prefix: "deit.", ..VIT_4 };
pub const DEIT_5: Naming = Naming { prefix: "deit.", ..VIT_5 };

/// `Dinov2Model`; its MLP is named apart where it is gated.
pub const DINOV2_4: Naming = Naming {
    prefix: "dinov2.",
    below: &[OLD[0], OLD[1], OLD[2], OLD[3], (Role::Up, "mlp.fc1"), (Role::Down, "mlp.fc2")],
    norms: ["norm1", "norm2"],
    scales: ["layer_scale1.lambda1", "layer_scale2.lambda1"],
    ..VIT_4
};
pub const DINOV2_5: Naming = Naming { program: "transformers 5", below: NEW, ..DINOV2_4 };
pub const DINOV2_GATED: Naming = Naming {
    below: &[OLD[0], OLD[1], OLD[2], OLD[3], (Role::Up, "mlp.weights_in"), (Role::Down, "mlp.weights_out")],
    ..DINOV2_4
};

/// `CLIPVisionModel`; the level above the tower went with transformers 5, in modules and not in files.
pub const CLIP_4: Naming = Naming {
    prefix: "vision_model.",
    blocks: "encoder.layers.",
    below: &[
        (Role::Q, "self_attn.q_proj"),
        (Role::K, "self_attn.k_proj"),
        (Role::V, "self_attn.v_proj"),
        (Role::O, "self_attn.out_proj"),
        (Role::Up, "mlp.fc1"),
        (Role::Down, "mlp.fc2"),
    ],
    norms: ["layer_norm1", "layer_norm2"],
    outside: &[
        ("embed.cls", "embeddings.class_embedding", Stored::Vector),
        ("embed.pos", "embeddings.position_embedding.weight", Stored::Table),
        ("embed.weight", "embeddings.patch_embedding.weight", Stored::Patches),
        ("embed.norm.weight", "pre_layrnorm.weight", Stored::Vector),
        ("embed.norm.bias", "pre_layrnorm.bias", Stored::Vector),
        ("norm.weight", "post_layernorm.weight", Stored::Vector),
        ("norm.bias", "post_layernorm.bias", Stored::Vector),
    ],
    ..VIT_4
};
pub const CLIP_5: Naming = Naming { program: "transformers 5", ..CLIP_4 };

/// `SwinForImageClassification`.
pub const SWIN_4: Naming = Naming {
    prefix: "swin.",
    blocks: "encoder.layers.",
    below: &[
        (Role::Q, "attention.self.query"),
        (Role::K, "attention.self.key"),
        (Role::V, "attention.self.value"),
        (Role::O, "attention.output.dense"),
        (Role::Up, "intermediate.dense"),
        (Role::Down, "output.dense"),
        (Role::Distance, "attention.self.relative_position_bias_table"),
    ],
    staged: [".blocks.", "downsample.norm", "downsample.reduction"],
    outside: &[
        ("embed.weight", "embeddings.patch_embeddings.projection.weight", Stored::Patches),
        ("embed.bias", "embeddings.patch_embeddings.projection.bias", Stored::Vector),
        ("embed.pos", "embeddings.position_embeddings", Stored::Positions),
        ("embed.norm.weight", "embeddings.norm.weight", Stored::Vector),
        ("embed.norm.bias", "embeddings.norm.bias", Stored::Vector),
        ("norm.weight", "layernorm.weight", Stored::Vector),
        ("norm.bias", "layernorm.bias", Stored::Vector),
    ],
    ..VIT_4
};
pub const SWIN_5: Naming = Naming {
    program: "transformers 5",
    below: &[
        NEW[0],
        NEW[1],
        NEW[2],
        NEW[3],
        NEW[4],
        NEW[5],
        (Role::Distance, "attention.relative_position_bias.relative_position_bias_table"),
    ],
    ..SWIN_4
};

/// The `.npz` archives that Google released beside the paper.
pub const GOOGLE: Naming = Naming {
    program: "big_vision",
    prefix: "",
    blocks: "Transformer/encoderblock_",
    below: &[
        (Role::Q, "MultiHeadDotProductAttention_1/query"),
        (Role::K, "MultiHeadDotProductAttention_1/key"),
        (Role::V, "MultiHeadDotProductAttention_1/value"),
        (Role::O, "MultiHeadDotProductAttention_1/out"),
        (Role::Up, "MlpBlock_3/Dense_0"),
        (Role::Down, "MlpBlock_3/Dense_1"),
    ],
    norms: ["LayerNorm_0", "LayerNorm_2"],
    flax: true,
    outside: &[
        ("embed.cls", "cls", Stored::Positions),
        ("embed.pos", "Transformer/posembed_input/pos_embedding", Stored::Positions),
        ("embed.weight", "embedding/kernel", Stored::PatchesLast),
        ("embed.bias", "embedding/bias", Stored::Vector),
        ("norm.weight", "Transformer/encoder_norm/scale", Stored::Vector),
        ("norm.bias", "Transformer/encoder_norm/bias", Stored::Vector),
    ],
    ..VIT_4
};

/// `CLIPTextModel`.
pub const CLIP_TEXT: Naming = Naming {
    program: "transformers",
    prefix: "text_model.",
    outside: &[
        ("embed.word", "embeddings.token_embedding.weight", Stored::Table),
        ("embed.pos", "embeddings.position_embedding.weight", Stored::Table),
        ("norm.weight", "final_layer_norm.weight", Stored::Vector),
        ("norm.bias", "final_layer_norm.bias", Stored::Vector),
    ],
    ..CLIP_4
};

/// `CLIPModel`: both towers, and what brings them together.
pub const CLIP: Naming = Naming {
    program: "transformers",
    prefix: "",
    towers: Some([&CLIP_4, &CLIP_TEXT]),
    outside: &[
        ("projection.weight", "visual_projection.weight", Stored::Turned),
        ("text.projection.weight", "text_projection.weight", Stored::Turned),
        ("temperature.weight", "logit_scale", Stored::Number),
    ],
    ..CLIP_4
};

/// `VisionTransformer` of timm.
pub const TIMM: Naming = Naming {
    program: "timm",
    prefix: "",
    blocks: "blocks.",
    below: &[
        (Role::Q, "attn.qkv"),
        (Role::K, "attn.qkv"),
        (Role::V, "attn.qkv"),
        (Role::O, "attn.proj"),
        (Role::Up, "mlp.fc1"),
        (Role::Down, "mlp.fc2"),
    ],
    norms: ["norm1", "norm2"],
    scales: ["ls1.gamma", "ls2.gamma"],
    fused: true,
    flax: false,
    unturned: false,
    staged: ["", "", ""],
    decoder: None,
    towers: None,
    outside: &[
        ("embed.cls", "cls_token", Stored::Positions),
        ("embed.dist", "dist_token", Stored::Positions),
        ("embed.pos", "pos_embed", Stored::Positions),
        ("embed.weight", "patch_embed.proj.weight", Stored::Patches),
        ("embed.bias", "patch_embed.proj.bias", Stored::Vector),
        ("norm.weight", "norm.weight", Stored::Vector),
        ("norm.bias", "norm.bias", Stored::Vector),
    ],
};

/// `BertForSequenceClassification`, the same in transformers 4 and 5. Its norms stand behind what they norm.
pub const BERT: Naming = Naming {
    program: "transformers",
    prefix: "bert.",
    below: &[
        (Role::Q, "attention.self.query"),
        (Role::K, "attention.self.key"),
        (Role::V, "attention.self.value"),
        (Role::O, "attention.output.dense"),
        (Role::Up, "intermediate.dense"),
        (Role::Down, "output.dense"),
    ],
    norms: ["attention.output.LayerNorm", "output.LayerNorm"],
    outside: &[
        ("embed.word", "embeddings.word_embeddings.weight", Stored::Table),
        ("embed.pos", "embeddings.position_embeddings.weight", Stored::Table),
        ("embed.kind", "embeddings.token_type_embeddings.weight", Stored::Table),
        ("embed.norm.weight", "embeddings.LayerNorm.weight", Stored::Vector),
        ("embed.norm.bias", "embeddings.LayerNorm.bias", Stored::Vector),
        ("pooler.weight", "pooler.dense.weight", Stored::Turned),
        ("pooler.bias", "pooler.dense.bias", Stored::Vector),
    ],
    ..VIT_4
};
pub const ROBERTA: Naming = Naming { prefix: "roberta.", ..BERT };
pub const DISTILBERT: Naming = Naming {
    prefix: "distilbert.",
    blocks: "transformer.layer.",
    below: &[
        (Role::Q, "attention.q_lin"),
        (Role::K, "attention.k_lin"),
        (Role::V, "attention.v_lin"),
        (Role::O, "attention.out_lin"),
        (Role::Up, "ffn.lin1"),
        (Role::Down, "ffn.lin2"),
    ],
    norms: ["sa_layer_norm", "output_layer_norm"],
    ..BERT
};

/// `LlamaModel`, and Mistral's and Qwen2's, the same in transformers 4 and 5.
pub const LLAMA: Naming = Naming {
    program: "transformers",
    prefix: "model.",
    blocks: "layers.",
    below: &[
        (Role::Q, "self_attn.q_proj"),
        (Role::K, "self_attn.k_proj"),
        (Role::V, "self_attn.v_proj"),
        (Role::O, "self_attn.o_proj"),
        (Role::Gate, "mlp.gate_proj"),
        (Role::Up, "mlp.up_proj"),
        (Role::Down, "mlp.down_proj"),
    ],
    norms: ["input_layernorm", "post_attention_layernorm"],
    outside: &[("embed.word", "embed_tokens.weight", Stored::Table), ("norm.weight", "norm.weight", Stored::Vector)],
    ..VIT_4
};

/// The same networks as llama.cpp names them.
pub const LLAMA_CPP: Naming = Naming {
    program: "llama.cpp",
    prefix: "",
    blocks: "blk.",
    below: &[
        (Role::Q, "attn_q"),
        (Role::K, "attn_k"),
        (Role::V, "attn_v"),
        (Role::O, "attn_output"),
        (Role::Gate, "ffn_gate"),
        (Role::Up, "ffn_up"),
        (Role::Down, "ffn_down"),
    ],
    norms: ["attn_norm", "ffn_norm"],
    outside: &[("embed.word", "token_embd.weight", Stored::Table), ("norm.weight", "output_norm.weight", Stored::Vector)],
    ..LLAMA
};

/// `GPT2Model`, the same in transformers 4 and 5.
pub const GPT2: Naming = Naming {
    program: "transformers",
    prefix: "transformer.",
    blocks: "h.",
    below: &[
        (Role::Q, "attn.c_attn"),
        (Role::K, "attn.c_attn"),
        (Role::V, "attn.c_attn"),
        (Role::O, "attn.c_proj"),
        (Role::Up, "mlp.c_fc"),
        (Role::Down, "mlp.c_proj"),
    ],
    norms: ["ln_1", "ln_2"],
    fused: true,
    unturned: true,
    outside: &[
        ("embed.word", "wte.weight", Stored::Table),
        ("embed.pos", "wpe.weight", Stored::Table),
        ("norm.weight", "ln_f.weight", Stored::Vector),
        ("norm.bias", "ln_f.bias", Stored::Vector),
    ],
    ..VIT_4
};

/// The encoder of `WhisperForAudioClassification`, the same in transformers 4 and 5.
pub const WHISPER: Naming = Naming {
    program: "transformers",
    prefix: "encoder.",
    blocks: "layers.",
    below: &[
        (Role::Q, "self_attn.q_proj"),
        (Role::K, "self_attn.k_proj"),
        (Role::V, "self_attn.v_proj"),
        (Role::O, "self_attn.out_proj"),
        (Role::Up, "fc1"),
        (Role::Down, "fc2"),
    ],
    norms: ["self_attn_layer_norm", "final_layer_norm"],
    outside: &[
        ("embed.conv1.weight", "conv1.weight", Stored::Taps),
        ("embed.conv1.bias", "conv1.bias", Stored::Vector),
        ("embed.conv2.weight", "conv2.weight", Stored::Taps),
        ("embed.conv2.bias", "conv2.bias", Stored::Vector),
        ("embed.pos", "embed_positions.weight", Stored::Table),
        ("norm.weight", "layer_norm.weight", Stored::Vector),
        ("norm.bias", "layer_norm.bias", Stored::Vector),
    ],
    ..VIT_4
};

/// `ASTForAudioClassification`: a vision transformer's names.
pub const AST_4: Naming = Naming { prefix: "audio_spectrogram_transformer.", ..VIT_4 };
pub const AST_5: Naming = Naming { prefix: "audio_spectrogram_transformer.", ..VIT_5 };
/// `T5Model` and mT5's, the same in transformers 4 and 5, where the MLP is gated.
pub const T5_GATED: Naming = Naming {
    program: "transformers",
    prefix: "transformer.",
    blocks: "encoder.block.",
    below: &[
        T5_ATTENTION[0],
        T5_ATTENTION[1],
        T5_ATTENTION[2],
        T5_ATTENTION[3],
        (Role::Gate, "layer.1.DenseReluDense.wi_0"),
        (Role::Up, "layer.1.DenseReluDense.wi_1"),
        (Role::Down, "layer.1.DenseReluDense.wo"),
    ],
    norms: ["layer.0.layer_norm", "layer.1.layer_norm"],
    decoder: Some([&T5_GATED_DECODER, &T5_CROSS]),
    outside: &[
        ("embed.word", "shared.weight", Stored::Table),
        ("encoder.relative.table", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", Stored::Turned),
        ("encoder.norm.weight", "encoder.final_layer_norm.weight", Stored::Vector),
        ("decoder.relative.table", "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", Stored::Turned),
        ("decoder.norm.weight", "decoder.final_layer_norm.weight", Stored::Vector),
    ],
    ..VIT_4
};
const T5_ATTENTION: [(Role, &str); 4] = [
    (Role::Q, "layer.0.SelfAttention.q"),
    (Role::K, "layer.0.SelfAttention.k"),
    (Role::V, "layer.0.SelfAttention.v"),
    (Role::O, "layer.0.SelfAttention.o"),
];
const T5_GATED_DECODER: Naming = Naming {
    blocks: "decoder.block.",
    below: &[
        T5_ATTENTION[0],
        T5_ATTENTION[1],
        T5_ATTENTION[2],
        T5_ATTENTION[3],
        (Role::Gate, "layer.2.DenseReluDense.wi_0"),
        (Role::Up, "layer.2.DenseReluDense.wi_1"),
        (Role::Down, "layer.2.DenseReluDense.wo"),
    ],
    norms: ["layer.0.layer_norm", "layer.2.layer_norm"],
    outside: &[],
    ..VIT_4
};
const T5_CROSS: Naming = Naming {
    below: &[
        (Role::Q, "layer.1.EncDecAttention.q"),
        (Role::K, "layer.1.EncDecAttention.k"),
        (Role::V, "layer.1.EncDecAttention.v"),
        (Role::O, "layer.1.EncDecAttention.o"),
    ],
    norms: ["layer.1.layer_norm"; 2],
    ..T5_GATED_DECODER
};

/// The same where it is not.
pub const T5: Naming = Naming {
    below: &[
        T5_ATTENTION[0],
        T5_ATTENTION[1],
        T5_ATTENTION[2],
        T5_ATTENTION[3],
        (Role::Up, "layer.1.DenseReluDense.wi"),
        (Role::Down, "layer.1.DenseReluDense.wo"),
    ],
    decoder: Some([&T5_DECODER, &T5_CROSS]),
    ..T5_GATED
};
const T5_DECODER: Naming = Naming {
    below: &[
        T5_ATTENTION[0],
        T5_ATTENTION[1],
        T5_ATTENTION[2],
        T5_ATTENTION[3],
        (Role::Up, "layer.2.DenseReluDense.wi"),
        (Role::Down, "layer.2.DenseReluDense.wo"),
    ],
    ..T5_GATED_DECODER
};
