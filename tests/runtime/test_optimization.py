"""Linears of any model as layers of the kernels."""

import copy
import logging
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    pipeline,
)

from hf_sparse.quantization.calibrate import calibrate
from hf_sparse.runtime import optimize
from hf_sparse.runtime.bindings import load_kernels
from hf_sparse.runtime.linear import RuntimeLinear
from tests.support.runtime_models import batch, build, prune, quantized

pytestmark = pytest.mark.skipif(load_kernels() is None, reason="there is no C++ compiler")


def replaced(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, RuntimeLinear)]


def near(found: torch.Tensor, exact: torch.Tensor) -> None:
    torch.testing.assert_close(found, exact, rtol=0, atol=0.05 * float(exact.abs().max()))


@pytest.mark.parametrize("activations", ["uint8_per_tensor", "int8_per_token", "none"])
def test_a_quantized_model_gives_the_same_with_all_its_states(activations: str) -> None:
    model, inputs = quantized(activations=activations), batch()
    model.set_attn_implementation("eager")
    asked = {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        exact = model(**inputs, **asked)
        found = optimize(model)(**inputs, **asked)
    assert len(replaced(model)) == 12
    assert len(found.hidden_states) == 3 and len(found.attentions) == 2
    kept = inputs["attention_mask"].bool()
    for one, other in zip(found.hidden_states, exact.hidden_states, strict=True):
        near(one[kept], other[kept])


def test_only_what_was_pruned_is_replaced_in_a_plain_model() -> None:
    model = build()
    with torch.no_grad():
        model.bert.encoder.layer[1].output.dense.weight[:20] = 0
        model.bert.encoder.layer[0].output.dense.weight[:10] = 0
    optimize(model)
    assert replaced(model) == ["bert.encoder.layer.1.output.dense"]


def test_a_decoder_with_transposed_weights_generates_the_same() -> None:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=60, n_embd=32, n_layer=2, n_head=4, n_positions=40, bos_token_id=1, eos_token_id=1
    )
    model = GPT2LMHeadModel(config).eval()
    prune(model, 0.5)
    inputs = {"input_ids": torch.arange(2, 12)[None]}
    calibrate(model, [inputs])
    with torch.no_grad():
        exact = model(**inputs).logits
        found = optimize(model)(**inputs).logits
    assert len(replaced(model)) == 8
    near(found, exact)
    assert model.generate(**inputs, max_new_tokens=5, do_sample=False, pad_token_id=0).shape[1] > 10


def test_models_that_look_at_their_weights_run() -> None:
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=60, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0
    )
    model = T5ForConditionalGeneration(config).eval()
    prune(model, 0.6)
    inputs = {"input_ids": torch.arange(2, 12)[None], "decoder_input_ids": torch.arange(5)[None]}
    with torch.no_grad():
        exact = model(**inputs).logits
        found = optimize(model)(**inputs).logits
    assert replaced(model)
    near(found, exact)


def test_what_the_kernels_do_not_know_stays_and_is_named(caplog) -> None:
    model, inputs = quantized(weights="int4_group_4"), batch()
    with torch.no_grad():
        exact = model(**inputs).logits
        with caplog.at_level(logging.WARNING):
            found = optimize(model)(**inputs).logits
    assert torch.equal(found, exact) and not replaced(model)
    assert "12 layers stay in PyTorch, such as bert.encoder.layer.0.attention.self.query" in caplog.text


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_inputs_of_sixteen_bits_give_outputs_of_sixteen_bits(dtype: torch.dtype) -> None:
    model = build()
    prune(model, 0.8)
    inputs = batch()
    with torch.no_grad():
        exact = model(**inputs).logits
        found = optimize(model.to(dtype))(**inputs).logits
    assert found.dtype == dtype
    near(found.float(), exact)


def test_pipelines_work(tmp_path) -> None:
    (tmp_path / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"])
    )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, tokenizer_type="bert")
    model = quantized()
    texts = ["a b c", "d e f g h"]
    expected = pipeline("text-classification", model=copy.deepcopy(model), tokenizer=tokenizer)(texts)
    found = pipeline("text-classification", model=optimize(model), tokenizer=tokenizer)(texts)
    assert [each["label"] for each in found] == [each["label"] for each in expected]
    assert all(abs(one["score"] - other["score"]) < 0.02 for one, other in zip(found, expected, strict=True))


