"""Weights that nothing can be written into: of other tensors, elsewhere, recomputed in every forward pass."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor
from torch.nn.utils import parametrizations
from torch.nn.utils import prune as torch_prune
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_map
from transformers import BertForSequenceClassification, Trainer

from hf_sparse import Recipe, SparseTrainer, SparsityCallback, find_targets, prune
from hf_sparse.checkpoint.sparsity_record import lost_zeros
from hf_sparse.oneshot.prune_with_data import prune_with_data
from hf_sparse.oneshot.quantize_trained import quantize_trained
from tests.support.tiny import arguments, batches, bert, pruning, sentences

NAME = "bert.encoder.layer.0.intermediate.dense"
QUANTIZED = Recipe.from_dict({"quantization": {}})


class Wrapped(Tensor):
    """A tensor that keeps its values in another one, as those of torchao do."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Wrapped":
        return Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=inner.device)

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["inner"], None

    @classmethod
    def __torch_dispatch__(
        cls, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        kwargs = kwargs or {}
        bare = tree_map(lambda value: value.inner if isinstance(value, cls) else value, (args, kwargs))
        found = func(*bare[0], **bare[1])
        if func in (torch.ops.aten.detach.default, torch.ops.aten.clone.default):
            found = cls(found)
            return return_and_correct_aliasing(func, args, kwargs, found)
        return found


class Int8(nn.Parameter):
    """A parameter of integers, as those of bitsandbytes are."""


def dense(model: nn.Module) -> nn.Linear:
    return model.get_submodule(NAME)


def wrap(model: nn.Module) -> None:
    for target in find_targets(model).found:
        target.module.weight = nn.Parameter(Wrapped(target.weight.detach()), requires_grad=False)


def shard(model: nn.Module) -> None:
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))


def divide_columns(model: nn.Module) -> None:
    mesh = init_device_mesh("cpu", (1,))
    for target in find_targets(model).found:
        divided = distribute_tensor(target.weight.detach(), mesh, [Shard(1)])
        target.module.weight = nn.Parameter(divided, requires_grad=False)


def put_away(model: nn.Module) -> None:
    dense(model).weight = nn.Parameter(dense(model).weight.detach().to("meta"))


def round_away(model: nn.Module) -> None:
    dense(model).weight = Int8(dense(model).weight.detach().to(torch.int8), requires_grad=False)


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


