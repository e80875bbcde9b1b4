"""Every way to compute a model gives its answers, and says what its weights take."""

import logging
import sys
import warnings
from collections import Counter
from pathlib import Path

import onnx
import onnxruntime
import openvino
import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from hf_sparse import prune
from hf_sparse.benchmark import eager
from hf_sparse.benchmark.backends import BACKENDS, REFERENCE, Field, prepare, quiet_root
from hf_sparse.benchmark.eager import held_bytes
from hf_sparse.benchmark.inputs import Job, plain_copy, random_inputs, shared_copy
from hf_sparse.benchmark.latency import largest_difference
from hf_sparse.quantization.calibrate import calibrate
from hf_sparse.quantization.quantized_layers import quantized_layers
from hf_sparse.quantization.weights import read_weight_scheme
from hf_sparse.runtime.bindings import load_kernels
from tests.support.tiny import bert, llama

OURS = ["hf_sparse fuse", "hf_sparse optimize"]
TORCH = [REFERENCE, "PyTorch int8 dynamic"]
ONNX = ["ONNX Runtime float32", "ONNX Runtime int8"]
OPENVINO = ["OpenVINO float32", "OpenVINO int8"]
compiled = pytest.mark.skipif(load_kernels() is None, reason="there is no compiler")


def small(schemes: tuple[str, ...] | None = ("int8_per_channel",)) -> PreTrainedModel:
    model = bert(num_hidden_layers=1, initializer_range=0.2).eval()
    if schemes is not None:
        calibrate(model, [random_inputs(model, 8, 12)], *schemes)
    return model


