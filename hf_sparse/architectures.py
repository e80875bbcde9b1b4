"""Names that architectures of transformers give their parts: one table for all code that needs them.

Only names that differ between architectures are here. `hidden_size`, `num_attention_heads` and
`num_hidden_layers` can be read from every configuration, since its `attribute_map` translates them.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class EncoderNames:
    """Where models with the encoder of BERT keep its parts.

    `encoder` is a module of the base model, `layers` the list of layers in it; projections, Linears and norms
    are modules of a layer; `activation` is a setting of the configuration. The first norm follows the
    attention, the second the feed-forward layer.
    """

    encoder: str
    projections: tuple[str, str, str]
    output: str
    intermediate: str
    last: str
    norms: tuple[str, str]
    activation: str
    layers: str = "layer"

    @property
    def linears(self) -> tuple[str, ...]:
        """The six Linears of a layer, in the order in which they compute."""
        return (*self.projections, self.output, self.intermediate, self.last)


BERT = EncoderNames(
    "encoder",
    ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
    ("attention.output.LayerNorm", "output.LayerNorm"),
    "hidden_act",
)
DISTILBERT = EncoderNames(
    "transformer",
    ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    "attention.out_lin",
    "ffn.lin1",
    "ffn.lin2",
    ("sa_layer_norm", "output_layer_norm"),
    "activation",
)
# By the model_type of the configuration.
ENCODERS = {
    "bert": BERT,
    "camembert": BERT,
    "distilbert": DISTILBERT,
    "electra": BERT,
    "roberta": BERT,
    "xlm-roberta": BERT,
}

# The projections of queries, keys and values in an attention module.
PROJECTIONS = (
    ("query", "key", "value"),
    ("q_proj", "k_proj", "v_proj"),
    ("query_proj", "key_proj", "value_proj"),
    ("q_lin", "k_lin", "v_lin"),
    ("q", "k", "v"),
)
# One projection that computes all three.
FUSED_PROJECTIONS = ("c_attn", "query_key_value", "qkv_proj", "qkv", "Wqkv", "in_proj")
# Endings of the name of the projection behind the attention.
ATTENTION_OUTPUTS = ("o", "o_proj", "out_proj", "out_lin", "output.dense", "dense")
# What else an attention module may hold and still treat its heads alike: norms of queries and keys, dropout,
# positions that act on the attention weights. A regular expression of whole names.
BESIDE_PROJECTIONS = (
    r"(?:q|k|query|key)_?(?:layer)?_?norm|(?:attn_)?dropout|rotary_emb|relative_attention_bias"
)

# The two matrices of a gated feed-forward layer that read its input.
GATED_INPUTS = ("gate_proj", "up_proj", "wi_0", "wi_1")
# Settings of the width of a feed-forward layer, and of its activation.
FEED_FORWARD_WIDTHS = ("intermediate_size", "hidden_dim", "ffn_dim", "d_ff", "n_inner")
ACTIVATION_SETTINGS = (
    "hidden_act",
    "hidden_activation",
    "activation",
    "activation_function",
    "dense_act_fn",
)


def feed_forward_width(config: object) -> tuple[str, int] | None:
    """Return the setting of the width of the feed-forward layers, and the width; None if there is none."""
    for key in FEED_FORWARD_WIDTHS:
        if isinstance(width := getattr(config, key, None), int):
            return key, width
    if hasattr(config, "n_inner") and hasattr(config, "hidden_size"):
        # GPT-2 reads None so.
        return "n_inner", 4 * config.hidden_size
    return None


# Settings of the number of layers in encoder-decoders.
ENCODER_DEPTHS = ("encoder_layers", "num_layers")
DECODER_DEPTHS = ("decoder_layers", "num_decoder_layers")

# Tables of absolute positions.
POSITION_TABLES = ("position_embeddings", "embed_positions", "position_embedding", "pos_embeddings")
# Tables of relative positions, searched in a name. DeBERTa reads its table whole, without calling it.
RELATIVE_POSITIONS = r"rel_|relative"

# Linears that a model multiplies with by their weight, without calling them, by its model_type.
USED_PAST_FORWARD = {
    "deberta": ("in_proj",),
    "falcon_mamba": ("dt_proj",),
    "jamba": ("dt_proj",),
    "mamba": ("dt_proj",),
    "wavlm": ("q_proj", "k_proj", "v_proj", "out_proj"),
}

# Modules that pretraining leaves behind and many classes lack.
PRETRAINING_PARTS = ("pooler", "seq_relationship", "sop_classifier")
# Settings that count parts which are built one by one, searched in a setting's name.
COUNTS_OF_PARTS = r"layer|block|depth|expert|hidden_groups|inner_group"
