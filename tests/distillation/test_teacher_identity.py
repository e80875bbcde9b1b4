"""The digest of a teacher covers whatever its outputs depend on."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from hf_sparse.distillation.base_teacher import BaseAsTeacher
from hf_sparse.distillation.teacher_identity import digest_of
from tests.support.tiny import bert


def test_the_digest_of_a_base_below_adapters_does_not_change_in_training() -> None:
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(bert(), peft.LoraConfig(target_modules=["query"]))
    before = digest_of(BaseAsTeacher(model))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(1)
    assert digest_of(BaseAsTeacher(model)) == before != digest_of(model)


def tiny_teacher() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    model.scale = 1.0
    return model


@pytest.mark.parametrize("changed", ["eps", "scale", "hook"])
def test_what_a_module_computes_besides_its_weights_is_part_of_a_teacher(changed: str) -> None:
    plain, other = tiny_teacher(), tiny_teacher()
    assert digest_of(plain) == digest_of(other) == digest_of(tiny_teacher().train())
    if changed == "eps":
        other[1].eps = 1e-3
    elif changed == "scale":
        other.scale = 2.0
    else:
        other[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    assert digest_of(other) != digest_of(plain)


def test_the_strength_of_an_adapter_is_part_of_a_teacher() -> None:
    def adapted(alpha: int) -> nn.Module:
        torch.manual_seed(0)
        return get_peft_model(bert(), LoraConfig(target_modules=["query"], lora_alpha=alpha))

    assert digest_of(adapted(8)) == digest_of(adapted(8)) != digest_of(adapted(16))
