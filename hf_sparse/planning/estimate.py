"""Estimates of the memory of a run, without activations, and of the time that its parts add to a step."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

from torch import Tensor
from transformers import PreTrainedModel

from hf_sparse.training.parts.distiller import Distiller
from hf_sparse.training.parts.sparsifier import Sparsifier

# Operations in the time that moving one byte takes. This is an assumption: the ratio is about 10 for CPUs in
# single precision and up to hundreds for accelerators in half precision.
BALANCE = 20

# Bytes moved for each target weight of four bytes. Clearing a gradient reads it, reads its mask, writes it.
# Reviving adds remembered values to weights, then moves them out again. A mask has a bit for each weight.
_CLEARING, _REVIVING = 8 + 1 / 8, 30 + 1 / 8

# Values that AdamW, the default of Trainer, keeps for each trained parameter.
_MOMENTS = 2


@dataclass(frozen=True)
class Batch:
    """The data of one process in one step: rows of a micro-batch, micro-batches, tokens of a row."""

    rows: int = 8
    accumulation: int = 1
    tokens: int = 128

    @property
    def tokens_in_all(self) -> int:
        return self.rows * self.accumulation * self.tokens


def memory(
    model: PreTrainedModel, sparsifier: Sparsifier | None, distiller: Distiller | None
) -> dict[str, int]:
    """Return the bytes of everything in a process except activations, in the precision of the loaded model.

    Exact for weights, masks and teacher; gradients and optimizer state assume AdamW on all trained
    parameters.
    """
    trained = _bytes(parameter for parameter in model.parameters() if parameter.requires_grad)
    learned = _bytes(distiller.parameters()) if distiller else 0
    needed = {
        "weights": _bytes(model.parameters()),
        "gradients": trained,
        "optimizer state, AdamW": _MOMENTS * trained,
        "masks": sparsifier.masks.nbytes if sparsifier else 0,
        "remembered values": _remembered(sparsifier),
        "learned scores": (2 + _MOMENTS) * _bytes(_scores(sparsifier)),
        "teacher": _bytes(distiller.teacher.parameters()) if distiller else 0,
        "projections to the teacher": (2 + _MOMENTS) * learned,
    }
    return {name: count for name, count in needed.items() if count}


def sidecar(sparsifier: Sparsifier | None, distiller: Distiller | None, removed: int) -> int:
    """Return the largest size in bytes of a checkpoint's sidecar, without its header of some kilobytes.

    It holds one bit for each target weight, the values of the `removed` weights while they may return, and
    what is learned beside the student.
    """
    total = _bytes(distiller.parameters()) if distiller else 0
    if sparsifier is not None:
        weights = [target.weight for target in sparsifier.masks.targets]
        total += sum(-(-weight.numel() // 8) for weight in weights)
        total += removed * weights[0].element_size() if sparsifier.remembered is not None else 0
        total += sum(_bytes(part.values()) for part in sparsifier.method_state().values())
    return total


def step_cost(
    model: PreTrainedModel, sparsifier: Sparsifier | None, distiller: Distiller | None, batch: Batch
) -> dict[str, float]:
    """Estimate the time that each part adds to a training step, as a share of a plain step.

    A plain step takes 6 operations for each token and each parameter outside the embeddings, 2 of them in the
    forward pass (Kaplan et al. 2020, arXiv:2001.08361, section 2.1). A teacher's forward pass therefore takes
    a third of a step times the ratio of the parameters, and projections of hidden states take the share of
    their own parameters. Each distillation term states what else it computes (`FeatureTerm.operations`), each
    method what it moves (`MethodRun.traffic`). Parts that only move data are counted in bytes, at `BALANCE`
    operations each. Left out are parts that depend on the machine more than on the recipe: comparing outputs,
    attention in its slower form, mask updates, rounding.
    """
    plain = 6 * _computing(model)
    cost: dict[str, float] = {}
    if distiller is not None:
        # A distiller takes any module as a teacher; plans take models.
        teacher = cast(PreTrainedModel, distiller.teachers_layers)
        cost["teacher's forward pass"] = 2 * _computing(teacher) / plain
        if learned := sum(parameter.numel() for parameter in distiller.parameters()):
            cost["projections to the teacher"] = 6 * learned / plain
        for name, term in distiller.terms.items():
            if operations := term.operations(batch.tokens):
                cost[name] = operations / plain
    if sparsifier is not None:
        size = sum(target.weight.nbytes for target in sparsifier.masks.targets) / 4
        moved = BALANCE * size / (plain * batch.tokens_in_all)
        cost["clearing of gradients"] = _CLEARING * moved
        if sparsifier.remembered is not None:
            cost["removed weights that may return"] = _REVIVING * moved
        cost |= {name: count * moved for name, count in sparsifier.traffic.items()}
    return cost


def _remembered(sparsifier: Sparsifier | None) -> int:
    if sparsifier is None or sparsifier.remembered is None:
        return 0
    return sum(target.weight.nbytes for target in sparsifier.masks.targets)


def _scores(sparsifier: Sparsifier | None) -> Sequence[Tensor]:
    return [] if sparsifier is None or sparsifier.scores is None else sparsifier.scores.parameters()


def _computing(model: PreTrainedModel) -> int:
    return model.num_parameters(exclude_embeddings=True)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
