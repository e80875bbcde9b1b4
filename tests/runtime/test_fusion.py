"""Fused models, refused models, and a model that stays as it was after an error."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from hf_sparse.quantization.convert import detach
from hf_sparse.runtime import fuse, optimize
from hf_sparse.runtime.autotune import measured_rates
from hf_sparse.runtime.bindings import load_kernels
from hf_sparse.runtime.encoders.encoder_parts import encoder_names
from hf_sparse.runtime.fused_encoder import kept_tokens
from tests.support.runtime_models import batch, build, outputs, quantized

pytestmark = pytest.mark.skipif(load_kernels() is None, reason="there is no C++ compiler")


def test_what_cannot_be_fused_is_refused_with_the_reason() -> None:
    model = quantized(weights="int4_group_4")
    with pytest.raises(ValueError, match="scale for every 4 inputs"):
        fuse(model)
    model = build(is_decoder=True)
    with pytest.raises(ValueError, match="looks back"):
        fuse(model)
    model = build()
    model.config.model_type = "t5"
    with pytest.raises(ValueError, match="type t5 are not among bert"):
        encoder_names(model)
    with pytest.raises(ValueError, match="activation mish is none of"):
        fuse(build(hidden_act="mish"))


def test_inner_states_gradients_and_saving_are_refused(tmp_path) -> None:
    model, inputs = fuse(quantized()), batch()
    for asked in ("output_hidden_states", "output_attentions"):
        with pytest.raises(ValueError, match=asked):
            model(**inputs, **{asked: True})
    with pytest.raises(ValueError, match="computes no gradients"):
        model.bert.encoder(torch.randn(1, 4, 32, requires_grad=True))
    with pytest.raises(ValueError, match="lacks the weights to save"):
        model.save_pretrained(tmp_path)


def test_without_a_compiler_the_model_stays_as_it_is(monkeypatch) -> None:
    monkeypatch.setattr("hf_sparse.runtime.fusion.load_kernels", lambda: None)
    model, inputs = quantized(), batch()
    expected = outputs(model, inputs)["logits"]
    assert torch.equal(outputs(fuse(model), inputs)["logits"], expected)
    detach(model)


def test_layers_that_differ_are_refused_and_the_model_stays_as_it_was() -> None:
    model = build()
    layer = model.bert.encoder.layer[1]
    layer.intermediate.dense, layer.output.dense = nn.Linear(32, 256), nn.Linear(256, 32)
    with pytest.raises(ValueError, match=r"layers of this encoder differ.*\(256, 32\)"):
        fuse(model)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert type(model.bert.encoder).__name__ == "BertEncoder"
    model = build()
    model.config.num_attention_heads = 5
    with pytest.raises(ValueError, match="5 heads"):
        fuse(model)
    model = build()
    model.bert.encoder.layer[0].output.LayerNorm.eps = 1e-3
    with pytest.raises(ValueError, match=r"epsilons \[1e-12, 0.001\]"):
        fuse(model)


def test_a_refused_model_can_still_be_trained() -> None:
    model = quantized(weights="int4_group_4").train()
    with pytest.raises(ValueError, match="scale for every"):
        fuse(model)
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())


class _Adapted(nn.Module):
    """A Linear as adapters make them: the weight of another one, and a parameter of its own."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base

    weight = property(lambda self: self.base.weight)
    bias = property(lambda self: self.base.bias)


def test_adapters_and_hooks_are_not_lost_silently() -> None:
    model = build()
    model.bert.encoder.layer[0].output.dense = _Adapted(model.bert.encoder.layer[0].output.dense)
    with pytest.raises(ValueError, match="output.dense is a .*_Adapted.* merge adapters"):
        fuse(model)
    model = build()
    model.bert.encoder.layer[1].register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="layer.1 has a hook of .*test_fusion"):
        fuse(model)


def test_hooks_of_transformers_do_not_matter() -> None:
    model, inputs = quantized(), batch()
    with torch.no_grad():
        model(**inputs, output_hidden_states=True)
    fuse(model)
    assert outputs(model, inputs)["logits"].isfinite().all()


def test_a_fused_model_stays_as_it_is_when_fused_again() -> None:
    model = fuse(quantized())
    encoder = model.bert.encoder
    assert fuse(model).bert.encoder is encoder
    with pytest.raises(ValueError, match="is a .*RuntimeLinear"):
        fuse(optimize(quantized()))


def test_states_of_another_width_are_refused() -> None:
    encoder = fuse(quantized()).bert.encoder
    with pytest.raises(ValueError, match=r"reads \(batch, length, 32\), not \(4, 64, 8\)"):
        encoder(torch.randn(4, 64, 8))


def test_masks_that_are_more_than_masks_are_refused() -> None:
    with pytest.raises(ValueError, match="neither 0 nor so small"):
        kept_tokens(torch.tensor([0.0, -0.9, 0.0])[None, None, None], 1, 3)
    with pytest.raises(ValueError, match="no mask of type dict"):
        kept_tokens({}, 1, 3)


def test_a_layer_that_is_used_twice_is_quantized_twice() -> None:
    model, inputs = quantized(weights="int2_per_channel"), batch()
    model.bert.encoder.layer[1] = model.bert.encoder.layer[0]
    exact = outputs(model, inputs)["logits"]
    for ready in (fuse, optimize):
        found = outputs(ready(copy.deepcopy(model)), inputs)["logits"]
        torch.testing.assert_close(found, exact, rtol=0, atol=0.05 * float(exact.abs().max()))


def test_no_memory_is_an_error_and_no_crash() -> None:
    code = """
import resource, torch, sys
sys.path.insert(0, ".")
from tests.support.runtime_models import quantized
from hf_sparse.runtime import fuse
encoder = fuse(quantized()).bert.encoder
states = torch.zeros(200, 4096, 32)
held = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (held + (300 << 20), held + (300 << 20)))
try:
    encoder(states)
except MemoryError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "take a smaller batch" in done.stdout, done.stderr[-500:]


def test_a_default_device_does_not_matter() -> None:
    model = quantized()
    measured_rates.cache_clear()
    with torch.device("meta"):
        fuse(model)
    assert outputs(model, batch())["logits"].isfinite().all()
