"""One-shot pruning with calibration data, without training."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_sparse.atomic.directories import replacing_directory, require_free
from hf_sparse.checkpoint.carry_over import carry
from hf_sparse.checkpoint.sparsity_record import write_sparsity_record
from hf_sparse.oneshot.layerwise import Current, InputStatistics, walk
from hf_sparse.oneshot.sparsegpt import SparseGpt
from hf_sparse.oneshot.wanda import Wanda
from hf_sparse.recipe.sparsity import check_share
from hf_sparse.savable import require_lasting
from hf_sparse.sparsity.layout import Layout
from hf_sparse.sparsity.masks import Masks
from hf_sparse.sparsity.patterns.parse import parse_pattern
from hf_sparse.targets import Target, find_targets
from hf_sparse.training.parts.resolve import lock_standing, standing

DATA_METHODS: dict[str, type[InputStatistics]] = {"wanda": Wanda, "sparse_gpt": SparseGpt}


def prune_with_data(
    model: nn.Module,
    sparsity: float,
    batches: Iterable[Mapping[str, Tensor]],
    pattern: str = "unstructured",
    method: str = "wanda",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Masks:
    """Prune a model in place, layer by layer, by the inputs of its layers, and return the masks.

    Zeros of a sparse model stay and count, so pruning may alternate with training. The model's configuration
    records what was removed.

    Args:
        model: A model whose layers are called one after the other, such as an encoder of transformers.
        sparsity: Share of zeros in every target, in [0, 1).
        batches: Inputs of the model, without labels. Tokens outside of the attention mask are ignored.
        pattern: Pattern of the zeros as in a recipe, such as `unstructured`, `2:4` or `4x4`.
        method: `wanda` (Sun et al. 2023) or `sparse_gpt` (Frantar & Alistarh 2023).
        include: Names or regular expressions of the Linears to prune instead of the default ones.
        exclude: Names or regular expressions of Linears to leave dense.

    Returns:
        The masks of the targets, for a training loop of your own as those of `prune`.

    Raises:
        ValueError: If the method does not suit the settings or the model, if a weight has more zeros than
            asked for, or if no token reaches a weight.
    """
    if method not in DATA_METHODS:
        raise ValueError(
            f"method {method!r} needs no data or is unknown; choose one of {', '.join(DATA_METHODS)}"
        )
    if not 0 <= sparsity < 1:
        raise ValueError(f"a sparsity is the share of weights to remove, in [0, 1), got {sparsity}")
    laid = parse_pattern(pattern)
    check_share(pattern, sparsity, "sparsity")
    targets = find_targets(model, include, exclude)
    require_lasting(model, targets, "sparsity")
    layout = Layout(targets, laid)
    for target in targets:
        if layout.blocks[target.name].size > 1 and not DATA_METHODS[method].prunes_blocks:
            raise ValueError(
                f"method {method} removes single weights, and pattern {pattern} whole blocks; choose "
                "unstructured, N:M such as 2:4, or method wanda"
            )
        if target.expert is not None:
            raise ValueError(
                f"{target.name} is the weight of an expert, whose inputs cannot be separated; exclude "
                "experts, or use method magnitude"
            )
    masks = Masks(targets)
    if kept := standing(model, targets):
        lock_standing(masks, {name: layout.blocks[name] for name in kept})
        _check_reachable(masks, layout, sparsity)

    def visit(own: list[Target], run: Callable[[], object], current: Current) -> None:
        seen = {
            target.name: DATA_METHODS[method](target.weight.detach(), masks[target.name]) for target in own
        }
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
    write_sparsity_record(model, masks, pattern, sparsity, dict.fromkeys(targets.names, (pattern, sparsity)))
    return masks


def _check_reachable(masks: Masks, layout: Layout, sparsity: float) -> None:
    """Raise `ValueError` if more weights are removed already than the settings ask for."""
    for name, weight in layout.weights.items():
        removed, asked = masks.removed(name), weight.removed(sparsity) * weight.block.size
        if removed > asked:
            raise ValueError(
                f"{removed} weights of {name} are zero already, more than the {asked} that sparsity "
                f"{sparsity} removes; raise the sparsity, or start from the dense model"
            )
        weight.block.check_kept(name, masks[name])


def require_new(directory: str | Path) -> None:
    """Raise `ValueError` unless `save_pruned` may write into a directory."""
    require_free(Path(directory))


def save_pruned(
    model: PreTrainedModel,
    directory: str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    carried: Mapping[str, Path] = MappingProxyType({}),
) -> None:
    """Write a plain directory, new or empty: an earlier model could have been trained further.

    `carried` are other files to copy into it, as `checkpoint.carry_over.carried` returns them.
    """
    with replacing_directory(Path(directory)) as staged:
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
                "cannot be identified; give texts one at a time"
            )

    return target.module.register_forward_pre_hook(note)
