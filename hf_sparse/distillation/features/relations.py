"""Divergence between the relations among queries, among keys and among values of mapped layers.

MiniLMv2 (Wang et al. 2021, arXiv:2012.15828, section 3) compares one pair of layers.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeGuard

from torch import Tensor, nn

from hf_sparse.architectures import FUSED_PROJECTIONS, PROJECTIONS
from hf_sparse.distillation.batch_counts import fitting_mask
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

KINDS = ("queries", "keys", "values")

Projections = tuple[nn.Linear, nn.Linear, nn.Linear]


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
        self.widths = {role: config.hidden_size for role, config in configs.items()}
        for role, model in models.items():
            _check_divides(self.heads, role, find_projections(model, self.depths[role]))
        self.pairs = layer_map(settings.layers, self.depths["student"], self.depths["teacher"])
        self.choices = chosen_pairs(settings.layers, self.depths["student"], self.depths["teacher"])

    def operations(self, tokens: int) -> float:
        """Return the operations of the products: once in the teacher, thrice in the student, which learns."""
        widths = 3 * self.widths["student"] + self.widths["teacher"]
        return len(self.pairs) * len(KINDS) * 2 * tokens * widths

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


def find_projections(model: nn.Module, layers: int) -> list[tuple[nn.Module, Projections]]:
    """Return the attention modules of a model, each with its projections of queries, keys and values.

    Raises `ValueError` if none is found, or if their number does not divide `layers`; a module that several
    layers share counts once.
    """
    found: list[tuple[nn.Module, Projections]] = []
    for module in model.modules():
        for names in PROJECTIONS:
            queries, keys, values = (getattr(module, name, None) for name in names)
            if _is_linear(queries) and _is_linear(keys) and _is_linear(values):
                found.append((module, (queries, keys, values)))
    if not found:
        raise ValueError(f"relations needs projections of queries, keys and values, and {_why_none(model)}")
    if layers % len(found):
        raise ValueError(
            f"{type(model).__name__} has {len(found)} attention modules for {layers} layers, so which "
            "belongs to which layer is unknown; use hidden"
        )
    return found


def _is_linear(module: nn.Module | None) -> TypeGuard[nn.Linear]:
    """Return whether a module is a Linear or an adapter around one, which has the same attributes."""
    return isinstance(module, nn.Linear) or isinstance(getattr(module, "base_layer", None), nn.Linear)


def _why_none(model: nn.Module) -> str:
    fused = [name for name, _ in model.named_modules() if name.rpartition(".")[2] in FUSED_PROJECTIONS]
    if fused:
        return (
            f"{type(model).__name__} computes all three at once, in {fused[0]}; use hidden, or attention "
            "if both models have the same number of heads"
        )
    names = " or ".join(", ".join(names) for names in PROJECTIONS)
    return f"{type(model).__name__} lacks Linears named {names}; use hidden"


@contextmanager
def recorded(
    model: nn.Module, layers: int, wanted: Collection[int]
) -> Iterator[dict[int, dict[str, Tensor]]]:
    """Record queries, keys and values of the wanted layers during forward passes inside the block.

    The mapping is filled as the model runs: layer (from 1) -> kind -> output of the projection, usually
    (batch, length, width). The hooks are removed when the block ends.
    """
    vectors: dict[int, dict[str, Tensor]] = {}
    entered = 0

    def enter(module: nn.Module, args: Any) -> None:
        nonlocal entered
        entered += 1

    def keep(kind: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            # Keep the first call in a layer: DeBERTa projects relative positions by the same modules later.
            if entered in wanted:
                vectors.setdefault(entered, {}).setdefault(kind, output)

        return hook

    handles = []
    try:
        for module, projections in find_projections(model, layers):
            handles.append(module.register_forward_pre_hook(enter))
            for kind, projection in zip(KINDS, projections, strict=True):
                handles.append(projection.register_forward_hook(keep(kind)))
        yield vectors
    finally:
        for handle in handles:
            handle.remove()
