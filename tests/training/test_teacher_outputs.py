"""Teachers and students outside transformers, or with tuples as outputs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.featured import gradients, trainer
from tests.support.pairs import make

WEIGHTS = {"task": 0.3, "logits": 0.7}
CUTS = [(8, 1), (2, 4)]


class Own(nn.Module):
    """A module around a model, whose outputs have the given form."""

    def __init__(self, model: nn.Module, form: Any) -> None:
        super().__init__()
        self.model, self.form = model, form

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> Any:
        outputs = self.model(input_ids=input_ids, attention_mask=attention_mask, labels=labels)
        return self.form(outputs)


def as_tuple(outputs: Any) -> tuple[Tensor, ...]:
    return outputs.to_tuple()


def as_dict(outputs: Any) -> dict[str, Tensor]:
    return {name: outputs[name] for name in ("loss", "logits") if outputs.get(name) is not None}


def as_tensor(outputs: Any) -> Tensor:
    return outputs.logits


def step(folder: Path, cut: tuple[int, int], **parts: Any) -> dict[str, Tensor]:
    run = trainer(folder, WEIGHTS, cut=cut, **parts)
    run.train()
    return {name.removeprefix("model."): value for name, value in gradients(run).items()}


def assert_close(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("form", [as_tuple, as_dict, as_tensor])
def test_a_teacher_may_answer_in_any_form(form: Any, tmp_path: Path) -> None:
    usual = step(tmp_path, CUTS[0], teacher=make("bert", 1))
    for cut in CUTS:
        assert_close(step(tmp_path, cut, teacher=Own(make("bert", 1), form)), usual)


@pytest.mark.parametrize("form", [as_tuple, as_dict])
def test_a_student_may_answer_in_any_form_that_trainer_takes(form: Any, tmp_path: Path) -> None:
    usual = step(tmp_path, CUTS[0])
    for cut in CUTS:
        assert_close(step(tmp_path, cut, student=Own(make("bert"), form)), usual)


@pytest.mark.parametrize("distillation", [WEIGHTS, WEIGHTS | {"hidden": {"layers": "uniform"}}])
def test_models_that_are_set_to_tuples_are_compared_by_name(
    distillation: dict[str, Any], tmp_path: Path
) -> None:
    def run(**config: Any) -> dict[str, Tensor]:
        parts = {"student": make("bert", 0, **config), "teacher": make("bert", 1, **config)}
        made = trainer(tmp_path, distillation, **parts)
        made.train()
        return gradients(made)

    assert_close(run(return_dict=False), run())


def test_a_sentence_transformer_is_refused_with_the_way_out(tmp_path: Path) -> None:
    models = pytest.importorskip("sentence_transformers.models")
    from sentence_transformers import SentenceTransformer

    class Encoder(nn.Module):
        """Stands for the first module of a SentenceTransformer, which is loaded from a directory."""

        def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
            raise AssertionError("it is not to be called")

    teacher = SentenceTransformer(modules=[Encoder(), models.Normalize()], device="cpu")
    run = trainer(tmp_path, WEIGHTS, teacher=teacher)
    with pytest.raises(ValueError, match="the teacher SentenceTransformer needs input, .*auto_model"):
        run.train()


def test_outputs_without_logits_are_refused_before_a_weight_changes(tmp_path: Path) -> None:
    run = trainer(tmp_path, WEIGHTS, teacher=Own(make("bert", 1), lambda outputs: "nothing"))
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    with pytest.raises(ValueError, match="the teacher returned str instead of logits"):
        run.train()
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())
