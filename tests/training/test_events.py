"""A Trainer hears its own events under any callback handler."""

from pathlib import Path

from transformers.trainer_callback import CallbackHandler, DefaultFlowCallback

from hf_sparse import SparseTrainer, find_targets
from tests.support.tiny import arguments, bert, expected_zeros, pruning, sentences


class Counting(DefaultFlowCallback):
    """The default flow callback, which also counts steps."""

    steps = 0

    def on_step_end(self, *args, **kwargs):
        self.steps += 1
        return super().on_step_end(*args, **kwargs)


def test_a_trainer_that_is_given_another_handler_of_callbacks_prunes_all_the_same(tmp_path: Path) -> None:
    trainer = SparseTrainer(bert(), arguments(tmp_path), train_dataset=sentences(), recipe=pruning())
    counting, handed_on = Counting(), trainer.callback_handler
    trainer.callback_handler = CallbackHandler([counting], trainer.model, None, None, None)
    trainer.train()
    assert counting.steps == 12
    zeros = sum(int((target.weight == 0).sum()) for target in find_targets(trainer.model))
    assert zeros == expected_zeros(trainer.model, 0.9)
    # Also one that told another Trainer of its events, whose callbacks it keeps.
    other = SparseTrainer(bert(), arguments(tmp_path), train_dataset=sentences(), recipe=pruning())
    other.callback_handler = handed_on
    other.train()
    assert other.callback_handler.callbacks is handed_on.callbacks
    assert sum(int((target.weight == 0).sum()) for target in find_targets(other.model)) == zeros
