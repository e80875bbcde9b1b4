"""Nothing is measured, timed or published with weights that would be drawn at random."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from hf_sparse.checkpoint.load import load_model
from hf_sparse.distillation.distance import load_encoders
from hf_sparse.hub.card.weights import load_to_measure
from hf_sparse.runtime import load
from tests.cli.commands import refused
from tests.report.runs import write_run

HEAD, LAYER = "classifier.weight", "bert.encoder.layer.0.output.dense.weight"
WAYS: dict[str, Callable[[str], object]] = {
    "as it was trained": load_model,
    "as it is": partial(load_model, restore=False, strict=False),
    "to publish": partial(load_model, accept="own", require_class=True),
    "to time": partial(load_model, accept="own"),
    "to quantize or prune": partial(load_model, accept="floats", restore=False, strict=True),
    "for a card": load_to_measure,
    "in the runtime": load,
}


def lacking(directory: Path, *names: str) -> str:
    """Write the run of a classifier whose file then loses tensors."""
    write_run(directory)
    file = directory / "model.safetensors"
    save_file(
        {name: value for name, value in load_file(file).items() if name not in names}, file, {"format": "pt"}
    )
    return str(directory)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", [HEAD, LAYER])
def test_a_tensor_that_is_missing_is_named(way: str, name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"lacks {name} of a BertFor.*, which would be random"):
        WAYS[way](lacking(tmp_path / "model", name))


def test_encoders_that_are_compared_are_whole(tmp_path: Path) -> None:
    whole = lacking(tmp_path / "whole", HEAD)
    assert len(load_encoders(whole, whole)) == 3
    with pytest.raises(
        ValueError, match=r"lacks encoder.layer.0.output.dense.weight and 0 more of a BertModel"
    ):
        load_encoders(whole, lacking(tmp_path / "broken", LAYER))


@pytest.mark.parametrize("command", ["inspect", "benchmark", "report", "compare", "export", "pack"])
def test_no_command_measures_or_writes_it(command: str, tmp_path: Path) -> None:
    more = {
        "export": [tmp_path / "out", "--format", "onnx"],
        "pack": [tmp_path / "out"],
    }
    found = refused(command, lacking(tmp_path / "run", LAYER), *more.get(command, []))
    assert f"lacks {LAYER} of a BertForSequenceClassification, which would be random" in found
    assert not (tmp_path / "out").exists()