def test_layers_copy_and_pickle() -> None:
    layer = optimize(quantized()).bert.encoder.layer[0].output.dense
    values = torch.randn(3, 5, 52)
    expected = layer(values)
    assert torch.equal(copy.deepcopy(layer)(values), expected)
    assert torch.equal(pickle.loads(pickle.dumps(layer))(values), expected)


def test_a_layer_packed_for_another_path_is_refused() -> None:
    layer = optimize(quantized()).bert.encoder.layer[0].output.dense
    state = layer.__getstate__()
    state["packed"] = copy.copy(state["packed"])
    object.__setattr__(state["packed"], "path", "elsewhere")
    with pytest.raises(ValueError, match="made ready for the path elsewhere"):
        RuntimeLinear.__new__(RuntimeLinear).__setstate__(state)


def test_inputs_that_do_not_fit_are_refused_by_shape() -> None:
    layer = optimize(quantized()).bert.encoder.layer[0].output.dense
    with pytest.raises(ValueError, match=r"52 features, not torch.float32 of shape \(2, 51\)"):
        layer(torch.randn(2, 51))
    with pytest.raises(ValueError, match="not torch.int64"):
        layer(torch.ones(2, 52, dtype=torch.long))
    assert layer(torch.randn(0, 52)).shape == (0, 32)


def test_saving_and_training_are_refused(tmp_path) -> None:
    model = optimize(quantized())
    with pytest.raises(ValueError, match="lacks the weights to save"):
        model.save_pretrained(tmp_path)
    # Not even a configuration, which might have been that of a packed file.
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="lacks the weights to save"):
        model.state_dict()
    with pytest.raises(ValueError, match="computes no gradients"):
        model.bert.encoder.layer[0].output.dense(torch.randn(2, 52, requires_grad=True))


def test_a_model_elsewhere_is_refused() -> None:
    with pytest.raises(ValueError, match="is on meta"):
        optimize(build().to("meta"))


def test_many_calls_take_no_memory() -> None:
    # In a process of its own, where nothing else takes or gives any.
    code = """
import sys, torch
sys.path.insert(0, ".")
from tests.support.runtime_models import quantized
from hf_sparse.runtime import optimize
layer, values = optimize(quantized()).bert.encoder.layer[0].output.dense, torch.randn(1, 52)
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * 4096
for _ in range(5000):
    layer(values)
before = resident()
for _ in range(60_000):
    layer(values)
print(resident() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # Less than forgetting the smallest thing in every call would take.
    assert int(done.stdout) < 60_000 * 16


def test_without_a_compiler_the_model_stays_as_it_is(monkeypatch) -> None:
    monkeypatch.setattr("hf_sparse.runtime.optimization.load_kernels", lambda: None)
    model, inputs = quantized(), batch()
    with torch.no_grad():
        exact = model(**inputs).logits
        assert torch.equal(optimize(model)(**inputs).logits, exact)
    assert not replaced(model)


def test_layers_whose_weights_a_model_reads_stay(caplog) -> None:
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=40, hidden_size=16, num_hidden_layers=2, state_size=4, time_step_rank=4)
    model, inputs = MambaForCausalLM(config).eval(), {"input_ids": torch.arange(3, 11)[None]}
    for module in model.modules():
        if isinstance(module, nn.Linear):
            with torch.no_grad():
                module.weight[:, ::2] = module.weight[::2] = 0
    with torch.no_grad(), caplog.at_level(logging.WARNING):
        exact = model(**inputs).logits
        found = optimize(model)(**inputs).logits
    near(found, exact)
    assert replaced(model) and not any(name.endswith("dt_proj") for name in replaced(model))
    assert "dt_proj: the model multiplies with its weight itself" in caplog.text


def test_simulated_layers_run_under_inference_mode_too() -> None:
    model, inputs = quantized(), batch()
    with torch.no_grad():
        exact = model(**inputs).logits
    with torch.inference_mode():
        assert torch.equal(model(**inputs).logits, exact)
