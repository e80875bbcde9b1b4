"""Quantization of a trained model from a few batches."""

import pytest
import torch

from hf_sparse import find_targets
from hf_sparse.quantization.activations import OBSERVERS
from hf_sparse.quantization.calibrate import calibrate
from tests.support.tiny import bert, sentences


def batches(count: int = 3) -> list[dict[str, torch.Tensor]]:
    rows = [sentences(4, seed=seed) for seed in range(count)]
    return [
        {name: torch.stack([row[name] for row in part]) for name in ("input_ids", "attention_mask")}
        for part in rows
    ]


@pytest.mark.parametrize("observer", OBSERVERS)
def test_a_calibrated_model_is_near_the_one_it_was(observer: str) -> None:
    model = bert().eval()
    expected = model(**batches()[0]).logits
    layers = calibrate(model, batches(), observer=observer)
    found = model(**batches()[0]).logits
    assert layers.keys() == {target.name.removesuffix(".weight") for target in find_targets(model)}
    assert 0 < (found - expected).abs().max() < 0.05 * expected.abs().max()


def test_weights_stay_and_later_batches_move_no_range() -> None:
    model, plain = bert(), bert()
    calibrate(model, batches())
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in model.state_dict().items())
    lows = [target.module.input_low.item() for target in find_targets(model)]
    for mode in (model.train(), model.eval()):
        mode(**batches(5)[-1])
    assert [target.module.input_low.item() for target in find_targets(model)] == lows


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_while_it_looks_and_the_mode_is_given_back(training: bool) -> None:
    ranges = []
    for _ in range(2):
        model = bert().train(training)
        calibrate(model, batches())
        assert model.training is training
        ranges.append([target.module.input_high.item() for target in find_targets(model)])
    assert ranges[0] == ranges[1]


def test_the_widest_range_of_all_batches_is_kept() -> None:
    together, alone = bert(), [bert() for _ in range(3)]
    calibrate(together, batches())
    for model, batch in zip(alone, batches(), strict=True):
        calibrate(model, [batch])
    for target, *others in zip(find_targets(together), *map(find_targets, alone), strict=True):
        # Behind the first layers inputs are rounded by what was seen so far, which moves them a little.
        widest = max(other.module.input_high for other in others)
        assert target.module.input_high.item() == pytest.approx(widest.item(), rel=0.05)


@pytest.mark.parametrize("activations", ["none", "int8_per_token"])
def test_without_ranges_no_data_is_needed(activations: str) -> None:
    assert len(calibrate(bert(), [], activations=activations)) == 12


def test_without_data_ranges_cannot_be_found() -> None:
    with pytest.raises(ValueError, match="calibration needs at least one batch"):
        calibrate(bert(), [])


def test_layers_that_no_data_reaches_are_named() -> None:
    model = bert()
    model.bert.encoder.layer[1].forward = lambda hidden, *parts, **named: hidden
    with pytest.raises(
        ValueError, match=r"no data has reached 6 of 12 quantized layers, such as bert.encoder.layer.1"
    ):
        calibrate(model, batches())


@pytest.mark.parametrize(
    ("settings", "data"),
    [
        ({"embeddings": "int4_group_5"}, batches()),
        ({"embeddings": "int99"}, batches()),
        ({"weights": "int4_group_5"}, batches()),
        ({}, []),
        ({}, [{"no": torch.ones(1)}]),
    ],
)
def test_after_an_error_the_model_is_plain(settings: dict, data: list) -> None:
    model = bert()
    with pytest.raises((ValueError, TypeError)):
        calibrate(model, data, **settings)
    assert not any(hasattr(module, "quantization") for module in model.modules())
