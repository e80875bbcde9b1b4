"""OpenVINO directories compute the same as their models, in integers where layers are quantized."""

from collections import Counter
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from transformers import PreTrainedModel

from hf_sparse.export.openvino import export_openvino
from hf_sparse.quantization.calibrate import calibrate
from tests.support.tiny import bert, sentences


def batch(rows: int, length: int) -> dict[str, torch.Tensor]:
    chosen = sentences(rows)
    inputs = {
        name: torch.stack([row[name][:length] for row in chosen]) for name in ("input_ids", "attention_mask")
    }
    return inputs | {"token_type_ids": torch.zeros_like(inputs["input_ids"])}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreTrainedModel, Path]:
    model = bert(num_hidden_layers=1, initializer_range=0.2).eval()
    # Of 8 bits: processors without VNNI would add two products in 16 bits, which some do not fit.
    calibrate(model, [batch(16, 12)], "int7_per_channel")
    directory = tmp_path_factory.mktemp("openvino") / "model"
    export_openvino(model, directory)
    return model, directory


def compiled(directory: Path) -> openvino.CompiledModel:
    # Or it would compute the rest in 16 bits where the processor can.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    return openvino.Core().compile_model(directory / "openvino_model.xml", "CPU", settings)


def test_openvino_computes_the_same_at_any_size(exported) -> None:
    model, directory = exported
    running = compiled(directory)
    for rows, length in ((1, 5), (2, 12), (8, 12), (3, 7)):
        inputs = batch(rows, length)
        found = running({name: value.numpy() for name, value in inputs.items()})["logits"]
        with torch.no_grad():
            expected = model(**inputs).logits.numpy()
        assert np.abs(found - expected).max() < 1e-2 * np.abs(expected).max()


def test_every_quantized_product_is_of_integers(exported) -> None:
    graph = compiled(exported[1]).get_runtime_model()
    facts = [operation.get_rt_info() for operation in graph.get_ops()]
    found = Counter(
        fact["runtimePrecision"].astype(str)
        for fact in facts
        if fact["layerType"].astype(str) == "FullyConnected"
    )
    # Six in the layer; in floats the pooler and the head.
    assert found["u8"] + found["i8"] == 6
    assert found["f32"] == 2


def test_the_directory_holds_the_model_and_nothing_else(exported) -> None:
    _, directory = exported
    assert sorted(file.name for file in directory.iterdir()) == ["openvino_model.bin", "openvino_model.xml"]
    assert [path.name for path in directory.parent.iterdir()] == [directory.name]


def test_a_directory_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match="holds something else, which would be lost"):
        export_openvino(bert(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
