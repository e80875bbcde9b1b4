"""What rounding made of the logits is measured against PyTorch's own fake quantization."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hf_sparse.hub import load_legacy
from hf_sparse.hub.legacy.load import Rescued
from tests.hub.legacy.test_bitmask import SPARSITY, bitmasks, compress
from tests.hub.legacy.test_quantization_aware import sparse
from tests.hub.legacy.written import PRUNED, keep, tensors_of, wide, write

MODULES = [name.removesuffix(".weight") for name in PRUNED]


def fake_quant(
    scale: Tensor | float, zero_point: int = 0, least: float = -1.0, **switches: int
) -> dict[str, Tensor]:
    """As `FakeQuantize` of PyTorch saves itself."""
    scale = torch.as_tensor(scale).reshape(-1)
    parts = {
        "fake_quant_enabled": torch.ones(1, dtype=torch.uint8),
        "observer_enabled": torch.zeros(1, dtype=torch.uint8),
        "scale": scale,
        "zero_point": torch.full(scale.shape, zero_point, dtype=torch.int32),
        "activation_post_process.min_val": torch.full(scale.shape, least),
        "activation_post_process.max_val": torch.ones(scale.shape),
    }
    return parts | {name: torch.tensor([value], dtype=torch.uint8) for name, value in switches.items()}


def at(home: str, parts: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{home}.{name}": value for name, value in parts.items()}


def rescue(directory: Path, parts: Callable[[str, Tensor], dict[str, Tensor]]) -> tuple[Rescued, dict]:
    """Rescue a checkpoint with what `parts` gives for the name and the weight of every pruned layer."""
    plain, config = sparse()
    observed = {}
    for name, module in zip(PRUNED, MODULES, strict=True):
        observed |= parts(module, plain[name])
    return load_legacy(str(write(directory, plain | observed, config))), plain


def moved(rescued: Rescued, tensors: dict[str, Tensor], change: Callable[[torch.nn.Module], None]) -> float:
    """Return how far a stock model of these tensors, changed, is from the rescued one."""
    stock = wide()
    stock.load_state_dict(tensors)
    change(stock)
    with torch.no_grad():
        floats, other = (model(**rescued.proof.inputs).logits for model in (rescued.model, stock))
    return ((floats - other).abs().max() / floats.abs().max()).item()


@pytest.mark.parametrize("per_channel", [False, True])
def test_weights(tmp_path: Path, per_channel: bool) -> None:
    def scale_of(weight: Tensor) -> Tensor:
        return (weight.abs().amax(1) if per_channel else weight.abs().max()[None]).clamp(min=1e-3) / 20

    rescued, plain = rescue(
        tmp_path,
        lambda module, weight: at(f"{module}.weight_fake_quant", fake_quant(scale_of(weight))),
    )
    rounded = dict(plain)
    for name in PRUNED:
        scale = scale_of(plain[name])
        if per_channel:
            zeros = torch.zeros(len(scale), dtype=torch.int32)
            rounded[name] = torch.fake_quantize_per_channel_affine(plain[name], scale, zeros, 0, -128, 127)
        else:
            rounded[name] = torch.fake_quantize_per_tensor_affine(plain[name], scale.item(), 0, -128, 127)
    expected = moved(rescued, rounded, lambda stock: None)
    assert rescued.rounding.difference == pytest.approx(expected, rel=1e-3) and expected > 0.01
    assert (rescued.rounding.layers, rescued.rounding.others) == (12, ())


def test_a_scale_that_leaves_nothing_is_seen(tmp_path: Path) -> None:
    rescued, plain = rescue(
        tmp_path, lambda module, weight: at(f"{module}.weight_fake_quant", fake_quant(10.0))
    )
    assert rescued.rounding.difference > 0.3
    assert all(torch.equal(rescued.model.state_dict()[name], plain[name]) for name in PRUNED)


@pytest.mark.parametrize(
    ("zero_point", "least", "low"),
    [(30, -6.0, 0), (0, 0.0, 0), (-40, -17.6, -128), (0, -25.6, -128), (20, -29.6, -128)],
)
@pytest.mark.parametrize("home", ["{}.quant.activation_post_process", "{}.input_fake_quant"])
def test_inputs(tmp_path: Path, home: str, zero_point: int, least: float, low: int) -> None:
    rescued, plain = rescue(
        tmp_path, lambda module, weight: at(home.format(module), fake_quant(0.2, zero_point, least))
    )

    def change(stock: torch.nn.Module) -> None:
        for module in MODULES:
            stock.get_submodule(module).register_forward_pre_hook(
                lambda module, given: (
                    torch.fake_quantize_per_tensor_affine(given[0], 0.2, zero_point, low, low + 255),
                )
            )

    expected = moved(rescued, plain, change)
    assert rescued.rounding.difference == pytest.approx(expected, rel=1e-3) and expected > 0.005


@pytest.mark.parametrize(
    ("home", "switches"),
    [("{}.module.activation_post_process", {}), ("{}.output_fake_quant", {"requantize": 1})],
)
def test_outputs(tmp_path: Path, home: str, switches: dict) -> None:
    rescued, plain = rescue(
        tmp_path, lambda module, weight: at(home.format(module), fake_quant(0.2, 128, -25.6, **switches))
    )

    def change(stock: torch.nn.Module) -> None:
        for module in MODULES:
            stock.get_submodule(module).register_forward_hook(
                lambda module, given, output: torch.fake_quantize_per_tensor_affine(output, 0.2, 128, 0, 255)
            )

    expected = moved(rescued, plain, change)
    assert rescued.rounding.difference == pytest.approx(expected, rel=1e-3) and expected > 0.005


def test_what_is_switched_off_does_not_round(tmp_path: Path) -> None:
    rescued, _ = rescue(
        tmp_path,
        lambda module, weight: (
            at(f"{module}.weight_fake_quant", fake_quant(0.5, fake_quant_enabled=0))
            | at(f"{module}.output_fake_quant", fake_quant(0.5, requantize=0))
        ),
    )
    assert rescued.layouts == ("quantization_aware",) and rescued.rounding is None


def test_what_is_not_known_is_named(tmp_path: Path) -> None:
    broken = {MODULES[0]: 0.0, MODULES[1]: torch.ones(7), MODULES[2]: torch.nan}
    product = "bert.encoder.layer.0.attention.self.context_layer_matmul"

    def parts(module: str, weight: Tensor) -> dict[str, Tensor]:
        observed = at(f"{module}.weight_fake_quant", fake_quant(broken.get(module, 0.1)))
        return observed | at(f"{product}.input_quant_stubs.1.activation_post_process", fake_quant(0.1))

    rescued, _ = rescue(tmp_path, parts)
    assert rescued.rounding.layers == 9 and set(rescued.rounding.others) == {*broken, product}
    assert rescued.rounding.difference > 0


def test_without_anything_known_there_is_no_number(tmp_path: Path) -> None:
    rescued, _ = rescue(
        tmp_path, lambda module, weight: at(f"{module}.input_fake_quant", fake_quant(torch.ones(3)))
    )
    assert rescued.rounding.difference is None and rescued.rounding.layers == 0


def test_embeddings_round_their_table(tmp_path: Path) -> None:
    plain, config = sparse()
    name = "bert.embeddings.word_embeddings"
    observed = at(f"{name}.weight_fake_quant", fake_quant(0.3))
    rescued = load_legacy(str(write(tmp_path, plain | observed, config)))
    rounded = torch.fake_quantize_per_tensor_affine(plain[f"{name}.weight"], 0.3, 0, -128, 127)
    expected = moved(rescued, plain | {f"{name}.weight": rounded}, lambda stock: None)
    assert rescued.rounding.difference == pytest.approx(expected, rel=1e-3) and expected > 0.01


def coded(scheme: dict, **inputs: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor], dict]:
    """Return int8 codes beside bits, with these tensors for the inputs of every layer; their floats."""
    written, plain, config = bitmasks(
        quantization_config={
            "format": "int-quantized",
            "sparsity_config": SPARSITY,
            "config_groups": {"group_0": {"targets": ["Linear"], "input_activations": scheme}},
        }
    )
    for name, module in zip(PRUNED, MODULES, strict=True):
        scale = plain[name].abs().amax(1, keepdim=True).clamp(min=1e-3) / 127
        codes = (plain[name] / scale).round().to(torch.int8)
        plain[name] = codes * scale
        written |= {f"{name}.{part}": value for part, value in compress(codes).items()}
        written |= {f"{name}_scale": scale} | {
            f"{module}.{part}": value.clone() for part, value in inputs.items()
        }
    return written, plain, config


def test_codes_with_ranges_for_inputs(tmp_path: Path) -> None:
    ranges = {"input_scale": torch.tensor([0.1]), "input_zero_point": torch.tensor([-20], dtype=torch.int8)}
    written, plain, config = coded({"num_bits": 8, "type": "int", "dynamic": False}, **ranges)
    rescued = load_legacy(str(write(tmp_path, written, config, "model.safetensors")))

    def change(stock: torch.nn.Module) -> None:
        for module in MODULES:
            stock.get_submodule(module).register_forward_pre_hook(
                lambda module, given: (torch.fake_quantize_per_tensor_affine(given[0], 0.1, -20, -128, 127),)
            )

    expected = moved(rescued, plain, change)
    assert rescued.difference < 1e-5 and rescued.rounding.layers == 12
    assert rescued.rounding.difference == pytest.approx(expected, rel=1e-3) and expected > 0.005
    assert rescued.notes[1].endswith("codes times scales; inputs are not rounded any more")


@pytest.mark.parametrize(
    ("scheme", "ranges"),
    [
        ({"num_bits": 8, "type": "int", "dynamic": True, "strategy": "token"}, {}),
        ({"num_bits": 4, "type": "int"}, {"input_scale": torch.ones(1)}),
        ({"num_bits": 8, "type": "float"}, {"input_scale": torch.ones(1)}),
    ],
)
def test_codes_whose_inputs_are_rounded_in_other_ways(tmp_path: Path, scheme: dict, ranges: dict) -> None:
    written, _, config = coded(scheme, **ranges)
    rescued = load_legacy(str(write(tmp_path, written, config, "model.safetensors")))
    assert rescued.difference < 1e-5
    assert rescued.rounding.difference is None and set(rescued.rounding.others) == set(MODULES)


def test_codes_of_weights_alone_round_nothing_more(tmp_path: Path) -> None:
    written, _, config = coded(None)
    rescued = load_legacy(str(write(tmp_path, written, config, "model.safetensors")))
    assert rescued.rounding is None and rescued.notes[1].endswith("codes times scales")


def test_masks_are_proved_and_rounding_is_measured_apart(tmp_path: Path) -> None:
    plain, config = sparse()
    written = tensors_of(wide())
    for name, module in zip(PRUNED, MODULES, strict=True):
        weight = written.pop(name)
        written |= {f"{name}_original": weight, f"{name}_mask": keep(weight.shape, 0.75, (1, 4))}
        written |= at(f"{module}.weight_fake_quant", fake_quant(0.1))
    rescued = load_legacy(str(write(tmp_path, written, config)))
    rounded = plain | {
        name: torch.fake_quantize_per_tensor_affine(plain[name], 0.1, 0, -128, 127) for name in PRUNED
    }
    expected = moved(rescued, rounded, lambda stock: None)
    assert rescued.difference < 1e-6 and rescued.save(tmp_path / "out") < 1e-6
    assert rescued.rounding.difference == pytest.approx(expected, rel=1e-3) and expected > 0.01
