"""Pruning in one shot with calibration data, without training."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_sparse.checkpoint.carrying import carry
from hf_sparse.checkpoint.contract import write_contract
from hf_sparse.checkpoint.directories import published, require_free
from hf_sparse.oneshot.layerwise import Current, walk
from hf_sparse.oneshot.statistics import STATISTICS, InputStatistics
from hf_sparse.settings.sparsity import check_share
from hf_sparse.sparsity.layout import Layout
from hf_sparse.sparsity.masks import Masks
from hf_sparse.sparsity.patterns.n_of_m import NOfM
from hf_sparse.sparsity.patterns.parse import parse_pattern
from hf_sparse.suitable import require_lasting
from hf_sparse.targets import Target, find_targets
from hf_sparse.training.resolve import lock_standing, standing


def prune_with_data(
    model: nn.Module,
    sparsity: float,
    batches: Iterable[Mapping[str, Tensor]],
    pattern: str = "unstructured",
    method: str = "wanda",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Masks:
    """Remove weights of a model at once, in place, layer by layer, by what the layers read; return the masks.

    `batches` are inputs of the model, without labels; padding is left out where they have an attention mask.
    `method` is `wanda` or `sparse_gpt`. `sparsity` is the share of zeros of every target in [0, 1). Zeros of
    a sparse model stay and count, so that steps may alternate with training; the masks serve in a loop of
    your own as those of `prune` do. The model's configuration records what was removed. Raises `ValueError`
    for settings or models that the method does not suit, for weights with more zeros than are asked for, and
    for weights that no text reaches.
    """
    if method not in STATISTICS:
        raise ValueError(
            f"method {method!r} needs no data or is unknown; choose one of {', '.join(STATISTICS)}"
        )
    if not 0 <= sparsity < 1:
        raise ValueError(f"a sparsity is the share of weights to remove, in [0, 1), got {sparsity}")
    laid = parse_pattern(pattern)
    check_share(pattern, sparsity, "sparsity")
    targets = find_targets(model, include, exclude)
    require_lasting(model, targets, "sparsity")
    layout = Layout(targets, laid)
    for target in targets:
        if layout.blocks[target.name].size > 1 and not STATISTICS[method].knows_blocks:
            raise ValueError(
                f"method {method} removes single weights, and pattern {pattern} whole blocks; choose "
                "unstructured, N:M such as 2:4, or method wanda"
            )
        if target.expert is not None:
            raise ValueError(
                f"{target.name} is the weight of an expert, whose inputs cannot be told; exclude experts, or "
                "use method magnitude"
            )
    masks = Masks(targets)
    if kept := standing(model, targets):
        lock_standing(masks, {name: layout.blocks[name] for name in kept})
        _check_reachable(masks, layout, sparsity)

    def visit(own: list[Target], run: Callable[[], object], current: Current) -> None:
        seen = {target.name: STATISTICS[method](target.weight.detach(), masks[target.name]) for target in own}
        hooks = [_watch(target, seen[target.name], current) for target in own]
        try:
            run()
        finally:
            for hook in hooks:
                hook.remove()
        for name, statistics in seen.items():
            if not statistics.count:
                raise ValueError(f"no text reaches {name}; exclude it, or give other texts")
            masks.set(name, statistics.prune(sparsity, layout.blocks[name]))

    walk(model, targets, batches, visit)
    write_contract(model, masks, pattern, sparsity, dict.fromkeys(targets.names, (pattern, sparsity)))
    return masks


def _check_reachable(masks: Masks, layout: Layout, sparsity: float) -> None:
    """Refuse what would give weights back that are removed already."""
    for name, weight in layout.weights.items():
        removed, asked = masks.removed(name), weight.removed(sparsity) * weight.block.size
        if removed > asked:
            raise ValueError(
                f"{removed} weights of {name} are zero already, more than the {asked} that sparsity "
                f"{sparsity} removes; raise the sparsity, or start from the dense model"
            )
        if isinstance(weight.block, NOfM) and (short := weight.block.too_few(masks[name])):
            raise ValueError(
                f"{short} groups of {name} have fewer weights left than the {weight.block.kept} of "
                f"{weight.block.group} that pattern {weight.block} keeps; choose unstructured, or start from "
                "the dense model"
            )


def require_new(directory: str | Path) -> None:
    """Raise `ValueError` unless `save_pruned` may write into a directory."""
    require_free(Path(directory))


def save_pruned(
    model: PreTrainedModel,
    directory: str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    carried: Mapping[str, Path] = MappingProxyType({}),
) -> None:
    """Write a plain directory, new or empty: a model in it could not be told from one trained further.

    `carried` is what goes with it besides, as `checkpoint.carrying.carried` finds it.
    """
    with published(Path(directory)) as staged:
        model.save_pretrained(staged)
        if tokenizer is not None:
            tokenizer.save_pretrained(staged)
        carry(carried, staged)


def _watch(target: Target, statistics: InputStatistics, current: Current) -> RemovableHandle:
    def note(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        inputs, tokens = arguments[0], current.tokens
        if tokens is None or tokens.all():
            statistics.add(inputs.flatten(0, -2))
        elif inputs.shape[:-1] == tokens.shape:
            statistics.add(inputs[tokens])
        elif inputs.shape[:-1] == (tokens.numel(),):
            statistics.add(inputs[tokens.flatten()])
        else:
            raise ValueError(
                f"{target.name} reads {tuple(inputs.shape)} of {tuple(tokens.shape)} tokens, so its padding "
                "cannot be told; give texts one at a time"
            )

    return target.module.register_forward_pre_hook(note)
