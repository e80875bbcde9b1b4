"""Large models: weights in several files, models that begin on the meta device, little memory when saving."""

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedModel

from hf_sparse import find_targets
from hf_sparse.checkpoint.load import load_model
from hf_sparse.checkpoint.sidecar import SavedState, read_state, write_state
from hf_sparse.checkpoint.sparsity_record import lost_zeros, write_sparsity_record
from hf_sparse.recipe.recipe import Recipe
from hf_sparse.sparsity.layout import Layout
from hf_sparse.sparsity.mask_update import grow
from hf_sparse.sparsity.masks import Masks
from hf_sparse.sparsity.measure import measure_sparsity
from hf_sparse.sparsity.methods.magnitude import absolute
from hf_sparse.sparsity.patterns.block import UNSTRUCTURED
from hf_sparse.sparsity.revival import RememberedWeights
from hf_sparse.training.finite import require_finite_weights
from tests.support.memory import most_extra_bytes
from tests.support.tiny import SIZES, llama

RECIPE = Recipe.from_dict({"sparsity": {"schedule": {"final": 0.5}}})


def mixture() -> MixtralForCausalLM:
    torch.manual_seed(0)
    return MixtralForCausalLM(MixtralConfig(**SIZES, num_key_value_heads=2, num_local_experts=3))


def pruned(model: PreTrainedModel, sparsity: float = 0.5) -> Masks:
    masks = Masks(find_targets(model))
    layout = Layout(masks.targets, UNSTRUCTURED, "global")
    grow(masks, layout.budgets(lambda final: sparsity), absolute, layout.blocks)
    masks.apply_to_weights()
    layers = dict.fromkeys(masks.targets.names, ("unstructured", sparsity))
    write_sparsity_record(model, masks, "unstructured", sparsity, layers)
    return masks


@pytest.mark.parametrize("make", [llama, mixture])
def test_a_model_in_many_files_comes_back_with_its_zeros(make, tmp_path: Path) -> None:
    model = make()
    masks = pruned(model)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    write_state(tmp_path, SavedState(RECIPE, 1, 2, masks.pack()))
    files = {path.name for path in tmp_path.glob("model-*.safetensors")}
    assert len(files) > 3 and set(read_state(tmp_path).weights) == files
    loaded = load_model(tmp_path)
    assert not lost_zeros(loaded)
    again = Masks(find_targets(loaded))
    again.unpack(read_state(tmp_path).masks)
    assert again.digest() == masks.digest() and not again.nonzero_removed()
    assert measure_sparsity(loaded).zeros == measure_sparsity(model).zeros


def test_another_file_among_many_is_noticed(tmp_path: Path) -> None:
    model = llama()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    write_state(tmp_path, SavedState(Recipe.from_dict({"quantization": {}}), 2, 2, {}))
    shard = max(tmp_path.glob("model-*.safetensors"))
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match=f"{shard.name} beside it is another one"):
        load_model(tmp_path)


@pytest.mark.parametrize("make", [llama, mixture])
def test_masks_may_be_made_before_the_weights_are_there(make) -> None:
    full = make()
    masks = pruned(full)
    with torch.device("meta"):
        empty = type(full)(full.config)
    later = Masks(find_targets(empty))
    layout = Layout(later.targets, UNSTRUCTURED, "global")
    assert layout.budgets(lambda final: 0.5)[0].removed == sum(map(masks.removed, masks.targets.names))
    empty.to_empty(device="cpu").load_state_dict(make().state_dict(), assign=True)
    later.unpack(masks.pack())
    later.apply_to_weights()
    for one, other in zip(find_targets(full), find_targets(empty), strict=True):
        assert torch.equal(one.weight, other.weight)
    assert later.digest() == masks.digest()


class TestMemory:
    """Nothing at the end of a run takes more than a few times one of sixteen weights."""

    ONE = 512 * 512 * 2

    @pytest.fixture
    def model(self) -> nn.Module:
        torch.manual_seed(0)
        model = nn.Module()
        model.layers = nn.ModuleList(nn.Linear(512, 512, bias=False) for _ in range(16)).to(torch.bfloat16)
        return model

    @pytest.fixture
    def masks(self, model: nn.Module) -> Masks:
        masks = Masks(find_targets(model))
        for target in masks.targets:
            target.weight.detach().mul_(torch.rand(512, 512) > 0.5)
        masks.lock_zeros(dict.fromkeys(masks.targets.names, UNSTRUCTURED))
        return masks

    def test_of_checks_and_counts(self, model: nn.Module, masks: Masks) -> None:
        for call in (
            masks.nonzero_removed,
            masks.apply_to_weights,
            masks.digest,
            lambda: measure_sparsity(model, masks.targets),
            lambda: require_finite_weights(model),
            lambda: masks.lock_zeros(dict.fromkeys(masks.targets.names, UNSTRUCTURED)),
        ):
            assert most_extra_bytes(call) < 3 * self.ONE

    def test_of_packing_and_writing(self, masks: Masks, tmp_path: Path) -> None:
        packed = {}
        assert most_extra_bytes(lambda: packed.update(masks.pack())) < 3 * self.ONE + 16 * self.ONE / 16
        values = {name: torch.zeros(512, 512, dtype=torch.bfloat16) for name in masks.targets.names}
        state = SavedState(RECIPE, 1, 2, packed, {"remembered": values})
        assert most_extra_bytes(lambda: write_state(tmp_path, state)) < self.ONE
        assert read_state(tmp_path).masks.keys() == packed.keys()

    def test_of_remembered_weights(self, masks: Masks) -> None:
        remembered = RememberedWeights(masks)
        for call in (remembered.restore, remembered.withdraw):
            assert most_extra_bytes(call) < self.ONE
        packed = {}
        taken = most_extra_bytes(lambda: packed.update(remembered.pack()))
        assert taken < sum(map(masks.removed, masks.targets.names)) * 2 + 3 * self.ONE
        assert most_extra_bytes(lambda: remembered.unpack(packed)) < 3 * self.ONE
