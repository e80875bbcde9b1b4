"""The place of a run in its passes over the data, so that a resumed run continues from there."""

import logging
import random
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import has_length

from hf_sparse.recipe.recipe import Recipe
from hf_sparse.training.checkpoints.agreement import require_agreement
from hf_sparse.training.host import Host

logger = logging.getLogger(__name__)


class ResumablePasses(Host):
    """Makes a Trainer resume in the middle of any pass over its data, without a step after the last one.

    Trainer saves the state of random generators at a checkpoint. If the order of rows is drawn from them
    (`group_by_length`, custom samplers and streams), the state at the beginning of the pass is needed to draw
    the same order again. And Trainer treats a stream, whose length is unknown, as a single pass.
    """

    # The checkpoint that `train` resumes from.
    resumed_from: Path | None = None
    # Set by the mixin that inherits from this class.
    recipe: Recipe
    _begins = False
    _in_pass = False
    _pass_state: dict[str, Any] | None = None

    def set_initial_training_values(self, args: TrainingArguments, dataloader: DataLoader) -> tuple:
        """Return the lengths that Trainer counts by, with the length of passes over a stream as before."""
        values = super().set_initial_training_values(args, dataloader)
        self._in_pass, self._pass_state = False, None
        require_agreement(self, self.recipe)
        if self.resumed_from is None:
            return values
        state = TrainerState.load_from_json(str(self.resumed_from / TRAINER_STATE_NAME))
        if not has_length(dataloader) and (steps := steps_in_pass(state, args.gradient_accumulation_steps)):
            values = (values[0], steps, *values[2:])
        passes, taken = divmod(state.global_step, values[1])
        self._in_pass = taken > 0 and not args.ignore_data_skip
        self._pass_state = _read(self.resumed_from / self._pass_file())
        if self._pass_state is not None:
            return values
        if self._in_pass and passes and getattr(args, "train_sampling_strategy", "") == "group_by_length":
            logger.warning(
                "%s does not say in which order rows grouped by length were read, so the rest of this pass "
                "reads some rows twice and some not at all.",
                self.resumed_from,
            )
        return values

    def begin_pass(self) -> None:
        """Note that a pass over the data begins."""
        self._begins = True

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list, Any]:
        """Return the micro-batches of one optimizer step, none after the last step of a run.

        Trainer checks for the end only after a step: resumed from the checkpoint of the last step, it would
        make one more, unless that step ended an epoch.
        """
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return [], None
        if self._begins:
            self._begins = False
            # The order is drawn after this point, then Trainer restores the state of the checkpoint.
            if self._in_pass and self._pass_state is not None:
                _restore(self._pass_state)
            self._in_pass, self._pass_state = False, _random_state()
        return super().get_batch_samples(*args, **kwargs)

    def save_pass(self, directory: Path) -> None:
        """Write the state of random generators at the beginning of this pass, as each process has its own."""
        if self._pass_state is not None and not self.args.save_only_model:
            torch.save(self._pass_state, directory / self._pass_file())

    def _pass_file(self) -> str:
        return f"hf_sparse_pass_{self.args.process_index}.pth" if self.args.world_size > 1 else PASS


PASS = "hf_sparse_pass.pth"


def steps_in_pass(state: TrainerState, accumulation: int) -> int | None:
    """Return the number of steps in a pass over a stream of unknown length, None before the end of the first.

    For streams, Trainer counts in lengths of the whole run: its epoch is the number of finished passes plus
    the share of the run's steps that were taken in the current one. Warns if passes differ in length, since
    their bounds cannot be found again.
    """
    passes, share = divmod(state.epoch or 0.0, 1)
    taken = round(share * state.max_steps)
    if not passes:
        return None
    steps, rest = divmod(state.global_step - taken, int(passes))
    if rest or taken > steps:
        logger.warning(
            "The passes over this stream were not all of one length, so a resumed run cannot find the place "
            "again where it was interrupted; it goes on from another one."
        )
        return None
    if accumulation > 1:
        logger.warning(
            "A pass over this stream took %d steps of %d micro-batches; where some were left over at its "
            "end, what follows is not what an uninterrupted run would have done.",
            steps,
            accumulation,
        )
    return steps


def _random_state() -> dict[str, Any]:
    # A tuple for numpy's default generator, the only one that torch's loader could restore.
    name, keys, *rest = cast(tuple[Any, ...], np.random.get_state())
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
    }


def _read(file: Path) -> dict[str, Any] | None:
    """Return the state in a file, None if the file is missing; warn and return None if it cannot be read."""
    if not file.is_file():
        return None
    try:
        state, now = torch.load(file, weights_only=True), _random_state()
        try:
            _restore(state)
        finally:
            _restore(now)
    # torch raises many kinds of errors for damaged files.
    except Exception as error:
        logger.warning(
            "%s is not a state of random generators (%s), so rows may be read in another order than before; "
            "resume from another checkpoint where that matters.",
            file,
            f"{error}" or type(error).__name__,
        )
        return None
    return state


def _restore(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
