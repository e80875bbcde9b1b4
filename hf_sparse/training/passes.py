"""Where in its passes over the data a run is, so that a resumed one reads on from there."""

import logging
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import has_length

if TYPE_CHECKING:
    from transformers import Trainer as _Host
else:
    _Host = object

logger = logging.getLogger(__name__)


class ResumablePasses(_Host):
    """Lets a Trainer go on in the middle of any pass over its data, and take no step after its last one.

    Trainer saves the state of random generators as it is at a checkpoint. Where the order of rows is drawn
    from them (`group_by_length`, samplers and streams of one's own), that of the beginning of the pass is
    needed to draw the same order again. And it takes a stream, whose length it does not know, for a single
    pass.
    """

    # The checkpoint that `train` was told to resume from.
    resumed_from: Path | None = None
    _begins = False
    _in_pass = False
    _pass_state: dict[str, Any] | None = None

    def set_initial_training_values(self, args: TrainingArguments, dataloader: DataLoader) -> tuple:
        """Return what Trainer counts by; a resumed run reads a stream in passes as long as those it made."""
        values = super().set_initial_training_values(args, dataloader)
        self._in_pass, self._pass_state = False, None
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
        """Collect the micro-batches of one optimizer step; none where a run has had its last one.

        Trainer looks for the end only after a step: resumed from the checkpoint of its last one, it would
        make one too many, unless that ended an epoch.
        """
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return [], None
        if self._begins:
            self._begins = False
            # Nothing of the order has been drawn yet. After it Trainer restores the state of the checkpoint.
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
    """Return how many steps a pass over a stream of unknown length takes, None if not one has been finished.

    Trainer counts by the length of the whole run there: its epoch is the number of passes plus the share of
    the run that was taken in this one. Warns of passes that differ, which nobody can find again.
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
    # A dict for other generators than the default one, which torch's loader would not read either.
    name, keys, *rest = cast(tuple[Any, ...], np.random.get_state())
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
    }


def _read(file: Path) -> dict[str, Any] | None:
    """Return the state in a file, None where there is none; a warning says where it cannot be read."""
    if not file.is_file():
        return None
    try:
        state, now = torch.load(file, weights_only=True), _random_state()
        try:
            _restore(state)
        finally:
            _restore(now)
    # Of damaged files torch raises whatever its readers do.
    except Exception as error:
        logger.warning(
            "%s is no state of random generators (%s), so rows may be read in another order than before; "
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
