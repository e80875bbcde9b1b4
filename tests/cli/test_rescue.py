"""`hf-sparse rescue`: from a checkpoint of the past to one that loads today."""

import json
from pathlib import Path

import pytest
import torch
from transformers import BertForSequenceClassification

from tests.cli.commands import lines, refused
from tests.data.tiny_tokenizers import bert as tokenizer
from tests.hub.legacy.test_nn_pruned_removed import shrunk
from tests.hub.legacy.written import PRUNED, assert_gives, config_of, keep, logits, tensors_of, wide, write


@pytest.fixture
def masked(tmp_path: Path) -> Path:
    model = wide()
    written = tensors_of(model)
    for name in PRUNED:
        weight = written.pop(name)
        written |= {f"{name}_original": weight, f"{name}_mask": keep(weight.shape, 0.75, (1, 4))}
    tokenizer().save_pretrained(tmp_path / "legacy")
    return write(tmp_path / "legacy", written, config_of(model))


def test_it_says_what_it_found_and_did(tmp_path: Path, masked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    *printed, proof, written = lines("rescue", "legacy", "out")
    assert printed == [
        "legacy: intel_masks",
        "  12 tensors multiplied by the mask (weight_original, weight_mask).",
        "Zeros: 75.0% of 12 weights; pattern 1x4 in 12.",
    ]
    assert proof.startswith("Logits differ from those of the layout by ") and proof.endswith(
        " of the largest."
    )
    assert written == "out: BertForSequenceClassification, which from_pretrained loads."
    assert (tmp_path / "out" / "tokenizer.json").exists()


def test_the_same_as_json(tmp_path: Path) -> None:
    written, config = shrunk({0: [0, 2]}, {})
    legacy = write(tmp_path / "legacy", written, config)
    (line,) = lines("rescue", legacy, tmp_path / "out", "--json")
    found = json.loads(line)
    assert found.keys() == {
        *("model", "directory", "architecture", "layouts", "notes", "pattern", "sparsity", "weights"),
        *("difference", "rounding"),
    }
    assert found["layouts"] == ["removed"] and found["notes"] == ["2 removed heads put back as zeros"]
    assert found["sparsity"] == sum(weight["zeros"] for weight in found["weights"]) / 16384
    assert 0 <= found["difference"] < 1e-6 and found["rounding"] is None
    assert_gives(BertForSequenceClassification.from_pretrained(tmp_path / "out"), logits(written))


def test_what_cannot_be_rescued_is_refused_in_one_sentence(tmp_path: Path, masked: Path) -> None:
    held = torch.load(masked / "pytorch_model.bin")
    del held[f"{PRUNED[0]}_mask"]
    torch.save(held, masked / "pytorch_model.bin")
    message = refused("rescue", masked, tmp_path / "out")
    assert message.startswith(f"{PRUNED[0]}_original lacks {PRUNED[0]}_mask beside it")
    assert not (tmp_path / "out").exists()


def test_the_checkpoint_itself_is_not_replaced(masked: Path) -> None:
    assert "is not empty, and what it holds is not replaced" in refused("rescue", masked, masked)


def test_plain_zeros_are_not_compared_with_themselves(
    tmp_path: Path, masked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines("rescue", masked, "first")
    *_, proof, _ = lines("rescue", "first", "second")
    assert proof == "Saved and loaded again: logits equal."
    (line,) = lines("rescue", "first", "third", "--json")
    assert json.loads(line)["difference"] is None


def test_rounding_is_told_apart_from_the_proof(
    tmp_path: Path, masked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    held = torch.load(masked / "pytorch_model.bin")
    product = "bert.encoder.layer.0.attention.self.context_layer_matmul.input_quant_stubs.0"
    for home in (*(f"{name}_fake_quant" for name in PRUNED), f"{product}.activation_post_process"):
        held |= {f"{home}.scale": torch.full((1,), 0.5), f"{home}.zero_point": torch.zeros(1)}
    torch.save(held, masked / "pytorch_model.bin")
    *_, proof, rounding, rest, _ = lines("rescue", masked, "out")
    assert proof.startswith("Logits differ from those of the layout before rounding by ")
    assert rounding.startswith("Rounding in 12 layers, which is gone, moved logits by 0.")
    assert rest == "Not compared with the rounding of the layout in one place."
    (line,) = lines("rescue", masked, "again", "--json")
    found = json.loads(line)
    assert found["difference"] < 1e-6 and found["rounding"]["difference"] > 0.01
    assert found["rounding"]["others"] == [product.removesuffix(".input_quant_stubs.0")]
