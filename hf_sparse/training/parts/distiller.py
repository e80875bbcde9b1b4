"""Compute the loss of a distilled run: its terms, their counts over the whole batch, their logs."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch._dynamo
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor, nn

from hf_sparse.distillation.batch_counts import Counts, count
from hf_sparse.distillation.features import TERMS
from hf_sparse.distillation.features.hidden import Hidden
from hf_sparse.distillation.features.term import FeatureTerm, Role
from hf_sparse.distillation.inputs import (
    Taken,
    as_mapping,
    check_given,
    decoder_inputs,
    named,
    shifts_labels,
    teacher_inputs,
)
from hf_sparse.distillation.losses import LossTerm, add_up, logits_terms, task_terms
from hf_sparse.distillation.teacher import check_compatible, freeze, has_head
from hf_sparse.recipe.distillation import DistillationRecipe
from hf_sparse.training.engine import is_sharded

logger = logging.getLogger(__name__)


class Distiller:
    """Adds the teacher's losses to the task's loss, each divided by its count over the whole batch.

    Averaging the means of micro-batches would weigh a token by the lengths of its neighbors. Sums divided by
    the counts of the whole batch give the loss of one large batch.
    """

    def __init__(
        self, recipe: DistillationRecipe, teacher: nn.Module, student: nn.Module, accelerator: Accelerator
    ) -> None:
        check_compatible(student, teacher, outputs=recipe.logits > 0)
        self.recipe = recipe
        # A sharded teacher is in its place, and one offloaded by FSDP cannot be moved.
        self.teacher = freeze(teacher) if is_sharded(teacher) else freeze(teacher).to(accelerator.device)
        self.accelerator = accelerator
        # A teacher that runs the layers of another module names it `watched`.
        self.teachers_layers = getattr(teacher, "watched", teacher)
        self.terms: dict[str, FeatureTerm] = {
            name: TERMS[name](settings, student, self.teachers_layers)
            for name, settings in recipe.features.items()
        }
        # The same terms as one module, which holds their parameters.
        self.features = nn.ModuleDict(self.terms).to(accelerator.device)
        for name, term in self.terms.items():
            for choice in term.choices:
                logger.warning("%s: %s.", name, choice)
        self.weights = recipe.weights
        self.headed = has_head(student)
        self.shifts_labels = shifts_labels(student)
        self.student_takes, self.teacher_takes = Taken.by(student), Taken.by(teacher)
        self._totals: Counts | None = None
        self._logged: dict[str, Tensor] = {}
        self._steps = 0
        self._checked = False

    def go_by(self, recipe: DistillationRecipe) -> None:
        """Take the recipe of a resumed run, which may have begun before errors could be normalized."""
        self.recipe = recipe
        hidden = self.terms.get("hidden")
        if recipe.hidden is not None and not recipe.hidden.normalize and isinstance(hidden, Hidden):
            hidden.forget_normalization()

    def forward_options(self, model: nn.Module) -> dict[str, bool]:
        """Return the keywords that a forward pass needs in order to return all compared states."""
        options = {
            name: value for term in self.terms.values() for name, value in term.forward_options.items()
        }
        return options | as_mapping(model)

    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the terms, which are trained together with the student."""
        return list(self.features.parameters())

    def state(self) -> dict[str, Tensor]:
        """Return copies on the CPU of the tensors of the terms that a checkpoint holds."""
        return {name: value.cpu().clone() for name, value in self.features.state_dict().items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Load what `state` returned; raise `ValueError` if it does not fit the terms."""
        try:
            self.features.load_state_dict(dict(state))
        except RuntimeError as error:
            raise ValueError(
                f"the learned state of the checkpoint does not fit this recipe and teacher ({error}); resume "
                "with those of the run that wrote it"
            ) from error

    def begin_step(self, student: nn.Module, batches: Sequence[Mapping[str, Any]]) -> None:
        """Count the items of one optimizer step over all its micro-batches and processes.

        The first step also checks the teacher's inputs and prepares the terms that need a whole batch.
        """
        # Trainer clears the gradients of the model alone.
        self.features.zero_grad()
        if batches and not self._checked:
            check_given(student, self.teacher, batches[0], self._given(student, batches[0]))
            self._checked = True
        for term in self.terms.values():
            if batches and term.unprepared:
                given = (send_to_device(batch, self.accelerator.device) for batch in batches)
                term.prepare(((self._teach(student, inputs), inputs) for inputs in given), self.accelerator)
        counts = [count(batch, self.shifts_labels) for batch in batches]
        if not counts:
            return
        self._totals = self._over_processes(sum(counts[1:], start=counts[0]))
        self._steps += 1

    def average_gradients(self) -> None:
        """Average the gradients of the terms over processes, as DDP does for the model."""
        if self.accelerator.num_processes > 1:
            for parameter in self.parameters():
                parameter.grad = self.accelerator.reduce(parameter.grad, "mean")

    def begin_training(self, accelerator: Accelerator) -> None:
        """Start a run with its accelerator; each trial of a hyperparameter search has a new one."""
        self.accelerator = accelerator
        for term in self.terms.values():
            term.restart()
        if any(type(term).watch is not FeatureTerm.watch for term in self.terms.values()):
            notice_hooks()
        self._checked = False
        self.forget()

    def forget(self) -> None:
        """Drop the counts and logs of earlier steps."""
        self._totals = None
        self._logged, self._steps = {}, 0

    @contextmanager
    def watching(self, model: nn.Module, role: Role = "student") -> Iterator[list[Mapping[str, Any]]]:
        """Record, for each term, the states that a forward pass inside the block does not return."""
        with ExitStack() as stack:
            yield [stack.enter_context(term.watch(model, role)) for term in self.terms.values()]

    def needs_task(self, inputs: Mapping[str, Any]) -> bool:
        """Return whether to compute the task's loss: it has weight, or the batch has labels.

        Never for an encoder without a head.
        """
        labeled = teacher_inputs(inputs).keys() != inputs.keys()
        return self.headed and (bool(self.recipe.task) or labeled)

    def _given(self, student: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the inputs of the teacher for one micro-batch."""
        return self.teacher_takes.of(teacher_inputs(inputs) | decoder_inputs(student, inputs))

    def _teach(self, student: nn.Module, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the teacher's outputs and recorded states for one micro-batch."""
        given = self._given(student, inputs) | self.forward_options(self.teacher)
        watching = self.watching(self.teachers_layers, "teacher")
        with torch.no_grad(), self.accelerator.autocast(), watching as seen:
            outputs = named(self.teacher(**given), inputs, "teacher")
        return _joined(outputs, *seen)

    def loss(
        self,
        student: nn.Module,
        task: Tensor | None,
        outputs: Any,
        watched: list[Mapping[str, Any]],
        inputs: Mapping[str, Any],
        micro_batches: int,
    ) -> Tensor:
        """Return the weighted loss of one micro-batch, a scalar.

        Trainer and DDP average gradients over micro-batches and processes; the loss is scaled so that the
        average is the gradient of the whole batch.

        Args:
            student: The model; its configuration is read.
            task: The task's mean loss over this micro-batch; None if it was not computed.
            outputs: The student's outputs for `inputs`.
            watched: What `watching` recorded in the same pass.
            inputs: The micro-batch.
            micro_batches: The number that Trainer divides a loss by.
        """
        outputs, teacher = named(outputs, inputs, "student"), self._teach(student, inputs)
        counts = count(inputs, self.shifts_labels)
        terms = {} if task is None else {"task": task_terms(task.mean(), outputs, inputs, counts)}
        if self.recipe.logits:
            # Models without a configured problem type set it in their first forward pass.
            problem_type = getattr(getattr(student, "config", None), "problem_type", None)
            terms["logits"] = logits_terms(outputs, teacher, inputs, self.recipe.temperature, problem_type)
        # In half precision, rounding errors of products of states exceed the distances between states.
        with torch.autocast(self.accelerator.device.type, enabled=False):
            for name, term in self.terms.items():
                terms[name] = term(_joined(outputs, *watched), teacher, inputs)
        totals, copies = self._totals or counts, 1
        if self._totals is not None:
            copies = micro_batches * self.accelerator.num_processes
        shares = {name: _share(parts, totals) for name, parts in terms.items()}
        details = {
            f"{name}_{end}": _share(parts, totals)
            for name, term in self.terms.items()
            for end, parts in term.details.items()
        }
        for name, share in (shares | details).items():
            self._logged[name] = self._logged.get(name, 0.0) + share.detach()
        # A term of weight 0 stays out of the graph: 0 times an infinite loss is NaN.
        return copies * add_up(
            self.weights[name] * share for name, share in shares.items() if self.weights[name]
        )

    def drain_logs(self) -> dict[str, float]:
        """Return the mean of each loss term before weighting, over all processes, since the last call."""
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
    return add_up(term.total / totals.of(term.unit) for term in terms)


def _joined(*found: Mapping[str, Any]) -> Mapping[str, Any]:
    """Merge mappings; the first has precedence."""
    return {name: value for values in reversed(found) for name, value in values.items()}


def notice_hooks() -> None:
    """Make compiled models call hooks that are added after compilation.

    By default torch reuses compiled code without checking for hooks, so hooks added later would not run. This
    turns the check on and discards all code that the process has compiled so far; it is compiled again when
    it is next called.
    """
    torch._dynamo.config.skip_nnmodule_hook_guards = False
    torch.compiler.reset()
