"""Where models of the BERT family keep the parts of an encoder layer."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from hf_sparse.runtime.library import ACTIVATIONS


@dataclass(frozen=True)
class Family:
    """The names of an encoder in its base model, of the list of its layers, and of the parts of each."""

    encoder: str
    linears: tuple[str, ...]  # as in LINEARS
    norms: tuple[str, str]
    activation: str  # of the configuration

    def parts(self, base: PreTrainedModel) -> Iterator[tuple[str, nn.Module, tuple[nn.Module, ...]]]:
        """Return the name of each layer, the layer and its Linears, in the order of LINEARS."""
        for index, layer in enumerate(base.get_submodule(self.encoder).layer):
            linears = tuple(layer.get_submodule(name) for name in self.linears)
            yield f"{self.encoder}.layer.{index}", layer, linears


_BERT = Family(
    "encoder",
    (
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
    ),
    ("attention.output.LayerNorm", "output.LayerNorm"),
    "hidden_act",
)
_DISTILBERT = Family(
    "transformer",
    (
        "attention.q_lin",
        "attention.k_lin",
        "attention.v_lin",
        "attention.out_lin",
        "ffn.lin1",
        "ffn.lin2",
    ),
    ("sa_layer_norm", "output_layer_norm"),
    "activation",
)
# By the type of the model's configuration.
FAMILIES = {
    "bert": _BERT,
    "camembert": _BERT,
    "distilbert": _DISTILBERT,
    "electra": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
}


def family_of(model: PreTrainedModel) -> Family:
    """Return the family of a model; raise `ValueError` with the reason if its encoder cannot be fused."""
    config = model.config
    family = FAMILIES.get(config.model_type)
    reason = None
    if family is None:
        reason = f"models of type {config.model_type} are not among {', '.join(FAMILIES)}"
    elif getattr(config, "is_decoder", False) or getattr(config, "add_cross_attention", False):
        reason = "its attention looks back, or at another model"
    elif getattr(config, "position_embedding_type", None) not in (None, "absolute"):
        reason = f"its positions are {config.position_embedding_type}"
    elif getattr(config, family.activation) not in ACTIVATIONS:
        reason = f"its activation {getattr(config, family.activation)} is none of {', '.join(ACTIVATIONS)}"
    if reason is not None:
        raise ValueError(
            f"the encoder of this {type(model).__name__} cannot be fused: {reason}; optimize(model) replaces "
            "its Linears one by one"
        )
    return family
