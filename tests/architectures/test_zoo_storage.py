"""Each way in which models store their matrices: orientation, optimizer state, resuming, transfer."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import linear
from transformers.pytorch_utils import Conv1D

from hf_sparse import Recipe, find_targets
from tests.support.runs import checkpoint, differences, outcome
from tests.support.zoo import architecture
from tests.support.zoo_runs import Run, moments_of, recipe, trainer_of

# Linears in an encoder-decoder, the Conv1D of GPT-2, experts as (in, out).
STORED = ["T5", "GPT-2", "GPT-OSS", "Mixtral", "Qwen2-MoE", "ViT"]
EXPERTS = ["Mixtral", "Qwen2-MoE", "GPT-OSS"]
RECIPE = recipe("unstructured", 0.8)
SAVING = {"save_strategy": "steps", "save_steps": 3}
Trained = Callable[[str, str, float], Run]


@pytest.mark.parametrize("name", ["T5", "GPT-2"])
def test_the_logical_matrix_multiplies_inputs_as_its_module_does(name: str) -> None:
    for target in find_targets(architecture(name).model()):
        rows, columns = target.weight.shape
        bias = torch.zeros(rows) if target.module.bias is None else target.module.bias
        inputs = torch.eye(columns)
        torch.testing.assert_close(linear(inputs, target.weight, bias), target.module(inputs))


def test_blocks_of_a_conv1d_lie_in_its_transposed_weight(trained: Trained) -> None:
    modules = dict(trained("GPT-2", "4x8", 0.5).model.named_modules())
    found = [module for module in modules.values() if isinstance(module, Conv1D)]
    assert len(found) == 8
    for module in found:
        outputs, inputs = module.weight.t().shape
        assert (inputs, outputs) == (module.nx, module.nf)
        blocks = module.weight.detach().t().reshape(outputs // 4, 4, inputs // 8, 8)
        empty = (blocks == 0).transpose(1, 2).flatten(2).all(-1)
        assert int(empty.sum()) * 32 == int((module.weight == 0).sum()) == outputs * inputs // 2


@pytest.mark.parametrize("name", EXPERTS)
def test_a_column_of_every_expert_is_one_of_its_inputs(name: str) -> None:
    experts, targets = experts_of(name)
    inputs = torch.randn(5, 32)
    changed = inputs.clone()
    changed[:, 3] += 1
    assert not torch.equal(mix(experts, inputs), mix(experts, changed))
    with torch.no_grad():
        for target in targets["gate_up_proj"]:
            target.weight[:, 3] = 0
    assert torch.equal(mix(experts, inputs), mix(experts, changed))


@pytest.mark.parametrize("name", EXPERTS)
def test_a_row_of_every_expert_is_one_of_its_outputs(name: str) -> None:
    experts, targets = experts_of(name)
    inputs = torch.randn(5, 32)
    assert mix(experts, inputs)[:, 3].all()
    with torch.no_grad():
        for target in targets["down_proj"]:
            target.weight[3] = 0
    outputs = mix(experts, inputs)
    assert not outputs[:, 3].any()
    assert outputs[:, :3].all()


def experts_of(name: str) -> tuple[nn.Module, dict[str, list]]:
    """Return the experts of a first layer, with their targets by parameter."""
    model = architecture(name).model()
    experts = model.get_submodule("model.layers.0.mlp.experts")
    targets = [target for target in find_targets(model) if target.module is experts]
    return experts, {
        kind: [target for target in targets if target.parameter_name == kind]
        for kind in ("gate_up_proj", "down_proj")
    }


def mix(experts: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Apply experts 0 and 2 to every input."""
    chosen = torch.tensor([[0, 2]]).expand(len(inputs), 2)
    with torch.no_grad():
        return experts(inputs, chosen, torch.full((len(inputs), 2), 0.5))


@pytest.mark.parametrize("name", EXPERTS)
def test_every_expert_bears_the_same_sparsity(name: str, trained: Trained) -> None:
    targets = [target for target in trained(name, "unstructured", 0.8).targets if target.expert is not None]
    assert {target.expert for target in targets} == {0, 1, 2, 3}
    for target in targets:
        assert int((target.weight == 0).sum()) == math.floor(0.8 * target.weight.numel())


@pytest.mark.parametrize("name", STORED)
def test_kept_weights_have_learned_and_removed_ones_have_no_momentum(name: str, trained: Trained) -> None:
    run = trained(name, "unstructured", 0.8)
    before = {target.name: target.weight for target in find_targets(run.architecture.model())}
    masks = run.trainer.sparsifier.masks
    for target in run.targets:
        keep = masks[target.name]
        assert not torch.equal(target.weight[keep], before[target.name][keep])
        for moment in moments_of(run.trainer, target):
            assert not target.view(moment)[~keep].any()
            assert target.view(moment)[keep].any()
    assert all(moments_of(run.trainer, target) for target in run.targets)


@pytest.mark.parametrize("name", STORED)
def test_a_run_resumed_in_its_ramp_ends_bit_for_bit_like_a_straight_one(name: str, tmp_path: Path) -> None:
    straight, resumed = (trainer_of(architecture(name), tmp_path, RECIPE, **SAVING) for _ in range(2))
    straight.train()
    resumed.train(resume_from_checkpoint=str(checkpoint(tmp_path, 3)))
    assert list(differences(outcome(straight), outcome(resumed))) == []


@pytest.mark.parametrize("name", STORED)
def test_a_pruned_model_keeps_its_zeros_when_it_is_trained_further(
    name: str, trained: Trained, tmp_path: Path
) -> None:
    run = trained(name, "unstructured", 0.8)
    further = trainer_of(run.architecture, tmp_path, Recipe(), model=run.loaded(), max_steps=2)
    further.train()
    masks = run.trainer.sparsifier.masks
    for target in further.sparsifier.masks.targets:
        assert torch.equal(target.weight != 0, masks[target.name])


@pytest.mark.parametrize("name", STORED)
def test_revived_weights_leave_the_sparsity_exact(name: str, tmp_path: Path) -> None:
    reviving = RECIPE.override(["sparsity.revive=true"])
    trainer = trainer_of(architecture(name), tmp_path, reviving, max_steps=4)
    trainer.train()
    for target in trainer.sparsifier.masks.targets:
        assert int((target.weight == 0).sum()) == math.floor(0.8 * target.weight.numel())
