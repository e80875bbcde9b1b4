"""The lines that announce a run, shown wherever transformers shows its own."""

import logging
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from transformers import Trainer
from transformers.utils import logging as transformers_logging

from hf_sparse import Recipe, SparseTrainer, SparsityCallback
from hf_sparse.training.announcement import follow_transformers
from tests.support.tiny import arguments, bert, pruning, sentences

OURS = logging.getLogger("hf_sparse")
PRUNED = "Pruning to 90.0% by magnitude, unstructured, in 12 weights of"


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[StringIO]:
    """Return what transformers shows in a script that leaves logging alone."""
    stream = StringIO()
    theirs = logging.getLogger("transformers")
    monkeypatch.setattr(theirs, "handlers", [logging.StreamHandler(stream)])
    # In place of the root, to which pytest adds handlers.
    monkeypatch.setattr(OURS, "parent", logging.Logger("root", logging.WARNING))
    monkeypatch.setattr("hf_sparse.training.announcement._level", logging.NOTSET)
    verbosity, level = transformers_logging.get_verbosity(), OURS.level
    OURS.setLevel(logging.NOTSET)
    yield stream
    transformers_logging.set_verbosity(verbosity)
    OURS.setLevel(level)


def train(folder: Path, recipe: Recipe | None = None, teacher: object = None, **settings: object) -> None:
    args = arguments(folder, max_steps=2, save_strategy="no", **settings)
    SparseTrainer(
        model=bert(), args=args, train_dataset=sentences(8), recipe=recipe or pruning(), teacher=teacher
    ).train()


def test_a_run_says_what_it_does_where_the_log_level_is_info(seen: StringIO, tmp_path: Path) -> None:
    recipe = pruning("quantization={}", "distillation={task: 0.5, logits: 0.5}", "sparsity.exclude=[key]")
    train(tmp_path, recipe, bert(), log_level="info")
    lines = seen.getvalue()
    assert "Pruning to 90.0% by magnitude, unstructured, in 10 weights of" in lines
    assert "Left out of that: " in lines and "Learning from a teacher, BertForSequenceClassification" in lines
    assert "Rounding 12 layers: weights int8_per_channel, inputs uint8_per_tensor" in lines
    assert lines.count("Pruning to") == 1


def test_it_says_nothing_where_transformers_says_nothing(seen: StringIO, tmp_path: Path) -> None:
    transformers_logging.set_verbosity_warning()
    train(tmp_path)
    assert "Pruning to" not in seen.getvalue()


def test_a_verbosity_that_the_script_chose_counts(seen: StringIO, tmp_path: Path) -> None:
    # As the example scripts of transformers do, whose log level stays at its default.
    transformers_logging.set_verbosity_info()
    train(tmp_path)
    assert PRUNED in seen.getvalue()


def test_an_empty_recipe_has_nothing_to_say(seen: StringIO, tmp_path: Path) -> None:
    train(tmp_path, Recipe(), log_level="info")
    assert "Running training" in seen.getvalue() and "weights" not in seen.getvalue()


def test_a_callback_says_it_too(seen: StringIO, tmp_path: Path) -> None:
    args = arguments(tmp_path, max_steps=2, save_strategy="no", log_level="info")
    callbacks = [SparsityCallback(Recipe.from_dict({"sparsity": {"schedule": {"final": 0.9}}}))]
    Trainer(model=bert(), args=args, train_dataset=sentences(8), callbacks=callbacks).train()
    assert PRUNED in seen.getvalue()


def test_a_script_with_logging_of_its_own_gets_every_line_once(seen: StringIO) -> None:
    own = StringIO()
    OURS.parent.addHandler(logging.StreamHandler(own))
    transformers_logging.set_verbosity_info()
    follow_transformers()
    follow_transformers()
    OURS.info("once")
    assert own.getvalue() == "once\n" and seen.getvalue() == ""


def test_a_logger_with_a_handler_of_its_own_gets_every_line_once(seen: StringIO) -> None:
    own = StringIO()
    handler = logging.StreamHandler(own)
    transformers_logging.set_verbosity_info()
    follow_transformers()
    OURS.addHandler(handler)
    try:
        OURS.info("once")
    finally:
        OURS.removeHandler(handler)
    assert own.getvalue() == "once\n" and seen.getvalue() == ""


def test_a_level_that_somebody_gave_stays_and_warnings_are_never_hidden(seen: StringIO) -> None:
    transformers_logging.set_verbosity_error()
    follow_transformers()
    logging.getLogger("hf_sparse.any").warning("heard")
    assert seen.getvalue() == "heard\n"
    OURS.setLevel(logging.ERROR)
    transformers_logging.set_verbosity_info()
    follow_transformers()
    assert OURS.level == logging.ERROR
