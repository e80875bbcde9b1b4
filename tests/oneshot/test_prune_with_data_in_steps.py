"""Pruning with calibration data a model that is sparse already, with training before and after."""

from pathlib import Path

import pytest
import torch
from torch import nn

import hf_sparse
from hf_sparse import Recipe, SparseTrainer, find_targets, measure_sparsity
from hf_sparse.checkpoint.sparsity_record import lost_zeros, read_sparsity_record
from hf_sparse.oneshot.prune_with_data import prune_with_data
from hf_sparse.sparsity.masks import Masks
from hf_sparse.training.parts.sparsifier import Sparsifier
from tests.support.tiny import arguments, batches, bert, expected_zeros, pruning, sentences

METHODS = ["wanda", "sparse_gpt"]
EVERY_KIND = [*((method, kind) for method in METHODS for kind in ("unstructured", "2:4")), ("wanda", "4x4")]


def zeros(model: nn.Module) -> dict[str, torch.Tensor]:
    return {target.name: target.weight.detach() == 0 for target in find_targets(model)}


def nested(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> bool:
    return not any((before[name] & ~after[name]).any() for name in before)


def train(model: nn.Module, folder: Path, recipe: Recipe | None = None) -> None:
    args = arguments(folder, max_steps=3, learning_rate=1e-2)
    trainer = SparseTrainer(model=model, args=args, train_dataset=sentences(24), recipe=recipe)
    trainer.train()
    trainer.save_model()


@pytest.mark.parametrize("recipe", [None, Recipe.from_dict({"sparsity": {"method": "lock"}})])
@pytest.mark.parametrize("method", METHODS)
def test_steps_alternate_with_training(method: str, recipe: Recipe | None, tmp_path: Path) -> None:
    model = bert()
    for sparsity in (0.3, 0.6, 0.85):
        before = zeros(model)
        masks = prune_with_data(model, sparsity, batches(8), method=method)
        pruned = zeros(model)
        assert nested(before, pruned) and all(torch.equal(pruned[name], ~masks[name]) for name in pruned)
        train(model, tmp_path, recipe)
        trained = zeros(model)
        assert all(torch.equal(pruned[name], trained[name]) for name in pruned)
        assert measure_sparsity(model).zeros == expected_zeros(model, sparsity)
        contract = read_sparsity_record(type(model).from_pretrained(tmp_path))
        recorded = {name: name.removeprefix("bert.") for name in masks.targets.names}
        assert (contract.target, contract.digest) == (sparsity, masks.digest(recorded))
        assert contract.achieved == round(masks.sparsity, 6) and not lost_zeros(model)


def test_blocks_alternate_with_training(tmp_path: Path) -> None:
    model, removed = bert(), []
    for sparsity in (0.3, 0.6):
        before = zeros(model)
        masks = prune_with_data(model, sparsity, batches(8), "4x4")
        assert nested(before, zeros(model))
        train(model, tmp_path)
        removed.append([masks.removed(name) for name in masks.targets.names][0])
        assert not masks.nonzero_removed()
    assert removed == [16 * int(0.3 * 64), 16 * int(0.6 * 64)]


@pytest.mark.parametrize("method", METHODS)
def test_steps_in_a_loop_of_ones_own(method: str) -> None:
    model = bert()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-2, momentum=0.9, weight_decay=0.1)
    batch = {name: torch.stack([row[name] for row in sentences(8)]) for name in sentences(1)[0]}
    for sparsity in (0.3, 0.6):
        before = zeros(model)
        masks = prune_with_data(model, sparsity, batches(8), method=method)
        masks.apply_to_optimizer(optimizer)
        for _ in range(3):
            optimizer.zero_grad()
            model(**batch).loss.backward()
            masks.apply_to_gradients()
            optimizer.step()
            masks.apply_to_weights()
        assert nested(before, zeros(model)) and model.training
        assert measure_sparsity(model).zeros == expected_zeros(model, sparsity)


