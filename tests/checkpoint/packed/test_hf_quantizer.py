"""Packed directories through `from_pretrained`: the model that was packed, like any other to transformers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    MixtralConfig,
    MixtralForSequenceClassification,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.quantizers.base import HfQuantizer

from hf_sparse import load_packed, save_packed
from hf_sparse.checkpoint.packed.hf_quantizer import HOOKS, SUPPORTED, PackedQuantizer
from hf_sparse.checkpoint.packed.packed_file import METHOD, PACKED, read_packed, write_packed
from hf_sparse.quantization.calibrate import calibrate
from hf_sparse.quantization.quantized_layers import quantized_layers
from tests.support.tiny import bert, sentences

needs_hooks = pytest.mark.skipif(not SUPPORTED, reason="transformers before 5.23 lacks the hooks")


def test_the_hooks_are_there_from_5_23_on() -> None:
    import transformers

    release = tuple(map(int, transformers.__version__.split(".")[:2]))
    assert (release >= (5, 23)) == SUPPORTED
    assert all(hook in vars(PackedQuantizer) or hook == "remove_quantization_config" for hook in HOOKS)
    if SUPPORTED:
        assert {"update_weight_conversions", "update_attn_implementation"} <= set(vars(HfQuantizer))


def batch() -> dict[str, Tensor]:
    rows = sentences(4)
    return {name: torch.stack([row[name] for row in rows]) for name in ("input_ids", "attention_mask")}


@pytest.fixture
def packed(tmp_path: Path) -> tuple[PreTrainedModel, Path]:
    model = bert().eval()
    calibrate(model, [batch()])
    save_packed(model, tmp_path / "packed")
    return model, tmp_path / "packed"


def logits(model: PreTrainedModel) -> Tensor:
    with torch.no_grad():
        return model(**batch()).logits


@needs_hooks
def test_the_model_computes_as_the_one_that_was_packed(packed) -> None:
    model, folder = packed
    loaded, report = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    assert torch.equal(logits(loaded), logits(model)) and not loaded.training
    unrounded = bert().eval()
    unrounded.load_state_dict(model.state_dict())
    assert not torch.equal(logits(unrounded), logits(model))


@needs_hooks
def test_nothing_of_the_file_is_left_in_the_model(packed, tmp_path: Path) -> None:
    model, folder = packed
    loaded = AutoModelForSequenceClassification.from_pretrained(folder)
    assert not hasattr(loaded, "hf_quantizer") and not loaded.is_quantized
    loaded.save_pretrained(tmp_path / "plain")
    written = (tmp_path / "plain" / "config.json").read_text()
    assert "quantization_config" not in written and "transformers_weights" not in written
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "plain").state_dict()
    expected = load_packed(folder, dequantize=True).state_dict()
    assert plain.keys() == model.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in plain.items())


@needs_hooks
def test_a_model_packed_to_be_trained_further_is_plain(packed, tmp_path: Path) -> None:
    model, folder = packed
    save_packed(model, tmp_path / "start", dequantize=True)
    expected = load_packed(folder, dequantize=True).state_dict()
    for loaded in (
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "start"),
        load_packed(tmp_path / "start"),
    ):
        assert quantized_layers(loaded) == {}
        assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())
    rounded = load_packed(tmp_path / "start", dequantize=False)
    assert torch.equal(logits(rounded), logits(model))


@needs_hooks
def test_another_head_and_another_dtype(packed) -> None:
    model, folder = packed
    base, report = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert report["unexpected_keys"] == {"classifier.weight", "classifier.bias"}
    with torch.no_grad():
        expected = model.base_model(**batch()).last_hidden_state
        assert torch.equal(base(**batch()).last_hidden_state, expected)
    _, report = AutoModelForTokenClassification.from_pretrained(folder, output_loading_info=True)
    assert report["missing_keys"] == set() and "bert.pooler.dense.weight" in report["unexpected_keys"]
    half = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.bfloat16)
    assert {value.dtype for value in half.parameters()} == {torch.bfloat16}


@needs_hooks
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize(
    "auto", [AutoModelForSequenceClassification, AutoModel, AutoModelForTokenClassification]
)
def test_layers_too_few_or_too_many_are_refused(layers: int, auto, packed) -> None:
    _, folder = packed
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": layers}))
    with pytest.raises(
        ValueError, match=r"differ in \d+ tensors, such as (bert\.)?encoder.layer.[12].attention"
    ):
        auto.from_pretrained(folder)


@needs_hooks
def test_a_tensor_that_is_not_there_is_not_drawn_at_random(packed) -> None:
    _, folder = packed
    pairs = [(entry, bytes(content)) for entry, content in read_packed(folder / PACKED)]
    write_packed(folder / PACKED, [pair for pair in pairs if pair[0].name != "classifier.weight"])
    with pytest.raises(ValueError, match="differ in 1 tensors, such as classifier.weight"):
        AutoModelForSequenceClassification.from_pretrained(folder)


def _gpt2() -> PreTrainedModel:
    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64, "vocab_size": 100, "pad_token_id": 0}
    return GPT2ForSequenceClassification(GPT2Config(**sizes))


def _mixtral() -> PreTrainedModel:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    more = {"num_key_value_heads": 2, "num_local_experts": 2, "vocab_size": 100, "pad_token_id": 0}
    return MixtralForSequenceClassification(MixtralConfig(**sizes, **more))


def _vit() -> PreTrainedModel:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    return ViTForImageClassification(ViTConfig(**sizes, image_size=16, patch_size=8))


@needs_hooks
@pytest.mark.parametrize("make", [_gpt2, _mixtral, _vit])
def test_models_that_are_stored_under_other_keys_or_transposed(make, tmp_path: Path) -> None:
    model = make()
    save_packed(model, tmp_path)
    loaded, report = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    expected = model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())


@needs_hooks
def test_it_trains_and_resumes_in_a_plain_trainer(packed, tmp_path: Path) -> None:
    _, folder = packed

    def run(steps: int, resume: bool) -> dict[str, Tensor]:
        args = TrainingArguments(
            tmp_path / "out",
            max_steps=steps,
            save_steps=2,
            use_cpu=True,
            learning_rate=1e-2,
            lr_scheduler_type="constant",
        )
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        trainer = Trainer(model, args, train_dataset=sentences(32))
        trainer.train(resume_from_checkpoint=resume)
        return {name: value.clone() for name, value in model.state_dict().items()}

    run(2, resume=False)
    resumed = run(4, resume=True)
    before = AutoModelForSequenceClassification.from_pretrained(folder).state_dict()
    saved = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out" / "checkpoint-4").state_dict()
    query = "bert.encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(resumed[query], before[query])
    assert all(torch.equal(value, saved[name]) for name, value in resumed.items())


@needs_hooks
@pytest.mark.parametrize("damage", ["flipped", "cut", "missing"])
def test_a_damaged_file_is_refused_as_such(damage: str, packed) -> None:
    _, folder = packed
    file = folder / "packed.safetensors"
    whole = file.read_bytes()
    middle = len(whole) // 2
    if damage == "missing":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(whole[:middle])
    else:
        file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    expected = OSError if damage == "missing" else ValueError
    with pytest.raises(expected, match="packed.safetensors"):
        AutoModelForSequenceClassification.from_pretrained(folder)


LOAD = "from transformers import AutoModelForSequenceClassification as auto; auto.from_pretrained({!r})"
BLOCKED = "import sys; sys.modules['hf_sparse'] = None; "


def in_a_process(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@needs_hooks
@pytest.mark.parametrize(
    "first",
    [
        "import hf_sparse; ",
        "import transformers.quantizers.auto, hf_sparse; ",
        "import hf_sparse, hf_sparse; ",
    ],
)
def test_importing_hf_sparse_is_all_it_takes(first: str, packed) -> None:
    assert in_a_process(first + LOAD.format(str(packed[1]))).returncode == 0


def test_without_hf_sparse_there_is_an_error_and_no_random_model(packed) -> None:
    done = in_a_process(BLOCKED + LOAD.format(str(packed[1])))
    assert done.returncode == 1 and "no file named model.safetensors" in done.stderr


def test_importing_hf_sparse_does_not_import_transformers() -> None:
    code = "import hf_sparse, sys; assert 'transformers' not in sys.modules and 'torch' not in sys.modules"
    assert in_a_process(code).returncode == 0


def test_the_method_is_written_into_the_configuration(packed) -> None:
    assert f'"quant_method": "{METHOD}"' in (packed[1] / "config.json").read_text()
