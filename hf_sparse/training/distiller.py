"""The teacher's part in a training run: loss terms, their totals over the whole batch, their log lines."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers.modeling_outputs import ModelOutput
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from hf_sparse.distillation.losses import Counts, LossTerm, count, logits_terms, task_terms
from hf_sparse.distillation.teacher import check_compatible, freeze, teacher_inputs
from hf_sparse.settings.distillation import DistillationRecipe


class Distiller:
    """Adds the teacher's loss to the task's, each divided by its count over the whole batch.

    A mean over every micro-batch, averaged again, weighs a token by the length of its neighbours; sums
    divided by the counts of the whole batch give the loss of one large batch instead.
    """

    def __init__(
        self, recipe: DistillationRecipe, teacher: nn.Module, student: nn.Module, accelerator: Accelerator
    ) -> None:
        check_compatible(student, teacher)
        if getattr(getattr(student, "config", None), "is_encoder_decoder", False):
            raise ValueError(
                f"{type(student).__name__} is an encoder-decoder, whose logits cannot be distilled yet; "
                "use a recipe without distillation"
            )
        self.recipe = recipe
        self.teacher = freeze(teacher).to(accelerator.device)
        self.accelerator = accelerator
        self.shifts_labels = type(student).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
        self._totals: Counts | None = None
        self._logged: dict[str, Tensor] = {}
        self._steps = 0

    def begin_step(self, batches: Iterable[Mapping[str, Any]]) -> None:
        """Count what one optimizer step will see, over all its micro-batches and processes."""
        counts = [count(batch, self.shifts_labels) for batch in batches]
        if not counts:
            return
        self._totals = self._over_processes(sum(counts[1:], start=counts[0]))
        self._steps += 1

    def begin_training(self, accelerator: Accelerator) -> None:
        """Start anew with the accelerator of this run: hyper-parameter search makes one for every trial."""
        self.accelerator = accelerator
        self.forget()

    def forget(self) -> None:
        """Forget all earlier steps, so that no later loss or log line is mixed with theirs."""
        self._totals = None
        self._logged, self._steps = {}, 0

    def loss(
        self,
        task: Tensor,
        student: ModelOutput,
        inputs: Mapping[str, Any],
        micro_batches: int,
        problem_type: str | None,
    ) -> Tensor:
        """Return the weighted loss of one micro-batch.

        Scaled so that the mean over `micro_batches` and over processes, which Trainer and DDP take of
        gradients, is the loss of the whole batch.
        """
        with torch.no_grad(), self.accelerator.autocast():
            teacher = self.teacher(**teacher_inputs(inputs))
        counts = count(inputs, self.shifts_labels)
        terms = {
            "task": task_terms(task.mean(), student, inputs, counts),
            "logits": logits_terms(student, teacher, inputs, self.recipe.temperature, problem_type),
        }
        totals, copies = self._totals or counts, 1
        if self._totals is not None:
            copies = micro_batches * self.accelerator.num_processes
        shares = {name: _share(parts, totals) for name, parts in terms.items()}
        for name, share in shares.items():
            self._logged[name] = self._logged.get(name, 0.0) + share.detach()
        weights = {"task": self.recipe.task, "logits": self.recipe.logits}
        # A term without weight stays out of the graph: 0 times a loss that overflowed would not be 0.
        return copies * sum(weights[name] * share for name, share in shares.items() if weights[name])

    def drain_logs(self) -> dict[str, float]:
        """Return the mean of each unweighted loss term, over all processes, since the last call."""
        if not self._steps:
            return {}
        means = {
            f"loss_{name}": self.accelerator.gather(total.reshape(1)).sum().item() / self._steps
            for name, total in self._logged.items()
        }
        self._logged, self._steps = {}, 0
        return means

    def _over_processes(self, counts: Counts) -> Counts:
        if self.accelerator.num_processes == 1:
            return counts
        return Counts(
            self.accelerator.gather(counts.values.reshape(1, -1).to(self.accelerator.device)).sum(0)
        )


def _share(terms: list[LossTerm], totals: Counts) -> Tensor:
    return sum(term.total / totals.of(term.unit) for term in terms)
