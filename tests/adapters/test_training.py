"""SparseTrainer trains adapters as Trainer does, on a base that keeps its zeros, and resumes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import Trainer

from hf_sparse import Recipe, SparseTrainer
from hf_sparse.checkpoint.sidecar import read_state
from tests.adapters.adapted import adapted, fill, logits, masked, plain, same_zeros, sparse_bert
from tests.support.tiny import arguments, same_weights, sentences


def one(make: Callable[..., Any]) -> PeftModel:
    return adapted(sparse_bert(), make(lora_dropout=0.1))


def two(make: Callable[..., Any]) -> PeftModel:
    """An adapter that learns beside one that is frozen, both active."""
    model = adapted(sparse_bert(), make(task_type=None))
    model.add_adapter("other", make(task_type=None, r=2))
    fill(model, "other", 7)
    model.base_model.set_adapter(["default", "other"])
    for name, part in model.named_parameters():
        if ".other." in name:
            part.requires_grad_(False)
    return model


def injected(make: Callable[..., Any]) -> nn.Module:
    torch.manual_seed(0)
    model = sparse_bert()
    model.add_adapter(make(task_type=None, init_lora_weights=False))
    return model


KINDS = {"one": one, "two": two, "injected": injected}


def run(
    folder: Path,
    model: nn.Module,
    kind: type[Trainer] = SparseTrainer,
    resume: str | None = None,
    **changes: Any,
) -> Trainer:
    trainer = kind(model=model, args=arguments(folder, **changes), train_dataset=sentences(24))
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@pytest.mark.parametrize("make", [plain, masked])
@pytest.mark.parametrize("kind", KINDS)
def test_they_learn_what_they_learn_in_trainer(kind: str, make: Callable[..., Any], tmp_path: Path) -> None:
    start, ours, theirs = (KINDS[kind](make) for _ in range(3))
    run(tmp_path / "ours", ours)
    run(tmp_path / "theirs", theirs, Trainer)
    assert same_weights(ours, theirs)
    moved = {
        name for name, part in ours.state_dict().items() if not torch.equal(part, start.state_dict()[name])
    }
    assert moved and all(".lora_" in name or "modules_to_save" in name for name in moved)


@pytest.mark.parametrize("kind", [one, two])
def test_a_run_that_was_cut_off_goes_on_bit_for_bit(kind: Callable[..., Any], tmp_path: Path) -> None:
    straight, resumed = (kind(masked) for _ in range(2))
    saving = {"save_strategy": "steps", "save_steps": 6}
    run(tmp_path / "run", straight, **saving)
    checkpoint = str(tmp_path / "run" / "checkpoint-6")
    run(tmp_path / "again", resumed, resume=checkpoint, **saving)
    assert same_weights(straight, resumed)
    assert straight.active_adapters == resumed.active_adapters


def test_what_trainer_does_not_load_is_refused(tmp_path: Path) -> None:
    run(tmp_path, injected(masked), save_strategy="steps", save_steps=6)
    with pytest.raises(ValueError, match="put on by model.add_adapter; put it on by peft.get_peft_model"):
        run(tmp_path, injected(masked), resume=str(tmp_path / "checkpoint-6"))


def test_what_is_saved_is_the_adapter_and_says_so(tmp_path: Path) -> None:
    sparse_bert().save_pretrained(tmp_path / "base")
    base = type(sparse_bert()).from_pretrained(tmp_path / "base")
    trainer = run(tmp_path / "out", adapted(base, masked()), max_steps=2)
    trainer.save_model()
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "hf_sparse_run.json"} <= files
    assert files.isdisjoint({"config.json", "model.safetensors"})
    record = json.loads((tmp_path / "out" / "hf_sparse_run.json").read_text())
    assert record["base_model"] == str(tmp_path / "base")
    assert record["architecture"] == "PeftModelForSequenceClassification"
    loaded = PeftModel.from_pretrained(sparse_bert(), tmp_path / "out").eval()
    assert torch.equal(logits(loaded), logits(trainer.model.eval()))
    assert same_zeros(loaded.merge_and_unload(), sparse_bert())


def test_a_lock_names_the_weights_of_the_base_as_its_file_does(tmp_path: Path) -> None:
    trainer = SparseTrainer(
        model=one(masked),
        args=arguments(tmp_path, max_steps=2),
        train_dataset=sentences(8),
        recipe=Recipe.from_dict({"sparsity": {"method": "lock"}}),
    )
    trainer.train()
    trainer.save_model()
    assert "bert.encoder.layer.0.attention.self.query.weight" in read_state(tmp_path).masks


@pytest.mark.parametrize(("make", "warned"), [(plain, True), (masked, False)])
def test_who_trains_an_adapter_that_fills_zeros_is_told_before(
    make: Callable[..., Any], warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path, one(make), max_steps=1)
    assert ("SparseLoraConfig makes adapters that do not" in caplog.text) is warned
