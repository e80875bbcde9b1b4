"""Observers of quantization-aware training are left out, the weights kept."""

from pathlib import Path

import pytest
import torch

from hf_sparse.hub import load_legacy
from tests.hub.legacy.written import PRUNED, assert_gives, config_of, keep, logits, tensors_of, wide, write

SCALARS = {"scale": torch.ones(1), "zero_point": torch.zeros(1), "fake_quant_enabled": torch.ones(1)}


def observer(name: str, inner: str = "activation_post_process.") -> dict[str, torch.Tensor]:
    ranges = {f"{inner}min_val": torch.tensor(-1.0), f"{inner}max_val": torch.tensor(1.0)}
    return {f"{name}.{key}": value for key, value in (SCALARS | ranges).items()}


def sparse() -> tuple[dict, dict]:
    model = wide()
    plain = tensors_of(model)
    for name in PRUNED:
        plain[name] *= keep(plain[name].shape, 0.75, (1, 4))
    return plain, config_of(model)


def by_sparseml(plain: dict) -> dict:
    written = dict(plain)
    for name in PRUNED:
        module = name.removesuffix(".weight")
        for own in ("weight", "bias"):
            written[f"{module}.module.{own}"] = written.pop(f"{module}.{own}")
        written |= observer(f"{module}.module.weight_fake_quant")
        written |= observer(f"{module}.quant.activation_post_process")
    matmul = "bert.encoder.layer.0.attention.self.attention_scores_matmul.input_quant_stubs.0"
    written |= observer(f"{matmul}.activation_post_process")
    return written | observer("bert.embeddings.word_embeddings.weight_fake_quant")


def by_intel(plain: dict) -> dict:
    written = dict(plain)
    for name in PRUNED:
        module = name.removesuffix(".weight")
        for part in ("weight", "input", "output"):
            written |= observer(f"{module}.{part}_fake_quant")
        written |= {f"{module}._step": torch.zeros(1), f"{module}.fake_quant_enabled": torch.ones(1)}
        written |= {f"{module}.output_fake_quant.requantize": torch.zeros(1)}
    return written


@pytest.mark.parametrize(("write_down", "layers"), [(by_sparseml, 14), (by_intel, 12)])
def test_weights_are_kept_as_floats(tmp_path: Path, write_down: object, layers: int) -> None:
    plain, config = sparse()
    rescued = load_legacy(str(write(tmp_path, write_down(plain), config)))
    assert rescued.layouts == ("quantization_aware",)
    assert rescued.notes == (
        f"{layers} layers rounded to 8 bits in training: weights are kept as floats, the ranges of "
        "activations are not carried over",
    )
    assert (rescued.pattern, rescued.sparsity) == ("1x4", 0.75)
    # Nothing else was written otherwise, so equal logits would say nothing.
    assert rescued.difference is None and rescued.save(tmp_path / "out") == 0
    assert_gives(rescued.model, logits(plain))


def test_masks_under_observers_are_folded_as_well(tmp_path: Path) -> None:
    plain, config = sparse()
    written = by_intel(plain)
    for name in PRUNED:
        weight = written.pop(name)
        written |= {f"{name}_original": weight + 1, f"{name}_mask": keep(weight.shape, 0.5)}
        plain[name] = (weight + 1) * keep(weight.shape, 0.5)
    rescued = load_legacy(str(write(tmp_path, written, config)))
    assert rescued.layouts == ("quantization_aware", "intel_masks") and rescued.sparsity == 0.5
    assert_gives(rescued.model, logits(plain))


def test_a_layer_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    plain, config = sparse()
    written = by_sparseml(plain) | {PRUNED[0]: plain[PRUNED[0]]}
    with pytest.raises(ValueError, match="cannot say which counts"):
        load_legacy(str(write(tmp_path, written, config)))
