"""Group Lasso on several processes: the same bits where groups lie on one of them, else but for rounding."""

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, distribute_tensor

from hf_sparse.sparsity.layout import Layout
from hf_sparse.sparsity.methods.group_lasso import GroupLassoRecipe, GroupLassoRun
from hf_sparse.sparsity.methods.method import PruningRun
from hf_sparse.sparsity.patterns.parse import parse_pattern
from hf_sparse.sparsity.schedules import Schedule
from hf_sparse.targets import find_targets
from tests.support.shared import Check, divide, layered, run_together, wholes

SCHEDULE = Schedule("linear", 0.0, 0.5, begin=0, ramp_end=10, update_end=10, every=1, total_steps=20)
LINEAR, CONV1D, EXPERTS = [(16, 16), (12, 16), (1, 8)], [(16, 16, -1), (16, 12, -1)], [(3, 8, 16, 0)]


def lasso_of(model: nn.Module, pattern: str, **settings: object) -> GroupLassoRun:
    targets = find_targets(model)
    layout = Layout(targets, parse_pattern(pattern))
    return GroupLassoRun(PruningRun(targets, layout, SCHEDULE, settings=GroupLassoRecipe(**settings)))


def train(
    model: nn.Module, mesh: DeviceMesh, pattern: str, **settings: object
) -> tuple[dict[str, Tensor], ...]:
    """Take three steps of the penalty alone; return its state, the weights, and what was logged."""
    run, losses = lasso_of(model, pattern, every=1, refresh=2, **settings), []
    for step in range(1, 4):
        for parameter in model.parameters():
            zeros = torch.zeros(parameter.shape)
            shared = isinstance(parameter, DTensor)
            parameter.grad = distribute_tensor(zeros, mesh, parameter.placements) if shared else zeros
        losses.append(run.gradients(step, 2.0, None))
        for target in run.run.targets:
            target.weight.detach().sub_(0.1 * target.gradient)
        run.after_step(step)
        run.update(step)
    state = run.state()["penalty"]
    again = lasso_of(model, pattern, **settings)
    again.load_state({"penalty": state}, 3)
    logged = {"loss": torch.tensor(losses), "logs": torch.tensor(list(run.logs().values()))}
    assert all(torch.equal(state[name], of) for name, of in again.state()["penalty"].items())
    return state, wholes(model), logged


def compare(
    mesh: DeviceMesh, shapes: list[tuple[int, ...]], pattern: str, rounding: float = 0.0, **settings: object
) -> None:
    whole = train(layered(*shapes), mesh, pattern, **settings)
    shared = train(divide(layered(*shapes), mesh), mesh, pattern, **settings)
    for one, other in zip(whole[:2], shared[:2], strict=True):
        assert one.keys() == other.keys()
        for name in one:
            torch.testing.assert_close(other[name], one[name], rtol=rounding, atol=rounding)
    # What is logged is a sum over processes.
    for name in whole[2]:
        torch.testing.assert_close(shared[2][name], whole[2][name])


def inside(mesh: DeviceMesh) -> None:
    for settings in ({}, {"spare": False}, {"step": "gradient", "strength": 0.1}):
        compare(mesh, LINEAR, "1x8", **settings)
    compare(mesh, LINEAR, "row")
    compare(mesh, CONV1D, "8x1")
    compare(mesh, EXPERTS, "4x4")


def across(mesh: DeviceMesh) -> None:
    for settings in ({}, {"spare": False}, {"step": "gradient", "strength": 0.1}):
        compare(mesh, LINEAR[:2], "4x4", rounding=1e-5, **settings)
    compare(mesh, LINEAR, "column", rounding=1e-5)
    compare(mesh, CONV1D, "row", rounding=1e-5)


def other_processes(mesh: DeviceMesh) -> None:
    state = train(layered(*LINEAR), mesh, "1x8")[0]
    run = lasso_of(divide(layered(*LINEAR), mesh), "1x8")
    run.load_state({"penalty": state}, 3)
    again = run.state()["penalty"]
    assert all(torch.equal(again[name], state[name]) for name in state)
    with pytest.raises(ValueError, match="penalty is not that"):
        run.load_state({"penalty": {name: of[:1] for name, of in state.items()}}, 3)


CHECKS: dict[str, Check] = {check.__name__: check for check in (inside, across, other_processes)}


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    return run_together(CHECKS, (2,), tmp_path_factory.mktemp("shared"))


@pytest.mark.parametrize("check", CHECKS)
def test_processes_shorten_groups_as_one_does(check: str, errors: dict[str, list[str]]) -> None:
    assert errors[check] == [], errors[check][0]
