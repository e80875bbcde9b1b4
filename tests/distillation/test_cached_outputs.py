"""Outputs of a teacher survive the way into entries and back, without padding, within the stated bounds."""

import json
import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor
from transformers.modeling_outputs import MaskedLMOutput, QuestionAnsweringModelOutput
from transformers.models.electra.modeling_electra import ElectraForPreTrainingOutput

from hf_sparse.distillation.cached_outputs import (
    Storage,
    from_values,
    to_batch,
    to_entries,
    to_text,
    wanted_logits,
)
from hf_sparse.distillation.example_keys import Examples
from hf_sparse.distillation.kl import Largest, categorical

BATCH, LENGTH, CLASSES = 3, 5, 30
MASKS = {
    "right": [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]],
    "left": [[1, 1, 1, 1, 1], [0, 0, 0, 1, 1], [0, 0, 1, 1, 1]],
    "holes": [[1, 0, 1, 1, 1], [0, 1, 0, 1, 0], [1, 1, 1, 0, 1]],
}
WHOLE = Storage(top_k=None, half=False, temperature=2.0)
CPU = torch.device("cpu")


def examples(mask: str = "right") -> Examples:
    ids = torch.arange(BATCH * LENGTH).view(BATCH, LENGTH)
    return Examples.of({"input_ids": ids, "attention_mask": torch.tensor(MASKS[mask])})


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_everything_but_padding_comes_back_bit_for_bit(mask: str, dtype: torch.dtype) -> None:
    found = {
        "logits": random(BATCH, LENGTH, CLASSES).to(dtype),
        "pooled": random(BATCH, 2).to(dtype),
        "hidden_states": tuple(random(BATCH, LENGTH, 4).to(dtype) + layer for layer in range(3)),
        "attentions": (random(BATCH, 2, LENGTH, LENGTH).to(dtype),),
        "projections": {7: {"keys": random(BATCH, LENGTH, 6).to(dtype)}},
    }
    wanted = {
        ("logits",): "tokens",
        ("pooled",): "examples",
        ("hidden_states", 2): "tokens",
        ("attentions", 0): "pairs",
        ("projections", 7, "keys"): "tokens",
    }
    given = examples(mask)
    layout, entries = to_entries(found, wanted, given, WHOLE)
    layout = from_values(json.loads(to_text(layout)))
    back = to_batch(entries, layout, given, CPU)
    keep = given.keep
    for ours, theirs in [
        (back["logits"], found["logits"]),
        (back["hidden_states"][2], found["hidden_states"][2]),
        (back["projections"][7]["keys"], found["projections"][7]["keys"]),
    ]:
        assert torch.equal(ours[keep], theirs[keep]) and not ours[~keep].any()
    assert torch.equal(back["pooled"], found["pooled"])
    pairs = (keep[:, None, :, None] & keep[:, None, None, :]).expand(-1, 2, -1, -1)
    assert torch.equal(back["attentions"][0], found["attentions"][0].where(pairs, 0))
    assert len(entries[0]) >= len(entries[1])


def test_an_entry_fits_another_padding() -> None:
    layout, entries = to_entries(
        {"logits": random(BATCH, LENGTH, 4)}, {("logits",): "tokens"}, examples(), WHOLE
    )
    mask = torch.zeros(1, 9, dtype=torch.long).index_fill(1, torch.arange(2), 1)
    other = Examples.of({"input_ids": torch.zeros(1, 9, dtype=torch.long), "attention_mask": mask})
    back = to_batch(entries[1:2], layout, other, CPU)["logits"]
    assert back.shape == (1, 9, 4)
    assert torch.equal(back[0, :2], random(BATCH, LENGTH, 4)[1, :2]) and not back[0, 2:].any()


