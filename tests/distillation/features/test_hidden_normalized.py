"""Errors of hidden states divided by the teacher's mean square, weighted and logged by layer."""

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from tests.support.pairs import batch, compare, encoder_decoder, make, mean, states, term_of

NORMALIZED = {"normalize": True}


def outputs(*layers: list[list[float]]) -> dict[str, tuple[Tensor, ...]]:
    """Return the output of the embeddings for one text; it is not compared."""
    embeddings = torch.zeros(1, len(layers[0]), len(layers[0][0]))
    return {"hidden_states": (embeddings, *(torch.tensor([layer]) for layer in layers))}


def term(**settings: object):
    student, teacher = (make("bert", num_hidden_layers=2, hidden_size=2, num_attention_heads=1) for _ in "ab")
    return term_of("hidden", student, teacher, **(NORMALIZED | settings))


def test_each_layer_is_divided_by_the_mean_square_of_the_teachers_states() -> None:
    # Mean squares of 4 and 0.04; errors of 1 and 0.01 at every value.
    teacher = outputs([[2.0, -2.0], [2.0, 2.0]], [[0.2, 0.2], [-0.2, 0.2]])
    student = outputs([[1.0, -1.0], [3.0, 1.0]], [[0.1, 0.3], [-0.3, 0.1]])
    inputs = {"input_ids": torch.ones(1, 2, dtype=torch.long)}
    chosen = term(log_layers=True)
    assert chosen.unprepared
    chosen.prepare([(teacher, inputs)], Accelerator(cpu=True))
    assert not chosen.unprepared
    with torch.no_grad():
        assert mean(chosen(student, teacher, inputs), inputs).item() == pytest.approx(0.25)
    assert {end: mean(parts, inputs).item() for end, parts in chosen.details.items()} == {
        "1": pytest.approx(0.25),
        "2": pytest.approx(0.25),
    }


def test_zeros_have_an_error_of_1_whatever_the_scale() -> None:
    teacher, inputs = outputs([[3.0, 1.0]], [[0.01, 0.02]]), {"input_ids": torch.ones(1, 1, dtype=torch.long)}
    chosen = term()
    chosen.prepare([(teacher, inputs)], Accelerator(cpu=True))
    with torch.no_grad():
        zeros = {"hidden_states": tuple(torch.zeros_like(state) for state in teacher["hidden_states"])}
        assert mean(chosen(zeros, teacher, inputs), inputs).item() == pytest.approx(1.0)


def test_the_mean_square_is_that_of_tokens_over_all_micro_batches() -> None:
    student, teacher, whole = make("bert"), make("bert", 1), batch("bert")
    once, cut = (term_of("hidden", student, teacher, **NORMALIZED) for _ in "ab")
    _, theirs = states(once, student, teacher, whole)
    once.prepare([(theirs, whole)], Accelerator(cpu=True))
    pieces = [{name: value[part] for name, value in whole.items()} for part in (slice(0, 1), slice(1, 6))]
    cut.prepare([(states(cut, student, teacher, piece)[1], piece) for piece in pieces], Accelerator(cpu=True))
    torch.testing.assert_close(cut.mean_squares, once.mean_squares)
    keep = whole["attention_mask"].bool()
    expected = torch.stack([theirs["hidden_states"][layer][keep].square().mean() for layer in (1, 2)])
    torch.testing.assert_close(once.mean_squares, expected)


def test_padding_may_hold_anything() -> None:
    student, teacher, inputs = make("bert"), make("bert", 1), batch("bert")
    chosen = term_of("hidden", student, teacher, **NORMALIZED)
    ours, theirs = states(chosen, student, teacher, inputs)
    keep = inputs["attention_mask"].bool()

    def spoiled(seen):
        fill = [torch.where(keep[..., None], state, float("nan")) for state in seen["hidden_states"]]
        return {"hidden_states": fill}

    chosen.prepare([(spoiled(theirs), inputs)], Accelerator(cpu=True))
    assert mean(chosen(spoiled(ours), spoiled(theirs), inputs), inputs).isfinite()


def test_layers_may_count_more_or_less() -> None:
    student, teacher, inputs = make("bert"), make("bert", 1), batch("bert")
    with torch.no_grad():
        errors = [
            mean(compare("hidden", student, teacher, inputs, layers={layer: layer}, **NORMALIZED), inputs)
            for layer in (1, 2)
        ]
        weighted = compare("hidden", student, teacher, inputs, layer_weights={2: 0.25}, **NORMALIZED)
    torch.testing.assert_close(mean(weighted, inputs), (errors[0] + 0.25 * errors[1]) / 2)


def test_both_stacks_of_an_encoder_decoder_are_normalized() -> None:
    student, teacher = encoder_decoder("t5", 0, (1, 1)), encoder_decoder("t5", 1, (1, 1))
    inputs = batch("bert") | {"labels": torch.arange(3, 33).reshape(6, 5)}
    chosen = term_of("hidden", student, teacher, log_layers=True, **NORMALIZED)
    ours, theirs = states(chosen, student, teacher, inputs)
    chosen.prepare([(theirs, inputs)], Accelerator(cpu=True))
    chosen(ours, theirs, inputs)
    assert list(chosen.details) == ["encoder_1", "decoder_1"]
    assert chosen.mean_squares[1] == pytest.approx(
        theirs["decoder_hidden_states"][1].square().mean().item(), rel=1e-5
    )


def test_weights_of_layers_that_are_not_compared_are_refused() -> None:
    with pytest.raises(
        ValueError, match="names layer 3, which is not compared; the compared layers are 1, 2"
    ):
        term(layer_weights={3: 1.0})
    with pytest.raises(ValueError, match="gives every layer the weight 0; leave hidden out"):
        term(layer_weights={1: 0.0, 2: 0.0})


def test_there_is_nothing_to_prepare_without_normalizing() -> None:
    plain = term(normalize=False)
    assert not plain.unprepared and plain.state_dict() == {}
    settings = SimpleNamespace(layers="uniform", normalize=True, layer_weights={}, log_layers=False)
    chosen = term(**vars(settings))
    chosen.forget_normalization()
    assert not chosen.unprepared and chosen.state_dict() == {}
