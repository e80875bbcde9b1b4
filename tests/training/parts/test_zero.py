"""The parts of a run that reach what DeepSpeed divides, against a stand-in of its documented functions."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from hf_sparse import Recipe, SparseTrainer, SparsityCallback, find_targets
from hf_sparse.sparsity.masks import Masks
from hf_sparse.training.finite import not_finite
from hf_sparse.training.parts.partitions import Partitions, inner_optimizer, whole
from tests.support.tiny import arguments, bert, pruning, sentences

RANKS = 3
PARTS = "zero_optimization.stage3_gather_16bit_weights_on_model_save"


class Engine:
    """Copies of weights and one state of each, whole (stages 1 and 2) or as padded parts (stage 3)."""

    def __init__(self, model: nn.Module, rank: int | None = None) -> None:
        self.rank, self.held = rank, {}
        for parameter in model.parameters():
            if rank is not None:
                parameter.ds_id, parameter.ds_shape = 0, parameter.shape
                size = -(-parameter.numel() // RANKS)
                parameter.ds_tensor, parameter.ds_process_group = torch.empty(size), None
            for key in (None, "exp_avg"):
                self.held[id(parameter), key] = self._own(torch.ones(parameter.shape))

    def _own(self, values: Tensor) -> Tensor:
        if self.rank is None:
            return values
        size = -(-values.numel() // RANKS)
        padded = torch.ones(size * RANKS)
        padded[: values.numel()] = values.flatten()
        return padded[self.rank * size : (self.rank + 1) * size]

    def get(self, parameter: nn.Parameter, key: str | None = None) -> Tensor:
        return self.held[id(parameter), key].clone()

    def set(self, parameter: nn.Parameter, value: Tensor, key: str | None = None) -> None:
        assert value.shape == self.held[id(parameter), key].shape
        self.held[id(parameter), key] = value

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        package = ModuleType("deepspeed")
        which = "full" if self.rank is None else "local"
        utils: dict[str, Any] = {
            f"safe_get_{which}_fp32_param": self.get,
            f"safe_set_{which}_fp32_param": self.set,
            f"safe_get_{which}_optimizer_state": self.get,
            f"safe_set_{which}_optimizer_state": self.set,
        }
        package.utils = SimpleNamespace(**utils)
        package.comm = SimpleNamespace(get_world_size=lambda group: RANKS, get_rank=lambda group: self.rank)
        monkeypatch.setitem(sys.modules, "deepspeed", package)


def optimizer() -> Any:
    """Return an optimizer of one flat part, in two wrappers."""
    part = nn.Parameter(torch.ones(7))
    inner = torch.optim.AdamW([part])
    inner.state[part] = {"step": torch.tensor(1.0), "exp_avg": torch.ones(7)}
    return SimpleNamespace(optimizer=SimpleNamespace(optimizer=inner))


@pytest.fixture
def masks() -> Iterator[Masks]:
    torch.manual_seed(0)
    masks = Masks(find_targets(bert(hidden_size=30, intermediate_size=35)))
    for name in masks.targets.names:
        masks.set(name, torch.rand(masks.shape(name)) < 0.5)
    yield masks


@pytest.mark.parametrize("rank", [None, 0, 1, 2])
def test_copies_and_states_are_cleared_where_weights_are_removed(
    rank: int | None, masks: Masks, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nn.ModuleList(target.module for target in masks.targets)
    engine = Engine(model, rank)
    engine.install(monkeypatch)
    Partitions(masks, optimizer()).clear(states=False)
    kept = {target.name: engine._own(masks[target.name].float()) for target in masks.targets}
    for target in masks.targets:
        assert torch.equal(engine.get(target.parameter), kept[target.name])
        assert engine.get(target.parameter, "exp_avg").all()
    Partitions(masks, optimizer()).clear(states=True)
    for target in masks.targets:
        assert torch.equal(engine.get(target.parameter, "exp_avg"), kept[target.name])


def test_gradients_of_removed_weights_are_cleared_before_they_are_accumulated(masks: Masks) -> None:
    partitions = Partitions(masks, optimizer())
    hooks = partitions.mask_gradients()
    for target in masks.targets:
        (target.weight * torch.where(masks[target.name], 2.0, torch.inf)).sum().backward()
        assert torch.equal(target.gradient, 2.0 * masks[target.name])
        target.parameter.grad = None
    for hook in hooks:
        hook.remove()
    first = masks.targets.found[0]
    first.weight.sum().backward()
    assert first.gradient.all()


def test_whole_weights_stay_as_they_are() -> None:
    weight = nn.Parameter(torch.ones(2))
    with whole([weight]):
        assert weight.shape == (2,)
    assert inner_optimizer(optimizer()).__class__ is torch.optim.AdamW


def test_a_part_that_is_not_finite_is_found() -> None:
    model = nn.Linear(2, 2)
    model.weight.data = torch.empty(0)
    model.weight.ds_tensor = torch.tensor([1.0, torch.nan])
    assert not_finite(model) == "weight"


def under_deepspeed(made: SparseTrainer, stage: int, **settings: Any) -> None:
    """Let a trainer believe that it runs under DeepSpeed, and take up its recipe again."""
    found = {PARTS: True} | settings
    plugin = SimpleNamespace(zero_stage=stage, hf_ds_config=SimpleNamespace(get_value=found.get))
    state = SimpleNamespace(deepspeed_plugin=plugin)
    made.accelerator = SimpleNamespace(state=state, device=torch.device("cpu"))
    made.is_deepspeed_enabled = True
    made._make_parts(made.given_recipe)


@pytest.mark.parametrize(
    ("recipe", "stage", "settings", "message"),
    [
        (pruning(), 0, {}, "needs ZeRO stage 1, 2 or 3, got stage 0; set zero_optimization.stage"),
        (pruning("sparsity.revive=true"), 3, {}, "take stage 1 or 2, or set sparsity.revive=false"),
        (pruning("sparsity.lr_rewind=true"), 2, {"scheduler": {}}, "leave scheduler out of it, or set"),
        (pruning(), 3, {PARTS: False}, "would lack model.safetensors, beside which masks"),
        (pruning(), 3, {"zero_optimization.offload_param.device": "nvme"}, "device=nvme; leave it out"),
        (pruning(), 2, {"tensor_parallel.autotp_size": 2}, "autotp_size=2; leave it out"),
        (Recipe.preset("group_lasso_block"), 2, {}, "method group_lasso changes gradients or weights"),
        (Recipe.from_dict({"quantization": {}}), 0, {}, "got stage 0; set zero_optimization.stage"),
    ],
)
def test_what_deepspeed_keeps_out_of_reach_is_refused(
    recipe: Recipe, stage: int, settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    made = SparseTrainer(bert(), arguments(tmp_path), train_dataset=sentences(), recipe=recipe)
    with pytest.raises(ValueError, match=message):
        under_deepspeed(made, stage, **settings)


def test_teachers_that_zero_divides_are_refused(tmp_path: Path) -> None:
    recipe = Recipe.from_dict({"distillation": {"logits": 1.0}})
    teacher = bert(seed=1)
    made = SparseTrainer(
        bert(), arguments(tmp_path), train_dataset=sentences(), recipe=recipe, teacher=teacher
    )
    under_deepspeed(made, 3)
    for parameter in teacher.parameters():
        parameter.ds_id = 0
    under_deepspeed(made, 2)
    with pytest.raises(ValueError, match="load the teacher before the TrainingArguments are made"):
        under_deepspeed(made, 3)


def test_a_base_cannot_teach_its_divided_adapters(tmp_path: Path) -> None:
    recipe = Recipe.from_dict({"distillation": {"logits": 1.0, "teacher": "base"}})
    model = get_peft_model(bert(), LoraConfig(target_modules=["query"], modules_to_save=[]))
    made = SparseTrainer(model, arguments(tmp_path), train_dataset=sentences(), recipe=recipe)
    under_deepspeed(made, 2)
    with pytest.raises(ValueError, match="ZeRO-3 gathers their weights in the order"):
        under_deepspeed(made, 3)


def test_a_callback_is_too_late_for_deepspeed(tmp_path: Path) -> None:
    args = arguments(tmp_path)
    args.deepspeed_plugin = SimpleNamespace()
    callback = SparsityCallback(pruning("sparsity.lr_rewind=false"))
    with pytest.raises(ValueError, match="cannot keep removed weights at zero; use SparseTrainer"):
        callback.on_train_begin(args, None, None, model=bert(), optimizer=None)