@pytest.mark.parametrize("method", METHODS)
def test_zeros_that_magnitude_made_stay_and_count(method: str) -> None:
    """Rows and bands have lost unequal numbers, and a tenth of the inputs everything."""
    model = bert()
    for target in find_targets(model):
        target.weight.data[:, ::10] = 0
        target.weight.data[0] = 0
    hf_sparse.prune(model, 0.3, allocation="global")
    before = zeros(model)
    masks = prune_with_data(model, 0.5, batches(8), method=method)
    assert nested(before, zeros(model)) and masks.sparsity == 0.5
    assert measure_sparsity(model).zeros == expected_zeros(model, 0.5)


@pytest.mark.parametrize("method", METHODS)
def test_a_few_zeros_stay_where_the_record_names_them(method: str, tmp_path: Path) -> None:
    model = bert()
    prune_with_data(model, 0.05, batches(8), method=method)
    before = zeros(model)
    train(model, tmp_path)
    assert not lost_zeros(model)
    prune_with_data(model, 0.08, batches(8), method=method)
    assert nested(before, zeros(model))
    with pytest.raises(ValueError, match="zero already, more than the 51 that sparsity 0.05 removes"):
        prune_with_data(model, 0.05, batches(8), method=method)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("recorded", [False, True])
def test_a_dense_model_with_a_few_zeros_is_dense(method: str, recorded: bool) -> None:
    model = bert()
    if recorded:
        hf_sparse.prune(model, 0.0)
    for target in find_targets(model):
        target.weight.data[0] = 0
    masks = prune_with_data(model, 0.02, batches(8), method=method)
    assert [masks.removed(name) for name in masks.targets.names][0] == int(0.02 * 1024) < 32


@pytest.mark.parametrize("method", METHODS)
def test_zeros_that_were_lost_since_are_not_kept(method: str) -> None:
    model = bert()
    prune_with_data(model, 0.5, batches(8), method=method)
    for target in find_targets(model):
        target.weight.data.normal_()
    masks = prune_with_data(model, 0.3, batches(8), method=method)
    assert measure_sparsity(model).zeros == sum(map(masks.removed, masks.targets.names))
    assert masks.sparsity == pytest.approx(0.3, abs=1e-3) and not lost_zeros(model)


def test_a_record_of_few_zeros_counts_no_more_once_some_were_lost() -> None:
    model = bert()
    prune_with_data(model, 0.05, batches(8))
    find_targets(model).found[0].weight.data.normal_()
    assert prune_with_data(model, 0.02, batches(8)).sparsity == pytest.approx(0.02, abs=1e-3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("pattern", "sparsity", "message"),
    [
        (
            "unstructured",
            0.3,
            "512 weights of .* are zero already, more than the 307 that sparsity 0.3 removes; raise",
        ),
        (
            "2:4",
            0.5,
            "groups of .* have fewer weights left than the 2 of 4 that pattern 2:4 keeps; choose un",
        ),
    ],
)
def test_what_would_give_weights_back_is_refused_and_nothing_changes(
    method: str, pattern: str, sparsity: float, message: str
) -> None:
    model = bert()
    hf_sparse.prune(model, 0.5)
    before, record = (
        {name: value.clone() for name, value in model.state_dict().items()},
        model.config.hf_sparse,
    )
    with pytest.raises(ValueError, match=message):
        prune_with_data(model, sparsity, batches(8), pattern, method)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.config.hf_sparse == record


def begun(model: nn.Module, pattern: str, *assignments: str) -> Masks:
    """Return the masks after the first update of a ramp that begins at the model's sparsity."""
    own = [f"sparsity.pattern={pattern}", *assignments]
    sparsifier = Sparsifier(pruning(*own).sparsity, model, total_steps=12)
    sparsifier.update(0, None)
    return sparsifier.masks


def ramp(initial: float, final: float) -> list[str]:
    return [f"sparsity.schedule.initial={initial}", f"sparsity.schedule.final={final}"]