def test_of_many_classes_the_largest_are_kept() -> None:
    logits, given = random(BATCH, LENGTH, CLASSES), examples()
    storage = Storage(top_k=4, half=False, temperature=2.0)
    layout, entries = to_entries({"logits": logits}, {("logits",): "tokens"}, given, storage)
    # For each token 4 numbers, 4 classes of 2 bytes each, and the rest.
    assert [len(entry) for entry in entries] == [tokens * (16 + 8 + 4) for tokens in given.tokens]
    back = to_batch(entries, layout, given, CPU)["logits"]
    assert isinstance(back, Largest) and back.shape == logits.shape
    student, expected = random(BATCH, LENGTH, CLASSES, 1)[..., 0], Largest.of(logits, 4, 2.0)
    losses = [categorical(student, known, 2.0, given.keep) for known in (back, expected)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("classes", [8, 9])
def test_all_classes_are_kept_where_that_takes_no_more_room(classes: int) -> None:
    logits = random(BATCH, LENGTH, classes)
    layout, _ = to_entries({"logits": logits}, {("logits",): "tokens"}, examples(), Storage(4, False, 1.0))
    assert layout[0].largest == (4 if classes == 9 else 0)


def test_the_loss_of_rounded_logits_is_within_its_bound() -> None:
    """With an error e of logits and gaps of student and teacher that spread over d: at most e (d + 2 e)."""
    given = examples()
    for seed in range(20):
        torch.manual_seed(seed)
        student, teacher = 5 * torch.randn(2, BATCH, LENGTH, CLASSES, dtype=torch.float64)
        storage = Storage(None, True, 2.0)
        layout, entries = to_entries({"logits": teacher}, {("logits",): "tokens"}, given, storage)
        back = to_batch(entries, layout, given, CPU)["logits"].double()
        error = 2.0**-11 * teacher.abs().max()
        assert (back - teacher)[given.keep].abs().max() <= error
        gaps = (teacher - student)[given.keep]
        spread = (gaps.max(-1).values - gaps.min(-1).values).max()
        losses = [categorical(student, known, 2.0, given.keep) for known in (back, teacher)]
        assert (losses[0] - losses[1]).abs() / given.keep.sum() <= error * (spread + 2 * error)


def test_numbers_beyond_float16_are_refused() -> None:
    found: Mapping = {"hidden_states": (torch.full((BATCH, LENGTH, 2), 1e5),)}
    with pytest.raises(
        ValueError, match=r"hidden_states 0 reach 100000, and float16 ends at 65504; set half"
    ):
        to_entries(found, {("hidden_states", 0): "tokens"}, examples(), Storage(None, True, 1.0))
    infinite = {"logits": torch.full((BATCH, LENGTH, 2), -torch.inf)}
    to_entries(infinite, {("logits",): "tokens"}, examples(), Storage(None, True, 1.0))


@pytest.mark.parametrize("found", [{}, {"logits": torch.zeros(BATCH - 1, 2)}, {"logits": 3}], ids=str)
def test_outputs_that_are_not_one_for_each_example_are_refused(found: Mapping) -> None:
    with pytest.raises(ValueError, match=r"logits cannot be cached: expected a row for each of 3 examples"):
        to_entries(found, {("logits",): "examples"}, examples(), WHOLE)


@pytest.mark.parametrize(("change", "message"), [(-1, "shorter"), (1, "longer")])
def test_entries_of_another_length_are_refused(change: int, message: str) -> None:
    found = {"logits": random(BATCH, 2)}
    layout, entries = to_entries(found, {("logits",): "examples"}, examples(), WHOLE)
    entries[2] = entries[2][:change] if change < 0 else entries[2] + b"0"
    with pytest.raises(ValueError, match=f"an entry is {message} than its outputs"):
        to_batch(entries, layout, examples(), CPU)


def test_logits_have_rows_for_what_they_are_of() -> None:
    assert wanted_logits(MaskedLMOutput(logits=random(2, 3, 4))) == {("logits",): "tokens"}
    assert wanted_logits(MaskedLMOutput(logits=random(2, 3))) == {("logits",): "examples"}
    assert wanted_logits(ElectraForPreTrainingOutput(logits=random(2, 3))) == {("logits",): "tokens"}
    answers = QuestionAnsweringModelOutput(start_logits=random(2, 3), end_logits=random(2, 3))
    assert wanted_logits(answers) == {("start_logits",): "tokens", ("end_logits",): "tokens"}


OUTPUT = {"place": ["logits"], "rows": "tokens", "dtype": "float32", "shape": [3]}


@pytest.mark.parametrize(
    "values",
    [
        3,
        [{}],
        [{"place": 1}],
        [None],
        [OUTPUT | {"rows": "words"}],
        [OUTPUT | {"place": []}],
        [OUTPUT | {"shape": [-1]}],
        [OUTPUT | {"shape": ["3"]}],
        [OUTPUT | {"shape": [], "largest": 1}],
        [OUTPUT | {"shape": [True]}],
        [OUTPUT | {"shape": [math.nan]}],
        [OUTPUT | {"dtype": ["float32"]}],
        [OUTPUT | {"dtype": None}],
        [OUTPUT | {"place": [["logits"]]}],
        [OUTPUT | {"largest": 3, "temperature": 1.0}],
        [OUTPUT | {"largest": 1}],
        [OUTPUT | {"largest": 1, "temperature": math.nan}],
        [OUTPUT | {"largest": 1, "temperature": -1.0}],
        [OUTPUT | {"largest": 1, "temperature": "2"}],
        [OUTPUT | {"temperature": 2.0}],
        [OUTPUT | {"other": 1}],
    ],
    ids=str,
)
def test_a_layout_that_was_not_written_here_is_refused(values: object) -> None:
    with pytest.raises(ValueError, match="not a layout"):
        from_values(values)


def test_numbers_of_other_types_are_not_read() -> None:
    assert len(from_values([OUTPUT])) == 1
    assert len(from_values([OUTPUT | {"largest": 1, "temperature": 2}])) == 1
    with pytest.raises(ValueError, match="outputs are not stored as int8"):
        from_values([OUTPUT | {"dtype": "int8"}])
