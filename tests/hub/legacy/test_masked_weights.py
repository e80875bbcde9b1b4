"""Masks beside weights become zeros in them."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune
from transformers import (
    DistilBertConfig,
    DistilBertForSequenceClassification,
    RobertaConfig,
    RobertaForMaskedLM,
)

from hf_sparse.hub import load_legacy
from tests.hub.legacy.written import PRUNED, assert_gives, config_of, keep, logits, tensors_of, wide, write

SPLIT = {"original": "intel_masks", "orig": "torch_masks"}


def masked(ending: str, sparsity: float, block: tuple[int, int] = (1, 1)) -> tuple[dict, dict, dict]:
    """Return what a library wrote, what it computed with, and the configuration."""
    model = wide()
    written, plain = tensors_of(model), tensors_of(model)
    for name in [*PRUNED, "bert.pooler.dense.weight"]:
        weight = written.pop(name)
        mask = keep(weight.shape, sparsity, block)
        written |= {f"{name}_{ending}": weight, f"{name}_mask": mask}
        plain[name] = weight * mask
    return written, plain, config_of(model)


@pytest.mark.parametrize("ending", SPLIT)
@pytest.mark.parametrize(("pattern", "block"), [("unstructured", (1, 1)), ("1x4", (1, 4)), ("4x1", (4, 1))])
def test_pattern_and_sparsity_are_those_of_the_masks(
    tmp_path: Path, ending: str, pattern: str, block: tuple[int, int]
) -> None:
    written, plain, config = masked(ending, 0.75, block)
    rescued = load_legacy(str(write(tmp_path, written, config)))
    assert rescued.layouts == (SPLIT[ending],)
    assert rescued.notes == (f"13 tensors multiplied by the mask (weight_{ending}, weight_mask)",)
    assert rescued.pattern == pattern and rescued.sparsity == 0.75
    # The pooler is pruned by Intel's package, and so locked, too.
    assert {weight.name for weight in rescued.weights} == {*PRUNED, "bert.pooler.dense.weight"}
    assert rescued.difference < 1e-6
    assert_gives(rescued.model, logits(plain))


def test_torch_itself_wrote_it(tmp_path: Path) -> None:
    model = wide()
    linears = [module for module in model.bert.encoder.modules() if isinstance(module, nn.Linear)]
    for linear in linears:
        prune.l1_unstructured(linear, "weight", amount=0.5)
        prune.random_unstructured(linear, "bias", amount=0.5)
    written = tensors_of(model)
    assert "bert.encoder.layer.0.output.dense.bias_orig" in written
    rescued = load_legacy(str(write(tmp_path, written, config_of(model))))
    assert rescued.layouts == ("torch_masks",) and rescued.sparsity == 0.5
    for linear in linears:
        prune.remove(linear, "weight"), prune.remove(linear, "bias")
    assert_gives(rescued.model, logits(tensors_of(model)))


class Mask(nn.Module):
    def __init__(self, mask: torch.Tensor, name: str) -> None:
        super().__init__()
        self.name = name
        self.register_buffer(name, mask)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * getattr(self, self.name)


@pytest.mark.parametrize("buffer", ["mask", "kept"])
def test_parametrizations_are_masks_too(tmp_path: Path, buffer: str) -> None:
    model = wide()
    for layer in model.bert.encoder.layer:
        linear = layer.intermediate.dense
        parametrize.register_parametrization(
            linear, "weight", Mask(keep(linear.weight.shape, 0.5).bool(), buffer)
        )
    written = tensors_of(model)
    assert f"bert.encoder.layer.0.intermediate.dense.parametrizations.weight.0.{buffer}" in written
    rescued = load_legacy(str(write(tmp_path, written, config_of(model))))
    assert rescued.layouts == ("parametrizations",)
    for layer in model.bert.encoder.layer:
        parametrize.remove_parametrizations(layer.intermediate.dense, "weight")
    assert_gives(rescued.model, logits(tensors_of(model)))


def test_a_language_model_keeps_its_tied_head(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    model = RobertaForMaskedLM(RobertaConfig(**sizes, vocab_size=100, max_position_embeddings=40)).eval()
    written = tensors_of(model)
    name = "roberta.encoder.layer.0.output.dense.weight"
    weight = written.pop(name)
    written |= {f"{name}_original": weight, f"{name}_mask": keep(weight.shape, 0.9)}
    # As older releases saved it: the tied matrix is not there.
    del written["lm_head.decoder.weight"]
    rescued = load_legacy(str(write(tmp_path, written, config_of(model))))
    embedding = rescued.model.roberta.embeddings.word_embeddings.weight
    assert rescued.model.lm_head.decoder.weight is embedding
    assert torch.equal(embedding, model.roberta.embeddings.word_embeddings.weight)


def test_distilbert_is_found_as_well(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64, "vocab_size": 100}
    model = DistilBertForSequenceClassification(DistilBertConfig(**sizes)).eval()
    written = tensors_of(model)
    linears = [
        name for name in written if name.endswith("_lin.weight") or ".ffn." in name and "weight" in name
    ]
    for name in linears:
        weight = written.pop(name)
        written |= {f"{name}_original": weight, f"{name}_mask": keep(weight.shape, 0.75, (1, 4))}
    rescued = load_legacy(str(write(tmp_path, written, config_of(model))))
    assert (len(linears), rescued.pattern, rescued.sparsity) == (6, "1x4", 0.75)


NAME = "bert.encoder.layer.0.output.dense.weight"


@pytest.mark.parametrize("ending", SPLIT)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda written, ending: written.pop(f"{NAME}_mask"), f"{NAME}_{{}} lacks {NAME}_mask beside it"),
        (lambda written, ending: written.pop(f"{NAME}_{ending}"), f"{NAME}_mask lacks {NAME}_original or"),
        (lambda written, ending: written.update({NAME: torch.ones(32, 64)}), f"holds {NAME} and {NAME}_{{}}"),
        (
            lambda written, ending: written.update({f"{NAME}_mask": torch.ones(32, 16)}),
            f"{NAME}_mask has shape \\(32, 16\\) and {NAME}_{{}} \\(32, 64\\)",
        ),
        (
            lambda written, ending: written[f"{NAME}_mask"].mul_(0.5),
            f"{NAME}_mask holds other numbers than 0 and 1",
        ),
        (lambda written, ending: written[f"{NAME}_mask"].fill_(torch.nan), "other numbers than 0 and 1"),
    ],
)
def test_what_contradicts_itself_is_refused(
    tmp_path: Path, ending: str, change: object, message: str
) -> None:
    written, _, config = masked(ending, 0.5)
    change(written, ending)
    with pytest.raises(ValueError, match=message.replace("{}", ending)):
        load_legacy(str(write(tmp_path, written, config)))


def test_a_parametrization_by_several_tensors_is_no_mask(tmp_path: Path) -> None:
    model = wide()
    written = tensors_of(model)
    home = "bert.encoder.layer.0.output.dense.parametrizations.weight"
    written |= {f"{home}.original": written.pop(NAME), f"{home}.0.mask": torch.ones(32, 64)}
    written[f"{home}.1.mask"] = torch.ones(32, 64)
    with pytest.raises(
        ValueError, match=f"{home}.original has 2 tensors beside it where one mask is expected"
    ):
        load_legacy(str(write(tmp_path, written, config_of(model))))