@pytest.mark.parametrize(("method", "pattern"), EVERY_KIND)
def test_a_ramp_begins_with_the_very_masks_that_data_made(method: str, pattern: str) -> None:
    model, share = bert(), 0.5 if pattern == "2:4" else 0.57
    made = prune_with_data(model, share, batches(8), pattern, method)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    masks = begun(model, pattern, *ramp(share, share if pattern == "2:4" else 0.9))
    assert masks.digest() == made.digest()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("method", "pattern"), [kind for kind in EVERY_KIND if kind[1] != "2:4"])
def test_a_global_ramp_rounds_once_where_data_rounded_for_every_weight(method: str, pattern: str) -> None:
    model = bert()
    made = prune_with_data(model, 0.57, batches(8), pattern, method)
    masks = begun(model, pattern, "sparsity.allocation=global", *ramp(0.57, 0.9))
    size = 16 if pattern == "4x4" else 1
    counts = {name: masks.removed(name) - made.removed(name) for name in made.targets.names}
    assert all(not (masks[name] & ~made[name]).any() for name in counts)
    total = sum(target.weight.numel() for target in made.targets)
    assert sum(map(masks.removed, counts)) == size * int(0.57 * total / size)
    assert 0 < sum(counts.values()) < size * len(counts)


@pytest.mark.parametrize("method", METHODS)
def test_a_ramp_of_other_shares_waits_where_more_is_gone_and_catches_up_elsewhere(method: str) -> None:
    model, equal = bert(), bert()
    made = prune_with_data(model, 0.5, batches(8), method=method)
    wanted = begun(equal, "unstructured", "sparsity.allocation=erk", *ramp(0.5, 0.9))
    masks = begun(model, "unstructured", "sparsity.allocation=erk", *ramp(0.5, 0.9))
    assert len({masks.removed(name) / masks[name].numel() for name in made.targets.names}) == 2
    for name in made.targets.names:
        assert masks.removed(name) == max(wanted.removed(name), made.removed(name))
        assert not (masks[name] & ~made[name]).any()


def test_a_ramp_that_ends_below_what_is_gone_of_a_weight_is_refused() -> None:
    model = bert()
    prune_with_data(model, 0.5, batches(8))
    with pytest.raises(
        ValueError, match="are zero already, more than the .* that final sparsity 0.5 removes"
    ):
        begun(model, "unstructured", "sparsity.allocation=erk", *ramp(0.5, 0.5))


@pytest.mark.parametrize(("method", "pattern"), [kind for kind in EVERY_KIND if kind[1] != "2:4"])
def test_a_run_goes_on_from_what_data_removed(method: str, pattern: str, tmp_path: Path) -> None:
    model, teacher = bert(), bert()
    prune_with_data(model, 0.5, batches(8), pattern, method)
    before, shares = zeros(model), []
    recipe = Recipe.preset("prune_ofa_90").override(
        ["sparsity.schedule.every=1", "sparsity.schedule.initial=0.5", f"sparsity.pattern={pattern}"]
    )
    trainer = SparseTrainer(
        model=model, args=arguments(tmp_path), train_dataset=sentences(24), recipe=recipe, teacher=teacher
    )
    trainer.train()
    shares = [line["sparsity"] for line in trainer.state.log_history if "loss" in line]
    assert nested(before, zeros(model)) and shares[0] >= 0.5 and shares == sorted(shares)
    assert shares[-1] == pytest.approx(0.9, abs=0.02)


def test_it_cannot_be_its_own_teacher(tmp_path: Path) -> None:
    model = bert()
    prune_with_data(model, 0.5, batches(8))
    recipe = Recipe.preset("prune_ofa_90").override(["distillation.teacher=self"])
    with pytest.raises(
        ValueError, match="50.0% of this one is zero .* as teacher= .--teacher_name_or_path. with"
    ):
        SparseTrainer(model=model, args=arguments(tmp_path), train_dataset=sentences(8), recipe=recipe)
