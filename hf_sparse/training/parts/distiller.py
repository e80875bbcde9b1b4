"""The loss of a distilled training run: terms, their totals over the whole batch, their log lines."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import reduce
from operator import add
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
from hf_sparse.distillation.losses import LossTerm, logits_terms, task_terms
from hf_sparse.distillation.teacher import check_compatible, freeze, has_head
from hf_sparse.recipe.distillation import DistillationRecipe

logger = logging.getLogger(__name__)


class Distiller:
    """Adds the teacher's losses to the task's, each divided by its count over the whole batch.

    An average of the means of micro-batches weighs a token by the length of its neighbours; sums divided by
    the counts of the whole batch give the loss of one large batch.
    """

    def __init__(
        self, recipe: DistillationRecipe, teacher: nn.Module, student: nn.Module, accelerator: Accelerator
    ) -> None:
        check_compatible(student, teacher, outputs=recipe.logits > 0)
        self.recipe = recipe
        self.teacher = freeze(teacher).to(accelerator.device)
        self.accelerator = accelerator
        # A teacher that computes with the layers of another module names that module.
        self.teachers_layers = getattr(teacher, "watched", teacher)
        self.terms: dict[str, FeatureTerm] = {
            name: TERMS[name](settings, student, self.teachers_layers)
            for name, settings in recipe.features.items()
        }
        # The same terms as one module, for their parameters.
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
        """Follow the recipe of the resumed run, which may have begun before errors were normalized."""
        self.recipe = recipe
        hidden = self.terms.get("hidden")
        if recipe.hidden is not None and not recipe.hidden.normalize and isinstance(hidden, Hidden):
            hidden.forget_normalization()

    def forward_options(self, model: nn.Module) -> dict[str, bool]:
        """Return the keywords with which a forward pass returns all that is compared."""
        options = {
            name: value for term in self.terms.values() for name, value in term.forward_options.items()
        }
        return options | as_mapping(model)

    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters that are learned beside the student; they belong to neither model."""
        return list(self.features.parameters())

    def state(self) -> dict[str, Tensor]:
        """Return a copy, on the CPU, of the tensors that a checkpoint must hold of the terms."""
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
        """Count the items of one optimizer step, over all its micro-batches and processes.

        Before the first step, terms that need the teacher's states of a whole batch are given them.
        """
        # Trainer clears only the gradients of the model.
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
        """Start a run with its accelerator; a hyperparameter search makes one for every trial."""
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
        """Collect, for each term, what a forward pass inside the block computes and does not return."""
        with ExitStack() as stack:
            yield [stack.enter_context(term.watch(model, role)) for term in self.terms.values()]

    def needs_task(self, inputs: Mapping[str, Any]) -> bool:
        """Return whether the task's loss of a batch is computed: it has weight, or the batch has labels.

        An encoder without a head computes none.
        """
        labelled = teacher_inputs(inputs).keys() != inputs.keys()
        return self.headed and (bool(self.recipe.task) or labelled)

    def _given(self, student: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the inputs of the teacher for one micro-batch."""
        return self.teacher_takes.of(teacher_inputs(inputs) | decoder_inputs(student, inputs))

    def _teach(self, student: nn.Module, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the teacher's outputs, with what its terms watch, for one micro-batch."""
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

        It is scaled so that the mean over micro-batches and processes, which Trainer and DDP take of
        gradients, is the loss of the whole batch.

        Args:
            student: The model, for its configuration.
            task: The mean of the task's loss over this micro-batch; None if it has no weight.
            outputs: What the student's forward pass over `inputs` returned.
            watched: What `watching` collected of the same pass.
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
        # In half precision, products of states have larger errors than the distances between them.
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
        # A term without weight stays out of the graph: 0 times a loss that overflowed is NaN.
        return copies * _total(
            self.weights[name] * share for name, share in shares.items() if self.weights[name]
        )

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
    return _total(term.total / totals.of(term.unit) for term in terms)


def _total(values: Iterable[Tensor]) -> Tensor:
    return reduce(add, values)


def _joined(*found: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a model returned and what its terms watched as one mapping; the first has precedence."""
    return {name: value for values in reversed(found) for name, value in values.items()}


def notice_hooks() -> None:
    """Have compiled models look for hooks on their modules from now on.

    torch reuses compiled code without a look at hooks: what was compiled without any would run in place of a
    forward pass that is to be watched, and nothing would be seen. So whatever was compiled so far in this
    process is thrown away, to be compiled again when it is next called.
    """
    torch._dynamo.config.skip_nnmodule_hook_guards = False
    torch.compiler.reset()