KINDS = {
    "is a Wrapped, not a plain tensor": wrap,
    "is a DTensor with placements (Shard(dim=1),)": divide_columns,
    "is on meta: its values are elsewhere": put_away,
    "is a Int8, not a plain tensor": round_away,
}


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("reason", KINDS)
@pytest.mark.parametrize("sparse", [False, True])
def test_other_tensors_are_no_targets(
    reason: str, sparse: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = bert()
    if sparse:
        prune(model, 0.6)
    KINDS[reason](model)
    if KINDS[reason] in (wrap, divide_columns):
        with pytest.raises(ValueError, match="nothing to prune") as error:
            find_targets(model)
        assert reason in str(error.value)
    else:
        left_out = {entry.name: entry.reason for entry in find_targets(model).left_out}
        assert left_out[NAME] == reason and len(find_targets(model)) == 11
    assert lost_zeros(model) == {}
    if KINDS[reason] is not put_away:
        # Trainer itself cannot move what is on meta.
        trainer = SparseTrainer(model=model, args=arguments(tmp_path))
        assert (trainer.recipe != Recipe()) == (sparse and KINDS[reason] is round_away)
        assert ("are not kept, since these weights are out of reach" in caplog.text) == sparse


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("change", [wrap, shard])
def test_a_model_of_other_tensors_trains_as_in_trainer(change: Callable, tmp_path: Path) -> None:
    found = []
    for kind in (Trainer, SparseTrainer):
        model = bert()
        change(model)
        kind(model=model, args=arguments(tmp_path, max_steps=3), train_dataset=sentences()).train()
        found.append(
            [values.detach().clone() for name, values in model.named_parameters() if values.requires_grad]
        )
    assert all(map(torch.equal, *found))


def test_a_model_put_away_in_part_does_not_stop_the_trainer(tmp_path: Path) -> None:
    model = bert()
    put_away(model)
    # As accelerate marks models that it has spread over devices: Trainer does not move them.
    model.hf_device_map = {"": "cpu", NAME: "disk"}
    trainer = SparseTrainer(model=model, args=arguments(tmp_path))
    assert trainer.recipe == Recipe()


def test_a_skeleton_has_targets_by_its_shapes() -> None:
    with torch.device("meta"):
        model = bert()
    assert find_targets(model).shapes == find_targets(bert()).shapes


def test_what_a_recipe_cannot_reach_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = bert()
    round_away(model)
    with caplog.at_level(logging.WARNING):
        SparseTrainer(model=model, args=arguments(tmp_path), train_dataset=sentences(), recipe=pruning())
    assert f"1 Linears are left out of sparsity: {NAME} is a Int8" in caplog.text


MADE_ANEW = {
    "prune": lambda layer: torch_prune.l1_unstructured(layer, "weight", 0.5),
    "old weight_norm": nn.utils.weight_norm,
    "old spectral_norm": nn.utils.spectral_norm,
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
}
REFUSED = rf"the weight of {NAME} \(1 in all\) is recomputed in every forward pass.*exclude"


def remade(kind: str) -> BertForSequenceClassification:
    model = bert()
    MADE_ANEW[kind](dense(model))
    return model


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", MADE_ANEW)
def test_weights_that_are_made_anew_are_refused_before_the_first_step(kind: str, tmp_path: Path) -> None:
    args, rows = arguments(tmp_path), sentences()
    lock = Recipe.from_dict({"sparsity": {"method": "lock"}})
    for recipe in (pruning(), QUANTIZED, lock):
        with pytest.raises(ValueError, match=REFUSED):
            SparseTrainer(model=remade(kind), args=args, train_dataset=rows, recipe=recipe)
    callback = SparsityCallback(pruning("sparsity.lr_rewind=false"))
    trainer = Trainer(model=remade(kind), args=args, train_dataset=rows, callbacks=[callback])
    with pytest.raises(ValueError, match=REFUSED):
        trainer.train()
    assert trainer.state.global_step == 0
    for act in (
        lambda model: prune(model, 0.5),
        lambda model: prune_with_data(model, 0.5, batches()),
        lambda model: quantize_trained(model, batches()),
    ):
        with pytest.raises(ValueError, match=REFUSED):
            act(remade(kind))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", MADE_ANEW)
def test_without_a_recipe_they_train_as_in_trainer(kind: str, tmp_path: Path) -> None:
    found = []
    for trainer in (Trainer, SparseTrainer):
        model = remade(kind)
        trainer(
            model=model, args=arguments(tmp_path / trainer.__name__, max_steps=3), train_dataset=sentences()
        ).train()
        found.append(model.state_dict())
    stock, ours = found
    assert all(torch.equal(stock[name], ours[name]) for name in stock)


def test_they_can_be_left_out(tmp_path: Path) -> None:
    recipe = pruning(f"sparsity.exclude=[{NAME}]")
    trainer = SparseTrainer(
        model=remade("prune"), args=arguments(tmp_path, max_steps=8), train_dataset=sentences(), recipe=recipe
    )
    trainer.train()
    assert trainer.sparsifier.masks.sparsity == pytest.approx(0.9, abs=1e-2)


def test_a_sparse_model_with_one_of_them_keeps_its_other_zeros(tmp_path: Path) -> None:
    model = bert()
    prune(model, 0.6)
    parametrizations.weight_norm(dense(model))
    zeros = {target.name: int((target.weight == 0).sum()) for target in find_targets(model)}
    trainer = SparseTrainer(model=model, args=arguments(tmp_path, max_steps=3), train_dataset=sentences())
    trainer.train()
    assert {target.name: int((target.weight == 0).sum()) for target in find_targets(model)} == zeros