class Run:
    """A model with its field, and what was passed to other runtimes on the way."""

    def __init__(self, model: PreTrainedModel, scratch: Path) -> None:
        self.model, self.inputs, self.scratch = model, random_inputs(model, 2, 12), scratch
        self.sessions: list[onnxruntime.SessionOptions] = []
        self.settings: list[dict[str, object]] = []
        session, compile_model = onnxruntime.InferenceSession, openvino.Core.compile_model

        def opened(path: Path, options: onnxruntime.SessionOptions, **rest: object) -> object:
            self.sessions.append(options)
            return session(path, options, **rest)

        def compiling(core: openvino.Core, path: Path, device: str, settings: dict[str, object]) -> object:
            self.settings.append(settings)
            return compile_model(core, path, device, settings)

        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            patch.setattr(onnxruntime, "InferenceSession", opened)
            patch.setattr(openvino.Core, "compile_model", compiling)
            warnings.filterwarnings("error", "(?s).*quantiz")
            self.field: Field = prepare(Job(model, self.inputs, 3, scratch))
        self.held = {one.name: one.weight_bytes for one in self.field.models}
        self.notes = {one.name: one.note for one in self.field.models if one.note}

    def difference(self, name: str, reference: torch.Tensor) -> float:
        return largest_difference(self.field.output(name), reference)


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(small(), tmp_path_factory.mktemp("quantized"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(small(None), tmp_path_factory.mktemp("plain"))


def logits(model: PreTrainedModel, run: Run) -> torch.Tensor:
    with torch.no_grad():
        return model(**run.inputs).logits


@compiled
def test_all_compete_where_all_is_installed(quantized: Run) -> None:
    assert quantized.field.missing == {}
    assert [one.name for one in quantized.field.models] == OURS + TORCH + ONNX + OPENVINO
    assert [one.name for one in quantized.field.models if one.own] == OURS
    assert list(quantized.notes) == ["PyTorch int8 dynamic"]


def test_a_quantized_model_answers_as_it_was_quantized(quantized: Run) -> None:
    rounded, floats = logits(quantized.model, quantized), quantized.field.output(REFERENCE)
    scale = floats.abs().max().item()
    ours = [one.name for one in quantized.field.models if one.own]
    # Those that compute with its codes; OpenVINO may add products in 16 bits, which some do not fit.
    for name in [*ours, "ONNX Runtime int8"]:
        assert quantized.difference(name, rounded) < 4e-3 * scale
    for name in [*ours, "ONNX Runtime int8", "OpenVINO int8", "PyTorch int8 dynamic"]:
        assert 5e-3 * scale < quantized.difference(name, floats) < scale
    for name in ("ONNX Runtime float32", "OpenVINO float32"):
        assert quantized.difference(name, floats) < 1e-4 * scale


def test_the_reference_has_the_weights_that_codes_stand_for(quantized: Run) -> None:
    model, layers = quantized.model, quantized_layers(quantized.model)
    copied = plain_copy(model)
    assert len(layers) == 6 and quantized_layers(copied) == {}
    for name, layer in layers.items():
        module = copied.get_submodule(name)
        assert type(module) is nn.Linear and torch.equal(module.weight, layer.weight())
        assert not torch.equal(module.weight, model.get_submodule(name).weight)
        assert module.bias is model.get_submodule(name).bias
    assert torch.equal(logits(copied, quantized), quantized.field.output(REFERENCE))
    assert copied.bert.pooler.dense.weight is model.bert.pooler.dense.weight


@compiled
def test_what_weights_take_is_counted_as_they_are_held(quantized: Run) -> None:
    held = quantized.held
    model = plain_copy(quantized.model)
    floats = sum(value.nbytes for value in (*model.parameters(), *model.buffers()))
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    weights = sum(module.weight.numel() for module in linears)
    assert held[REFERENCE] == floats
    assert held["PyTorch int8 dynamic"] == floats - 3 * weights
    for name in OURS:
        # Indices, multipliers and sums of rows besides.
        assert floats - 3 * weights < held[name] < floats
    assert held["ONNX Runtime float32"] == (quantized.scratch / "floats.onnx").stat().st_size
    assert held["ONNX Runtime int8"] == (quantized.scratch / "integers.onnx").stat().st_size
    for name in ("float32", "int8"):
        files = list((quantized.scratch / name).iterdir())
        assert held[f"OpenVINO {name}"] == sum(file.stat().st_size for file in files) and len(files) == 2


def test_weights_that_are_tied_are_counted_once() -> None:
    tied = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    tied[1].weight = tied[0].weight
    assert held_bytes(tied) == 64


def test_other_runtimes_have_as_many_threads(quantized: Run) -> None:
    assert [options.intra_op_num_threads for options in quantized.sessions] == [3, 3]
    assert [options.inter_op_num_threads for options in quantized.sessions] == [1, 1]
    spinning = "session.force_spinning_stop"
    assert {options.get_session_config_entry(spinning) for options in quantized.sessions} == {"1"}
    assert [settings["INFERENCE_NUM_THREADS"] for settings in quantized.settings] == [3, 3]
    assert {settings["INFERENCE_PRECISION_HINT"] for settings in quantized.settings} == {"f32"}


@compiled
def test_a_plain_model_is_rounded_by_whoever_can_and_stays_plain(plain: Run) -> None:
    assert list(plain.field.missing) == ["hf_sparse optimize"]
    assert "half zeros" in plain.field.missing["hf_sparse optimize"]
    noted = {"hf_sparse fuse", "PyTorch int8 dynamic", "ONNX Runtime int8", "OpenVINO int8"}
    assert plain.notes.keys() == noted
    assert quantized_layers(plain.model) == {}
    floats = logits(plain.model, plain)
    assert torch.equal(plain.field.output(REFERENCE), floats)
    for name in noted:
        assert 0 < plain.difference(name, floats) < floats.abs().max()


def test_onnx_runtime_multiplies_integers_either_way(quantized: Run, plain: Run) -> None:
    dynamic, static = (
        Counter(node.op_type for node in onnx.load(path).graph.node)
        for path in (plain.scratch / "dynamic.onnx", quantized.scratch / "integers.onnx")
    )
    # Pooler and head are Linears, too.
    assert dynamic["MatMulInteger"] == 8 and dynamic["QuantizeLinear"] == 0
    assert static["MatMulInteger"] == 0 and static["QuantizeLinear"] >= 4


def test_advice_to_everybody_is_kept_back_and_logging_stays(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    with quiet_root():
        logging.warning("advice")
        logging.error("trouble")
    assert capsys.readouterr().err == "ERROR:root:trouble\n"
    assert root.handlers == [] and root.filters == []


def chosen(model: PreTrainedModel, scratch: Path, *names: str) -> Field:
    job = Job(model, random_inputs(model, 1, 4), 1, scratch)
    return prepare(job, [backend for backend in BACKENDS if backend.name in names])


@compiled
def test_sparse_floats_run_layer_by_layer(tmp_path: Path) -> None:
    model = small(None)
    prune(model, 0.6)
    field = chosen(model, tmp_path, *OURS, REFERENCE)
    assert field.missing == {}
    floats = field.output(REFERENCE)
    for name in OURS:
        assert 0 < largest_difference(field.output(name), floats) < 0.1 * floats.abs().max()


@compiled
def test_families_and_schemes_that_it_does_not_know_are_named(tmp_path: Path) -> None:
    field = chosen(llama().eval(), tmp_path, *OURS)
    assert "models of type llama are not among bert" in field.missing["hf_sparse fuse"]
    grouped = chosen(small(("int4_group_32", "none")), tmp_path, *OURS)
    assert "a scale for every 32 inputs" in grouped.missing["hf_sparse fuse"]
    assert "in a supported scheme" in grouped.missing["hf_sparse optimize"]


@compiled
def test_layers_that_are_left_are_noted(tmp_path: Path) -> None:
    model = small()
    model.bert.encoder.layer[0].output.dense.quantization.weights = read_weight_scheme("int4_group_32")
    (optimized,) = chosen(model, tmp_path, "hf_sparse optimize").models
    assert optimized.note == "1 quantized layers stay in PyTorch, simulated."


def test_without_a_compiler_this_runtime_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eager, "load_kernels", lambda: None)
    field = chosen(small(), tmp_path, *OURS, *TORCH)
    assert [one.name for one in field.models] == TORCH
    assert list(field.missing) == OURS
    assert all("the compiler is missing, or HF_SPARSE_NATIVE is 0" in text for text in field.missing.values())


@pytest.mark.parametrize(
    ("package", "extra", "names"),
    [
        ("onnxscript", "export", ONNX),
        ("onnxruntime", "export", ONNX),
        ("openvino", "openvino", OPENVINO),
    ],
)
def test_runtimes_that_are_not_installed_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, extra: str, names: list[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    field = chosen(small(), tmp_path, REFERENCE, *names)
    assert [one.name for one in field.models] == [REFERENCE]
    reason = f'{package} is not installed; run pip install "hf_sparse[{extra}]"'
    assert field.missing == dict.fromkeys(names, reason)


def test_a_copy_shares_parameters_and_keeps_no_cache() -> None:
    model = llama().train()
    copied = shared_copy(model)
    assert not copied.training and model.training
    assert not copied.config.use_cache and model.config.use_cache
    assert all(one is other for one, other in zip(copied.parameters(), model.parameters(), strict=True))
