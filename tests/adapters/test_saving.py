"""A SparseLora adapter is saved and loaded like any adapter."""

import json
from pathlib import Path

import pytest
import torch
from peft import PEFT_TYPE_TO_CONFIG_MAPPING, AutoPeftModelForSequenceClassification, PeftModel
from safetensors import safe_open

from hf_sparse import SparseLoraConfig
from hf_sparse.adapters.lora import PEFT_TYPE
from tests.adapters.adapted import adapted, logits, masked, sparse_bert

# A fourth of it would be seen in the logits.
CONFIG = {"lora_alpha": 16, "use_rslora": True, "rank_pattern": {"query": 2}}


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, torch.Tensor]:
    """An adapter on a base that is saved beside it, and the outputs of both."""
    sparse_bert().save_pretrained(tmp_path / "base")
    base = type(sparse_bert()).from_pretrained(tmp_path / "base")
    model = adapted(base, masked(**CONFIG))
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter", logits(model)


def test_the_directory_holds_the_adapter_alone(saved: tuple[Path, torch.Tensor]) -> None:
    folder, _ = saved
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        names = list(file.keys())
        assert all(".lora_A." in name or ".lora_B." in name or "classifier" in name for name in names)


@pytest.mark.parametrize("frugal", [False, True])
def test_peft_loads_it(saved: tuple[Path, torch.Tensor], frugal: bool) -> None:
    folder, said = saved
    model = PeftModel.from_pretrained(sparse_bert(), folder, low_cpu_mem_usage=frugal).eval()
    assert torch.equal(logits(model), said)
    assert isinstance(model.peft_config["default"], SparseLoraConfig)


def test_peft_loads_it_with_its_base(saved: tuple[Path, torch.Tensor]) -> None:
    folder, said = saved
    assert torch.equal(logits(AutoPeftModelForSequenceClassification.from_pretrained(folder).eval()), said)


def test_transformers_loads_it(saved: tuple[Path, torch.Tensor]) -> None:
    folder, said = saved
    model = sparse_bert()
    model.load_adapter(str(folder))
    assert torch.equal(logits(model.eval()), said)


def test_transformers_saves_what_it_added(tmp_path: Path) -> None:
    model = sparse_bert()
    model.add_adapter(masked(task_type=None, init_lora_weights=False))
    said = logits(model.eval())
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == PEFT_TYPE
    loaded = sparse_bert()
    loaded.load_adapter(str(tmp_path))
    assert torch.equal(logits(loaded.eval()), said)


def test_without_hf_sparse_peft_refuses_it(
    saved: tuple[Path, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE)
    with pytest.raises(KeyError, match=PEFT_TYPE):
        PeftModel.from_pretrained(sparse_bert(), saved[0])


def test_it_goes_on_training_where_asked(saved: tuple[Path, torch.Tensor]) -> None:
    model = PeftModel.from_pretrained(sparse_bert(), saved[0], is_trainable=True)
    assert {name.split(".")[-3] for name, part in model.named_parameters() if part.requires_grad} == {
        "lora_A",
        "lora_B",
        "modules_to_save",
    }
