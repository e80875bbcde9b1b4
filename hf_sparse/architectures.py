"""Names that architectures of transformers give their parts: one table for all code that needs them.

Only names that differ between architectures are here. `hidden_size`, `num_attention_heads` and
`num_hidden_layers` can be read from every configuration, since its `attribute_map` translates them.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class EncoderNames:
    """Where models keep the parts of an encoder that can be fused, and how its layers differ from BERT's.

    Attributes:
        encoder: The module of the base model that holds the layers, or the list of layers itself.
        projections: The Linears of queries, keys and values in a layer, or one that computes all three.
        output: The Linear behind the attention.
        intermediate: The first Linear of the feed-forward layer.
        last: Its last Linear.
        norms: The norm of the attention, and that of the feed-forward layer.
        activation: The setting of the activation.
        layers: The list of layers in `encoder`; empty if `encoder` is the list.
        inner: The list of layers in each entry of that list, where an entry is a group of layers.
        gate: The Linear whose outputs are multiplied with the activations. If it is `intermediate`, that one
            computes both, the gate last.
        norms_first: Whether the norms stand before the attention and the feed-forward layer, not behind the
            sum of each with its input.
        entrance: A Linear of `encoder` before its first layer.
        rotary: The module of the base model that computes rotary embeddings.
        relative: The table of biases of relative positions in `encoder`.
        disentangled: Whether queries and keys are also multiplied with projections of relative positions.
        positions: The Linears of these projections for queries ("c2p") and for keys ("p2c"), where they are
            not those of keys and of queries.
    """

    encoder: str
    projections: tuple[str, ...]
    output: str
    intermediate: str
    last: str
    norms: tuple[str, str]
    activation: str
    layers: str = "layer"
    inner: str | None = None
    gate: str | None = None
    norms_first: bool = False
    entrance: str | None = None
    rotary: str | None = None
    relative: str | None = None
    disentangled: bool = False
    positions: tuple[str, ...] = ()

    @property
    def linears(self) -> tuple[str, ...]:
        """The Linears of a layer, in the order in which the runtime stores them."""
        gate = () if self.gate in (None, self.intermediate) else (self.gate,)
        return (*self.projections, self.output, self.intermediate, *gate, self.last, *self.positions)

    @property
    def pieces(self) -> tuple[int, ...]:
        """The number of matrices, one below the other, that each of `linears` is."""
        several = {self.projections[0]: 4 - len(self.projections)}
        if self.gate == self.intermediate:
            several[self.intermediate] = 2
        return tuple(several.get(name, 1) for name in self.linears)


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
MODERNBERT = EncoderNames(
    "layers",
    ("attn.Wqkv",),
    "attn.Wo",
    "mlp.Wi",
    "mlp.Wo",
    ("attn_norm", "mlp_norm"),
    "hidden_activation",
    layers="",
    gate="mlp.Wi",
    norms_first=True,
    rotary="rotary_emb",
)
_SELF_ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
NOMIC = EncoderNames(
    "layers",
    _SELF_ATTENTION,
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.down_proj",
    ("post_attention_layernorm", "post_mlp_layernorm"),
    "hidden_act",
    layers="",
    gate="mlp.up_proj",
    rotary="rotary_emb",
)
JINA = replace(NOMIC, intermediate="mlp.fc1", last="mlp.fc2", gate=None)
EUROBERT = replace(NOMIC, norms=("input_layernorm", "post_attention_layernorm"), norms_first=True)
VIT = EncoderNames(
    "layers",
    ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    "attention.o_proj",
    "mlp.fc1",
    "mlp.fc2",
    ("layernorm_before", "layernorm_after"),
    "hidden_act",
    layers="",
    norms_first=True,
)
ALBERT = EncoderNames(
    "encoder",
    ("attention.query", "attention.key", "attention.value"),
    "attention.dense",
    "ffn",
    "ffn_output",
    ("attention.LayerNorm", "full_layer_layer_norm"),
    "hidden_act",
    layers="albert_layer_groups",
    inner="albert_layers",
    entrance="embedding_hidden_mapping_in",
)
MPNET = replace(
    BERT,
    projections=("attention.attn.q", "attention.attn.k", "attention.attn.v"),
    output="attention.attn.o",
    norms=("attention.LayerNorm", "output.LayerNorm"),
    relative="relative_attention_bias",
)
DEBERTA = replace(
    BERT,
    projections=(
        "attention.self.query_proj",
        "attention.self.key_proj",
        "attention.self.value_proj",
    ),
    disentangled=True,
    positions=("attention.self.pos_key_proj", "attention.self.pos_query_proj"),
)
# By the model_type of the configuration.
ENCODERS = {
    "bert": BERT,
    "camembert": BERT,
    "distilbert": DISTILBERT,
    "electra": BERT,
    "roberta": BERT,
    "xlm-roberta": BERT,
    "albert": ALBERT,
    "deberta-v2": DEBERTA,
    "deit": VIT,
    "eurobert": EUROBERT,
    "gte": NOMIC,
    "jina_embeddings_v3": JINA,
    "modernbert": MODERNBERT,
    "mpnet": MPNET,
    "nomic_bert": NOMIC,
    "vit": VIT,
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
