"""ONNX files compute the same as their models, in integers where layers are quantized."""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor
from transformers import (
    BartConfig,
    BartForSequenceClassification,
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertTokenizerFast,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    DistilBertModel,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    pipeline,
)

from hf_sparse.export.inputs import example_inputs
from hf_sparse.export.onnx import ExportedOnnx, export_onnx
from hf_sparse.quantization.calibrate import calibrate

VOCABULARY = 100
# Weights large enough that rounding shows in the logits.
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": VOCABULARY,
    "initializer_range": 0.2,
}
SMALL_GPT2 = {
    "n_embd": 32,
    "n_layer": 1,
    "n_head": 2,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SMALL_DISTILBERT = {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64, "vocab_size": VOCABULARY}

# What is made, and how it is quantized: floats where it is not.
CASES: dict[str, tuple[Callable[[], PreTrainedModel], tuple[str, str] | None]] = {
    "classifier": (
        lambda: BertForSequenceClassification(BertConfig(**SIZES)),
        ("int8_per_channel", "uint8_per_tensor"),
    ),
    "reader": (
        lambda: BertForQuestionAnswering(BertConfig(**SIZES)),
        ("int8_per_tensor", "uint8_per_tensor"),
    ),
    "GPT-2": (
        lambda: GPT2LMHeadModel(GPT2Config(**SMALL_GPT2, vocab_size=VOCABULARY, initializer_range=0.2)),
        ("int8_per_channel", "int8_per_token"),
    ),
    "DistilBERT": (
        lambda: DistilBertForSequenceClassification(
            DistilBertConfig(**SMALL_DISTILBERT, initializer_range=0.2)
        ),
        ("int4_group_16", "none"),
    ),
    "floats": (lambda: DistilBertModel(DistilBertConfig(**SMALL_DISTILBERT)), None),
}
# How many layers are quantized, and the operator that ONNX Runtime makes of each.
FUSED = {
    "classifier": (6, "MatMulIntegerToFloat"),
    "reader": (6, "MatMulIntegerToFloat"),
    "GPT-2": (4, "MatMulIntegerToFloat"),
    "DistilBERT": (6, "MatMulNBits"),
}


def batch(rows: int, length: int, names: tuple[str, ...], seed: int = 3) -> dict[str, Tensor]:
    """Words of random numbers, every second row padded at its end."""
    ids = torch.randint(5, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    mask[1::2, length - length // 3 :] = 0
    inputs = {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": (ids % 2) * mask}
    return {name: inputs[name] for name in names}


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[PreTrainedModel, ExportedOnnx]]:
    """Return a function from the name of a case to its model and its file, made once."""

    @cache
    def exported(case: str) -> tuple[PreTrainedModel, ExportedOnnx]:
        torch.manual_seed(0)
        make, schemes = CASES[case]
        model = make().eval()
        model.config.use_cache = False
        if schemes is not None:
            calibrate(model, [batch(16, 24, tuple(example_inputs(model)))], *schemes)
        return model, export_onnx(model, tmp_path_factory.mktemp("onnx") / "model.onnx")

    return exported


def session(case: str, path: Path, optimized: Path | None = None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    # By default it rounds the inputs of weight-only layers to 8 bits as well.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    # Processors without VNNI add two products of uint8 and int8 in 16 bits, which some do not fit.
    if CASES[case][1] is None or CASES[case][1][1] != "int8_per_token":
        options.add_session_config_entry("session.x64quantprecision", "1")
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(running: onnxruntime.InferenceSession, inputs: dict[str, Tensor]) -> dict[str, np.ndarray]:
    names = [output.name for output in running.get_outputs()]
    values = running.run(names, {name: value.numpy() for name, value in inputs.items()})
    return dict(zip(names, values, strict=True))


def relative_errors(
    model: PreTrainedModel, running: onnxruntime.InferenceSession, names: tuple[str, ...]
) -> Iterator[float]:
    """Yield the largest error of each output, as a share of its largest value, at several sizes."""
    for rows, length in ((1, 7), (2, 24), (5, 13), (8, 3)):
        inputs = batch(rows, length, names)
        found = run(running, inputs)
        with torch.no_grad():
            expected = model(**inputs)
        for name, values in found.items():
            yield np.abs(values - expected[name].numpy()).max() / expected[name].abs().max().item()


@pytest.mark.parametrize("case", CASES)
def test_onnx_runtime_computes_the_same_at_any_size(case: str, export) -> None:
    model, exported = export(case)
    # Where a value lies between two codes, an error of one bit chooses the other.
    tolerance = 1e-5 if CASES[case][1] is None else 5e-3
    assert max(relative_errors(model, session(case, exported.path), exported.inputs)) < tolerance


def test_the_tolerance_would_notice_a_model_that_is_not_quantized(export) -> None:
    for case in FUSED:
        model, exported = export(case)
        layers = [module for module in model.modules() if hasattr(module, "quantization")]
        layers[0].quantization.phase.active = False
        errors = list(relative_errors(model, session(case, exported.path), exported.inputs))
        layers[0].quantization.phase.active = True
        assert max(errors) > 5e-3


@pytest.mark.parametrize("case", FUSED)
def test_every_quantized_product_is_fused_and_no_other(case: str, export, tmp_path: Path) -> None:
    _, exported = export(case)
    layers, operator = FUSED[case]
    assert exported.quantized_layers == layers
    session(case, exported.path, tmp_path / "optimized.onnx")
    nodes = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert nodes[operator] == layers
    # What is left: scores and contexts of attention (one scaled), and the heads.
    attention, heads = nodes["FusedMatMul"] + nodes["MatMul"], nodes["Gemm"] + nodes["FusedGemm"]
    assert attention + heads == 2 + {"classifier": 2, "reader": 1, "GPT-2": 1, "DistilBERT": 2}[case]
    assert nodes["DequantizeLinear"] == 0


def test_inputs_and_outputs_have_the_names_of_transformers_and_any_size(export) -> None:
    names = {case: (export(case)[1].inputs, export(case)[1].outputs) for case in CASES}
    assert names["classifier"] == (("input_ids", "attention_mask", "token_type_ids"), ("logits",))
    assert names["reader"][1] == ("start_logits", "end_logits")
    assert names["GPT-2"] == (("input_ids", "attention_mask"), ("logits",))
    assert names["floats"] == (("input_ids", "attention_mask"), ("last_hidden_state",))
    for case in CASES:
        running = session(case, export(case)[1].path)
        assert [(value.name, value.shape) for value in running.get_inputs()] == [
            (name, ["batch", "sequence"]) for name in names[case][0]
        ]
        assert tuple(value.name for value in running.get_outputs()) == names[case][1]


def test_weights_take_the_bytes_of_their_type(export) -> None:
    def bytes_of(case: str, kind: int) -> int:
        graph = onnx.load(export(case)[1].path).graph
        return sum(len(tensor.raw_data) for tensor in graph.initializer if tensor.data_type == kind)

    matrices = 4 * 32 * 32 + 2 * 32 * 64
    assert bytes_of("DistilBERT", onnx.TensorProto.INT4) == matrices / 2
    assert bytes_of("classifier", onnx.TensorProto.INT8) == matrices


def test_the_report_says_what_was_written(export) -> None:
    _, exported = export("classifier")
    text = str(exported)
    assert text.startswith(f"{exported.path}: opset 21, 6 quantized layers, input_ids, attention_mask")
    assert f"{exported.nodes['QuantizeLinear']} QuantizeLinear" in text
    held = Counter(node.op_type for node in onnx.load(exported.path).graph.node)
    assert held == exported.nodes
    assert onnx.load(exported.path).opset_import[0].version == exported.opset == 21


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "who", "sat", "where", "the", "big", "cat", "on", "a"]
WORDS += ["mat", "in", "paris", "?", ".", "film", "was", "good", "bad"]


@pytest.fixture
def tokenizer() -> BertTokenizerFast:
    return BertTokenizerFast(vocab={word: index for index, word in enumerate(WORDS)})


def test_texts_are_classified_as_the_pipeline_does(export, tokenizer: BertTokenizerFast) -> None:
    model, exported = export("classifier")
    texts = ["the film was good", "the big film was bad . bad", "who sat on a mat in paris ?"]
    expected = pipeline("text-classification", model=model, tokenizer=tokenizer)(texts, top_k=None)
    logits = run(
        session("classifier", exported.path), dict(tokenizer(texts, padding=True, return_tensors="pt"))
    )["logits"]
    shares = torch.tensor(logits).softmax(-1)
    for row, scores in zip(shares, expected, strict=True):
        found = {model.config.id2label[index]: share.item() for index, share in enumerate(row)}
        assert found == pytest.approx({score["label"]: score["score"] for score in scores}, abs=5e-3)
        assert max(found, key=found.get) == scores[0]["label"]


def test_questions_are_answered_as_by_the_model(export, tokenizer: BertTokenizerFast) -> None:
    model, exported = export("reader")
    questions, contexts = (
        ["who sat ?", "where ?"],
        ["the big cat sat on a mat in paris .", "a cat was in paris"],
    )
    inputs = dict(tokenizer(questions, contexts, padding=True, return_tensors="pt"))
    with torch.no_grad():
        expected = model(**inputs)
    found = run(session("reader", exported.path), inputs)

    def answers(starts: Tensor, ends: Tensor) -> list[str]:
        sums = (starts[:, :, None] + ends[:, None, :]).masked_fill(
            torch.ones(starts.shape[1], starts.shape[1]).tril(-1).bool(), -torch.inf
        )
        places = [divmod(best.item(), starts.shape[1]) for best in sums.flatten(1).argmax(1)]
        return [
            tokenizer.decode(ids[start : end + 1])
            for ids, (start, end) in zip(inputs["input_ids"], places, strict=True)
        ]

    theirs = answers(expected.start_logits, expected.end_logits)
    assert answers(torch.tensor(found["start_logits"]), torch.tensor(found["end_logits"])) == theirs
    assert all(theirs)


def test_the_model_stays_as_it_is_even_where_the_export_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(**SIZES)).train()
    names = tuple(example_inputs(model))
    calibrate(model, [batch(4, 8, names)])
    modules, config = list(model.modules()), model.config.to_dict()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def fail(*_, **__) -> None:
        raise RuntimeError("cannot be traced")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(RuntimeError, match="cannot be traced"):
        export_onnx(model, tmp_path / "model.onnx")
    assert list(model.modules()) == modules and model.config.to_dict() == config and model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(tmp_path.iterdir())


def test_what_cannot_be_exported_is_refused_by_name(tmp_path: Path) -> None:
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": VOCABULARY}
    bart = BartForSequenceClassification(BartConfig(**sizes))
    half = BertForSequenceClassification(BertConfig(**SIZES)).bfloat16()
    grouped = BertForSequenceClassification(BertConfig(**SIZES))
    calibrate(grouped, [batch(4, 8, tuple(example_inputs(grouped)))], "int8_group_16")
    for model, message in (
        (bart, "BartForSequenceClassification reads more than a tokenizer makes; call export_onnx"),
        (half, r"the model is torch.bfloat16.*call model.float\(\) first"),
        (
            grouped,
            "query has weights int8_group_16 and activations uint8_per_tensor.*choose weights per_chan",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            export_onnx(model, tmp_path / "model.onnx")
    assert not any(tmp_path.iterdir())
