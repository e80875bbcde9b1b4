"""Divergence between the relations among queries, among keys and among values of mapped layers.

MiniLMv2 (Wang et al. 2021, arXiv:2012.15828, section 3) compares one pair of layers.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from torch import Tensor, nn

from hf_sparse.distillation.batch_counts import fitting_mask
from hf_sparse.distillation.cached_outputs import Place, Rows
from hf_sparse.distillation.features.projections import KINDS, Projections, find_projections, recorded
from hf_sparse.distillation.features.term import (
    FeatureSettings,
    FeatureTerm,
    Role,
    configuration,
    learnable,
    require_same_shape,
)
from hf_sparse.distillation.kl import categorical
from hf_sparse.distillation.layer_map import chosen_pairs, layer_map
from hf_sparse.distillation.losses import LossTerm, add_up, position_term, precise


class RelationSettings(FeatureSettings, Protocol):
    """`heads`: the number of parts that vectors are split into; None for the student's attention heads."""

    heads: int | None


class Relations(FeatureTerm):
    """KL(teacher || student) of softmax(A A^T / sqrt(width of a head)) at each token.

    A is the queries, the keys or the values of one relation head; the result is the mean over heads, these
    three kinds and pairs of layers. Vectors are split into the same number of relation heads in both models,
    so their widths and numbers of attention heads may differ. Rotary position embeddings are not applied.
    Padding is left out both as a key and as a query.
    """

    def __init__(self, settings: RelationSettings, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        models: dict[Role, nn.Module] = {"student": student, "teacher": teacher}
        configs = {role: configuration(model, role) for role, model in models.items()}
        for role, config in configs.items():
            if config.is_encoder_decoder:
                raise ValueError(
                    f"relations compares one kind of attention per layer, and the {role} is an "
                    "encoder-decoder with three; use hidden"
                )
        self.heads = settings.heads or configs["student"].num_attention_heads
        self.depths = {role: config.num_hidden_layers for role, config in configs.items()}
        for role, model in models.items():
            _check_divides(self.heads, role, find_projections(model, self.depths[role]))
        self.pairs = layer_map(settings.layers, self.depths["student"], self.depths["teacher"])
        self.choices = chosen_pairs(settings.layers, self.depths["student"], self.depths["teacher"])

    def reads(self) -> Mapping[Place, Rows]:
        layers = self.pairs.values()
        return {("projections", layer, kind): "tokens" for layer in layers for kind in KINDS}

    @contextmanager
    def watch(self, model: nn.Module, role: Role) -> Iterator[dict[str, Any]]:
        wanted = self.pairs.keys() if role == "student" else self.pairs.values()
        with recorded(model, self.depths[role], wanted) as vectors:
            yield {"projections": vectors}

    def forward(
        self, student: Mapping[str, Any], teacher: Mapping[str, Any], inputs: Mapping[str, Any]
    ) -> list[LossTerm]:
        divergences = []
        for layer, teacher_layer in self.pairs.items():
            for kind in KINDS:
                learned = learnable(_vectors(student, layer, kind), f"{kind} of layer {layer}")
                target = _vectors(teacher, teacher_layer, kind)
                require_same_shape(learned[..., 0], target[..., 0], kind)
                batch, length, _ = learned.shape
                keep = fitting_mask((batch, length), inputs)
                rows = None if keep is None else keep[:, None].expand(batch, self.heads, length)
                student_relations = _relations(learned, self.heads, keep)
                teacher_relations = _relations(target, self.heads, keep)
                divergences.append(categorical(student_relations, teacher_relations, 1.0, rows))
        total = add_up(divergences) / (self.heads * len(KINDS) * len(self.pairs))
        return [position_term(total, length, inputs)]


def _relations(vectors: Tensor, heads: int, keep: Tensor | None) -> Tensor:
    """Return scaled products (batch, heads, queries, keys), minus infinity where the key is padding."""
    parts = precise(vectors).unflatten(-1, (heads, -1)).transpose(1, 2)
    products = parts @ parts.transpose(-1, -2) / parts.shape[-1] ** 0.5
    return products if keep is None else products.masked_fill(~keep[:, None, None], -float("inf"))


def _vectors(outputs: Mapping[str, Any], layer: int, kind: str) -> Tensor:
    vectors = outputs["projections"].get(layer, {}).get(kind)
    if vectors is None or vectors.dim() != 3:
        raise ValueError(
            f"the forward pass did not compute {kind} of shape (batch, length, width) in layer {layer}; "
            "leave relations out"
        )
    return vectors


def _check_divides(heads: int, role: Role, found: Sequence[tuple[nn.Module, Projections]]) -> None:
    widths = {projection.out_features for _, projections in found for projection in projections}
    wrong = sorted(width for width in widths if width % heads)
    if wrong:
        raise ValueError(
            f"{heads} relation heads do not divide the {role}'s queries, keys or values of width {wrong[0]}; "
            "set distillation.relations.heads to a divisor of the widths of both models"
        )
